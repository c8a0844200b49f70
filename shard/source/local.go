package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
)

// local is a file of this machine.
type local struct {
	f       *os.File
	size    int64
	version string

	once sync.Once
	err  error // of closing
}

func openLocal(location string) (File, error) {
	p, err := localPath(location)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(p)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if info.IsDir() {
		return nil, errors.Join(fmt.Errorf("%s: is a folder, want a file", p), f.Close())
	}
	return &local{f: f, size: info.Size(), version: localVersion(info)}, nil
}

// openKnown spares the question for the size.
func openKnown(e Entry) (File, error) {
	p, err := localPath(e.Location)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(p)
	if err != nil {
		return nil, err
	}
	return &local{f: f, size: e.Size, version: e.Version}, nil
}

func (l *local) Name() string    { return l.f.Name() }
func (l *local) Size() int64     { return l.size }
func (l *local) Version() string { return l.version }

// ReadAt reads what is there now: a file that has changed in place is not noticed, unless it became shorter.
func (l *local) ReadAt(ctx context.Context, p []byte, off int64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	n, err := l.f.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
		if off >= 0 && off+int64(len(p)) <= l.size {
			err = ErrChanged // it was long enough
		}
	}
	return &ReadError{Location: l.Name(), Offset: off + int64(n), End: off + int64(len(p)), Size: l.size, Attempts: 1, Err: err}
}

func (l *local) Close() error {
	l.once.Do(func() { l.err = l.f.Close() })
	return l.err
}

// localVersion tells apart what a file held at different times, as far as its times do.
func localVersion(info fs.FileInfo) string {
	return strconv.FormatInt(info.ModTime().UnixNano(), 36) + "-" + strconv.FormatInt(info.Size(), 36)
}

// listLocal walks a folder. Symbolic links to files are followed, links to folders are not.
func listLocal(ctx context.Context, location string, visit func(Entry) error) error {
	root, err := localPath(location)
	if err != nil {
		return err
	}
	return filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
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
		return visit(Entry{Location: p, Name: filepath.ToSlash(rel), Size: info.Size(), Version: localVersion(info)})
	})
}
