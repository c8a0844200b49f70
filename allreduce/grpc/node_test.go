package ringgrpc

import (
	"context"
	"errors"
	"math"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/credentials/insecure"

	"github.com/lockstep-ml/lockstep/allreduce"
)

func TestSameBitsOverSockets(t *testing.T) { eachWay(t, sameBitsOverSockets) }

func sameBitsOverSockets(t *testing.T, makeWorkers func(int, bool) []*worker) {
	const replicas = 5
	for _, size := range []int{1, 2, 3, 5} {
		t.Run(describe(size, replicas), func(t *testing.T) {
			workers := makeWorkers(size, false)
			rings := joinAll(t, workers, 4, replicas, func(c *allreduce.Config) { c.SegmentBytes = 4096 })
			defer closeAll(t, rings)
			var wg sync.WaitGroup // all buckets at once
			for id, n := range []int{0, 1, 2, 1023, 1024, 1025, 70_001, 200_000} {
				wg.Go(func() {
					b := allreduce.Bucket{Step: 9, ID: id, Wire: []allreduce.Wire{32, 16}[id%2]}
					all := gradients(replicas, n, uint64(id))
					out, errs := reduce(t.Context(), rings, b, all)
					if err := errors.Join(errs...); err != nil {
						t.Error(err)
						return
					}
					want := alone(t, b, all)
					for rank := range out {
						for i := range want {
							if math.Float32bits(out[rank][i]) != math.Float32bits(want[i]) {
								t.Errorf("bucket %d, rank %d, value %d: %v, want %v", id, rank, i, out[rank][i], want[i])
								return
							}
						}
					}
				})
			}
			wg.Wait()
		})
	}
}

func TestNextGenerationOnTheSameNodes(t *testing.T) { eachWay(t, nextGenerationOnTheSameNodes) }

func nextGenerationOnTheSameNodes(t *testing.T, makeWorkers func(int, bool) []*worker) {
	workers := makeWorkers(3, false)
	all := gradients(3, 5000, 1)
	b := allreduce.Bucket{Step: 1}
	for generation := uint64(1); generation <= 3; generation++ {
		members := workers[:len(workers)-int(generation)%2]
		rings := joinAll(t, members, generation, len(all), nil)
		if generation == 2 {
			rings[1].Abort(errors.New("the coordinator said so"))
		}
		_, errs := reduce(t.Context(), rings, b, all)
		for rank, err := range errs {
			if (err != nil) != (generation == 2) {
				t.Errorf("generation %d, rank %d: %v", generation, rank, err)
			}
		}
		closeAll(t, rings)
	}
}

func TestAbortTellsBothNeighboursWhy(t *testing.T) { eachWay(t, abortTellsBothNeighboursWhy) }

func abortTellsBothNeighboursWhy(t *testing.T, makeWorkers func(int, bool) []*worker) {
	workers := makeWorkers(3, false)
	rings := joinAll(t, workers, 1, 3, nil)
	defer closeAll(t, rings)
	var wg sync.WaitGroup
	errs := make([]error, 3)
	all := gradients(3, 5000, 1)
	for _, rank := range []int{0, 2} {
		wg.Go(func() {
			errs[rank] = rings[rank].Reduce(t.Context(), allreduce.Bucket{Step: 1},
				[]allreduce.Contribution{{Replica: rank, Values: all[rank]}}, make([]float32, 5000))
		})
	}
	rings[1].Abort(errors.New("out of paper"))
	wg.Wait()
	for _, rank := range []int{0, 2} {
		var hop *allreduce.HopError
		var aborted *allreduce.PeerAbortedError
		if !errors.As(errs[rank], &hop) || !errors.As(errs[rank], &aborted) || !strings.Contains(aborted.Reason, "out of paper") {
			t.Errorf("rank %d: got %v, want a HopError that gives rank 1's reason", rank, errs[rank])
		}
	}
}

func TestKilledMidBucket(t *testing.T) {
	for _, size := range []int{2, 3, 5} {
		t.Run(describe(size, size), func(t *testing.T) {
			workers := newWorkers(t, size, true)
			// The deadlines are long, so an error in time is that of the connection.
			rings := joinAll(t, workers, 1, size, func(c *allreduce.Config) {
				c.BeginTimeout, c.HopTimeout = time.Hour, time.Hour
			})
			defer closeAll(t, rings)
			const victim = 1
			spent := workers[victim].proxy.after(300_000)
			var wg sync.WaitGroup
			wg.Go(func() {
				<-spent
				workers[victim].proxy.reset()
				workers[(victim+1)%size].proxy.reset()
			})
			_, errs := reduce(t.Context(), rings, allreduce.Bucket{Step: 5, ID: 2}, gradients(size, 1_000_000, 3))
			wg.Wait()
			for rank, err := range errs {
				var hop *allreduce.HopError
				if !errors.As(err, &hop) {
					t.Fatalf("rank %d: got %v, want a HopError", rank, err)
				}
				if hop.Generation != 1 || hop.Step != 5 || hop.Bucket != 2 || hop.Run != run {
					t.Errorf("rank %d: wrong place: %v", rank, hop)
				}
				near := rank == (victim+1)%size || rank == (victim+size-1)%size
				var aborted *allreduce.PeerAbortedError
				if near && hop.Peer != victim && !errors.As(err, &aborted) {
					t.Errorf("rank %d: names rank %d and not the victim: %v", rank, hop.Peer, err)
				}
			}
		})
	}
}

// A lane that breaks takes the generation with it, though the others stand.
func TestOneBrokenLaneNamesItsPeer(t *testing.T) { eachWay(t, oneBrokenLaneNamesItsPeer) }

func oneBrokenLaneNamesItsPeer(t *testing.T, makeWorkers func(int, bool) []*worker) {
	workers := makeWorkers(3, true)
	rings := joinAll(t, workers, 1, 3, func(c *allreduce.Config) {
		c.BeginTimeout, c.HopTimeout = time.Hour, time.Hour
	})
	defer closeAll(t, rings)
	errs := make([]error, 3)
	var wg sync.WaitGroup
	for _, rank := range []int{1, 2} { // rank 0 does not begin, so these wait
		wg.Go(func() {
			errs[rank] = rings[rank].Reduce(t.Context(), allreduce.Bucket{Step: 4}, nil, make([]float32, 5000))
		})
	}
	workers[2].proxy.resetOne() // one of the two lanes from rank 1 to rank 2
	wg.Wait()
	for rank, peer := range map[int]int{1: 2, 2: 1} {
		var hop *allreduce.HopError
		var aborted *allreduce.PeerAbortedError
		if !errors.As(errs[rank], &hop) || hop.Peer != peer && !errors.As(errs[rank], &aborted) {
			t.Errorf("rank %d got %v, want a HopError that names rank %d", rank, errs[rank], peer)
		}
	}
}

func TestFrozenNeighbourMissesDeadline(t *testing.T) {
	workers := newWorkers(t, 3, true)
	rings := joinAll(t, workers, 1, 3, func(c *allreduce.Config) { c.BeginTimeout = 300 * time.Millisecond })
	defer closeAll(t, rings)
	workers[1].proxy.freeze() // rank 0 -> rank 1 swallows
	_, errs := reduce(t.Context(), rings, allreduce.Bucket{Step: 1}, gradients(3, 5000, 1))
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

func TestJoinIsRefusedWithTheReason(t *testing.T) {
	join := func(w *worker, generation uint64, rank, size int, right string) error {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		_, err := w.node.Join(ctx, generation, rank, size, right)
		return err
	}
	here := newWorker(t, run, false)
	solo, err := here.node.Join(t.Context(), 5, 0, 1, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Run("another run", func(t *testing.T) {
		wantRefusal(t, join(newWorker(t, "other-run", false), 5, 1, 2, here.addr), `run "ring-test", not to "other-run"`)
	})
	t.Run("an old generation", func(t *testing.T) {
		wantRefusal(t, join(newWorker(t, run, false), 4, 1, 2, here.addr), "generation 4 is over")
	})
	t.Run("another ring", func(t *testing.T) {
		wantRefusal(t, join(newWorker(t, run, false), 5, 1, 3, here.addr), "does not follow rank 1 of 3")
	})
	if err := solo.Close(); err != nil {
		t.Fatal(err)
	}
	t.Run("a closed generation", func(t *testing.T) {
		wantRefusal(t, join(newWorker(t, run, false), 5, 1, 2, here.addr), "generation 5 is over")
	})
	if err := join(here, 5, 0, 1, ""); err == nil || !strings.Contains(err.Error(), "joined already") {
		t.Errorf("joined generation 5 twice: %v", err)
	}
}

func TestLanesAreAttachedOnceEach(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Run, cfg.Credentials = run, insecure.NewCredentials()
	node, err := NewNode(cfg)
	if err != nil {
		t.Fatal(err)
	}
	l := newLink(node, 1, 0, 2, "")
	defer l.cancel()
	for i, c := range []struct {
		lane, lanes uint8
		ok          bool
	}{{1, 2, true}, {1, 2, false}, {2, 3, false}, {0, 2, true}, {0, 2, false}} {
		release, err := l.attach(t.Context(), &hello{rank: 1, size: 2, group: 2, lane: c.lane, lanes: c.lanes})
		if (err == nil) != c.ok {
			t.Errorf("attempt %d, lane %d of %d: %v", i, c.lane, c.lanes, err)
		}
		if err == nil {
			release()
		}
		select {
		case <-l.attached:
			if i < 3 {
				t.Errorf("attempt %d: linked, but a lane is missing", i)
			}
		default:
			if i >= 3 {
				t.Errorf("attempt %d: not linked, though all lanes are here", i)
			}
		}
	}
}

func wantRefusal(t *testing.T, err error, text string) {
	t.Helper()
	var refused *allreduce.RefusedError
	if !errors.As(err, &refused) || !strings.Contains(refused.Reason, text) {
		t.Errorf("got %v, want a RefusedError with %q", err, text)
	}
}

func TestJoinNamesWhoIsMissing(t *testing.T) {
	w := newWorker(t, run, false)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	gone := newProxy(t, "127.0.0.1:1")
	gone.close()
	addr := gone.listener.Addr().String()
	_, err := w.node.Join(ctx, 1, 0, 2, addr)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), addr) || !strings.Contains(err.Error(), "rank 1") {
		t.Errorf("got %v, want a missed deadline that names rank 1 and %s", err, addr)
	}
	t.Log(err)
}

// TestJoinTimeoutEndsJoin has the caller set no deadline, and neighbours that are there and say nothing.
func TestJoinTimeoutEndsJoin(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0") // connects, for nobody accepts
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	cfg := DefaultConfig()
	cfg.Run, cfg.Credentials, cfg.Sharing, cfg.JoinTimeout = run, insecure.NewCredentials(), ShareNever, 100*time.Millisecond
	w := newWorkerOf(t, cfg, false)
	right, addr := newWorker(t, run, false), silent.Addr().String()
	_, err = w.node.Join(t.Context(), 1, 0, 2, addr)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "JoinTimeout") || !strings.Contains(err.Error(), addr) {
		t.Errorf("got %v, want JoinTimeout to be over and %s named", err, addr)
	}
	joined := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { // is linked to, and links to nobody: its own neighbour is silent too
		_, err := right.node.Join(ctx, 2, 1, 2, addr)
		joined <- err
	}()
	_, err = w.node.Join(t.Context(), 2, 0, 2, right.addr)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "generation 2") || !strings.Contains(err.Error(), "rank 1") {
		t.Errorf("got %v, want JoinTimeout to be over and rank 1 of generation 2 named", err)
	}
	cancel()
	if err := <-joined; err == nil {
		t.Error("joined without neighbours")
	}
}

func TestNodeCloseEndsJoinAndReduce(t *testing.T) { eachWay(t, nodeCloseEndsJoinAndReduce) }

func nodeCloseEndsJoinAndReduce(t *testing.T, makeWorkers func(int, bool) []*worker) {
	workers := makeWorkers(2, false)
	rings := joinAll(t, workers, 1, 2, nil)
	all := gradients(2, 1000, 1)
	errs := make(chan error, 2)
	var wg sync.WaitGroup
	wg.Go(func() {
		errs <- rings[0].Reduce(t.Context(), allreduce.Bucket{Step: 1},
			[]allreduce.Contribution{{Replica: 0, Values: all[0]}}, make([]float32, 1000))
	})
	third := newWorker(t, run, false)
	wg.Go(func() {
		_, err := third.node.Join(t.Context(), 2, 0, 2, workers[1].addr) // rank 1 never joins 2
		errs <- err
	})
	for _, w := range append(workers, third) {
		if err := w.node.Close(); err != nil {
			t.Error(err)
		}
	}
	wg.Wait()
	for range 2 {
		if err := <-errs; err == nil {
			t.Error("a wait outlived its node without an error")
		}
	}
	closeAll(t, rings)
}
