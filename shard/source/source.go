package source

import (
	"context"
	"fmt"
	"os"
)

// Options says how files are read.
type Options struct{}

// A File is read at random. Its methods but Close may run concurrently.
type File interface {
	// Name is the location, for errors.
	Name() string
	// Size is in bytes.
	Size() int64
	// ReadAt fills p from off or fails; it never returns a part. It returns when ctx ends.
	ReadAt(ctx context.Context, p []byte, off int64) error
	// Close may be called twice; no read may be running or follow.
	Close() error
}

// Open opens the file at a location. What is not there matches fs.ErrNotExist.
func Open(_ context.Context, location string, _ Options) (File, error) {
	f, err := os.Open(location)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("%w (closed: %v)", err, f.Close())
	}
	return &local{f: f, size: info.Size()}, nil
}

// local is a file of this machine.
type local struct {
	f    *os.File
	size int64
}

func (l *local) Name() string { return l.f.Name() }
func (l *local) Size() int64  { return l.size }

func (l *local) ReadAt(ctx context.Context, p []byte, off int64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	n, err := l.f.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	return fmt.Errorf("%s: bytes %d to %d of %d: %w", l.Name(), off, off+int64(len(p)), l.size, err)
}

func (l *local) Close() error { return l.f.Close() }
