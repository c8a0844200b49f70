package shard

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/lockstep-ml/lockstep/shard/raster"
)

// A BadSample is one that cannot be read or decoded.
type BadSample struct {
	Index int
	Name  string
	Err   error
}

// maxUnread ends a verification that meets so many errors of reading: then it is not samples that are bad, but the disk or the link.
const maxUnread = 100

// Verify reads and decodes every image with so many goroutines, and gives the bad ones in the data set's order. done is told of each
// image, concurrently; nil for nobody.
func (d *Dataset) Verify(ctx context.Context, workers int, done func(bytes int64)) ([]BadSample, error) {
	if workers < 1 {
		return nil, fmt.Errorf("verify with %d workers: want at least 1", workers)
	}
	v := &verification{d: d, done: done}
	group, ctx := errgroup.WithContext(ctx)
	for range workers {
		group.Go(func() error { return v.run(ctx) })
	}
	err := group.Wait() //bounded: each ends with the samples, or with ctx
	slices.SortFunc(v.bad, func(a, b BadSample) int { return cmp.Compare(a.Index, b.Index) })
	return v.bad, err
}

// A verification is what its goroutines share.
type verification struct {
	d    *Dataset
	done func(bytes int64)
	next atomic.Int64

	mu     sync.Mutex
	bad    []BadSample
	unread int
}

func (v *verification) run(ctx context.Context) error {
	var dec Decoder
	var img raster.Image
	for {
		i := int(v.next.Add(1)) - 1
		if i >= v.d.Len() {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := v.d.Load(ctx, &dec, &img, i); err != nil {
			if err := v.note(i, err); err != nil {
				return err
			}
		}
		if v.done != nil {
			v.done(v.d.Size(i))
		}
	}
}

// note takes down a bad sample. Its error ends the verification.
func (v *verification) note(i int, err error) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.bad = append(v.bad, BadSample{i, v.d.Name(i), err})
	if damaged := (*DamagedError)(nil); errors.As(err, &damaged) {
		return nil
	}
	if v.unread++; v.unread >= maxUnread {
		return fmt.Errorf("%d samples could not be read, the last of them: %w", v.unread, err)
	}
	return nil
}
