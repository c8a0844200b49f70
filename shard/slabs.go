package shard

import "slices"

// A slab holds the bytes of one read for the places that wait for them. refs counts those places; under the prefetcher's mu.
type slab struct {
	b    []byte
	refs int
}

// slabs recycles memory of many sizes. Images differ in size by a factor of a thousand, so the smallest that fits is taken; a
// sync.Pool would hand out any, and grow them all to the largest. Not safe for concurrent use.
type slabs struct {
	free  [][]byte // by capacity
	bytes int64    // of free
}

const (
	// slabUnit: capacities are multiples of it, so that images of about one size share memory.
	slabUnit = 16 << 10
	// maxFreeSlabs bounds, in bytes, the memory kept for reads to come: some hundred photographs. Reads come and go at one pace, so
	// little lies idle; what a burst leaves behind goes to the garbage collector.
	maxFreeSlabs = 16 << 20
)

// take gives n bytes.
func (s *slabs) take(n int) []byte {
	i, _ := slices.BinarySearchFunc(s.free, n, func(b []byte, n int) int { return cap(b) - n })
	if i < len(s.free) && cap(s.free[i]) <= 2*n+slabUnit {
		b := s.free[i]
		s.free = slices.Delete(s.free, i, i+1)
		s.bytes -= int64(cap(b))
		return b[:n]
	}
	return make([]byte, n, (n+slabUnit-1)/slabUnit*slabUnit)
}

// put takes memory back.
func (s *slabs) put(b []byte) {
	if s.bytes+int64(cap(b)) > maxFreeSlabs {
		return
	}
	i, _ := slices.BinarySearchFunc(s.free, cap(b), func(f []byte, n int) int { return cap(f) - n })
	s.free = slices.Insert(s.free, i, b)
	s.bytes += int64(cap(b))
}
