package allreduce

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// direct hands messages over as they are, so that what it counts and what is
// allocated is the ring's own.
type direct struct {
	inbox    *Inbox
	right    [levels]*Inbox
	messages [phases]atomic.Int64
	bytes    [phases]atomic.Int64 // of payload
	unsummed bool                 // says that it shares memory
	bound    bool                 // allows no payload to be sent on
	piece    int                  // above 0: cuts payloads into pieces of that length
}

func (d *direct) Buffer(_ context.Context, _ Level, n int) (Message, error) {
	m := NewBuffer(n).Message()
	m.Unsummed = d.unsummed
	return m, nil
}

func (d *direct) Send(ctx context.Context, m Message) error {
	d.messages[m.Header.Phase].Add(1)
	d.bytes[m.Header.Phase].Add(int64(m.Len()))
	if d.bound && m.Bound {
		return errors.New("direct: a payload was sent on that cannot be")
	}
	m.Bound = d.bound
	if d.piece > 0 {
		var pieces [][]byte
		for _, p := range m.Payload {
			pieces = slices.AppendSeq(pieces, slices.Chunk(p, d.piece))
		}
		m.Payload = pieces
	}
	return d.right[m.Header.Phase.Level()].Deliver(ctx, m)
}

func (d *direct) Recv(ctx context.Context, k Key) (Message, error) { return d.inbox.Recv(ctx, k) }
func (d *direct) Forget(step uint64, bucket uint32)                { d.inbox.Forget(step, bucket) }
func (d *direct) Close() error                                     { return nil }

func (d *direct) Abort(err error) {
	for _, b := range []*Inbox{d.inbox, d.right[Inner], d.right[Outer]} {
		if b != nil {
			b.Fail(err)
		}
	}
}

// directRing makes size rings over direct transports.
func directRing(t testing.TB, size, replicas int, wire Wire, tweak func(*Config, *direct)) ([]*Ring, []*direct) {
	t.Helper()
	links, rings := make([]*direct, size), make([]*Ring, size)
	for i := range links {
		links[i] = &direct{inbox: NewInbox(RunDigest("direct"), 1, 0)}
	}
	for i, l := range links {
		cfg := DefaultConfig()
		cfg.Run, cfg.Generation, cfg.Rank, cfg.Size, cfg.Replicas, cfg.Wire = "direct", 1, i, size, replicas, wire
		cfg.BeginTimeout, cfg.HopTimeout = time.Hour, time.Hour // a machine that stands still is no fault
		if tweak != nil {
			tweak(&cfg, l)
		}
		for level, seat := range Seats(i, size, cfg.Group) {
			l.right[level] = links[seat.Right()].inbox
		}
		r, err := New(cfg, l)
		if err != nil {
			t.Fatal(err)
		}
		rings[i] = r
	}
	return rings, links
}

// reduceDirect reduces one bucket on all ranks, replica r on rank r.
func reduceDirect(t testing.TB, rings []*Ring, step uint64, values, out [][]float32) {
	t.Helper()
	var wg sync.WaitGroup
	for rank, r := range rings {
		wg.Go(func() {
			local := []Contribution{{Replica: rank, Values: values[rank]}}
			if err := r.Reduce(context.Background(), Bucket{Step: step}, local, out[rank]); err != nil {
				t.Errorf("rank %d: %v", rank, err)
			}
		})
	}
	wg.Wait()
}

func random(replicas, n int) [][]float32 {
	rng := rand.New(rand.NewPCG(uint64(n), 5))
	all := make([][]float32, replicas)
	for r := range all {
		all[r] = make([]float32, n)
		for i := range all[r] {
			all[r][i] = float32(rng.NormFloat64())
		}
	}
	return all
}

func floats(replicas, n int) [][]float32 {
	out := make([][]float32, replicas)
	for r := range out {
		out[r] = make([]float32, n)
	}
	return out
}

// The formulas are those of docs/design/0002-exact-ring.md.
func TestMessagesAndBytesAreAsDocumented(t *testing.T) {
	for _, c := range []struct{ size, group int }{{2, 0}, {3, 0}, {5, 0}, {4, 2}, {6, 2}, {6, 3}, {8, 4}, {9, 3}} {
		for _, n := range []int{1, 1000, 10_000, 123_457} {
			for _, wire := range []Wire{Wire32, Wire16} {
				t.Run(fmt.Sprintf("N=%d G=%d n=%d w=%v", c.size, c.group, n, wire), func(t *testing.T) {
					countTraffic(t, c.size, c.group, n, wire)
				})
			}
		}
	}
}

func countTraffic(t *testing.T, size, group, n int, wire Wire) {
	const segment = 4096
	rings, links := directRing(t, size, size, wire, func(c *Config, _ *direct) { c.SegmentBytes, c.Group = segment, group })
	reduceDirect(t, rings, 1, random(size, n), floats(size, n))
	width := int64(wire.Bytes())
	inner := max(group, 1)
	if group == 0 {
		inner = size
	}
	hops := int64(inner - 1 + size/inner - 1)
	longest := (n/16/inner + 2) * 16 // values of a chunk, at most
	s := (int64(longest)*width + segment - 1) / segment
	var data int64
	for rank, l := range links {
		m, b := l.messages[PhaseExponents].Load(), l.bytes[PhaseExponents].Load()
		m, b = m+l.messages[PhaseOuterExponents].Load(), b+l.bytes[PhaseOuterExponents].Load()
		if m != hops || b != hops*int64((n+1023)/1024) {
			t.Errorf("rank %d: %d messages and %d bytes of exponents", rank, m, b)
		}
		m, b = 0, 0
		for _, p := range []Phase{PhaseReduceScatter, PhaseAllGather, PhaseOuterReduceScatter, PhaseOuterAllGather} {
			m, b = m+l.messages[p].Load(), b+l.bytes[p].Load()
		}
		data += b
		if m > 2*hops*s {
			t.Errorf("rank %d: %d messages of data, at most %d are documented", rank, m, 2*hops*s)
		}
		share, odd := 2*int64(size-1)*int64(n)*width/int64(size), 2*hops*32*width*s // borders are at multiples of 16
		if b > share+odd || b < share-odd {
			t.Errorf("rank %d: %d bytes of data, %d are documented", rank, b, share)
		}
	}
	if want := 2 * int64(size-1) * int64(n) * width; data != want {
		t.Errorf("all workers sent %d bytes of data, %d are documented", data, want)
	}
}

// Payloads without a checksum, payloads that cannot be sent on, and pieces that
// cut values in two make no difference to the bits.
func TestSameBitsHoweverPayloadsTravel(t *testing.T) {
	const n = 20_011
	for _, c := range []struct{ size, group int }{{2, 0}, {3, 0}, {4, 0}, {4, 2}, {6, 2}, {6, 3}, {8, 4}} {
		size := c.size
		for _, wire := range []Wire{Wire32, Wire16} {
			values := random(size, n)
			want := floats(size, n)
			rings, _ := directRing(t, size, size, wire, nil)
			reduceDirect(t, rings, 1, values, want)
			for name, tweak := range map[string]func(*Config, *direct){
				"shared":  func(_ *Config, d *direct) { d.unsummed, d.bound = true, true },
				"mixed":   func(c *Config, d *direct) { d.unsummed, d.bound = c.Rank == 0, true },
				"odd":     func(c *Config, d *direct) { d.piece, d.bound = 1+2*c.Rank, c.Rank == 1 },
				"large":   func(c *Config, d *direct) { d.piece, d.bound = 16307, true },
				"small":   func(c *Config, d *direct) { c.SegmentBytes, c.Window = 64, 1 },
				"windows": func(c *Config, d *direct) { c.SegmentBytes, c.Window = 4096, 3 },
			} {
				rings, _ := directRing(t, size, size, wire, func(cfg *Config, d *direct) {
					cfg.Group = c.group
					tweak(cfg, d)
				})
				out := floats(size, n)
				reduceDirect(t, rings, 1, values, out)
				for rank := range out {
					for i := range out[rank] {
						if out[rank][i] != want[0][i] {
							t.Fatalf("%s N=%d G=%d w=%v rank %d: value %d is %v, want %v", name, size, c.group, wire, rank, i, out[rank][i], want[0][i])
						}
					}
				}
			}
		}
	}
}

// A segment takes nothing from the heap, however many a bucket has.
func TestSegmentsAllocateNothing(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector has pools drop at random")
	}
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // which empties pools
	for _, c := range []struct{ size, group int }{{3, 0}, {4, 2}} {
		const segment, more = 4096, 100
		rings, _ := directRing(t, c.size, c.size, Wire32, func(cfg *Config, _ *direct) { cfg.SegmentBytes, cfg.Group = segment, c.group })
		step := uint64(0)
		mallocs := func(segments int) uint64 {
			n := rings[0].seats[Inner].Size * segments * segment / 4
			values, out := random(c.size, n), floats(c.size, n)
			least := ^uint64(0)
			for range 10 {
				step++
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				reduceDirect(t, rings, step, values, out)
				runtime.ReadMemStats(&after)
				least = min(least, after.Mallocs-before.Mallocs)
			}
			return least
		}
		few, many := mallocs(4), mallocs(4+more)
		hops := c.size * len(rings[0].schedule.hops) * more
		t.Logf("N=%d G=%d: %d allocations for 4 segments a chunk, %d for %d", c.size, c.group, few, many, 4+more)
		if grown := int64(many) - int64(few); grown > int64(hops/20) {
			t.Errorf("N=%d G=%d: %d hops more made %d allocations more", c.size, c.group, hops, grown)
		}
	}
}
