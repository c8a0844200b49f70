package worker

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/lockstep-ml/lockstep/core"
)

func TestBucketSpans(t *testing.T) {
	for _, n := range []int{1, 1023, 1024, 1025, 64<<10 - 1, 64 << 10, 64<<10 + 1, 269722, 11689512, 25557032, 60192808} {
		spans := BucketSpans(n)
		end := n
		for i, s := range spans {
			if s.Hi != end || s.Lo >= s.Hi {
				t.Fatalf("%d parameters: bucket %d is %v, the one before began at %d", n, i, s, end)
			}
			if s.Lo%grain != 0 {
				t.Errorf("%d parameters: bucket %d begins at %d, not on a block", n, i, s.Lo)
			}
			if s.Hi-s.Lo > maxBucket {
				t.Errorf("%d parameters: bucket %d has %d values", n, i, s.Hi-s.Lo)
			}
			end = s.Lo
		}
		if end != 0 {
			t.Errorf("%d parameters: the first %d are in no bucket", n, end)
		}
		if n > 16*minBucket && len(spans) < 16 {
			t.Errorf("%d parameters: only %d buckets", n, len(spans))
		}
	}
}

// TestReadiness announces everything in random runs: each bucket completes exactly once, with its last value.
func TestReadiness(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 5*minBucket).Draw(t, "n")
		r := newReadiness(BucketSpans(n))
		for range 2 { // a reset makes it as good as new
			r.reset()
			done := map[int]int{}
			announced := make([]bool, n)
			for hi := n; hi > 0; {
				lo := rapid.IntRange(max(0, hi-minBucket), hi-1).Draw(t, "lo")
				for i := lo; i < hi; i++ {
					announced[i] = true
				}
				r.done(lo, hi, func(b int) {
					done[b]++
					for i := r.spans[b].Lo; i < r.spans[b].Hi; i++ {
						if !announced[i] {
							t.Fatalf("bucket %d completed before value %d", b, i)
						}
					}
				})
				hi = lo
			}
			if !r.whole() || len(done) != len(r.spans) {
				t.Fatalf("%d of %d buckets completed", len(done), len(r.spans))
			}
			for b, times := range done {
				if times != 1 {
					t.Fatalf("bucket %d completed %d times", b, times)
				}
			}
		}
	})
}

func TestStatisticsRoundTrip(t *testing.T) {
	const norms = 1500
	s := newStatistics(norms)
	g := &core.Gradients[float32]{Mean: make([]float32, norms), Var: make([]float32, norms)}
	for i := range norms {
		g.Mean[i], g.Var[i] = float32(i), float32(-i)
	}
	buf := make([]float32, s.size)
	s.pack(buf, g, core.Metrics{Images: 32, LossSum: 12.5, Correct1: 7, Correct5: 21}, notes{yield: true, samples: [4]uint32{1, 1 << 18, 3, 4}})
	back := &core.Gradients[float32]{Mean: make([]float32, norms), Var: make([]float32, norms)}
	m, n := s.unpack(buf, back, 8) // as if the other seven replicas had the same
	if want := (core.Metrics{Images: 256, LossSum: 100, Correct1: 56, Correct5: 168}); m != want {
		t.Errorf("metrics %+v, want %+v", m, want)
	}
	if want := (notes{yield: true, samples: [4]uint32{8, 1 << 21, 24, 32}}); n != want {
		t.Errorf("notes %+v, want %+v", n, want)
	}
	for i := range norms {
		if back.Mean[i] != g.Mean[i] || back.Var[i] != g.Var[i] {
			t.Fatalf("channel %d came back as %v, %v", i, back.Mean[i], back.Var[i])
		}
	}
	if s.varAt%grain != 0 || s.metricsAt%grain != 0 || s.notesAt%grain != 0 {
		t.Errorf("sections begin at %d, %d and %d, not on blocks", s.varAt, s.metricsAt, s.notesAt)
	}
}
