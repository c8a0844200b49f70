package pack

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/lockstep-ml/lockstep/shard/source"
)

// Shards are a split's shards, opened when they are first read from. They hold nothing of the index: whoever has made something smaller of
// it may let go of the Set and go on with these. Their methods but Close may run concurrently.
type Shards struct {
	location string // of the set
	split    string
	open     OpenFile
	sizes    []int64
	files    []lazyFile
}

// A lazyFile is opened when it is first wanted. An attempt that failed is made again by the next who wants it.
type lazyFile struct {
	mu sync.Mutex
	f  source.File
}

func newShards(location string, open OpenFile, x *SplitIndex) *Shards {
	return &Shards{location: location, split: x.Name, open: open, sizes: x.Shards, files: make([]lazyFile, len(x.Shards))}
}

// Location is where shard n lies.
func (s *Shards) Location(n int) string { return Join(s.location, ShardName(s.split, n)) }

// file gives an open shard.
func (s *Shards) file(ctx context.Context, n int) (source.File, error) {
	l := &s.files[n]
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f != nil {
		return l.f, nil
	}
	name := s.Location(n)
	f, err := s.open(ctx, name)
	if err != nil {
		return nil, err
	}
	if want := s.sizes[n]; f.Size() != want {
		return nil, errors.Join(fmt.Errorf("%s: %w: the shard has %d bytes and the set's index says %d; copy it again", name, ErrFormat, f.Size(), want), f.Close())
	}
	l.f = f
	return f, nil
}

// ReadAt fills p from shard n. What it reads has not been compared with a checksum.
func (s *Shards) ReadAt(ctx context.Context, n int, p []byte, off int64) error {
	f, err := s.file(ctx, n)
	if err != nil {
		return err
	}
	return f.ReadAt(ctx, p, off)
}

// Close closes the shards. It may be called twice; no read may be running or follow.
func (s *Shards) Close() error {
	var err error
	for i := range s.files {
		if f := s.files[i].f; f != nil {
			s.files[i].f = nil
			err = errors.Join(err, f.Close())
		}
	}
	return err
}
