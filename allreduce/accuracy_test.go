package allreduce

import (
	"math"
	"math/rand/v2"
	"testing"
)

// meanError returns ||got - mean|| / ||mean|| against the float64 mean.
func meanError(local []Contribution, got []float32) float64 {
	var diff, norm float64
	for i := range got {
		var m float64
		for _, c := range local {
			m += float64(c.Values[i])
		}
		m /= float64(len(local))
		d := float64(got[i]) - m
		diff += d * d
		norm += m * m
	}
	return math.Sqrt(diff / norm)
}

// Gradients of one parameter share a scale; those of a layer's filters differ by
// small factors. The bounds are those of the float32 and bfloat16 rings they replace.
func TestAccuracyOnGradientLikeData(t *testing.T) {
	const n, replicas = 100_000, 8
	rng := rand.New(rand.NewPCG(5, 6))
	signal := make([]float64, n)
	for i := range signal {
		scale := math.Exp(rng.NormFloat64()*0.5) * 1e-3
		signal[i] = rng.NormFloat64() * scale
	}
	local := make([]Contribution, replicas)
	for r := range local {
		local[r] = Contribution{Replica: r, Values: make([]float32, n)}
		for i := range signal {
			local[r].Values[i] = float32(signal[i] + rng.NormFloat64()*2e-3)
		}
	}
	for w, limit := range map[Wire]float64{Wire32: 5e-8, Wire16: 1e-3} {
		cfg := DefaultConfig()
		cfg.Run, cfg.Replicas, cfg.Wire = "accuracy", replicas, w
		r, err := New(cfg, nil)
		if err != nil {
			t.Fatal(err)
		}
		dst := make([]float32, n)
		if err := r.Reduce(t.Context(), Bucket{}, local, dst); err != nil {
			t.Fatal(err)
		}
		if got := meanError(local, dst); got > limit {
			t.Errorf("wire %v: relative error %.2g, want %.2g or less", w, got, limit)
		} else {
			t.Logf("wire %v: relative error %.2g", w, got)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
}
