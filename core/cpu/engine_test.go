package cpu

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/lockstep-ml/lockstep/core"
	"github.com/lockstep-ml/lockstep/core/reference"
	"github.com/lockstep-ml/lockstep/core/resnet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// result is all that a few steps of training and an evaluation leave behind.
type result struct {
	state  *core.State[float32]
	grads  *core.Gradients[float32]
	logits []float32
	loss   float64
}

// train takes steps on one engine from a state drawn from a seed, in float32.
func train(t *testing.T, net *core.Network, cfg core.CompileConfig, k *kernels, steps int) result {
	t.Helper()
	return trainAt(t, net, cfg, k, nil, steps)
}

// trainBF does in bf16.
func trainBF(t *testing.T, net *core.Network, cfg core.CompileConfig, k *bfKernels, steps int) result {
	t.Helper()
	return trainAt(t, net, cfg, k.like, k, steps)
}

func trainAt(t *testing.T, net *core.Network, cfg core.CompileConfig, k *kernels, bf *bfKernels, steps int) result {
	t.Helper()
	e, err := newEngine(net, cfg, k, bf)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	r := result{state: core.NewState[float32](net), grads: e.NewGradients(), logits: make([]float32, cfg.Batch*net.Classes)}
	randomState(net, r.state)
	if err := e.SetState(r.state); err != nil {
		t.Fatal(err)
	}
	b := testBatch(net, cfg.Batch, cfg.Resolution, 7)
	for range steps {
		m, err := e.Train(b, r.grads, core.Hooks{})
		if err != nil {
			t.Fatal(err)
		}
		r.loss = m.LossSum
		if err := e.Update(r.grads, core.SGD{LR: 0.01, Momentum: 0.9, WeightDecay: 1e-4}); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.Eval(b, r.logits); err != nil {
		t.Fatal(err)
	}
	if err := e.GetState(r.state); err != nil {
		t.Fatal(err)
	}
	return r
}

// randomState is He's initialisation with normalisations that do something.
func randomState(net *core.Network, s *core.State[float32]) {
	core.InitHe(net, 3, s)
	rng := rand.New(rand.NewPCG(3, 3))
	for _, p := range net.Params() {
		if p.Kind == core.BNWeight || p.Kind == core.BNBias || p.Kind == core.LinearBias {
			for i := p.Offset; i < p.Offset+p.Len; i++ {
				s.Params[i] += float32(0.2 * rng.NormFloat64())
			}
		}
	}
}

func equal(t *testing.T, what string, a, b result) {
	t.Helper()
	for _, pair := range []struct {
		name string
		a, b []float32
	}{
		{"gradients", a.grads.Values, b.grads.Values}, {"batch means", a.grads.Mean, b.grads.Mean}, {"batch variances", a.grads.Var, b.grads.Var},
		{"parameters", a.state.Params, b.state.Params}, {"momentum", a.state.Momentum, b.state.Momentum},
		{"running means", a.state.Mean, b.state.Mean}, {"running variances", a.state.Var, b.state.Var}, {"logits", a.logits, b.logits},
	} {
		if err := same(pair.a, pair.b); err != nil {
			t.Fatalf("%s: %s differ: %v", what, pair.name, err)
		}
	}
	if a.loss != b.loss {
		t.Fatalf("%s: losses %v and %v", what, a.loss, b.loss)
	}
}

func build(t *testing.T, name string, classes int) *core.Network {
	t.Helper()
	net, err := resnet.Build(name, classes)
	if err != nil {
		t.Fatal(err)
	}
	return net
}

// odd is a network that the paper does not have: channels that are no multiples of 16, windows and strides of
// other sizes, sums and ReLUs that no normalisation can take in, a value that three nodes read.
func odd(t *testing.T) *core.Network {
	t.Helper()
	conv := func(name string, in, channels, kernel, stride, pad int) core.Node {
		return core.Node{Op: core.OpConv, Name: name, Inputs: []int{in}, Channels: channels, Kernel: kernel, Stride: stride, Pad: pad}
	}
	nodes := []core.Node{
		0:  {Op: core.OpInput, Name: "input", Channels: 5},
		1:  conv("c1", 0, 20, 5, 3, 2),
		2:  {Op: core.OpBatchNorm, Name: "b1", Inputs: []int{1}, Channels: 20},
		3:  {Op: core.OpReLU, Name: "r1", Inputs: []int{2}, Channels: 20},
		4:  conv("c2", 3, 20, 3, 1, 1),
		5:  {Op: core.OpAdd, Name: "a1", Inputs: []int{4, 3}, Channels: 20},
		6:  {Op: core.OpReLU, Name: "r2", Inputs: []int{5}, Channels: 20},
		7:  {Op: core.OpPadShortcut, Name: "p1", Inputs: []int{3}, Channels: 34, Stride: 2},
		8:  conv("c3", 6, 34, 4, 2, 1),
		9:  {Op: core.OpBatchNorm, Name: "b2", Inputs: []int{8}, Channels: 34},
		10: {Op: core.OpAdd, Name: "a2", Inputs: []int{7, 9}, Channels: 34},
		11: conv("c4", 10, 34, 2, 1, 1),
		12: conv("c5", 11, 17, 1, 1, 0),
		13: {Op: core.OpMaxPool, Name: "m1", Inputs: []int{12}, Channels: 17, Kernel: 2, Stride: 1, Pad: 1},
		14: {Op: core.OpBatchNorm, Name: "b3", Inputs: []int{13}, Channels: 17},
		15: {Op: core.OpAdd, Name: "a3", Inputs: []int{14, 14}, Channels: 17},
		16: {Op: core.OpGlobalAvgPool, Name: "avgpool", Inputs: []int{15}, Channels: 17},
		17: {Op: core.OpLinear, Name: "fc", Inputs: []int{16}, Channels: 19},
	}
	net, err := core.NewNetwork("odd", 24, 19, nodes)
	if err != nil {
		t.Fatal(err)
	}
	return net
}

// TestFamiliesAgree: the three families of kernels give the same bits.
func TestFamiliesAgree(t *testing.T) {
	for _, c := range []struct {
		net               *core.Network
		batch, resolution int
	}{
		{build(t, "cifar-resnet8", 10), 3, 13},
		{build(t, "cifar-resnet8-B", 3), 2, 32},
		{build(t, "resnet18", 5), 1, 40},
		{odd(t), 3, 24},
	} {
		t.Run(c.net.Name, func(t *testing.T) {
			cfg := core.CompileConfig{Batch: c.batch, Resolution: c.resolution, Threads: 2}
			want := train(t, c.net, cfg, genericKernels, 1)
			for _, k := range vectorFamilies(t) {
				equal(t, k.name, train(t, c.net, cfg, k, 1), want)
			}
		})
	}
}

// TestVectorFamiliesAgree does so for larger networks, too slow for the generic kernels, and more steps.
func TestVectorFamiliesAgree(t *testing.T) {
	fs := vectorFamilies(t)
	for _, c := range []struct {
		name              string
		batch, resolution int
	}{{"cifar-resnet20", 9, 32}, {"resnet50", 2, 65}, {"resnet50-v1.5", 2, 64}, {"resnet34-A", 2, 64}, {"resnet18-C", 3, 47}, {"plain18", 2, 96}} {
		t.Run(c.name, func(t *testing.T) {
			if testing.Short() && c.resolution > 48 {
				t.Skip("left out of a short run")
			}
			net := build(t, c.name, 0)
			cfg := core.CompileConfig{Batch: c.batch, Resolution: c.resolution, Threads: 2}
			want := train(t, net, cfg, fs[0], 2)
			for _, k := range fs[1:] {
				equal(t, k.name, train(t, net, cfg, k, 2), want)
			}
		})
	}
}

// TestThreadsChangeNothing covers image by image (few threads) and part by part (many).
func TestThreadsChangeNothing(t *testing.T) {
	best := families()[len(families())-1]
	for _, name := range []string{"cifar-resnet20", "odd"} {
		net, cfg := odd(t), core.CompileConfig{Batch: 13, Resolution: 24, Threads: 1}
		if name != "odd" {
			net = build(t, name, 10)
		}
		want := train(t, net, cfg, best, 2)
		for _, cfg.Threads = range []int{2, 3, 4, 9} {
			equal(t, fmt.Sprintf("%s, %d threads", name, cfg.Threads), train(t, net, cfg, best, 2), want)
		}
	}
}

// TestOddNetwork compares with the reference: gradients of every tensor, logits, statistics.
func TestOddNetwork(t *testing.T) {
	net := odd(t)
	cfg := core.CompileConfig{Batch: 4, Resolution: 29, Threads: 2}
	got := train(t, net, cfg, families()[len(families())-1], 1)
	ref, err := reference.New[float64](net, cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer ref.Close()
	s32, s := core.NewState[float32](net), core.NewState[float64](net)
	randomState(net, s32)
	for i, v := range s32.Params {
		s.Params[i] = float64(v)
	}
	if err := ref.SetState(s); err != nil {
		t.Fatal(err)
	}
	g, b := ref.NewGradients(), testBatch(net, cfg.Batch, cfg.Resolution, 7)
	if _, err := ref.Train(b, g, core.Hooks{}); err != nil {
		t.Fatal(err)
	}
	for _, p := range net.Params() {
		near(t, p.Name, got.grads.Values[p.Offset:p.Offset+p.Len], g.Values[p.Offset:p.Offset+p.Len], 2e-5)
	}
	near(t, "means", got.grads.Mean, g.Mean, 2e-5)
	near(t, "variances", got.grads.Var, g.Var, 2e-5)
	if err := ref.Update(g, core.SGD{LR: 0.01, Momentum: 0.9, WeightDecay: 1e-4}); err != nil {
		t.Fatal(err)
	}
	logits := make([]float64, len(got.logits))
	if err := ref.Eval(b, logits); err != nil {
		t.Fatal(err)
	}
	near(t, "logits", got.logits, logits, 2e-5)
}

// near bounds the norm of a difference by a share of the norm.
func near(t testing.TB, name string, got []float32, want []float64, share float64) {
	t.Helper()
	d, s := 0.0, 0.0
	for i, w := range want {
		d += (float64(got[i]) - w) * (float64(got[i]) - w)
		s += w * w
	}
	if !(math.Sqrt(d) <= share*math.Sqrt(s)) {
		t.Errorf("%s: off by %.2e of its norm %.3g", name, math.Sqrt(d/s), math.Sqrt(s))
	}
}

func TestNoAllocation(t *testing.T) {
	for _, p := range []core.Precision{core.FP32, core.BF16} {
		t.Run(string(p), func(t *testing.T) {
			if err := Check(p); err != nil {
				t.Skip(err)
			}
			noAllocation(t, core.CompileConfig{Batch: 8, Resolution: 16, Threads: 2, Precision: p})
		})
	}
}

func noAllocation(t *testing.T, cfg core.CompileConfig) {
	t.Helper()
	net := build(t, "cifar-resnet8", 10)
	e, err := New(net, cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	s := core.NewState[float32](net)
	randomState(net, s)
	if err := e.SetState(s); err != nil {
		t.Fatal(err)
	}
	b, g, logits := testBatch(net, 8, 16, 1), e.NewGradients(), make([]float32, 80)
	hooks := core.Hooks{Ready: func(lo, hi int) {}}
	step := func() {
		if _, err := e.Train(b, g, hooks); err != nil {
			t.Fatal(err)
		}
		if err := e.Update(g, core.SGD{LR: 0.01, Momentum: 0.9}); err != nil {
			t.Fatal(err)
		}
		if err := e.Eval(b, logits); err != nil {
			t.Fatal(err)
		}
	}
	if n := testing.AllocsPerRun(20, step); n != 0 {
		t.Errorf("a step allocates %v times", n)
	}
}

// TestPlan: buffers that live at one time do not overlap, and the arena is no larger than all of them.
func TestPlan(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var bufs []*buffer
		sum := 0
		for range rapid.IntRange(0, 40).Draw(t, "buffers") {
			first := rapid.IntRange(0, 30).Draw(t, "first")
			b := &buffer{len: arenaAlign * rapid.IntRange(0, 20).Draw(t, "len"), first: first, last: first + rapid.IntRange(0, 10).Draw(t, "life")}
			bufs = append(bufs, b)
			sum += b.len
		}
		total := plan(bufs)
		if total > sum {
			t.Fatalf("an arena of %d for buffers of %d", total, sum)
		}
		for i, a := range bufs {
			if a.off%arenaAlign != 0 || a.off+a.len > total {
				t.Fatalf("buffer %d at %d of %d", i, a.off, total)
			}
			for _, b := range bufs[:i] {
				if a.first <= b.last && b.first <= a.last && a.off < b.off+b.len && b.off < a.off+a.len {
					t.Fatalf("%+v and %+v overlap", *a, *b)
				}
			}
		}
	})
}

func TestArena(t *testing.T) {
	net := build(t, "cifar-resnet20", 10)
	size := func(cfg core.CompileConfig) int64 {
		e, err := New(net, cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer e.Close()
		return e.Info().ArenaBytes
	}
	train, eval := size(core.CompileConfig{Batch: 32, Resolution: 32}), size(core.CompileConfig{Batch: 32, Resolution: 32, EvalOnly: true})
	// 19 convolutions' outputs and what follows each: 6.4 million values an image's layer, twice, and borders.
	if mib := train >> 20; mib < 40 || mib > 90 {
		t.Errorf("training takes %d MiB", mib)
	}
	if eval*4 > train {
		t.Errorf("evaluation takes %d bytes, training %d: nothing is used again", eval, train)
	}
}

func TestForcedFamily(t *testing.T) {
	net := build(t, "cifar-resnet8", 10)
	cfg := core.CompileConfig{Batch: 1, Resolution: 8}
	for _, k := range families() {
		t.Setenv(simdVariable, k.name)
		e, err := New(net, cfg)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(e.Info().Name, k.name) {
			t.Errorf("asked for %s, got %s", k.name, e.Info().Name)
		}
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	}
	t.Setenv(simdVariable, "mmx")
	if _, err := New(net, cfg); err == nil || !strings.Contains(err.Error(), "mmx") {
		t.Errorf("asked for mmx, got %v", err)
	}
}

// TestGenerated: the assembly is what the generator writes.
func TestGenerated(t *testing.T) {
	dir := t.TempDir()
	if out, err := exec.Command("go", "run", "-C", "_gen", ".", dir).CombinedOutput(); err != nil {
		t.Fatalf("the generator does not run: %v\n%s", err, out)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) == 0 {
		t.Fatalf("the generator wrote %d files: %v", len(files), err)
	}
	for _, f := range files {
		want, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(f.Name())
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is not what the generator writes; run go generate (%v)", f.Name(), err)
		}
	}
}

// TestPool: every item is done once, by however many threads, also after the helpers have parked.
func TestPool(t *testing.T) {
	for _, threads := range []int{1, 2, 5} {
		p := newPool(threads)
		for _, items := range []int{0, 1, 2, 7, 1000, 3} {
			done := make([]int32, items)
			p.run(items, func(i, thread int) {
				if thread < 0 || thread >= threads {
					t.Errorf("thread %d of %d", thread, threads)
				}
				done[i]++
			})
			for i, n := range done {
				if n != 1 {
					t.Fatalf("%d threads: item %d of %d done %d times", threads, i, items, n)
				}
			}
		}
		p.close()
		p.close()
	}
}
