package ringgrpc

import (
	"errors"
	"runtime"
	"runtime/debug"
	"testing"

	"google.golang.org/grpc/credentials/insecure"

	"github.com/lockstep-ml/lockstep/allreduce"
)

// The formulas are those of docs/design/0002-exact-ring.md, counted here by a
// relay in front of each worker.
func TestBytesOnTheWireAreAsDocumented(t *testing.T) {
	const n = 2_000_000
	for _, size := range []int{2, 3} {
		for _, wire := range []allreduce.Wire{32, 16} {
			workers := newWorkers(t, size, true)
			segment := int64(allreduce.DefaultConfig().SegmentBytes)
			rings := joinAll(t, workers, 1, size, nil)
			before := make([]int64, size)
			for i, w := range workers {
				before[i] = w.proxy.forwarded()
			}
			_, errs := reduce(t.Context(), rings, allreduce.Bucket{Step: 1, Wire: wire}, gradients(size, n, 1))
			if err := errors.Join(errs...); err != nil {
				t.Fatal(err)
			}
			closeAll(t, rings) // until then something may be on its way
			hops, width := int64(size-1), int64(wire)/8
			chunk := n * width / int64(size)
			messages := hops + 2*hops*((chunk+segment-1)/segment)
			bytes := hops*(n+1023)/1024 + 2*hops*chunk + 128*messages
			frames := messages + bytes>>14
			for i, w := range workers {
				got := w.proxy.forwarded() - before[i]
				// What gRPC says besides (windows, pings, headers) stays below 4 KiB.
				if want := bytes + 9*frames; got < want-4096 || got > want+4096 {
					t.Errorf("N=%d w=%v: rank %d received %d bytes, %d are documented", size, wire, i, got, want)
				}
			}
		}
	}
}

// What gRPC itself takes from the heap for a message is bounded here, so that it
// is known; the ring's own part is tested to be nothing.
func TestMessagesAllocateLittle(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector has pools drop at random")
	}
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // which empties gRPC's pools
	const segment, most = 64 << 10, 16
	workers := []*worker{
		newWorkerWith(t, run, false, 1, insecure.NewCredentials()),
		newWorkerWith(t, run, false, 1, insecure.NewCredentials()),
	}
	rings := joinAll(t, workers, 1, 2, func(c *allreduce.Config) { c.SegmentBytes = segment })
	defer closeAll(t, rings)
	step := uint64(0)
	mallocs := func(segments int) float64 {
		all := gradients(2, 2*segments*segment/4, 1)
		least := ^uint64(0)
		for range 5 {
			step++
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, errs := reduce(t.Context(), rings, allreduce.Bucket{Step: step}, all)
			runtime.ReadMemStats(&after)
			if err := errors.Join(errs...); err != nil {
				t.Fatal(err)
			}
			least = min(least, after.Mallocs-before.Mallocs)
		}
		return float64(least)
	}
	each := (mallocs(60) - mallocs(20)) / (40 * 2 * 2) // segments, hops, workers
	t.Logf("%.1f allocations for a message of 64 KiB, sent and received", each)
	if each > most {
		t.Errorf("%.1f allocations for each message, at most %d are known", each, most)
	}
}
