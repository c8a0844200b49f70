package allreduce

import (
	"fmt"
	"testing"
)

// What a rank sends in a hop is what its right neighbour expects in it, every hop
// sends what this rank has by then, and at the end all ranks have all sums.
func TestSchedules(t *testing.T) {
	for _, c := range []struct{ size, group, hops int }{
		{2, 0, 2}, {5, 0, 8}, {4, 2, 4}, {6, 2, 6}, {6, 3, 6}, {8, 4, 8}, {9, 3, 8}, {64, 8, 28}, {64, 64, 126},
	} {
		t.Run(fmt.Sprintf("N=%d G=%d", c.size, c.group), func(t *testing.T) {
			schedules := make([]*schedule, c.size)
			for rank := range schedules {
				schedules[rank] = newSchedule(Seats(rank, c.size, c.group))
			}
			if n := len(schedules[0].hops); n != c.hops {
				t.Fatalf("%d hops, want %d", n, c.hops)
			}
			follow(t, schedules, c.size, c.group)
		})
	}
}

// follow runs the schedules in lock step, with sets of ranks for sums.
func follow(t *testing.T, schedules []*schedule, size, group int) {
	const n = 1 << 14
	plan := newPlan(n, schedules[0].sizes[Inner], MaxPayload, Wire32)
	unit := func(i int) int { return i * chunkAlign }
	have := make([][]map[int]bool, size) // by rank and unit, whose values are in the sum
	for rank := range have {
		have[rank] = make([]map[int]bool, n/chunkAlign)
		for u := range have[rank] {
			have[rank][u] = map[int]bool{rank: true}
		}
	}
	for i := range schedules[0].hops {
		next := make([][]map[int]bool, size)
		for rank, s := range schedules {
			h := &s.hops[i]
			seat := Seats(rank, size, group)[h.phase.Level()]
			left := &schedules[seat.Left()].hops[i]
			if left.out != h.in || left.phase != h.phase || left.n != h.n || s.find(h.phase, h.n) != i {
				t.Fatalf("hop %d: rank %d expects %+v, rank %d sends %+v", i, rank, *h, seat.Left(), *left)
			}
			next[rank] = append(next[rank], have[rank]...)
			lo, hi := plan.span(h.in, 0)
			for u := range next[rank] {
				if unit(u) >= lo && unit(u) < hi {
					next[rank][u] = joined(have[seat.Left()][u], have[rank][u], h.adds != nothing)
				}
			}
		}
		have = next
	}
	for rank := range have {
		for u, ranks := range have[rank] {
			if len(ranks) != size {
				t.Fatalf("rank %d ends with the sum of %d ranks at unit %d", rank, len(ranks), u)
			}
		}
	}
}

// joined is what a rank has after it received came, with or without its own added.
func joined(came, own map[int]bool, adds bool) map[int]bool {
	out := map[int]bool{}
	for r := range came {
		out[r] = true
	}
	if adds {
		for r := range own {
			if came[r] {
				return nil // counted twice: never whole
			}
			out[r] = true
		}
	}
	return out
}
