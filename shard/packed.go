package shard

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/lockstep-ml/lockstep/shard/pack"
	"github.com/lockstep-ml/lockstep/shard/source"
)

// openPacked opens a packed set, if there is one at the path: it gives nil where there is none.
func openPacked(ctx context.Context, path string) (*tree, error) {
	set, err := pack.Open(ctx, path, func(ctx context.Context, location string) (source.File, error) {
		return source.Open(ctx, location, source.Options{})
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open data: %w", err)
	}
	return &tree{what: path, hashed: true, store: &packedStore{set: set}}, nil
}

// packedDataset makes a split of a packed set a Dataset. A set's own order is that of its source, so "all" is train and then val.
func (t *tree) packedDataset(s *packedStore, split string) (*Dataset, error) {
	ds := &Dataset{classes: s.set.Index().Classes, hashed: true}
	names := []string{split}
	if split == "all" {
		names = []string{"train", "val"}
	}
	for _, name := range names {
		x := s.set.Split(name)
		if x == nil && split == "all" {
			continue
		}
		if x == nil {
			return nil, fmt.Errorf("%s: %w %q in this packed set", t.what, ErrNoSplit, split)
		}
		ds.contents += x.Fingerprint()
		for i, e := range x.Index().Entries() {
			ds.samples = append(ds.samples, sample{name: e.Name, size: e.Size, offset: int64(i), file: int32(len(s.splits)), label: int32(e.Label), crc: e.CRC})
		}
		s.splits = append(s.splits, x)
	}
	return ds, nil
}

// A packedStore reads samples of a packed set: sample.file is the split, sample.offset the sample's number in it. A sample that is not
// what was packed is an error of reading and never a damaged image to be passed over: another machine may hold it whole.
type packedStore struct {
	set    *pack.Set
	splits []*pack.Split
}

func (s *packedStore) read(sm *sample, buf []byte) ([]byte, error) {
	return s.splits[sm.file].Read(context.Background(), int(sm.offset), buf) //bounded: sources bound each read
}

func (s *packedStore) Close() error { return s.set.Close() }

// Packed is the packed set that the data set is read from, nil for any other kind.
func (d *Dataset) Packed() *pack.Set {
	if s, ok := d.store.(*packedStore); ok {
		return s.set
	}
	return nil
}

// Size is the number of bytes of image i as they are stored.
func (d *Dataset) Size(i int) int64 { return d.samples[i].size }

// Copies says whether Read uses the buffer that it is given.
func (d *Dataset) Copies() bool { return d.copies }

// Offset is where the bytes of image i begin in the file that holds them: an archive, a batch or a shard. It is 0 for a file of its own,
// and for what is held in memory.
func (d *Dataset) Offset(i int) int64 {
	s := &d.samples[i]
	switch store := d.store.(type) {
	case *packedStore:
		return store.splits[s.file].Entry(int(s.offset)).Offset
	case *memStore, *builtinStore:
		return 0
	}
	return s.offset
}
