package allreduce

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// BenchmarkKernels times quantise+add, load, store and decode of blocks that
// lie in the cache, per byte of float32 values.
func BenchmarkKernels(b *testing.B) {
	const n = 256 * BlockSize
	rng := rand.New(rand.NewPCG(1, 2))
	v := make([]float32, n)
	for i := range v {
		v[i] = float32(rng.NormFloat64())
	}
	codes := make([]byte, blocks(n))
	acc, wire, dst := make([]int32, n), make([]byte, 4*n), make([]float32, n)
	each := func(b *testing.B, f func(lo, hi int, code byte)) {
		b.SetBytes(4 * n)
		for b.Loop() {
			for i, c := range codes {
				f(i*BlockSize, (i+1)*BlockSize, c)
			}
		}
	}
	maxCodes(codes, v)
	for _, replicas := range []int{7, 8} {
		g := newGrid(Wire32, replicas, true)
		b.Run(fmt.Sprintf("decode/R=%d", replicas), func(b *testing.B) {
			each(b, func(lo, hi int, c byte) { g.decode(dst[lo:hi], acc[lo:hi], c) })
		})
	}
	g := newGrid(Wire32, 8, true)
	b.Run("exponents", func(b *testing.B) {
		each(b, func(lo, hi int, _ byte) { blockCode(v[lo:hi]) })
	})
	b.Run("quantise", func(b *testing.B) {
		each(b, func(lo, hi int, c byte) { g.addReplica(acc[lo:hi], v[lo:hi], c) })
	})
	b.Run("quantise-clamp", func(b *testing.B) {
		c16 := newGrid(Wire16, 8, true)
		each(b, func(lo, hi int, c byte) { c16.addReplica(acc[lo:hi], v[lo:hi], c) })
	})
	for _, w := range []Wire{Wire32, Wire16} {
		b.Run(fmt.Sprintf("load/%d", w), func(b *testing.B) {
			each(b, func(lo, hi int, _ byte) { w.load(acc[lo:hi], wire[lo*w.Bytes():hi*w.Bytes()]) })
		})
		b.Run(fmt.Sprintf("store/%d", w), func(b *testing.B) {
			each(b, func(lo, hi int, _ byte) { w.store(wire[lo*w.Bytes():hi*w.Bytes()], acc[lo:hi]) })
		})
	}
	b.Run("copy", func(b *testing.B) {
		each(b, func(lo, hi int, _ byte) { copy(dst[lo:hi], v[lo:hi]) })
	})
}

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
