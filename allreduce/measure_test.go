package allreduce_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/lockstep-ml/lockstep/allreduce"
	"github.com/lockstep-ml/lockstep/allreduce/memnet"
)

// Timers end late and never early, so a hop cannot be found shorter than it is.
func TestMeasureFindsAtLeastTheLatency(t *testing.T) {
	const latency = 2 * time.Millisecond
	for _, c := range []struct{ size, group int }{{3, 0}, {6, 0}, {6, 3}} {
		t.Run(fmt.Sprintf("N=%d G=%d", c.size, c.group), func(t *testing.T) {
			net := memnet.New(memnet.Config{Run: run, Generation: 1, Size: c.size, Group: c.group, Latency: latency})
			s := &ringSet{net: net}
			defer s.close(t)
			for rank := range c.size {
				cfg := allreduce.DefaultConfig()
				cfg.Run, cfg.Generation, cfg.Rank, cfg.Size, cfg.Group = run, 1, rank, c.size, c.group
				cfg.Replicas, cfg.BeginTimeout, cfg.HopTimeout = c.size, time.Hour, time.Hour
				r, err := allreduce.New(cfg, net.Endpoint(rank))
				if err != nil {
					t.Fatal(err)
				}
				s.rings = append(s.rings, r)
			}
			speeds := make([]allreduce.Speed, c.size)
			errs := make([]error, c.size)
			var wg sync.WaitGroup
			for rank, r := range s.rings {
				wg.Go(func() { speeds[rank], errs[rank] = r.Measure(t.Context()) })
			}
			wg.Wait()
			if err := errors.Join(errs...); err != nil {
				t.Fatal(err)
			}
			for rank, got := range speeds {
				// A worker that begins a round late finds it shorter, by what the others had done.
				if got.Hop < latency/2 || got.BytesPerSecond <= 0 {
					t.Errorf("rank %d found %+v, every message takes %v", rank, got, latency)
				}
			}
			t.Logf("%+v", speeds[0])
			all := normals(c.size, 5000, 1) // the ring goes on
			out, errs := s.reduceAll(allreduce.Bucket{Step: 1}, mean, all, spread(c.size, c.size))
			if err := errors.Join(errs...); err != nil {
				t.Fatal(err)
			}
			sameBits(t, "after", out[0], referenceMean(all, 32, true))
		})
	}
}

func TestMeasureNeedsLinksAndFailsWithTheRing(t *testing.T) {
	alone := newRings(t, 1, 1, memnet.Faults{}, nil)
	defer alone.close(t)
	if _, err := alone.rings[0].Measure(t.Context()); err == nil {
		t.Error("a ring of one was measured")
	}
	s := newRings(t, 2, 1, memnet.Faults{}, long)
	defer s.close(t)
	s.net.Kill(1)
	var hop *allreduce.HopError
	if _, err := s.rings[0].Measure(t.Context()); !errors.As(err, &hop) || hop.Peer != 1 {
		t.Errorf("got %v, want a HopError that names rank 1", err)
	}
}
