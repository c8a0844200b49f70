package allreduce

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// BenchmarkReduceAlone is a step of cifar-resnet20 on one worker: 8 replicas of
// 272,474 values. It verifies against the float64 mean before it times.
func BenchmarkReduceAlone(b *testing.B) {
	const n, replicas = 272_474, 8
	rng := rand.New(rand.NewPCG(1, 2))
	local := make([]Contribution, replicas)
	for r := range local {
		local[r] = Contribution{Replica: r, Values: make([]float32, n)}
		for i := range local[r].Values {
			local[r].Values[i] = float32(rng.NormFloat64() * 1e-3)
		}
	}
	for _, w := range []Wire{Wire32, Wire16} {
		b.Run(fmt.Sprintf("wire=%d", w), func(b *testing.B) {
			cfg := DefaultConfig()
			cfg.Run, cfg.Replicas, cfg.Wire = "bench", replicas, w
			r, err := New(cfg, nil)
			if err != nil {
				b.Fatal(err)
			}
			defer r.Close()
			dst := make([]float32, n)
			step := uint64(0)
			reduce := func() {
				step++
				if err := r.Reduce(b.Context(), Bucket{Step: step}, local, dst); err != nil {
					b.Fatal(err)
				}
			}
			reduce()
			if got := meanError(local, dst); got > 2e-3 {
				b.Fatalf("relative error of the mean is %g", got)
			}
			b.SetBytes(4 * n * replicas)
			for b.Loop() {
				reduce()
			}
		})
	}
}
