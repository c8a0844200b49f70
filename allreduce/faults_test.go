package allreduce_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lockstep-ml/lockstep/allreduce"
	"github.com/lockstep-ml/lockstep/allreduce/memnet"
)

// normals makes one slice of n values for each replica.
func normals(replicas, n int, seed uint64) [][]float32 {
	rng := rand.New(rand.NewPCG(seed, 3))
	all := make([][]float32, replicas)
	for r := range all {
		all[r] = make([]float32, n)
		for i := range all[r] {
			all[r][i] = float32(rng.NormFloat64())
		}
	}
	return all
}

// spread hosts replica r on rank r modulo size.
func spread(replicas, size int) []int {
	hosts := make([]int, replicas)
	for r := range hosts {
		hosts[r] = r % size
	}
	return hosts
}

func short(c *allreduce.Config) {
	c.BeginTimeout, c.HopTimeout, c.SegmentBytes = 150*time.Millisecond, 150*time.Millisecond, 1024
}

// long deadlines show that an error did not come from one.
func long(c *allreduce.Config) {
	c.BeginTimeout, c.HopTimeout, c.SegmentBytes = time.Hour, time.Hour, 1024
}

// at restricts faults to one message of the ring.
func at(from int, phase allreduce.Phase, hop uint16) func(int, allreduce.Header) bool {
	return func(f int, h allreduce.Header) bool {
		return f == from && h.Phase == phase && h.Hop == hop && h.Segment == 0
	}
}

// stretch is a phase with a ring in which it has hops 0 and 1, a rank that sends and
// its right neighbour in the phase's level.
type stretch struct {
	phase             allreduce.Phase
	size, group       int
	sender, neighbour int
}

var stretches = []stretch{
	{allreduce.PhaseExponents, 4, 0, 2, 3},
	{allreduce.PhaseReduceScatter, 4, 0, 2, 3},
	{allreduce.PhaseAllGather, 4, 0, 2, 3},
	{allreduce.PhaseExponents, 6, 3, 4, 5},
	{allreduce.PhaseReduceScatter, 6, 3, 5, 3},
	{allreduce.PhaseAllGather, 6, 3, 1, 2},
	{allreduce.PhaseOuterExponents, 6, 2, 2, 4},
	{allreduce.PhaseOuterReduceScatter, 6, 2, 5, 1},
	{allreduce.PhaseOuterAllGather, 6, 2, 0, 2},
}

func (s stretch) String() string {
	return fmt.Sprintf("%v N=%d G=%d", s.phase, s.size, s.group)
}

// mayFinish says whether nothing that a rank waits for comes by way of a damaged
// message of hop 0: it may be done before it hears of the failure.
func (s stretch) mayFinish(rank int) bool {
	inGroup := s.group == 0 || rank/s.group == s.sender/s.group
	switch s.phase {
	case allreduce.PhaseAllGather:
		return rank == s.sender || !inGroup
	case allreduce.PhaseOuterAllGather:
		return inGroup
	}
	return false
}

func TestLostMessageMissesDeadlineAndNamesPeer(t *testing.T) {
	for _, c := range stretches {
		t.Run(c.String(), func(t *testing.T) {
			s := newRings(t, c.size, 4, memnet.Faults{Drop: 1, Only: at(c.sender, c.phase, 1)}, func(cfg *allreduce.Config) {
				if long(cfg); cfg.Rank == c.neighbour { // else a later hop's deadline may pass first
					short(cfg)
				}
				cfg.Group = c.group
				cfg.Names = []string{"a:1", "b:1", "c:1", "d:1", "e:1", "f:1"}[:c.size]
			})
			defer s.close(t)
			_, errs := s.reduceAll(allreduce.Bucket{Step: 7, ID: 3}, mean, normals(4, 9000, 1), spread(4, c.size))
			var hop *allreduce.HopError
			err := errs[c.neighbour]
			if !errors.As(err, &hop) || !errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("rank %d got %v, want a HopError for a missed deadline", c.neighbour, err)
			}
			name := string(rune('a'+c.sender)) + ":1"
			want := allreduce.HopError{Run: run, Generation: 1, Step: 7, Bucket: 3, Phase: c.phase, Hop: 1,
				Peer: c.sender, PeerName: name, Op: "receive", Err: hop.Err}
			if *hop != want {
				t.Errorf("rank %d got %+v, want %+v", c.neighbour, *hop, want)
			}
			for _, part := range []string{run, "generation 1", "step 7", "bucket 3", c.phase.String(), "hop 1", fmt.Sprintf("rank %d (%s)", c.sender, name)} {
				if !strings.Contains(hop.Error(), part) {
					t.Errorf("%q does not mention %q", hop, part)
				}
			}
		})
	}
}

func TestDamagedMessageIsNamed(t *testing.T) {
	for _, c := range stretches {
		for name, f := range map[string]memnet.Faults{"flipped bit": {Corrupt: 1}, "cut": {Truncate: 1}} {
			t.Run(c.String()+" "+name, func(t *testing.T) {
				f.Only = at(c.sender, c.phase, 0)
				s := newRings(t, c.size, 3, f, inGroups(c.group, long))
				defer s.close(t)
				all := normals(3, 9000, 1)
				out, errs := s.reduceAll(allreduce.Bucket{Step: 1}, mean, all, spread(3, c.size))
				var hop *allreduce.HopError
				var sum *allreduce.ChecksumError
				err := errs[c.neighbour]
				if !errors.As(err, &hop) || !errors.As(err, &sum) || hop.Peer != c.sender || hop.Phase != c.phase {
					t.Errorf("rank %d got %v, want a ChecksumError that names rank %d and %v", c.neighbour, err, c.sender, c.phase)
				}
				for rank, err := range errs {
					switch {
					case err == nil && c.mayFinish(rank):
						sameBits(t, fmt.Sprintf("rank %d", rank), out[rank], referenceMean(all, 32, true))
					case err == nil:
						t.Errorf("rank %d finished", rank)
					}
				}
			})
		}
	}
}

// Whatever the network does, a rank gets the right bits or an error.
func TestFaultsNeverGiveAWrongSum(t *testing.T) {
	faults := map[string]memnet.Faults{
		"drop":      {Drop: 0.004},
		"duplicate": {Duplicate: 0.5},
		"corrupt":   {Corrupt: 0.004},
		"truncate":  {Truncate: 0.004},
		"delay":     {Delay: 0.3, MaxDelay: 3 * time.Millisecond},
		"all":       {Drop: 0.001, Duplicate: 0.2, Corrupt: 0.001, Truncate: 0.001, Delay: 0.1, MaxDelay: 3 * time.Millisecond},
	}
	for _, c := range []struct{ size, group int }{{4, 0}, {4, 2}, {6, 3}, {9, 3}} {
		for name, f := range faults {
			t.Run(fmt.Sprintf("N=%d G=%d %s", c.size, c.group, name), func(t *testing.T) { tryFaults(t, c.size, c.group, name, f) })
		}
	}
}

func tryFaults(t *testing.T, size, group int, name string, f memnet.Faults) {
	const replicas, n, seeds = 6, 5000, 8
	all := normals(replicas, n, 9)
	want := referenceMean(all, 32, true)
	whole := 0
	for seed := range uint64(seeds) {
		harmless := name == "duplicate" || name == "delay"
		limits := short
		if f.Seed = seed; harmless {
			limits = func(c *allreduce.Config) { long(c) } // a slow machine must not look like a loss
		}
		s := newRings(t, size, replicas, f, inGroups(group, limits))
		out, errs := s.reduceAll(allreduce.Bucket{Step: 1}, mean, all, spread(replicas, size))
		for rank, err := range errs {
			var hop *allreduce.HopError
			switch {
			case err == nil:
				sameBits(t, fmt.Sprintf("seed %d rank %d", seed, rank), out[rank], want)
				whole++
			case !errors.As(err, &hop):
				t.Errorf("seed %d rank %d: %v, want a HopError", seed, rank, err)
			case harmless:
				t.Errorf("seed %d rank %d: %v", seed, rank, err)
			}
		}
		s.close(t)
	}
	t.Logf("%d of %d ranks finished", whole, seeds*size)
	if harmless := name == "duplicate" || name == "delay"; harmless != (whole == seeds*size) {
		t.Errorf("%d of %d ranks finished with %s", whole, seeds*size, name)
	}
}

func TestManyBucketsAtOnceInAnyOrder(t *testing.T) {
	for _, c := range []struct{ size, group int }{{3, 0}, {6, 2}, {6, 3}} {
		t.Run(fmt.Sprintf("N=%d G=%d", c.size, c.group), func(t *testing.T) { manyBuckets(t, c.size, c.group) })
	}
}

func manyBuckets(t *testing.T, size, group int) {
	const replicas, buckets = 5, 12
	f := memnet.Faults{Seed: 4, Delay: 0.2, MaxDelay: 2 * time.Millisecond, Duplicate: 0.2}
	s := newRings(t, size, replicas, f, inGroups(group, long))
	defer s.close(t)
	all := make([][][]float32, buckets)
	want := make([][]float32, buckets)
	for id := range all {
		all[id] = normals(replicas, 100+700*id, uint64(id))
		want[id] = referenceMean(all[id], 32, true)
	}
	var wg sync.WaitGroup
	for rank, ring := range s.rings {
		for i := range buckets {
			id := (i*5 + rank*7) % buckets // each rank begins them in its own order
			wg.Go(func() {
				var local []allreduce.Contribution
				for r := range replicas {
					if r%size == rank {
						local = append(local, allreduce.Contribution{Replica: r, Values: all[id][r]})
					}
				}
				dst := make([]float32, len(all[id][0]))
				if err := mean(ring, allreduce.Bucket{Step: 2, ID: id}, local, dst); err != nil {
					t.Errorf("rank %d bucket %d: %v", rank, id, err)
					return
				}
				if !slices.Equal(dst, want[id]) {
					t.Errorf("rank %d bucket %d: wrong values", rank, id)
				}
			})
		}
	}
	wg.Wait()
}

func TestNonFinite(t *testing.T) {
	const replicas, n = 6, 5000
	repaired := normals(replicas, n, 1)
	repaired[4][3210], repaired[4][4999] = 0, 0
	mended := referenceMean(repaired, 32, true)
	for _, c := range []struct{ size, group int }{{1, 0}, {2, 0}, {5, 0}, {6, 2}} {
		size := c.size
		for _, bad := range []float32{float32(math.NaN()), float32(math.Inf(1)), float32(math.Inf(-1))} {
			t.Run(fmt.Sprintf("N=%d %v", size, bad), func(t *testing.T) {
				s := newRings(t, size, replicas, memnet.Faults{}, inGroups(c.group, long))
				defer s.close(t)
				all := normals(replicas, n, 1)
				all[4][3210] = bad
				all[4][4999] = bad
				hosts := spread(replicas, size)
				_, errs := s.reduceAll(allreduce.Bucket{Step: 11, ID: 5}, mean, all, hosts)
				for rank, err := range errs {
					var got *allreduce.NonFiniteError
					if !errors.As(err, &got) {
						t.Fatalf("rank %d got %v, want a NonFiniteError", rank, err)
					}
					want := allreduce.NonFiniteError{Step: 11, Bucket: 5, Block: 3}
					if rank == hosts[4] {
						want.Local, want.Replica, want.Index, want.Value = true, 4, 3210, fmt.Sprint(float64(bad))
					}
					if *got != want {
						t.Errorf("rank %d got %+v, want %+v", rank, *got, want)
					}
				}
				all[4][3210], all[4][4999] = 0, 0 // the ring stays usable
				out, errs := s.reduceAll(allreduce.Bucket{Step: 12}, mean, all, hosts)
				if err := errors.Join(errs...); err != nil {
					t.Fatal(err)
				}
				sameBits(t, "after", out[0], mended)
			})
		}
	}
}

// All replicas at the greatest magnitude, and just below powers of two, where
// rounding goes up: the sums touch the ends of the integers.
func TestExtremes(t *testing.T) {
	for _, replicas := range []int{1, 2, 3, 5, 7, 8, 16, 255, 1000} {
		for _, sign := range []float32{1, -1} {
			for _, x := range []float32{math.MaxFloat32, math.Nextafter32(1, 0), 1, math.SmallestNonzeroFloat32, math.Float32frombits(0x00ffffff)} {
				all := make([][]float32, replicas)
				for r := range all {
					all[r] = []float32{sign * x, x, -x, sign * x, 0}
				}
				for _, wire := range []allreduce.Wire{16, 32} {
					s := newRings(t, 3, replicas, memnet.Faults{}, long)
					out, errs := s.reduceAll(allreduce.Bucket{Wire: wire}, mean, all, spread(replicas, 3))
					if err := errors.Join(errs...); err != nil {
						t.Fatal(err)
					}
					for rank := range out {
						sameBits(t, fmt.Sprintf("R=%d x=%g wire=%v rank %d", replicas, x, wire, rank), out[rank], referenceMean(all, int(wire), true))
					}
					s.close(t)
				}
			}
		}
	}
}

func TestKilledRankIsNamed(t *testing.T) {
	for _, c := range []struct {
		size, group int
		near        []int // neighbours of rank 1, in any level
	}{{3, 0, []int{0, 2}}, {6, 3, []int{0, 2, 4}}, {4, 2, []int{0, 3}}} {
		t.Run(fmt.Sprintf("N=%d G=%d", c.size, c.group), func(t *testing.T) { killOne(t, c.size, c.group, c.near) })
	}
}

func killOne(t *testing.T, size, group int, near []int) {
	s := newRings(t, size, size, memnet.Faults{}, inGroups(group, long))
	defer s.close(t)
	errs := make([]error, size)
	var wg sync.WaitGroup
	for rank := range size {
		if rank == 1 {
			continue // dies before it takes part
		}
		wg.Go(func() {
			local := []allreduce.Contribution{{Replica: rank, Values: make([]float32, 3000)}}
			errs[rank] = mean(s.rings[rank], allreduce.Bucket{Step: 1}, local, make([]float32, 3000))
		})
	}
	s.net.Kill(1)
	wg.Wait()
	for rank, err := range errs {
		var hop *allreduce.HopError
		switch {
		case rank == 1:
			continue
		case !errors.As(err, &hop), slices.Contains(near, rank) && hop.Peer != 1 && !strings.Contains(hop.Error(), "rank 1"):
			t.Errorf("rank %d got %v, want a HopError that names rank 1", rank, err)
		}
		if again := mean(s.rings[rank], allreduce.Bucket{Step: 2}, nil, make([]float32, 1)); !errors.Is(again, err) {
			t.Errorf("rank %d: a failed ring was used again: %v", rank, again)
		}
	}
}

func TestPartitionMissesDeadline(t *testing.T) {
	for _, c := range []struct {
		size, group int
		level       allreduce.Level
		right       int // of rank 0
	}{{2, 0, allreduce.Inner, 1}, {6, 3, allreduce.Inner, 1}, {6, 3, allreduce.Outer, 3}} {
		t.Run(fmt.Sprintf("N=%d G=%d %v", c.size, c.group, c.level), func(t *testing.T) {
			s := newRings(t, c.size, 2, memnet.Faults{}, func(cfg *allreduce.Config) {
				if long(cfg); cfg.Rank == c.right {
					short(cfg)
				}
				cfg.Group = c.group
			})
			defer s.close(t)
			s.net.Partition(0, c.level)
			_, errs := s.reduceAll(allreduce.Bucket{Step: 1}, mean, normals(2, 100, 1), spread(2, c.size))
			var hop *allreduce.HopError
			if err := errs[c.right]; !errors.As(err, &hop) || hop.Peer != 0 || hop.Phase.Level() != c.level || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("rank %d got %v, want a missed deadline that names rank 0 and the %v level", c.right, err, c.level)
			}
		})
	}
}

func TestAnotherGenerationIsRefused(t *testing.T) {
	for _, c := range []struct {
		size, group int
		phase       allreduce.Phase
	}{{2, 0, allreduce.PhaseExponents}, {4, 2, allreduce.PhaseExponents}, {4, 2, allreduce.PhaseOuterReduceScatter}} {
		t.Run(fmt.Sprintf("N=%d G=%d %v", c.size, c.group, c.phase), func(t *testing.T) { injectStrays(t, c.size, c.group, c.phase) })
	}
}

func injectStrays(t *testing.T, size, group int, phase allreduce.Phase) {
	s := newRings(t, size, 2, memnet.Faults{}, inGroups(group, long))
	defer s.close(t)
	h := allreduce.Header{Run: allreduce.RunDigest(run), Generation: 1}
	h.Key = allreduce.Key{Step: 1, Phase: phase}
	for name, change := range map[string]func(*allreduce.Header){
		"generation": func(h *allreduce.Header) { h.Generation = 2 },
		"run":        func(h *allreduce.Header) { h.Run++ },
	} {
		stray := h
		change(&stray)
		var refused *allreduce.RefusedError
		err := s.net.Inject(t.Context(), 1, allreduce.NewMessage(stray, []byte{1}, nil))
		if !errors.As(err, &refused) || !strings.Contains(refused.Reason, name) {
			t.Errorf("another %s: got %v, want a RefusedError", name, err)
		}
	}
	all := normals(2, 3000, 1)
	out, errs := s.reduceAll(allreduce.Bucket{Step: 1}, mean, all, spread(2, size))
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	sameBits(t, "after", out[1], referenceMean(all, 32, true))
}

func TestDisagreementIsNamed(t *testing.T) {
	for what, run := range map[string]struct {
		tweak func(*allreduce.Config)
		n     int
	}{
		"wire width":         {func(c *allreduce.Config) { c.Wire = 32 - 16*allreduce.Wire(c.Rank) }, 3000},
		"number of replicas": {func(c *allreduce.Config) { c.Replicas = 2 + c.Rank }, 3000},
		"bucket's length":    {func(*allreduce.Config) {}, 2999},
	} {
		t.Run(what, func(t *testing.T) {
			s := newRings(t, 2, 2, memnet.Faults{}, run.tweak)
			defer s.close(t)
			errs := make([]error, 2)
			var wg sync.WaitGroup
			for rank, n := range []int{3000, run.n} {
				wg.Go(func() {
					local := []allreduce.Contribution{{Replica: rank, Values: make([]float32, n)}}
					errs[rank] = mean(s.rings[rank], allreduce.Bucket{Step: 1}, local, make([]float32, n))
				})
			}
			wg.Wait()
			var mismatch *allreduce.MismatchError
			if err := errors.Join(errs...); !errors.As(err, &mismatch) || !strings.Contains(mismatch.Field, what) {
				t.Errorf("got %v, want a MismatchError about the %s", err, what)
			}
		})
	}
}
