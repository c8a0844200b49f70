package enginetest

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"go.uber.org/goleak"

	"github.com/lockstep-ml/lockstep/core"
	"github.com/lockstep-ml/lockstep/core/resnet"
)

// contract holds the engine to what core.Engine's comments promise.
func (s Suite[F]) contract(t *testing.T) {
	for _, c := range []struct {
		name string
		test func(*testing.T)
	}{
		{"TrainLeavesState", s.trainLeavesState},
		{"Hooks", s.hooks},
		{"StateRoundTrip", s.stateRoundTrip},
		{"EvalIndependence", s.evalIndependence},
		{"EvalOnly", s.evalOnly},
		{"SameBits", s.sameBits},
		{"Threads", s.threads},
		{"NaN", s.nan},
		{"CompileErrors", s.compileErrors},
		{"CallErrors", s.callErrors},
		{"Close", s.closes},
	} {
		t.Run(c.name, c.test)
	}
}

// subject is an engine with something to do.
type subject[F core.Float] struct {
	net   *core.Network
	cfg   core.CompileConfig
	eng   core.Engine[F]
	state *core.State[F]
	batch core.Batch
	grads *core.Gradients[F]
}

func (s Suite[F]) subject(t *testing.T, name string, cfg core.CompileConfig) *subject[F] {
	t.Helper()
	net, err := resnet.Build(name, 7)
	must(t, err)
	rng := rand.New(rand.NewPCG(1, 2))
	u := &subject[F]{
		net: net, cfg: cfg, eng: s.compile(t, net, cfg),
		state: convertState[F](net, randomState(net, rng)), batch: randomBatch(net, cfg, rng),
	}
	must(t, u.eng.SetState(u.state))
	u.grads = u.eng.NewGradients()
	return u
}

// ordinary is the subject of most tests: two strides, option A, a batch that no power of two divides.
func (s Suite[F]) ordinary(t *testing.T) *subject[F] {
	return s.subject(t, "cifar-resnet8", core.CompileConfig{Batch: 5, Resolution: 14})
}

func (u *subject[F]) train(t *testing.T) core.Metrics {
	t.Helper()
	m, err := u.eng.Train(u.batch, u.grads, core.Hooks{})
	must(t, err)
	return m
}

func (u *subject[F]) eval(t *testing.T, b core.Batch) []F {
	t.Helper()
	logits := make([]F, len(b.Images)/u.imageLen()*u.net.Classes)
	must(t, u.eng.Eval(b, logits))
	return logits
}

func (u *subject[F]) imageLen() int { return len(u.batch.Images) / u.cfg.Batch }

// images cuts images [lo, hi) out of the batch, without labels.
func (u *subject[F]) images(lo, hi int) core.Batch {
	return core.Batch{Images: u.batch.Images[lo*u.imageLen() : hi*u.imageLen()]}
}

func (s Suite[F]) trainLeavesState(t *testing.T) {
	u := s.ordinary(t)
	u.train(t)
	u.eval(t, u.batch)
	after := core.NewState[F](u.net)
	must(t, u.eng.GetState(after))
	sameState(t, after, u.state)
}

func (s Suite[F]) hooks(t *testing.T) {
	u := s.ordinary(t)
	for i := range u.grads.Values {
		u.grads.Values[i] = F(math.NaN()) // whatever is not written shows
	}
	announced := make([]F, len(u.grads.Values))
	times := make([]int, len(u.grads.Values))
	forward := 0
	m, err := u.eng.Train(u.batch, u.grads, core.Hooks{
		Forward: func() { forward++ },
		Ready: func(lo, hi int) {
			if forward != 1 {
				t.Errorf("[%d, %d) is ready, and Forward was called %d times", lo, hi, forward)
			}
			if lo < 0 || hi <= lo || hi > len(times) {
				t.Fatalf("[%d, %d) is ready, of %d values", lo, hi, len(times))
			}
			copy(announced[lo:hi], u.grads.Values[lo:hi])
			for i := lo; i < hi; i++ {
				times[i]++
			}
		},
	})
	must(t, err)
	if forward != 1 {
		t.Errorf("Forward was called %d times, want once", forward)
	}
	for i, n := range times {
		if n != 1 {
			t.Fatalf("value %d was announced %d times, want once", i, n)
		}
	}
	sameBits(t, "gradients when announced and at the end", announced, u.grads.Values)
	if i := slices.IndexFunc(u.grads.Values, func(v F) bool { return v != v }); i >= 0 {
		t.Errorf("gradient %d was not written, or is NaN", i)
	}
	if m.Images != u.cfg.Batch {
		t.Errorf("metrics of %d images, want %d", m.Images, u.cfg.Batch)
	}
}

func (s Suite[F]) stateRoundTrip(t *testing.T) {
	u := s.ordinary(t)
	tiny := F(math.SmallestNonzeroFloat32)
	want := core.NewState[F](u.net)
	rng := rand.New(rand.NewPCG(3, 4))
	for _, v := range [][]F{want.Params, want.Momentum, want.Mean, want.Var} {
		for i := range v {
			v[i] = F(float32(rng.NormFloat64()))
		}
		v[0], v[len(v)-1] = F(math.Copysign(0, -1)), tiny
	}
	must(t, u.eng.SetState(want))
	kept, got := core.NewState[F](u.net), core.NewState[F](u.net)
	copyState(kept, want)
	must(t, u.eng.GetState(got))
	sameState(t, got, want)
	clear(want.Params) // the engine must have copied
	must(t, u.eng.GetState(got))
	sameState(t, got, kept)
}

func (s Suite[F]) evalIndependence(t *testing.T) {
	u := s.ordinary(t)
	full := u.eval(t, u.batch)
	c := u.net.Classes
	for n := 1; n <= u.cfg.Batch; n++ {
		sameBits(t, "logits of a partial batch", u.eval(t, u.images(0, n)), full[:n*c])
	}
	for i := range u.cfg.Batch {
		sameBits(t, "logits of one image", u.eval(t, u.images(i, i+1)), full[i*c:(i+1)*c])
	}
	u.batch.Images[2*u.imageLen()+40] = float32(math.NaN())
	spoilt := u.eval(t, u.batch)
	sameBits(t, "logits beside an image with a NaN", spoilt[:2*c], full[:2*c])
	sameBits(t, "logits beside an image with a NaN", spoilt[3*c:], full[3*c:])
	if spoilt[2*c] == spoilt[2*c] {
		t.Errorf("an image with a NaN has logit %v, want NaN", spoilt[2*c])
	}
}

func (s Suite[F]) evalOnly(t *testing.T) {
	u := s.ordinary(t)
	want := u.eval(t, u.batch)
	cfg := u.cfg
	cfg.EvalOnly = true
	v := s.subject(t, "cifar-resnet8", cfg)
	sameBits(t, "logits of an engine compiled for evaluation only", v.eval(t, v.batch), want)
	if _, err := v.eng.Train(v.batch, v.grads, core.Hooks{}); err == nil {
		t.Error("an engine compiled for evaluation only has trained")
	}
	if err := v.eng.Update(v.grads, core.SGD{LR: 1}); err == nil {
		t.Error("an engine compiled for evaluation only has updated")
	}
	one := s.compile(t, u.net, core.CompileConfig{Batch: 1, Resolution: 4, EvalOnly: true})
	must(t, one.SetState(u.state))
	must(t, one.Eval(core.Batch{Images: make([]float32, 3*4*4)}, make([]F, u.net.Classes)))
}

func (s Suite[F]) sameBits(t *testing.T) {
	u := s.ordinary(t)
	first := u.step(t)
	for range 3 {
		must(t, u.eng.SetState(u.state))
		u.eval(t, u.images(0, 2)) // leaves nothing behind that training sees
		sameStep(t, "a step repeated", u.step(t), first)
	}
}

// threads trains on 1, 2, 3 and 5 threads, and asks for the same bits.
func (s Suite[F]) threads(t *testing.T) {
	for _, c := range []struct {
		name              string
		batch, resolution int
		large             bool
	}{{"cifar-resnet8", 5, 14, false}, {"cifar-resnet8-B", 3, 32, false}, {"resnet18-A", 1, 35, false}, {"resnet50", 2, 65, true}} {
		t.Run(c.name, func(t *testing.T) {
			if c.large && s.Slow {
				t.Skip("too large for a slow engine")
			}
			var first step[F]
			for i, threads := range []int{1, 2, 3, 5} {
				u := s.subject(t, c.name, core.CompileConfig{Batch: c.batch, Resolution: c.resolution, Threads: threads})
				if got := u.step(t); i == 0 {
					first = got
				} else {
					sameStep(t, u.eng.Info().Name, got, first)
				}
				must(t, u.eng.Close())
			}
		})
	}
}

// nan asks that a NaN is neither hidden nor a reason to fail: the ring finds it and names it.
func (s Suite[F]) nan(t *testing.T) {
	for _, c := range []struct {
		name  string
		param string // "": in an image
	}{
		{"cifar-resnet8", "conv1.weight"}, {"cifar-resnet8", "layer2.0.bn1.weight"}, {"cifar-resnet8", "fc.bias"}, {"cifar-resnet8", ""},
		{"resnet18", "bn1.bias"}, {"resnet18", ""},
	} {
		t.Run(c.name+" "+c.param, func(t *testing.T) {
			u := s.subject(t, c.name, core.CompileConfig{Batch: 3, Resolution: 40})
			poisoned := u.net.Params()[0]
			if c.param == "" {
				u.batch.Images[100] = float32(math.NaN())
			} else {
				poisoned = u.net.Params()[slices.IndexFunc(u.net.Params(), func(p core.Param) bool { return p.Name == c.param })]
				u.state.Params[poisoned.Offset+poisoned.Len/2] = F(math.NaN())
			}
			must(t, u.eng.SetState(u.state))
			if m := u.train(t); m.LossSum == m.LossSum {
				t.Errorf("the loss is %v, want NaN", m.LossSum)
			}
			g := u.grads.Values[poisoned.Offset : poisoned.Offset+poisoned.Len]
			if !slices.ContainsFunc(g, func(v F) bool { return v != v }) {
				t.Errorf("the gradient of %s has no NaN", poisoned.Name)
			}
		})
	}
}

func (s Suite[F]) compileErrors(t *testing.T) {
	for _, c := range []struct {
		why, name string
		cfg       core.CompileConfig
	}{
		{"no batch", "cifar-resnet8", core.CompileConfig{Resolution: 32}},
		{"no resolution", "cifar-resnet8", core.CompileConfig{Batch: 2}},
		{"a negative number of threads", "cifar-resnet8", core.CompileConfig{Batch: 2, Resolution: 32, Threads: -1}},
		{"a precision that is none", "cifar-resnet8", core.CompileConfig{Batch: 2, Resolution: 32, Precision: "fp8"}},
		{"one value to normalise over", "cifar-resnet8", core.CompileConfig{Batch: 1, Resolution: 4}},
	} {
		net, err := resnet.Build(c.name, 10)
		must(t, err)
		if eng, err := s.New(net, c.cfg); err == nil {
			must(t, eng.Close())
			t.Errorf("%s: %s compiled for %+v", c.why, c.name, c.cfg)
		}
	}
}

func (s Suite[F]) callErrors(t *testing.T) {
	u := s.ordinary(t)
	want := u.step(t)
	must(t, u.eng.SetState(u.state))
	per, labels := u.imageLen(), u.batch.Labels
	other := core.NewState[F](u.net)
	other.Momentum = other.Momentum[1:]
	short := u.eng.NewGradients()
	short.Mean = short.Mean[1:]
	relabel := func(l int32) core.Batch {
		b := core.Batch{Images: u.batch.Images, Labels: slices.Clone(labels)}
		b.Labels[1] = l
		return b
	}
	train := func(b core.Batch, g *core.Gradients[F]) error {
		_, err := u.eng.Train(b, g, core.Hooks{})
		return err
	}
	for _, c := range []struct {
		what string
		err  error
	}{
		{"SetState with a momentum too short", u.eng.SetState(other)},
		{"GetState with a momentum too short", u.eng.GetState(other)},
		{"Train on fewer images than compiled for", train(core.Batch{Images: u.batch.Images[per:], Labels: labels[1:]}, u.grads)},
		{"Train on a part of an image", train(core.Batch{Images: u.batch.Images[1:], Labels: labels}, u.grads)},
		{"Train without labels", train(core.Batch{Images: u.batch.Images}, u.grads)},
		{"Train on no images", train(core.Batch{}, u.grads)},
		{"Train with a label below", train(relabel(-1), u.grads)},
		{"Train with a label above", train(relabel(int32(u.net.Classes)), u.grads)},
		{"Train with gradients too short", train(u.batch, short)},
		{"Update with gradients too short", u.eng.Update(short, core.SGD{LR: 1})},
		{"Eval on no images", u.eng.Eval(core.Batch{}, nil)},
		{"Eval on too many images", u.eng.Eval(core.Batch{Images: append(slices.Clone(u.batch.Images), u.batch.Images[:per]...)}, make([]F, 6*u.net.Classes))},
		{"Eval with too little room", u.eng.Eval(u.batch, make([]F, 5*u.net.Classes-1))},
		{"Eval with too few labels", u.eng.Eval(core.Batch{Images: u.batch.Images, Labels: labels[1:]}, make([]F, 5*u.net.Classes))},
	} {
		if c.err == nil {
			t.Errorf("%s: no error", c.what)
		}
	}
	sameStep(t, "a step after errors", u.step(t), want)
}

func (s Suite[F]) closes(t *testing.T) {
	before := goleak.IgnoreCurrent()
	u := s.subject(t, "cifar-resnet8", core.CompileConfig{Batch: 2, Resolution: 8, Threads: 3})
	u.train(t)
	must(t, u.eng.Close())
	must(t, u.eng.Close())
	if _, err := u.eng.Train(u.batch, u.grads, core.Hooks{}); err == nil {
		t.Error("Train after Close: no error")
	}
	if err := u.eng.Update(u.grads, core.SGD{}); err == nil {
		t.Error("Update after Close: no error")
	}
	if err := u.eng.Eval(u.batch, make([]F, 2*u.net.Classes)); err == nil {
		t.Error("Eval after Close: no error")
	}
	if err := u.eng.SetState(u.state); err == nil {
		t.Error("SetState after Close: no error")
	}
	if err := u.eng.GetState(u.state); err == nil {
		t.Error("GetState after Close: no error")
	}
	goleak.VerifyNone(t, before)
}
