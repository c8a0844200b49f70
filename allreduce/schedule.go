package allreduce

// hop is one of the hops that a segment takes: what this worker sends and receives
// in it, and what becomes of what it receives.
type hop struct {
	phase   Phase
	n       int // within the phase
	out, in part
	adds    summand
	whole   bool // with what is added, the sum is whole: it is decoded
	held    bool // the result goes into the held sum
	pass    bool // the result is what is sent in the next hop
}

// part names values of a segment: those of a chunk, and of them piece sub of subs.
type part struct{ chunk, sub, subs int }

// summand is what is added to a message.
type summand uint8

const (
	nothing  summand = iota // what came is the whole sum
	replicas                // those that this worker hosts
	heldSum                 // its group's, held since the end of the inner reduce-scatter
)

// schedule is the list of a segment's hops, the same for every segment and bucket.
//
// In a flat ring, what is received in a hop is what is sent in the next, to the
// end. In one of two levels the inner reduce-scatter leaves a worker with its
// group's sum of one chunk, which it holds; the outer hops add up the pieces of that
// chunk over the groups; and the held sum, then whole, is what the inner all-gather
// begins with.
type schedule struct {
	hops  []hop
	first [phases]int // index of the phase's first hop
	sizes [levels]int // of the rings
}

func newSchedule(seats []Seat) *schedule {
	s := &schedule{}
	for level, seat := range seats {
		s.sizes[level] = seat.Size
	}
	inner := seats[Inner]
	own := (inner.Rank + 1) % inner.Size // the chunk whose sum reduce-scatter leaves here
	chunk := func(i int) part { return part{i, 0, 1} }
	piece := func(i int) part { return part{own, i, s.sizes[Outer]} }
	s.scatter(PhaseReduceScatter, inner, chunk)
	end := &s.hops[len(s.hops)-1]
	end.whole = true
	if len(seats) > 1 {
		end.whole, end.pass, end.held = false, false, true
		begin := len(s.hops)
		s.scatter(PhaseOuterReduceScatter, seats[Outer], piece)
		for i := begin; i < len(s.hops); i++ {
			s.hops[i].adds = heldSum
		}
		end = &s.hops[len(s.hops)-1]
		end.whole, end.held = true, true
		begin = len(s.hops)
		s.gather(PhaseOuterAllGather, seats[Outer], piece)
		for i := begin; i < len(s.hops); i++ {
			s.hops[i].held = true
		}
	}
	s.gather(PhaseAllGather, inner, chunk)
	return s
}

// scatter adds the hops of reduce-scatter: in hop h rank r sends part r-h, so that
// after all of them it has the sum of part r+1.
func (s *schedule) scatter(p Phase, seat Seat, nth func(i int) part) {
	s.first[p] = len(s.hops)
	for h := range seat.Size - 1 {
		i := seat.Rank - h + seat.Size
		s.hops = append(s.hops, hop{phase: p, n: h, out: nth(i % seat.Size), in: nth((i - 1) % seat.Size), adds: replicas, pass: true})
	}
}

// gather adds the hops of all-gather, in which rank r first sends part r+1.
func (s *schedule) gather(p Phase, seat Seat, nth func(i int) part) {
	s.first[p] = len(s.hops)
	for h := range seat.Size - 1 {
		i := seat.Rank + 1 - h + seat.Size
		s.hops = append(s.hops, hop{phase: p, n: h, out: nth(i % seat.Size), in: nth((i - 1) % seat.Size), pass: h < seat.Size-2})
	}
}

// find returns the index of a phase's hop n, -1 where the schedule has none.
func (s *schedule) find(p Phase, n int) int {
	if int(p) < len(s.first) {
		if i := s.first[p] + n; i < len(s.hops) && s.hops[i].phase == p && s.hops[i].n == n {
			return i
		}
	}
	return -1
}
