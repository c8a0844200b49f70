package shard

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"syscall"

	"github.com/lockstep-ml/lockstep/internal/crc32c"
	"github.com/lockstep-ml/lockstep/shard/pack"
	"github.com/lockstep-ml/lockstep/shard/source"
)

// OpenPacked opens the packed set at o.Path for what concerns the set and not its samples: nil where there is none.
func OpenPacked(ctx context.Context, o Options) (*pack.Set, error) {
	if o.Path == Builtin || IsSynthetic(o.Path) || isArchive(path.Base(pathOf(o.Path))) {
		return nil, nil
	}
	return packedAt(ctx, o.Path, func(ctx context.Context, location string) (source.File, error) {
		return source.Open(ctx, location, o.Source)
	})
}

func packedAt(ctx context.Context, location string, open pack.OpenFile) (*pack.Set, error) {
	set, err := pack.Open(ctx, location, open)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) { // what lies there may be a file
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open data: %w", err)
	}
	return set, nil
}

// openPacked opens a packed set as a data set: it gives nil where there is none.
func openPacked(ctx context.Context, o Options, root string) (*tree, error) {
	set, err := packedAt(ctx, root, o.opener.Open)
	if set == nil || err != nil {
		return nil, err
	}
	return &tree{what: source.Clean(root), hashed: true, packed: set, store: &packedStore{}}, nil
}

// packedDataset makes a split of a packed set a Dataset. A set's own order is that of its source, so "all" is train and then val.
func (t *tree) packedDataset(split string) (*Dataset, error) {
	s := &packedStore{}
	t.store = s
	ds := &Dataset{classes: t.packed.Index().Classes, hashed: true}
	names := []string{split}
	if split == "all" {
		names = []string{"train", "val"}
	}
	for _, name := range names {
		x := t.packed.Split(name)
		if x == nil && split == "all" {
			continue
		}
		if x == nil {
			return nil, fmt.Errorf("%s: %w %q in this packed set", t.what, ErrNoSplit, split)
		}
		ds.contents += x.Fingerprint()
		for _, e := range x.Index().Entries() {
			if err := ds.add(e.Name, sample{size: uint32(e.Size), offset: e.Offset, file: int32(len(s.shards) + e.Shard), label: int32(e.Label), crc: e.CRC}); err != nil {
				return nil, err
			}
		}
		for n := range x.Index().Shards {
			s.shards = append(s.shards, packedShard{x.Shards, n})
		}
	}
	return ds, nil
}

// A packedStore reads samples of a packed set: sample.file is a shard. The set's index is no longer needed, and not kept.
type packedStore struct{ shards []packedShard }

// A packedShard is a shard's place in the set.
type packedShard struct {
	of     *pack.Shards
	number int
}

func (s *packedStore) read(ctx context.Context, x *index, i int, buf []byte) ([]byte, error) {
	sm := &x.samples[i]
	buf = slices.Grow(buf[:0], int(sm.size))[:sm.size]
	if err := s.readRange(ctx, sm.file, sm.offset, buf); err != nil {
		return nil, err
	}
	return buf, s.accept(x, i, buf)
}

// readRange fills p from a shard.
func (s *packedStore) readRange(ctx context.Context, file int32, off int64, p []byte) error {
	x := s.shards[file]
	return x.of.ReadAt(ctx, x.number, p, off)
}

// accept compares a sample's bytes with its checksum. What is not what was packed is an error of reading, and never a damaged image to be
// passed over: another machine may hold it whole, and would then train on other data.
func (s *packedStore) accept(x *index, i int, b []byte) error {
	sm := &x.samples[i]
	if got := crc32c.Update(0, b); got != sm.crc {
		of := s.shards[sm.file]
		return &pack.ChecksumError{Shard: of.of.Location(of.number), Sample: x.name(i), Offset: sm.offset, Size: int64(len(b)), Got: got, Want: sm.crc}
	}
	return nil
}

func (s *packedStore) Close() error {
	var err error
	for _, x := range s.shards {
		if x.number == 0 { // all of a split close together
			err = errors.Join(err, x.of.Close())
		}
	}
	return err
}

// Size is the number of bytes of image i as they are stored.
func (d *Dataset) Size(i int) int64 { return int64(d.samples[i].size) }

// Copies says whether Read uses the buffer that it is given.
func (d *Dataset) Copies() bool { return d.copies }

// Offset is where the bytes of image i begin in the file that holds them: an archive, a batch or a shard. It is 0 for a file of its own,
// and for what is held in memory.
func (d *Dataset) Offset(i int) int64 {
	switch d.store.(type) {
	case *memStore, *builtinStore:
		return 0
	}
	return d.samples[i].offset
}
