package shard

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// openFolder lists a folder. Symbolic links to files are followed, links to folders are not.
func openFolder(ctx context.Context, root string) (*tree, error) {
	t := &tree{what: root, store: &folderStore{root: root}}
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if d.IsDir() {
			return nil
		}
		info, err := os.Stat(p)
		if err != nil {
			return err
		}
		if !info.Mode().IsRegular() {
			return nil
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		t.members = append(t.members, member{name: filepath.ToSlash(rel), size: info.Size()})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list data folder: %w", err)
	}
	return t, nil
}

// A folderStore opens a file for each read, so the number of open files does not grow with the data set. A name that occurs in
// files is read as a part of that file (the CIFAR binary format); other samples are whole files.
type folderStore struct{ root string }

func (s *folderStore) read(sm *sample, buf []byte) (out []byte, err error) {
	return s.readFile(sm.name, 0, sm.size, buf)
}

func (s *folderStore) readFile(name string, offset, size int64, buf []byte) (out []byte, err error) {
	f, err := os.Open(filepath.Join(s.root, filepath.FromSlash(name)))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return readAt(f, name, offset, size, buf)
}

func (s *folderStore) Close() error { return nil }

// readAt reads exactly size bytes, into buf where it is large enough.
func readAt(r io.ReaderAt, name string, offset, size int64, buf []byte) ([]byte, error) {
	buf = slices.Grow(buf[:0], int(size))[:size]
	n, err := r.ReadAt(buf, offset)
	if int64(n) < size {
		if errors.Is(err, io.EOF) {
			err = fmt.Errorf("%s ends at byte %d of %d: it changed since it was opened: %w", name, offset+int64(n), offset+size, io.ErrUnexpectedEOF)
		}
		return nil, err
	}
	return buf, nil
}
