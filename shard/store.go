package shard

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"strings"

	"github.com/lockstep-ml/lockstep/shard/source"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// A store hands out the bytes of samples. Reads may run concurrently.
type store interface {
	// read returns the bytes of sample i of x, in buf when it has to copy them (growing it if needed), else in memory of the store,
	// which the caller must not change.
	read(ctx context.Context, x *index, i int, buf []byte) ([]byte, error)
	io.Closer
}

// A fileStore reads parts of files that stay open: archives. sample.file is the file.
type fileStore struct{ files []source.File }

func (s *fileStore) read(ctx context.Context, x *index, i int, buf []byte) ([]byte, error) {
	sm := &x.samples[i]
	return readAt(ctx, s.files[sm.file], sm.offset, int64(sm.size), buf)
}

func (s *fileStore) Close() error {
	var errs []error
	for _, f := range s.files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// A folderStore opens a file for each read, so the number of open files does not grow with the data set. A sample's name up to a mark
// # is a file of which it is a part (the CIFAR binary format); other samples are whole files.
type folderStore struct {
	opener   *source.Opener
	root     string
	versions []string // of remote files, by sample.file
	sizes    []int64
}

func (s *folderStore) read(ctx context.Context, x *index, i int, buf []byte) (out []byte, err error) {
	sm, name := &x.samples[i], x.name(i)
	size := int64(sm.size)
	if file, _, ok := strings.Cut(name, "#"); ok && sm.part() {
		name = file
	}
	e := source.Entry{Location: source.Join(s.root, name), Name: name, Size: size}
	if s.versions != nil {
		e.Size, e.Version = s.sizes[sm.file], s.versions[sm.file]
	}
	f, err := s.opener.OpenEntry(ctx, e)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return readAt(ctx, f, sm.offset, size, buf)
}

// part says whether the sample is a record of a larger file: records have labels in front of them.
func (s *sample) part() bool { return s.offset > 0 }

func (s *folderStore) Close() error { return nil }

// readAt reads exactly size bytes, into buf where it is large enough.
func readAt(ctx context.Context, f source.File, offset, size int64, buf []byte) ([]byte, error) {
	buf = slices.Grow(buf[:0], int(size))[:size]
	if err := f.ReadAt(ctx, buf, offset); err != nil {
		return nil, err
	}
	return buf, nil
}

// memChunk is the unit of a memStore: large enough that 50,000 small images are a handful of objects to the garbage collector,
// small enough that the last, half-empty one does not matter.
const memChunk = 4 << 20

// A memStore holds samples in memory, many to a chunk. sample.file is the chunk.
type memStore struct {
	chunks [][]byte
	total  int64
}

// add copies size bytes of r. Memory is taken as bytes arrive, never on the word of a header.
func (s *memStore) add(r io.Reader, size int64) (file int32, offset int64, crc uint32, err error) {
	if size > memChunk {
		var b bytes.Buffer
		n, err := io.Copy(&b, io.LimitReader(r, size))
		if err == nil && n < size {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return 0, 0, 0, err
		}
		return s.own(b.Bytes())
	}
	last := len(s.chunks) - 1
	if last < 0 || int64(cap(s.chunks[last])-len(s.chunks[last])) < size {
		s.chunks = append(s.chunks, make([]byte, 0, memChunk))
		last++
	}
	c := s.chunks[last]
	dst := c[len(c) : int64(len(c))+size]
	if _, err := io.ReadFull(r, dst); err != nil {
		return 0, 0, 0, err
	}
	s.chunks[last] = c[:len(c)+len(dst)]
	s.total += size
	return int32(last), int64(len(c)), crc32.Checksum(dst, castagnoli), nil
}

// own takes over b as a chunk of its own.
func (s *memStore) own(b []byte) (file int32, offset int64, crc uint32, err error) {
	s.chunks = append(s.chunks, b)
	s.total += int64(len(b))
	return int32(len(s.chunks) - 1), 0, crc32.Checksum(b, castagnoli), nil
}

func (s *memStore) read(_ context.Context, x *index, i int, _ []byte) ([]byte, error) {
	sm := &x.samples[i]
	end := sm.offset + int64(sm.size)
	return s.chunks[sm.file][sm.offset:end:end], nil
}

func (s *memStore) Close() error { return nil }

// textOf reads a small file whole: a list of labels, a table.
func textOf(ctx context.Context, f source.File, limit int64) ([]byte, error) {
	if f.Size() > limit {
		return nil, fmt.Errorf("%s has %d bytes: %w, want at most %d", f.Name(), f.Size(), ErrTooLarge, limit)
	}
	return readAt(ctx, f, 0, f.Size(), nil)
}
