package pack

import (
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"io"
	"iter"
)

// Digest is a SHA-256.
type Digest = [sha256.Size]byte

// An Index is what the set's index file says.
type Index struct {
	// Recipe says, as JSON, what the set was made from and with which options. This package stores it and does not read it.
	Recipe  []byte
	Classes []string
	Splits  []SplitIndex // in the order of their names
}

// A SplitIndex describes one split.
type SplitIndex struct {
	Name    string
	Hash    Digest  // of its samples' names, labels and contents, see SplitHasher
	Shards  []int64 // their sizes in bytes
	LeftOut []LeftOut
	table   table // by rising ordinal
}

// A ShardIndex describes one shard, and is its last member.
type ShardIndex struct {
	Recipe  Digest // SHA-256 of the set's recipe: shards of different recipes do not belong together
	Split   string
	Number  int
	LeftOut []LeftOut // samples that would lie in this shard
	table   table     // in the order of the file
}

// Len is the number of samples.
func (x *SplitIndex) Len() int { return x.table.len() }

// Len is the number of samples.
func (x *ShardIndex) Len() int { return x.table.len() }

// Entries goes through the shard's samples in the order of the file.
func (x *ShardIndex) Entries() iter.Seq2[int, Entry] { return x.table.entries() }

// Entries goes through the split's samples in their order.
func (x *SplitIndex) Entries() iter.Seq2[int, Entry] { return x.table.entries() }

// entries decodes each name from the one before it, which is quicker than entry(i) for all.
func (t *table) entries() iter.Seq2[int, Entry] {
	return func(yield func(int, Entry) bool) {
		b, name := t.names, []byte(nil)
		for i := range t.records {
			shared, rest, n := nameAt(b)
			name = append(name[:shared], b[n:n+rest]...)
			b = b[n+rest:]
			e := t.bare(i)
			e.Name = string(name)
			if !yield(i, e) {
				return
			}
		}
	}
}

// Hash is the hash of all that the set means: classes, and the splits' names and hashes. Where samples lie, and how many shards there
// are, does not reach it.
func (x *Index) Hash() Digest { return hashOf(x.Classes, x.Splits) }

// hashOf is SHA-256 over "lockstep set 1\n", the classes and the splits; each count and length is 8 bytes, little-endian.
func hashOf(classes []string, splits []SplitIndex) (sum Digest) {
	h := hasher{sha256.New()}
	h.text("lockstep set 1\n")
	h.uint(len(classes))
	for _, c := range classes {
		h.uint(len(c))
		h.text(c)
	}
	h.uint(len(splits))
	for i := range splits {
		h.uint(len(splits[i].Name))
		h.text(splits[i].Name)
		h.h.Write(splits[i].Hash[:])
	}
	h.h.Sum(sum[:0])
	return sum
}

type hasher struct{ h hash.Hash }

func (h hasher) uint(v int) {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], uint64(v))
	h.h.Write(b[:])
}

func (h hasher) text(s string) { io.WriteString(h.h, s) } // a hash never fails to write

// A SplitHasher computes a split's hash: SHA-256 over "lockstep split 1\n" and, for each sample in the split's order, the length of its
// name, the name, the label (lengths and numbers as 8 bytes, little-endian) and the SHA-256 of its image.
type SplitHasher struct{ h hasher }

// NewSplitHasher begins a split.
func NewSplitHasher() *SplitHasher {
	h := hasher{sha256.New()}
	h.text("lockstep split 1\n")
	return &SplitHasher{h}
}

// Add adds the next sample.
func (s *SplitHasher) Add(name string, label int, image Digest) {
	s.h.uint(len(name))
	s.h.text(name)
	s.h.uint(label)
	s.h.h.Write(image[:])
}

// Sum is the hash of what was added.
func (s *SplitHasher) Sum() (sum Digest) {
	s.h.h.Sum(sum[:0])
	return sum
}
