package cpu

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/lockstep-ml/lockstep/core"
	"github.com/lockstep-ml/lockstep/core/enginetest"
)

// TestBFConformance runs the suite that every engine faces, to the bounds of bf16.
func TestBFConformance(t *testing.T) {
	k := fastestBF(bfFamilies())
	slow := k == bfGeneric
	enginetest.Run(t, enginetest.Suite[float32]{
		New: func(net *core.Network, cfg core.CompileConfig) (core.Engine[float32], error) {
			return newEngine(net, cfg, k.like, k)
		},
		Tolerance: enginetest.BF16,
		Slow:      slow,
		Golden:    func(string) bool { return !slow },
	})
}

// TestBFFamiliesAgree: all families of kernels for bf16 give the same bits.
func TestBFFamiliesAgree(t *testing.T) {
	for _, c := range []struct {
		net               *core.Network
		batch, resolution int
	}{
		{build(t, "cifar-resnet20", 10), 3, 15}, {build(t, "cifar-resnet8-B", 3), 2, 32}, {build(t, "resnet18", 5), 1, 40},
		{build(t, "resnet50-v1.5", 5), 1, 48}, {build(t, "resnet34-A", 5), 1, 33}, {odd(t), 3, 24},
	} {
		t.Run(c.net.Name, func(t *testing.T) {
			cfg := core.CompileConfig{Batch: c.batch, Resolution: c.resolution, Threads: 2}
			want := trainBF(t, c.net, cfg, bfGeneric, 1)
			bfVectorFamilies(t, func(t *testing.T, k *bfKernels) { equal(t, k.name, trainBF(t, c.net, cfg, k, 1), want) })
		})
	}
}

// TestBFThreadsChangeNothing covers image by image (few threads) and part by part (many).
func TestBFThreadsChangeNothing(t *testing.T) {
	for _, k := range bfFamilies()[1:] {
		for _, name := range []string{"cifar-resnet20", "odd"} {
			net, cfg := odd(t), core.CompileConfig{Batch: 13, Resolution: 24, Threads: 1}
			if name != "odd" {
				net = build(t, name, 10)
			}
			want := trainBF(t, net, cfg, k, 2)
			for _, cfg.Threads = range []int{2, 3, 4, 9} {
				equal(t, fmt.Sprintf("%s, %s, %d threads", k.name, name, cfg.Threads), trainBF(t, net, cfg, k, 2), want)
			}
		}
	}
}

// apart is the norm of a difference as a share of the norm.
func apart(got, want []float32) float64 {
	d, s := 0.0, 0.0
	for i, w := range want {
		d += (float64(got[i]) - float64(w)) * (float64(got[i]) - float64(w))
		s += float64(w) * float64(w)
	}
	return math.Sqrt(d / s)
}

// TestBFShapes: the gradients of single convolutions are near those of float32. A tap in a wrong place would make them different altogether.
func TestBFShapes(t *testing.T) {
	shapes := []convShape{}
	for i, s := range paperShapes(t) {
		if i%3 == 0 && !testing.Short() || i%12 == 0 {
			shapes = append(shapes, s)
		}
	}
	rng := rand.New(rand.NewPCG(9, 9))
	for range 40 {
		kernel := 1 + rng.IntN(7)
		s := convShape{1 + rng.IntN(70), 1 + rng.IntN(70), kernel, 1 + rng.IntN(3), rng.IntN(kernel), kernel + rng.IntN(24)}
		if rng.IntN(4) == 0 {
			s.in = 3
		}
		shapes = append(shapes, s)
	}
	fp32, worst := families()[len(families())-1], 0.0
	k := bfFamilies()[len(bfFamilies())-1]
	if k == bfGeneric {
		t.Skip("too slow in plain Go")
	}
	for _, s := range shapes {
		net, cfg := s.network(t), core.CompileConfig{Batch: 4, Resolution: s.size, Threads: 2}
		got, want := trainBF(t, net, cfg, k, 1), train(t, net, cfg, fp32, 1)
		for _, p := range net.Params() {
			if p.Kind != core.ConvWeight {
				continue
			}
			off := apart(got.grads.Values[p.Offset:p.Offset+p.Len], want.grads.Values[p.Offset:p.Offset+p.Len])
			worst = max(worst, off)
			if !(off < 0.2) {
				t.Errorf("%s: gradient of %s off by %.2g of its norm", s, p.Name, off)
			}
		}
	}
	t.Logf("%d shapes, the worst gradient is off by %.2g of its norm", len(shapes), worst)
}

// TestBFGradients: the gradients of whole networks deviate from those of float32 as those do themselves once the weights alone are rounded to
// bf16: by not more than twice as much.
func TestBFGradients(t *testing.T) {
	fp32, k := families()[len(families())-1], fastestBF(bfFamilies())
	if k == bfGeneric {
		t.Skip("too slow in plain Go")
	}
	for _, name := range []string{"cifar-resnet20", "cifar-resnet8-B", "resnet18", "resnet34-A"} {
		net := build(t, name, 10)
		gradients := func(k *kernels, bf *bfKernels, rounded bool) []float32 {
			e, err := newEngine(net, core.CompileConfig{Batch: 8, Resolution: 40, Threads: 2}, k, bf)
			if err != nil {
				t.Fatal(err)
			}
			defer e.Close()
			s, g := core.NewState[float32](net), e.NewGradients()
			randomState(net, s)
			for i, v := range s.Params {
				if rounded {
					s.Params[i] = bfWiden(bfRound(v))
				}
			}
			if err := e.SetState(s); err != nil {
				t.Fatal(err)
			}
			if _, err := e.Train(testBatch(net, 8, 40, 7), g, core.Hooks{}); err != nil {
				t.Fatal(err)
			}
			return g.Values
		}
		want, rounded, got := gradients(fp32, nil, false), gradients(fp32, nil, true), gradients(k.like, k, false)
		worst := 0.0
		for _, p := range net.Params() {
			if p.Kind != core.ConvWeight && p.Kind != core.LinearWeight {
				continue
			}
			exact := want[p.Offset : p.Offset+p.Len]
			off, like := apart(got[p.Offset:p.Offset+p.Len], exact), apart(rounded[p.Offset:p.Offset+p.Len], exact)
			worst = max(worst, off)
			if !(off < 2*like+0.01) {
				t.Errorf("%s: gradient of %s off by %.3g of its norm, by %.3g where weights alone are rounded", name, p.Name, off, like)
			}
		}
		t.Logf("%s: the worst gradient is off by %.2g of its norm", name, worst)
	}
}

// TestBFTrains: on images whose class shows in the colour of a quarter, the loss falls as it does in float32.
func TestBFTrains(t *testing.T) {
	const batch, side, classes, steps = 32, 16, 4, 60
	net := build(t, "cifar-resnet8", classes)
	fp32, k := families()[len(families())-1], fastestBF(bfFamilies())
	if k == bfGeneric {
		t.Skip("too slow in plain Go")
	}
	run := func(kern *kernels, bf *bfKernels) (first, last float64) {
		e, err := newEngine(net, core.CompileConfig{Batch: batch, Resolution: side, Threads: 2}, kern, bf)
		if err != nil {
			t.Fatal(err)
		}
		defer e.Close()
		s, g := core.NewState[float32](net), e.NewGradients()
		core.InitHe(net, 1, s)
		if err := e.SetState(s); err != nil {
			t.Fatal(err)
		}
		for step := range steps {
			b := testBatch(net, batch, side, uint64(step))
			for i := range b.Images {
				image, y, x := i/(3*side*side), i/side%side, i%side
				if int(b.Labels[image]) == y/(side/2)*2+x/(side/2) {
					b.Images[i] += 0.5
				}
			}
			m, err := e.Train(b, g, core.Hooks{})
			if err != nil {
				t.Fatal(err)
			}
			if step < 5 {
				first += m.LossSum / (5 * batch)
			}
			if step >= steps-10 {
				last += m.LossSum / (10 * batch)
			}
			if err := e.Update(g, core.SGD{LR: 0.05, Momentum: 0.9, WeightDecay: 1e-4}); err != nil {
				t.Fatal(err)
			}
		}
		return first, last
	}
	wantFirst, want := run(fp32, nil)
	first, got := run(k.like, k)
	t.Logf("float32 from %.3f to %.4f, bf16 from %.3f to %.4f", wantFirst, want, first, got)
	if !(got < first/3 && math.Abs(got-want) < 0.1*first) {
		t.Errorf("bf16 fell from %.3f to %.4f, float32 from %.3f to %.4f", first, got, wantFirst, want)
	}
}

// TestBFRefused: without the instructions New says so, unless plain Go is asked for or they are said to be there.
func TestBFRefused(t *testing.T) {
	net, cfg := build(t, "cifar-resnet8", 10), core.CompileConfig{Batch: 2, Resolution: 8, Precision: core.BF16}
	t.Setenv(assumeVariable, "0")
	for _, c := range []struct {
		simd, assume string
		works        bool
	}{{"", "0", hasBF16()}, {"avx2", "0", false}, {"avx2", "1", false}, {"generic", "0", true}} {
		t.Setenv(simdVariable, c.simd)
		t.Setenv(assumeVariable, c.assume)
		e, err := New(net, cfg)
		if err == nil {
			if info := e.Info(); info.Numerics != NumericsBF16 {
				t.Errorf("it computes %q", info.Numerics)
			}
			if err := e.Close(); err != nil {
				t.Error(err)
			}
		}
		if c.works != (err == nil) || err != nil && !errors.Is(err, ErrNoBF16) {
			t.Errorf("%+v: %v", c, err)
		} else if err != nil {
			t.Log(err)
		}
	}
	if _, err := New(net, core.CompileConfig{Batch: 2, Resolution: 8, Precision: "fp8"}); err == nil {
		t.Error("fp8 was taken")
	}
}
