package allreduce

import "fmt"

// Level is one of the rings that a worker is part of. A flat ring has the inner
// level alone; in one of two levels the inner joins the workers of a group, and the
// outer those that have the same place in all groups.
type Level uint8

const (
	Inner Level = 0
	Outer Level = 1

	levels = 2
)

// String returns the level's name as errors give it.
func (l Level) String() string {
	if l == Outer {
		return "outer"
	}
	return "inner"
}

// Seat is a worker's place in the ring of one level.
type Seat struct {
	Rank, Size    int // in that ring
	first, stride int // its member i is rank first+i*stride of all workers
}

// Seats returns the places of rank of size workers in groups of group: one in a
// flat ring, else the inner and the outer. Groups are runs of ranks. CheckGroup
// must hold.
func Seats(rank, size, group int) []Seat {
	if group <= 1 || group == size {
		return []Seat{{Rank: rank, Size: size, stride: 1}}
	}
	place := rank % group
	return []Seat{
		{Rank: place, Size: group, first: rank - place, stride: 1},
		{Rank: rank / group, Size: size / group, first: place, stride: group},
	}
}

// Left returns the rank, among all workers, of the neighbour that sends to this one.
func (s Seat) Left() int { return s.first + (s.Rank+s.Size-1)%s.Size*s.stride }

// Right returns the rank, among all workers, of the neighbour that this one sends to.
func (s Seat) Right() int { return s.first + (s.Rank+1)%s.Size*s.stride }

// CheckGroup says why size workers cannot be in groups of group; 0 and 1 stand for
// a flat ring. Groups are equal: with unequal ones the parts of a bucket that
// groups hold after their own reduce-scatter would not match.
func CheckGroup(size, group int) error {
	if group < 0 || group > size || group > 1 && size%group != 0 {
		return fmt.Errorf("groups of %d: %d workers do not divide into them", group, size)
	}
	return nil
}
