package allreduce_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/lockstep-ml/lockstep/allreduce"
	"github.com/lockstep-ml/lockstep/allreduce/memnet"
)

func TestConfigReportsEveryFault(t *testing.T) {
	err := allreduce.Config{Rank: 3, Size: 2, Wire: 8, Names: []string{"one"}}.Validate()
	if err == nil {
		t.Fatal("accepted")
	}
	for _, field := range []string{"Run", "Rank", "Replicas", "Wire", "BeginTimeout", "HopTimeout", "SegmentBytes", "Window", "Names"} {
		if !strings.Contains(err.Error(), field+" is") && !strings.Contains(err.Error(), field+" has") {
			t.Errorf("%q does not mention %s", err, field)
		}
	}
	good := allreduce.DefaultConfig()
	good.Run = "r"
	for _, c := range []struct {
		size, group int
		ok          bool
	}{{8, 0, true}, {8, 1, true}, {8, 2, true}, {8, 4, true}, {8, 8, true}, {8, 3, false}, {8, 16, false}, {8, -2, false}, {7, 2, false}} {
		grouped := good
		grouped.Size, grouped.Group = c.size, c.group
		if err := grouped.Validate(); (err == nil) != c.ok {
			t.Errorf("%d workers in groups of %d: %v", c.size, c.group, err)
		}
	}
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
	if _, err := allreduce.New(allreduce.Config{}, nil); err == nil {
		t.Error("New accepted an empty Config")
	}
	good.Size = 2
	if _, err := allreduce.New(good, nil); err == nil {
		t.Error("New accepted a ring of two without a transport")
	}
}

func TestBadArgumentsLeaveTheRingUsable(t *testing.T) {
	s := newRings(t, 1, 2, memnet.Faults{}, nil)
	defer s.close(t)
	r := s.rings[0]
	v := []float32{1, 2, 3}
	good := []allreduce.Contribution{{Replica: 0, Values: v}, {Replica: 1, Values: v}}
	for what, err := range map[string]error{
		"exist":    mean(r, allreduce.Bucket{}, []allreduce.Contribution{{Replica: 2, Values: v}}, v),
		"twice":    mean(r, allreduce.Bucket{}, []allreduce.Contribution{good[0], good[0]}, v),
		"values":   mean(r, allreduce.Bucket{}, good, v[:2]),
		"hosts":    mean(r, allreduce.Bucket{}, good[:1], v),
		"wire":     mean(r, allreduce.Bucket{Wire: 8}, good, v),
		"ID":       mean(r, allreduce.Bucket{ID: -1}, good, v),
		"canceled": reduceCancelled(good),
	} {
		if err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("got %v, want an error with %q", err, what)
		}
	}
	dst := slices.Clone(v)
	if err := mean(r, allreduce.Bucket{Step: 1}, []allreduce.Contribution{good[0], {Replica: 1, Values: dst}}, dst); err != nil {
		t.Error(err) // dst may be a contribution
	}
	sameBits(t, "mean in place", dst, v)
	if err := mean(r, allreduce.Bucket{Step: 1}, good, dst); err == nil || !strings.Contains(err.Error(), "already") {
		t.Errorf("reduced a bucket twice: %v", err)
	}
}

func reduceCancelled(local []allreduce.Contribution) error {
	cfg := allreduce.DefaultConfig()
	cfg.Run, cfg.Replicas = run, len(local)
	r, err := allreduce.New(cfg, nil)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	err = r.Reduce(ctx, allreduce.Bucket{}, local, make([]float32, len(local[0].Values)))
	return errors.Join(err, r.Close())
}

func TestCloseAbortAndCancelEndReduce(t *testing.T) {
	why := errors.New("evicted")
	for name, c := range map[string]struct {
		end  func(*allreduce.Ring, context.CancelFunc) error
		want error
	}{
		"close":  {func(r *allreduce.Ring, _ context.CancelFunc) error { return r.Close() }, allreduce.ErrClosed},
		"abort":  {func(r *allreduce.Ring, _ context.CancelFunc) error { r.Abort(why); return nil }, why},
		"cancel": {func(_ *allreduce.Ring, cancel context.CancelFunc) error { cancel(); return nil }, context.Canceled},
	} {
		t.Run(name, func(t *testing.T) {
			// The waiting message tells that Reduce is inside.
			inside := make(chan struct{})
			s := newRings(t, 2, 1, memnet.Faults{Only: func(from int, _ allreduce.Header) bool {
				close(inside)
				return false
			}}, long)
			defer s.close(t)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			got := make(chan error, 1)
			go func() {
				got <- s.rings[0].Reduce(ctx, allreduce.Bucket{}, nil, make([]float32, 10))
			}()
			<-inside
			if err := c.end(s.rings[0], cancel); err != nil {
				t.Error(err)
			}
			if err := <-got; !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if err := s.rings[0].Err(); !errors.Is(err, c.want) {
				t.Errorf("Err is %v, want %v", err, c.want)
			}
			err := mean(s.rings[1], allreduce.Bucket{}, nil, make([]float32, 10))
			var hop *allreduce.HopError
			if !errors.As(err, &hop) || hop.Peer != 0 {
				t.Errorf("the neighbour got %v, want a HopError that names rank 0", err)
			}
		})
	}
}

// A worker that is done may close while its neighbours still read from it, and
// while those of another level still wait for others.
func TestCloseAfterLastBucketDisturbsNobody(t *testing.T) {
	for _, c := range []struct{ size, group int }{{4, 0}, {4, 2}, {6, 3}, {9, 3}} {
		all := normals(c.size, 20_000, 2)
		want := referenceMean(all, 32, true)
		for range 20 {
			s := newRings(t, c.size, c.size, memnet.Faults{}, inGroups(c.group, long))
			_, errs := s.reduceAll(allreduce.Bucket{}, func(r *allreduce.Ring, b allreduce.Bucket, local []allreduce.Contribution, dst []float32) error {
				if err := mean(r, b, local, dst); err != nil {
					return err
				}
				sameBits(t, "mean", dst, want)
				return r.Close()
			}, all, spread(c.size, c.size))
			if err := errors.Join(errs...); err != nil {
				t.Fatalf("N=%d G=%d: %v", c.size, c.group, err)
			}
			s.close(t)
		}
	}
}
