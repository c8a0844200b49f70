package pack

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"

	"golang.org/x/sync/errgroup"
)

// A VerifyConfig says how a set is verified.
type VerifyConfig struct {
	// Workers is how many shards are read at a time; at least 1.
	Workers int
	// Done is told of each shard that was read, by one goroutine at a time; nil for nobody.
	Done func(samples int, bytes int64)
}

// Verify reads a whole set and gives all damage: every byte of every shard against the index, and each split's hash. The order is that
// of the splits, shards and offsets. An error is one of reading; a shard that is not there, or not of its size, is damage.
func (s *Set) Verify(ctx context.Context, c VerifyConfig) ([]Damage, error) {
	if c.Workers < 1 {
		return nil, fmt.Errorf("verify with %d workers: want at least 1", c.Workers)
	}
	var all []Damage
	for _, x := range s.splits {
		found, err := x.verify(ctx, c)
		if err != nil {
			return all, err
		}
		all = append(all, found...)
	}
	return all, nil
}

func (s *Split) verify(ctx context.Context, c VerifyConfig) ([]Damage, error) {
	found := make([][]Damage, len(s.sizes))
	sums := make([]Digest, s.Len())
	var mu sync.Mutex
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(c.Workers)
	for n := range s.sizes {
		group.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			f, images, err := s.verifyShard(ctx, n, sums)
			found[n] = f
			mu.Lock()
			defer mu.Unlock()
			if err == nil && c.Done != nil {
				c.Done(images, s.index.Shards[n])
			}
			return err
		})
	}
	if err := group.Wait(); err != nil { //bounded: each ends with its file, or with ctx
		return nil, err
	}
	var all []Damage
	for _, f := range found {
		all = append(all, f...)
	}
	if len(all) == 0 && s.hash(sums) != s.index.Hash {
		all = append(all, Damage{Shard: Join(s.set.location, IndexName), What: "the hash of split " + s.index.Name + " is not that of its samples"})
	}
	return all, nil
}

func (s *Split) hash(sums []Digest) Digest {
	h := NewSplitHasher()
	for i, e := range s.index.Entries() {
		h.Add(e.Name, e.Label, sums[i])
	}
	return h.Sum()
}

// verifyShard verifies shard n, and puts the SHA-256 of its images in their places.
func (s *Split) verifyShard(ctx context.Context, n int, sums []Digest) (found []Damage, images int, err error) {
	name := s.Location(n)
	f, err := s.set.open(ctx, name)
	if errors.Is(err, fs.ErrNotExist) {
		return []Damage{{Shard: name, What: "the shard is not there"}}, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if want := s.index.Shards[n]; f.Size() != want {
		found = []Damage{{Shard: name, Offset: min(f.Size(), want), What: fmt.Sprintf("the shard has %d bytes, want %d", f.Size(), want)}}
	}
	in := s.inShard(n)
	more, digests, err := CheckShard(ctx, f, s.shardView(n))
	for k, d := range digests {
		sums[in[k]] = d
	}
	return append(found, more...), len(in), err
}
