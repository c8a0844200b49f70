package source

import (
	"context"
	"errors"
)

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

// Versioned is a File that knows which version of the file it reads: "" for none.
type Versioned interface{ Version() string }

// An Entry is a file that a listing found.
type Entry struct {
	Location string // opens it
	Name     string // below the folder that was listed, slash-separated
	Size     int64  // bytes
	Version  string // changes with the content; what it is made of depends on where the file lies
}

// Open opens the file at a location. What is not there matches fs.ErrNotExist.
func Open(ctx context.Context, location string, o Options) (File, error) {
	opener, err := NewOpener(o)
	if err != nil {
		return nil, err
	}
	f, err := opener.Open(ctx, location)
	if err != nil {
		return nil, errors.Join(err, opener.Close())
	}
	return &owning{f, opener}, nil
}

// List calls visit for every file below a folder or a bucket's prefix, in the order of their names' bytes. HTTP has no listing:
// ErrNoListing.
func List(ctx context.Context, location string, o Options, visit func(Entry) error) error {
	opener, err := NewOpener(o)
	if err != nil {
		return err
	}
	return errors.Join(opener.List(ctx, location, visit), opener.Close())
}

// owning is a file with an opener of its own.
type owning struct {
	File
	opener *Opener
}

func (o *owning) Close() error { return errors.Join(o.File.Close(), o.opener.Close()) }
