package ringbench

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"sync"
	"testing"
	"time"
)

// hub is a ring for tests: whoever comes last for a bucket does the sum, in the order of the replicas.
type hub struct {
	size int
	mu   sync.Mutex
	open map[string]*meeting
	// spoil may change what a replica gets of a bucket.
	spoil func(replica int, counted bool, step uint64, bucket int, dst []float32)
	// stuck keeps a replica out of a bucket until its context ends.
	stuck func(replica int, counted bool, step uint64) bool
}

type meeting struct {
	parts [][]float32
	here  int
	sum   []float32
	done  chan struct{}
}

func newHub(size int) *hub {
	return &hub{size: size, open: map[string]*meeting{}}
}

// average is exact arithmetic enough for a test: the same order everywhere.
func average(parts [][]float32) []float32 {
	out := make([]float32, len(parts[0]))
	for i := range out {
		sum := 0.0
		for _, p := range parts {
			sum += float64(p[i])
		}
		out[i] = float32(sum / float64(len(parts)))
	}
	return out
}

// hubRings implements Rings and Ring.
type hubRings struct {
	*hub
	place   Place
	counted bool
	sent    int64
	mu      sync.Mutex
}

func (h *hubRings) Address() string { return "127.0.0.1:1" }
func (h *hubRings) Close() error    { return nil }
func (h *hubRings) Join(_ context.Context, p Place, counted bool) (Ring, error) {
	return &hubRings{hub: h.hub, place: p, counted: counted}, nil
}

func (h *hubRings) Measure(context.Context) (time.Duration, float64, error) {
	return time.Duration(1+h.place.Rank) * time.Millisecond, float64(1 + h.place.Rank), nil
}

func (h *hubRings) Sent() (messages, bytes int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.sent, 100 * h.sent
}

func (h *hubRings) Ways() []string   { return []string{fmt.Sprint("hub of ", h.place.Rank)} }
func (h *hubRings) Coding() []Coding { return []Coding{{On: true, Ratio: float64(h.place.Rank)}} }

func (h *hubRings) Mean(ctx context.Context, step uint64, bucket int, exact bool, hosted []Hosted, dst []float32) error {
	if len(hosted) == h.size { // a ring of one
		parts := make([][]float32, len(hosted))
		for _, p := range hosted {
			parts[p.Replica] = p.Values
		}
		copy(dst, average(parts))
		return nil
	}
	replica := hosted[0].Replica
	if h.hub.stuck != nil && h.hub.stuck(replica, h.counted, step) {
		<-ctx.Done()
		return context.Cause(ctx)
	}
	m := h.meet(fmt.Sprint(h.place.Generation, step, bucket), hosted[0])
	select {
	case <-m.done:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	copy(dst, m.sum)
	if h.hub.spoil != nil {
		h.hub.spoil(replica, h.counted, step, bucket, dst)
	}
	h.mu.Lock()
	h.sent++
	h.mu.Unlock()
	return nil
}

func (h *hub) meet(key string, p Hosted) *meeting {
	h.mu.Lock()
	defer h.mu.Unlock()
	m := h.open[key]
	if m == nil {
		m = &meeting{parts: make([][]float32, h.size), done: make(chan struct{})}
		h.open[key] = m
	}
	m.parts[p.Replica] = p.Values
	if m.here++; m.here == h.size {
		m.sum = average(m.parts)
		close(m.done)
	}
	return m
}

// serveMembers serves members on loopback until the test ends.
func serveMembers(t *testing.T, h *hub, change func(i int, m *Member)) (addresses []string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	t.Cleanup(func() {
		cancel()
		group.Wait()
	})
	for i := range h.size {
		m := &Member{
			Open: func(Link, string) (Rings, error) { return &hubRings{hub: h}, nil },
			Host: "127.0.0.1", Allow: func(string) error { return nil }, Fits: func(int64) error { return nil }, Patience: 20 * time.Second,
		}
		if change != nil {
			change(i, m)
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addresses = append(addresses, l.Addr().String())
		group.Go(func() {
			if err := m.Serve(ctx, l); !errors.Is(err, context.Canceled) {
				t.Errorf("member %d: %v", i, err)
			}
		})
	}
	return addresses
}

// config is a small benchmark of the hub's members.
func config(h *hub, addresses []string) Config {
	return Config{
		Members: addresses, Rounds: 3, Timeout: 20 * time.Second,
		Spec: Spec{
			Link: Link{Wire: 32, Transport: "hub"}, Elements: 5000, Statistics: 10,
			Buckets: []Bucket{{Lo: 3072, Hi: 5000, Ready: .5}, {Lo: 0, Hi: 3072, Ready: 1}},
		},
		Alone: func(Link) (Ring, error) { return &hubRings{hub: h}, nil },
	}
}

// flip changes the last bit of a value.
func flip(v *float32) { *v = math.Float32frombits(math.Float32bits(*v) ^ 1) }
