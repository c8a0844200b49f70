package cpu

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/lockstep-ml/lockstep/core"
	"github.com/lockstep-ml/lockstep/core/reference"
)

// TestWinogradKernels: every transform gives the bits of the generic one and touches nothing else.
func TestWinogradKernels(t *testing.T) {
	for _, k := range vectorFamilies(t) {
		for n := 1; n <= 30; n++ {
			transform := func(name string, in, out func(a *winogradArgs) int, run func(k *kernels) func(*winogradArgs)) {
				moveCase(t, k, fmt.Sprintf("%s, %d", name, n), uint64(n), func(k *kernels, rng *rand.Rand) []guarded {
					a := &winogradArgs{n: n, half: 0.5, add: rng.IntN(2)}
					a.inRow, a.outRow = (2*n+2+rng.IntN(4))*pixelBytes, (2*n+rng.IntN(4))*pixelBytes
					a.plane = (n + rng.IntN(4)) * pixelBytes
					from, to := drawn(rng, in(a), true), drawn(rng, out(a), true)
					a.in, a.out = from.ptr(), to.ptr()
					run(k)(a)
					return []guarded{to, from}
				})
			}
			values := func(a *winogradArgs) int { return (15*a.plane + n*pixelBytes) / 4 }
			transform("input", func(a *winogradArgs) int { return (3*a.inRow + (2*n+2)*pixelBytes) / 4 }, values,
				func(k *kernels) func(*winogradArgs) { return k.winogradInput })
			transform("output", values, func(a *winogradArgs) int { return (a.outRow + 2*n*pixelBytes) / 4 },
				func(k *kernels) func(*winogradArgs) { return k.winogradOutput })
			transform("error", func(a *winogradArgs) int { return (a.inRow + 2*n*pixelBytes) / 4 }, values,
				func(k *kernels) func(*winogradArgs) { return k.winogradError })
			if n <= lanes {
				transform("filter", func(*winogradArgs) int { return 8*blockLen + n*lanes }, func(a *winogradArgs) int { a.plane += n * lanes * 4; return (15*a.plane + n*pixelBytes) / 4 },
					func(k *kernels) func(*winogradArgs) { return k.winogradFilter })
				transform("weights", func(*winogradArgs) int { return 15*blockLen + n*lanes }, func(*winogradArgs) int { return 8*blockLen + n*lanes },
					func(k *kernels) func(*winogradArgs) { return k.winogradWeights })
			}
		}
	}
}

// winogradShapes are convolutions that go by tiles, with one strip and several, odd numbers of blocks, and several images a piece.
var winogradShapes = []convShape{{32, 32, 3, 1, 1, 16}, {64, 48, 3, 1, 1, 8}, {48, 80, 3, 1, 1, 10}, {32, 32, 3, 1, 1, 28}, {32, 64, 3, 1, 1, 56}, {160, 32, 3, 1, 1, 8}}

// TestWinogradShapes: AVX2, AVX-512 and generic kernels on any number of threads give the same bits, whatever the groups of images.
func TestWinogradShapes(t *testing.T) {
	for _, s := range winogradShapes {
		net := s.network(t)
		for _, batch := range []int{2, 37} {
			if batch > 2 && s.size > 10 {
				continue
			}
			cfg := core.CompileConfig{Batch: batch, Resolution: s.size, Threads: 1}
			want := train(t, net, cfg, genericKernels, 1)
			for i, k := range families() {
				cfg.Threads = 1 + i
				equal(t, fmt.Sprintf("%s, batch %d, %s", s, batch, k.name), train(t, net, cfg, k, 1), want)
			}
		}
	}
}

// TestWinogradRounds compares gradients with the float64 reference's. Where nothing cancels, 5e-7 to 1.2e-6 of their norm were measured,
// and 5e-7 to 9e-7 with the window in the place of tiles.
func TestWinogradRounds(t *testing.T) {
	for _, s := range winogradShapes {
		if s.size > 10 { // sums over many pixels, that cancel: 2e-5 and more, with tiles or without
			continue
		}
		net, cfg := s.network(t), core.CompileConfig{Batch: 3, Resolution: s.size, Threads: 2}
		got := train(t, net, cfg, families()[len(families())-1], 1)
		ref, err := reference.New[float64](net, cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer ref.Close()
		s32, s64 := core.NewState[float32](net), core.NewState[float64](net)
		randomState(net, s32)
		for i, v := range s32.Params {
			s64.Params[i] = float64(v)
		}
		if err := ref.SetState(s64); err != nil {
			t.Fatal(err)
		}
		g := ref.NewGradients()
		if _, err := ref.Train(testBatch(net, cfg.Batch, cfg.Resolution, 7), g, core.Hooks{}); err != nil {
			t.Fatal(err)
		}
		for _, p := range net.Params() {
			near(t, s.String()+": "+p.Name, got.grads.Values[p.Offset:p.Offset+p.Len], g.Values[p.Offset:p.Offset+p.Len], 3e-6)
		}
	}
}
