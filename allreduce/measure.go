package allreduce

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"
)

// Speed is what was measured of a ring's links.
type Speed struct {
	// Hop is how long a message without weight takes to the neighbour, the handling
	// at both ends included: the mean over the ring.
	Hop time.Duration
	// BytesPerSecond is what a worker sends while all send.
	BytesPerSecond float64
}

const (
	// measureStep is no step of a run.
	measureStep = math.MaxUint64
	// Rounds to time, after one that lines the workers up. The middle one counts.
	smallRounds, largeRounds = 9, 3
	// largeValues take some 10 ms at 1 GB/s: long beside a hop, short beside a step.
	largeValues = 1 << 20
)

// Measure times the links by reducing buckets of zeros, first small ones, then
// large. Every worker of the ring calls it at the same time, at most once, and none
// reduces anything else meanwhile. Errors are those of Reduce.
func (r *Ring) Measure(ctx context.Context) (Speed, error) {
	if r.cfg.Size < 2 {
		return Speed{}, fmt.Errorf("allreduce: a ring of %d has no links to measure", r.cfg.Size)
	}
	// Every chunk has a value, so all workers end a bucket at the same time, and the
	// next one takes all its hops.
	small, err := r.measure(ctx, 0, smallRounds, chunkAlign*r.cfg.Size)
	if err != nil {
		return Speed{}, err
	}
	large, err := r.measure(ctx, smallRounds+1, largeRounds, largeValues)
	if err != nil {
		return Speed{}, err
	}
	hops := 0
	for _, seat := range r.seats {
		hops += 3 * (seat.Size - 1) // of exponents and data
	}
	n := float64(r.cfg.Size)
	sent := 2 * (n - 1) / n * 4 * largeValues
	// Where weight makes no difference, all of the time is the upper bound.
	moving := large - small
	if moving <= 0 {
		moving = large
	}
	return Speed{Hop: small / time.Duration(hops), BytesPerSecond: sent / moving.Seconds()}, nil
}

// measure returns the middle one of how long buckets of n zeros take; their IDs
// begin at first.
func (r *Ring) measure(ctx context.Context, first, rounds, n int) (time.Duration, error) {
	zeros := make([]float32, n)
	var local []Contribution
	if r.cfg.Rank == 0 {
		local = []Contribution{{Values: zeros}}
	}
	took := make([]time.Duration, 0, rounds)
	for i := range rounds + 1 {
		begun := time.Now()
		if err := r.ReduceSum(ctx, Bucket{Step: measureStep, ID: first + i}, local, zeros); err != nil {
			return 0, err
		}
		if i > 0 {
			took = append(took, max(1, time.Since(begun)))
		}
	}
	slices.Sort(took)
	return took[len(took)/2], nil
}
