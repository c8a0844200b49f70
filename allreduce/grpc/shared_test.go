package ringgrpc

import (
	"context"
	"errors"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/lockstep-ml/lockstep/allreduce"
	"github.com/lockstep-ml/lockstep/allreduce/shm"
)

func TestParseSharing(t *testing.T) {
	for s, want := range map[string]Sharing{"auto": ShareAuto, "grpc": ShareNever, "shm": ShareAlways} {
		if got, err := ParseSharing(s); err != nil || got != want {
			t.Errorf("%s: %v, %v", s, got, err)
		}
	}
	if _, err := ParseSharing("carrier"); err == nil {
		t.Error("accepted a carrier")
	}
}

// joinPair joins two workers in generation 1.
func joinPair(t *testing.T, a, b *worker) ([2]allreduce.Transport, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var out [2]allreduce.Transport
	g, ctx := errgroup.WithContext(ctx)
	for rank, w := range []*worker{a, b} {
		g.Go(func() (err error) {
			out[rank], err = w.node.Join(ctx, 1, rank, 2, []*worker{b, a}[rank].addr)
			return err
		})
	}
	return out, g.Wait()
}

func TestWaysAreAgreedAndReported(t *testing.T) {
	skipWithoutSharing(t)
	for _, c := range []struct {
		name string
		a, b Sharing

		refused bool
		want    string // how a reaches b, or the error of joining
	}{
		{"both may", ShareAuto, ShareAuto, false, "shared memory"},
		{"both must", ShareAlways, ShareAlways, false, "shared memory"},
		{"one must", ShareAlways, ShareAuto, false, "shared memory"},
		{"one must not", ShareAuto, ShareNever, false, "gRPC (not wanted by its configuration)"},
		{"must and must not", ShareAlways, ShareNever, true, "memory"},
		{"must not and must", ShareNever, ShareAlways, true, "memory"},
	} {
		t.Run(c.name, func(t *testing.T) {
			choices := []Sharing{c.a, c.b}
			i := 0
			w := newSharers(t, 2, false, func(cfg *Config) { cfg.Sharing = choices[i]; i++ })
			pair, err := joinPair(t, w[0], w[1])
			if c.refused {
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Fatalf("joined: %v, want an error with %q", err, c.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			left, right := WaysOf(pair[0])[0].Left, WaysOf(pair[0])[0].Right
			if right.String() != c.want {
				t.Errorf("to the right: %v, want %s", right, c.want)
			}
			if there := WaysOf(pair[1])[0].Left; there.Shared != right.Shared {
				t.Errorf("the neighbour says %v, this side %v", there, right)
			}
			if left.Shared != right.Shared {
				t.Errorf("from the left: %v", left)
			}
		})
	}
}

// Slots are few and short, and buckets many: some payloads are copied out, some
// go over gRPC, none waits for itself.
func TestFewSlotsManyBuckets(t *testing.T) {
	skipWithoutSharing(t)
	for _, size := range []int{2, 4} {
		t.Run(describe(size, size), func(t *testing.T) {
			workers := newSharers(t, size, false, func(c *Config) { c.Region = shm.Geometry{Slots: 2, SlotBytes: 8192} })
			rings := joinAll(t, workers, 1, size, func(c *allreduce.Config) { c.SegmentBytes, c.Window = 8192, 64 })
			defer closeAll(t, rings)
			var wg sync.WaitGroup
			for id := range 12 {
				wg.Go(func() {
					all := gradients(size, 40_000+id, uint64(id))
					b := allreduce.Bucket{Step: 1, ID: id, Wire: []allreduce.Wire{32, 16}[id%2]}
					sameEverywhere(t, rings, b, all)
				})
			}
			// Its exponents alone are longer than a slot.
			wg.Go(func() { sameEverywhere(t, rings, allreduce.Bucket{Step: 2}, gradients(size, 9_000_000, 1)) })
			wg.Wait()
		})
	}
}

func TestSegmentsLongerThanSlots(t *testing.T) {
	skipWithoutSharing(t)
	workers := newSharers(t, 3, false, func(c *Config) { c.Region = shm.Geometry{Slots: 4, SlotBytes: 4096} })
	rings := joinAll(t, workers, 1, 3, func(c *allreduce.Config) { c.SegmentBytes = 64 << 10 })
	defer closeAll(t, rings)
	sameEverywhere(t, rings, allreduce.Bucket{Step: 1}, gradients(3, 300_000, 4))
}

// sameEverywhere reduces a bucket and wants the bits of a ring of one.
func sameEverywhere(t *testing.T, rings []*allreduce.Ring, b allreduce.Bucket, all [][]float32) {
	t.Helper()
	out, errs := reduce(t.Context(), rings, b, all)
	if err := errors.Join(errs...); err != nil {
		t.Error(err)
		return
	}
	want := alone(t, b, all)
	for rank := range out {
		for i := range want {
			if math.Float32bits(out[rank][i]) != math.Float32bits(want[i]) {
				t.Errorf("bucket %d, rank %d, value %d: %v, want %v", b.ID, rank, i, out[rank][i], want[i])
				return
			}
		}
	}
}

// cutter breaks the connections once some messages of the data pass were sent.
type cutter struct {
	allreduce.Transport
	left atomic.Int64
	cut  func()
}

func (c *cutter) Send(ctx context.Context, m allreduce.Message) error {
	if !m.Header.Phase.Exponents() && c.left.Add(-1) == 0 {
		c.cut()
	}
	return c.Transport.Send(ctx, m)
}

func TestConnectionCutMidBucketOfSharers(t *testing.T) {
	skipWithoutSharing(t)
	const size, victim = 3, 1
	workers := newSharers(t, size, true, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	rings := make([]*allreduce.Ring, size)
	var g errgroup.Group
	for rank, w := range workers {
		g.Go(func() error {
			transport, err := w.node.Join(ctx, 1, rank, size, workers[(rank+1)%size].addr)
			if err != nil {
				return err
			}
			if rank == victim {
				c := &cutter{Transport: transport, cut: func() { workers[victim].proxy.reset(); workers[victim+1].proxy.reset() }}
				c.left.Store(5)
				transport = c
			}
			cfg := allreduce.DefaultConfig()
			cfg.Run, cfg.Generation, cfg.Rank, cfg.Size, cfg.Replicas = run, 1, rank, size, size
			cfg.BeginTimeout, cfg.HopTimeout = time.Hour, time.Hour
			cfg.SegmentBytes = 4096
			rings[rank], err = allreduce.New(cfg, transport)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	defer closeAll(t, rings)
	_, errs := reduce(t.Context(), rings, allreduce.Bucket{Step: 5, ID: 2}, gradients(size, 4_000_000, 3))
	for rank, err := range errs {
		var hop *allreduce.HopError
		var aborted *allreduce.PeerAbortedError
		switch {
		case !errors.As(err, &hop) || hop.Step != 5 || hop.Bucket != 2:
			t.Errorf("rank %d: got %v, want a HopError with its place", rank, err)
		case rank != victim && hop.Peer != victim && !errors.As(err, &aborted):
			t.Errorf("rank %d: names rank %d and not the victim: %v", rank, hop.Peer, err)
		}
	}
}

// What a neighbour writes to the region is checked as what it sends.
func TestLiesInSharedMemoryNameTheNeighbour(t *testing.T) {
	skipWithoutSharing(t)
	good := allreduce.Header{
		Key: allreduce.Key{Step: 1, Phase: allreduce.PhaseReduceScatter}, Wire: 32, Length: 64,
		Run: allreduce.RunDigest(run), Generation: 1,
	}
	longer, stale := good, good
	longer.Length = 65
	stale.Generation = 7
	for what, c := range map[string]struct {
		head func(b []byte)
		want string
	}{
		"no header":          {func(b []byte) { clear(b) }, "ring header"},
		"another length":     {longer.Encode, "65 bytes of payload, 64 were lent"},
		"another generation": {stale.Encode, "generation 7"},
	} {
		w := newSharers(t, 2, false, nil)
		pair, err := joinPair(t, w[0], w[1])
		if err != nil {
			t.Fatal(err)
		}
		s, err := linksOf(pair[0])[0].shared.out.Load().Await(t.Context(), 64)
		if err != nil {
			t.Fatal(err)
		}
		head := make([]byte, allreduce.HeaderSize)
		c.head(head)
		s.Lend(head)
		_, err = pair[1].Recv(t.Context(), allreduce.Key{Step: 1, Phase: allreduce.PhaseData})
		var broken *allreduce.PeerError
		if !errors.As(err, &broken) || broken.Peer != 0 || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want a PeerError that names rank 0, with %q", what, err, c.want)
		}
	}
}

// A neighbour of a build that knows nothing of shared memory ignores the offer.
func TestStrangeOffersAndAnswers(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Run, cfg.Credentials = run, insecure.NewCredentials()
	node, err := NewNode(cfg)
	if err != nil {
		t.Fatal(err)
	}
	l := newLink(node, 1, 0, 2, "")
	defer l.cancel()
	for _, offers := range [][]string{nil, {""}, {"x"}, {"a", "b"}} {
		if in, way := l.open(offers); in != nil || way.Shared || way.Reason == "" {
			t.Errorf("offers %q: %v", offers, way)
		}
	}
	n := &lane{link: l}
	n.offer(t.Context())
	defer l.withdraw()
	if err := n.answered(nil); err != nil {
		t.Error(err)
	}
	if right := l.shared.right; right.Shared || right.Reason == "" {
		t.Errorf("no answer, yet %v", right)
	}
}
