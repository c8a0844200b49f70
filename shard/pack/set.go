package pack

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/lockstep-ml/lockstep/internal/crc32c"
	"github.com/lockstep-ml/lockstep/internal/vfs"
	"github.com/lockstep-ml/lockstep/shard/source"
)

// OpenFile opens a file at a location, which is a path or a URL as package source takes them. What is not there matches
// fs.ErrNotExist. It may be called concurrently.
type OpenFile func(ctx context.Context, location string) (source.File, error)

// A Set is an open packed data set. Its methods but Close may run concurrently.
type Set struct {
	location string
	open     OpenFile
	index    *Index
	splits   []*Split
}

// Join gives the location of a file below another location, which may be a URL with a query.
func Join(location, below string) string {
	path, query, has := location, "", false
	if strings.Contains(location, "://") {
		path, query, has = strings.Cut(location, "?")
	}
	path = strings.TrimSuffix(path, "/") + "/" + below
	if has {
		path += "?" + query
	}
	return path
}

// Open reads the index of the set at a location: a folder, or the URL of one. Where there is none the error matches fs.ErrNotExist.
// Shards are opened when they are first read from.
func Open(ctx context.Context, location string, open OpenFile) (*Set, error) {
	index, err := readIndex(ctx, Join(location, IndexName), open)
	if err != nil {
		return nil, err
	}
	s := &Set{location: location, open: open, index: index}
	for i := range index.Splits {
		x := &index.Splits[i]
		s.splits = append(s.splits, &Split{set: s, index: x, Shards: newShards(location, open, x)})
	}
	return s, nil
}

func readIndex(ctx context.Context, location string, open OpenFile) (x *Index, err error) {
	f, err := open(ctx, location)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if f.Size() > maxIndexBytes+frameBytes {
		return nil, fmt.Errorf("%s: %w: %d bytes for an index, the bound is %d", location, ErrTooLarge, f.Size(), maxIndexBytes)
	}
	b := make([]byte, f.Size())
	if err := f.ReadAt(ctx, b, 0); err != nil {
		return nil, err
	}
	if x, err = parseIndex(b); err != nil {
		return nil, fmt.Errorf("%s: %w; copy it again, or let `lockstep data pack` make it again from the shards", location, err)
	}
	return x, nil
}

// WriteIndex puts the index of a set beside its shards, which must all be there: with it the set is complete.
func WriteIndex(fsys vfs.FS, path string, x *Index) error {
	return vfs.WriteAtomic(fsys, path, 0o644, func(w io.Writer) error {
		_, err := io.Copy(w, bytes.NewReader(x.encode()))
		return err
	})
}

// NewSplitIndex puts a split together from its shards, which come in the order of their numbers.
func NewSplitIndex(name string, shards []*Shard) (SplitIndex, error) {
	type place struct{ shard, i int }
	var places []place
	out := SplitIndex{Name: name}
	for n, s := range shards {
		if s.Index.Split != name || s.Index.Number != n {
			return out, fmt.Errorf("shard %d of %s is %d of %s", n, name, s.Index.Number, s.Index.Split)
		}
		out.Shards = append(out.Shards, s.Size)
		out.LeftOut = append(out.LeftOut, s.Index.LeftOut...)
		for i := range s.Index.Len() {
			places = append(places, place{n, i})
		}
	}
	at := func(p place) *record { return &shards[p.shard].Index.table.records[p.i] }
	slices.SortFunc(places, func(a, b place) int { return int(at(a).ordinal) - int(at(b).ordinal) })
	hash := NewSplitHasher()
	for k, p := range places {
		if k > 0 && at(p).ordinal == at(places[k-1]).ordinal {
			return out, fmt.Errorf("split %s has sample %d twice", name, at(p).ordinal)
		}
		e := shards[p.shard].Index.table.entry(p.i)
		out.table.add(e)
		hash.Add(e.Name, e.Label, shards[p.shard].Sums[p.i])
	}
	slices.SortFunc(out.LeftOut, func(a, b LeftOut) int { return a.Ordinal - b.Ordinal })
	out.Hash = hash.Sum()
	return out, nil
}

// Location is where the set was opened.
func (s *Set) Location() string { return s.location }

// Index is what the index says. It must not be changed.
func (s *Set) Index() *Index { return s.index }

// Split gives a split by name, nil where the set has none of it. test and val both find val.
func (s *Set) Split(name string) *Split {
	if name == "test" {
		name = "val"
	}
	i := slices.IndexFunc(s.splits, func(x *Split) bool { return x.index.Name == name })
	if i < 0 {
		return nil
	}
	return s.splits[i]
}

// Close closes the shards. It may be called twice; no Read may be running or follow.
func (s *Set) Close() error {
	var err error
	for _, x := range s.splits {
		err = errors.Join(err, x.Shards.Close())
	}
	return err
}

// A Split is one split of an open set.
type Split struct {
	*Shards
	set   *Set
	index *SplitIndex
}

// Index is what the index says of the split. It must not be changed.
func (s *Split) Index() *SplitIndex { return s.index }

// Len is the number of samples.
func (s *Split) Len() int { return s.index.Len() }

// Entry describes sample i.
func (s *Split) Entry(i int) Entry { return s.index.table.entry(i) }

// Fingerprint is hex SHA-256 over classes, the split's name and its hash: the same wherever the same set lies.
func (s *Split) Fingerprint() string {
	sum := hashOf(s.set.index.Classes, []SplitIndex{{Name: s.index.Name, Hash: s.index.Hash}})
	return hex.EncodeToString(sum[:])
}

// Read reads the image of sample i into buf, which it grows if needed, and checks it. An image that is not what was packed is a
// *ChecksumError.
func (s *Split) Read(ctx context.Context, i int, buf []byte) ([]byte, error) {
	e := s.index.table.bare(i)
	buf = slices.Grow(buf[:0], int(e.Size))[:e.Size]
	if err := s.ReadAt(ctx, e.Shard, buf, e.Offset); err != nil {
		return nil, err
	}
	if got := crc32c.Update(0, buf); got != e.CRC {
		return nil, &ChecksumError{Shard: s.Location(e.Shard), Sample: s.index.table.name(i), Offset: e.Offset, Size: e.Size, Got: got, Want: e.CRC}
	}
	return buf, nil
}

// recipeHash is what the set's shards bear.
func (s *Set) recipeHash() Digest { return sha256.Sum256(s.index.Recipe) }
