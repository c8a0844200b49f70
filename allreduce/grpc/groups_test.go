package ringgrpc

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lockstep-ml/lockstep/allreduce"
	"github.com/lockstep-ml/lockstep/allreduce/shm"
)

// grouped is a tweak for joinAll: groups, small segments and no deadline that could
// be missed.
func grouped(group int) func(*allreduce.Config) {
	return func(c *allreduce.Config) {
		c.Group, c.SegmentBytes = group, 4096
		c.BeginTimeout, c.HopTimeout = time.Hour, time.Hour
	}
}

func TestSameBitsInTwoLevelsOverSockets(t *testing.T) { eachWay(t, sameBitsInTwoLevels) }

func sameBitsInTwoLevels(t *testing.T, makeWorkers func(int, bool) []*worker) {
	const replicas = 7
	workers := makeWorkers(9, false)
	generation := uint64(0)
	for _, c := range []struct{ size, group int }{{4, 2}, {6, 2}, {6, 3}, {8, 2}, {8, 4}, {8, 0}, {9, 3}} {
		t.Run(fmt.Sprintf("N=%d G=%d", c.size, c.group), func(t *testing.T) {
			generation++
			rings := joinAll(t, workers[:c.size], generation, replicas, grouped(c.group))
			defer closeAll(t, rings)
			var wg sync.WaitGroup // all buckets at once
			for id, n := range []int{0, 1, 2, 1025, 70_001, 200_000} {
				for k, wire := range []allreduce.Wire{32, 16} {
					b := allreduce.Bucket{Step: 9, ID: 2*id + k, Wire: wire}
					wg.Go(func() { sameEverywhere(t, rings, b, gradients(replicas, n, uint64(id))) })
				}
			}
			wg.Wait()
		})
	}
}

// Slots are few, and shared by hops that pass on, that hold and that begin: none
// may wait, with what others wait for, for a slot.
func TestFewSlotsManyBucketsInTwoLevels(t *testing.T) {
	skipWithoutSharing(t)
	for _, c := range []struct{ size, group int }{{4, 2}, {6, 2}, {6, 3}} {
		t.Run(fmt.Sprintf("N=%d G=%d", c.size, c.group), func(t *testing.T) {
			workers := newSharers(t, c.size, false, func(cfg *Config) { cfg.Region = shm.Geometry{Slots: 2, SlotBytes: 8192} })
			rings := joinAll(t, workers, 1, c.size, func(cfg *allreduce.Config) {
				cfg.Group, cfg.SegmentBytes, cfg.Window = c.group, 8192, 64
			})
			defer closeAll(t, rings)
			var wg sync.WaitGroup
			for id := range 12 {
				b := allreduce.Bucket{Step: 1, ID: id, Wire: []allreduce.Wire{32, 16}[id%2]}
				wg.Go(func() { sameEverywhere(t, rings, b, gradients(c.size, 40_000+id, uint64(id))) })
			}
			// Its exponents alone are longer than a slot.
			wg.Go(func() { sameEverywhere(t, rings, allreduce.Bucket{Step: 2}, gradients(c.size, 9_000_000, 1)) })
			wg.Wait()
		})
	}
}

// Each level's link has a region of its own.
func TestWaysOfBothLevels(t *testing.T) {
	skipWithoutSharing(t)
	sharing := []Sharing{ShareAuto, ShareAuto, ShareAuto, ShareNever}
	i := 0
	workers := newSharers(t, 4, false, func(c *Config) { c.Sharing = sharing[i]; i++ })
	var mu sync.Mutex
	ways := make([][]Ways, 4)
	rings := joinOver(t, workers, 1, 4, grouped(2), func(rank int, tr allreduce.Transport) allreduce.Transport {
		mu.Lock()
		defer mu.Unlock()
		ways[rank] = WaysOf(tr)
		return tr
	})
	defer closeAll(t, rings)
	for rank, peers := range [][]int{{1, 2}, {0, 3}, {3, 0}, {2, 1}} { // in inner and outer rings of two
		for level, peer := range peers {
			want := rank != 3 && peer != 3
			if len(ways[rank]) != 2 || ways[rank][level].Left.Shared != want || ways[rank][level].Right.Shared != want {
				t.Errorf("rank %d: %v, want sharing %v in the %v level", rank, ways[rank], want, allreduce.Level(level))
			}
		}
	}
}

// Connections of one worker that break in the middle of a bucket end it everywhere.
// Who is named when one link breaks is the next test's.
func TestKilledMidBucketInTwoLevels(t *testing.T) { eachWay(t, killedMidBucketInTwoLevels) }

func killedMidBucketInTwoLevels(t *testing.T, makeWorkers func(int, bool) []*worker) {
	const size, group, victim = 6, 3, 1
	workers := makeWorkers(size, true)
	cut := func() {
		for _, rank := range []int{victim, 2, 4} { // and its right neighbours
			workers[rank].proxy.reset()
		}
	}
	rings := joinOver(t, workers, 1, size, grouped(group), func(rank int, tr allreduce.Transport) allreduce.Transport {
		if rank != victim {
			return tr
		}
		c := &cutter{Transport: tr, cut: cut}
		c.left.Store(30)
		return c
	})
	defer closeAll(t, rings)
	_, errs := reduce(t.Context(), rings, allreduce.Bucket{Step: 5, ID: 2}, gradients(size, 1_000_000, 3))
	for rank, err := range errs {
		var hop *allreduce.HopError
		if !errors.As(err, &hop) || hop.Generation != 1 || hop.Step != 5 || hop.Bucket != 2 || hop.Run != run {
			t.Errorf("rank %d: got %v, want a HopError with its place", rank, err)
		}
	}
}

// One link that breaks ends both levels, for both of its ends.
func TestBrokenLinkOfEitherLevelNamesItsPeer(t *testing.T) { eachWay(t, brokenLinkOfEitherLevel) }

func brokenLinkOfEitherLevel(t *testing.T, makeWorkers func(int, bool) []*worker) {
	for _, c := range []struct {
		level allreduce.Level
		from  int // to rank 3
	}{{allreduce.Inner, 5}, {allreduce.Outer, 0}} {
		t.Run(c.level.String(), func(t *testing.T) {
			workers := makeWorkers(6, false)
			rings := joinAll(t, workers, 1, 6, grouped(3))
			defer closeAll(t, rings)
			errs := make([]error, 6)
			var wg sync.WaitGroup
			for _, rank := range []int{3, c.from} { // the others do not begin, so these wait
				wg.Go(func() {
					errs[rank] = rings[rank].Reduce(t.Context(), allreduce.Bucket{Step: 4}, nil, make([]float32, 5000))
				})
			}
			workers[c.from].node.mu.Lock()
			l := workers[c.from].node.members[1].links[c.level]
			workers[c.from].node.mu.Unlock()
			l.cancel() // breaks the streams of one level
			wg.Wait()
			for rank, peer := range map[int]int{3: c.from, c.from: 3} {
				var hop *allreduce.HopError
				if !errors.As(errs[rank], &hop) || hop.Peer != peer && !errors.As(errs[rank], new(*allreduce.PeerAbortedError)) {
					t.Errorf("rank %d got %v, want a HopError that names rank %d", rank, errs[rank], peer)
				}
			}
			for rank, r := range rings { // nobody else was told anything to do
				if rank != 3 && rank != c.from {
					_, errs := reduce(t.Context(), []*allreduce.Ring{r}, allreduce.Bucket{Step: 4}, gradients(1, 10, 1))
					if errs[0] == nil {
						t.Errorf("rank %d reduces on in a broken generation", rank)
					}
				}
			}
		})
	}
}

func TestAbortReachesBothLevels(t *testing.T) { eachWay(t, abortReachesBothLevels) }

func abortReachesBothLevels(t *testing.T, makeWorkers func(int, bool) []*worker) {
	workers := makeWorkers(6, false)
	rings := joinAll(t, workers, 1, 6, grouped(3))
	defer closeAll(t, rings)
	errs := make([]error, 6)
	var wg sync.WaitGroup
	for rank := 1; rank < 6; rank++ {
		wg.Go(func() {
			errs[rank] = rings[rank].Reduce(t.Context(), allreduce.Bucket{Step: 1}, nil, make([]float32, 5000))
		})
	}
	rings[0].Abort(errors.New("out of paper"))
	wg.Wait()
	for rank, err := range errs[1:] {
		var hop *allreduce.HopError
		if !errors.As(err, &hop) || !errors.As(err, new(*allreduce.PeerAbortedError)) || !strings.Contains(err.Error(), "out of paper") {
			t.Errorf("rank %d: got %v, want a HopError that gives rank 0's reason", rank+1, err)
		}
	}
}

func TestFrozenNeighbourInTwoLevelsMissesDeadline(t *testing.T) {
	workers := newWorkers(t, 4, true)
	rings := joinAll(t, workers, 1, 4, func(c *allreduce.Config) {
		grouped(2)(c)
		c.BeginTimeout = 300 * time.Millisecond
	})
	defer closeAll(t, rings)
	workers[2].proxy.freeze() // what ranks 0 and 3 send to rank 2 is swallowed
	_, errs := reduce(t.Context(), rings, allreduce.Bucket{Step: 1}, gradients(4, 5000, 1))
	deadlines := 0
	for rank, err := range errs {
		var hop *allreduce.HopError
		if !errors.As(err, &hop) {
			t.Fatalf("rank %d: got %v, want a HopError", rank, err)
		}
		if errors.Is(err, context.DeadlineExceeded) {
			deadlines++
		}
	}
	if deadlines == 0 {
		t.Errorf("no error is a missed deadline: %v", errs)
	}
}

// A handshake is for one place in one level of one topology.
func TestWrongNeighboursAreRefused(t *testing.T) {
	workers := newWorkers(t, 6, false)
	if _, err := workers[0].node.JoinGroups(t.Context(), 1, 0, 4, make([]string, 6)); err == nil || !strings.Contains(err.Error(), "6 workers do not divide") {
		t.Errorf("joined groups of unequal size: %v", err)
	}
	here := workers[3] // inner: after rank 5; outer: after rank 0
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	joined := make(chan error, 1)
	mine, stop := context.WithCancel(ctx)
	go func() {
		_, err := here.node.JoinGroups(mine, 1, 3, 3, slices.Repeat([]string{"127.0.0.1:1"}, 6))
		joined <- err
	}()
	for name, c := range map[string]struct {
		from  hello
		wants string
	}{
		"another group's member": {hello{rank: 2, size: 6, group: 3, level: allreduce.Inner}, "does not follow rank 2 of 6 in groups of 3 in the inner level"},
		"another topology":       {hello{rank: 5, size: 6, group: 6, level: allreduce.Inner}, "does not follow rank 5 of 6 in groups of 6"},
		"another level":          {hello{rank: 5, size: 6, group: 3, level: allreduce.Outer}, "in the outer level"},
		"a level there is not":   {hello{rank: 5, size: 6, group: 3, level: 7}, "has no"},
	} {
		t.Run(name, func(t *testing.T) {
			h := c.from
			l := newLink(workers[0].node, 1, int(h.rank), int(h.size), here.addr)
			l.group, l.level = int(h.group), h.level
			defer l.cancel()
			stop := context.AfterFunc(ctx, l.cancel)
			defer stop()
			wantRefusal(t, l.dial(), c.wants)
			for _, n := range l.lanes {
				n.conn.Close()
			}
		})
	}
	stop()
	if err := <-joined; err == nil || !strings.Contains(err.Error(), "level: ") {
		t.Errorf("joined without neighbours: %v", err)
	}
}
