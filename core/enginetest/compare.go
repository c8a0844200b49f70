package enginetest

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/lockstep-ml/lockstep/core"
	"github.com/lockstep-ml/lockstep/core/reference"
)

// reference compares every number of a training step and of an evaluation with core/reference in float64.
func (s Suite[F]) reference(t *testing.T) {
	for _, sm := range smallNetworks {
		t.Run(sm.name, func(t *testing.T) {
			if (sm.unblocked && s.BlockedChannels) || (sm.unusual && s.PaperOnly) {
				t.Skip("the engine does not take such networks")
			}
			s.compareStep(t, sm)
		})
	}
}

func (s Suite[F]) compareStep(t *testing.T, sm small) {
	net := sm.network(t)
	cfg := core.CompileConfig{Batch: sm.batch, Resolution: sm.resolution}
	truth, err := reference.New[float64](net, cfg)
	must(t, err)
	defer truth.Close() // never fails: it only lets go of memory
	eng := s.compile(t, net, cfg)

	rng := rand.New(rand.NewPCG(7, 7))
	want := randomState(net, rng)
	got := convertState[F](net, want)
	batch := randomBatch(net, cfg, rng)
	must(t, truth.SetState(want))
	must(t, eng.SetState(got))

	wantGrads, gotGrads := truth.NewGradients(), eng.NewGradients()
	wantMetrics, err := truth.Train(batch, wantGrads, core.Hooks{})
	must(t, err)
	gotMetrics, err := eng.Train(batch, gotGrads, core.Hooks{})
	must(t, err)
	c := comparison{t: t, bound: s.Tolerance.Gradient}
	c.vector("loss", []float64{gotMetrics.LossSum}, []float64{wantMetrics.LossSum})
	for _, p := range net.Params() {
		c.vector("gradient of "+p.Name, widen(gotGrads.Values[p.Offset:p.Offset+p.Len]), wantGrads.Values[p.Offset:p.Offset+p.Len])
	}
	for _, n := range net.Norms() {
		lo, hi := n.Offset, n.Offset+n.Channels
		c.vector("batch mean of "+n.Name, widen(gotGrads.Mean[lo:hi]), wantGrads.Mean[lo:hi])
		c.vector("batch variance of "+n.Name, widen(gotGrads.Var[lo:hi]), wantGrads.Var[lo:hi])
	}

	// The update and the evaluation start from the same numbers in both, so as not to judge the gradients twice.
	copyNarrow(gotGrads.Values, wantGrads.Values)
	copyNarrow(gotGrads.Mean, wantGrads.Mean)
	copyNarrow(gotGrads.Var, wantGrads.Var)
	sgd := core.SGD{LR: 0.05, Momentum: 0.9, WeightDecay: 0.01}
	must(t, truth.Update(wantGrads, sgd))
	must(t, eng.Update(gotGrads, sgd))
	must(t, truth.GetState(want))
	must(t, eng.GetState(got))
	c.vector("parameters after an update", widen(got.Params), want.Params)
	c.vector("momentum after an update", widen(got.Momentum), want.Momentum)
	c.vector("running means after an update", widen(got.Mean), want.Mean)
	c.vector("running variances after an update", widen(got.Var), want.Var)

	wantLogits, gotLogits := make([]float64, sm.batch*sm.classes), make([]F, sm.batch*sm.classes)
	must(t, truth.Eval(batch, wantLogits))
	must(t, eng.Eval(batch, gotLogits))
	c.vector("logits", widen(gotLogits), wantLogits)
	t.Logf("worst: %s, off by %.3g, %.3g allowed", c.where, c.worst, c.bound)
}

// comparison compares vectors by the norm of their difference.
type comparison struct {
	t     *testing.T
	bound float64
	worst float64
	where string
}

func (c *comparison) vector(what string, got, want []float64) {
	c.t.Helper()
	diff := make([]float64, len(want))
	for i := range want {
		diff[i] = got[i] - want[i]
	}
	off := norm(diff) / norm(want)
	if norm(want) == 0 {
		off = norm(diff)
	}
	if !(off <= c.bound) {
		c.t.Errorf("%s: off by %.3g of its norm, %.3g allowed; %s", what, off, c.bound, firstDifference(got, want, c.bound))
	}
	if c.where == "" || off > c.worst {
		c.worst, c.where = off, what
	}
}

// firstDifference points at the first element that is off by more than bound of the vector's largest.
func firstDifference(got, want []float64, bound float64) string {
	largest := 0.0
	for _, w := range want {
		largest = max(largest, math.Abs(w))
	}
	for i, w := range want {
		if !(math.Abs(got[i]-w) <= bound*largest) {
			return fmt.Sprintf("element %d of %d is %.9g, want %.9g", i, len(want), got[i], w)
		}
	}
	return "no element stands out"
}

// randomState draws a state in the middle of a training run: every value is a float32, and no two tensors or
// statistics are alike.
func randomState(net *core.Network, rng *rand.Rand) *core.State[float64] {
	s := core.NewState[float64](net)
	for _, p := range net.Params() {
		base, scale := 0.0, 0.2
		switch p.Kind {
		case core.ConvWeight, core.LinearWeight:
			scale = math.Sqrt(2 / float64(p.FanIn()))
		case core.BNWeight:
			base = 1
		}
		for i := p.Offset; i < p.Offset+p.Len; i++ {
			s.Params[i] = float64(float32(base + scale*rng.NormFloat64()))
			s.Momentum[i] = float64(float32(0.1 * scale * rng.NormFloat64()))
		}
	}
	for i := range s.Mean {
		s.Mean[i] = float64(float32(0.3 * rng.NormFloat64()))
		s.Var[i] = float64(float32(0.5 + rng.Float64()))
	}
	return s
}

func randomBatch(net *core.Network, cfg core.CompileConfig, rng *rand.Rand) core.Batch {
	b := core.Batch{
		Images: make([]float32, cfg.Batch*net.Nodes[0].Channels*cfg.Resolution*cfg.Resolution),
		Labels: make([]int32, cfg.Batch),
	}
	for i := range b.Images {
		b.Images[i] = float32(rng.NormFloat64())
	}
	for i := range b.Labels {
		b.Labels[i] = int32(rng.IntN(net.Classes))
	}
	return b
}

func convertState[F core.Float](net *core.Network, s *core.State[float64]) *core.State[F] {
	out := core.NewState[F](net)
	copyNarrow(out.Params, s.Params)
	copyNarrow(out.Momentum, s.Momentum)
	copyNarrow(out.Mean, s.Mean)
	copyNarrow(out.Var, s.Var)
	return out
}

func copyNarrow[F core.Float](to []F, from []float64) {
	for i, v := range from {
		to[i] = F(v)
	}
}

func widen[F core.Float](v []F) []float64 {
	out := make([]float64, len(v))
	for i, x := range v {
		out[i] = float64(x)
	}
	return out
}
