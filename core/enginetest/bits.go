package enginetest

import (
	"math"
	"testing"

	"github.com/lockstep-ml/lockstep/core"
)

// step is all that a training step leaves.
type step[F core.Float] struct {
	metrics core.Metrics
	grads   *core.Gradients[F]
	state   *core.State[F]
	logits  []F
}

// step trains, updates and evaluates once, and copies what came of it.
func (u *subject[F]) step(t *testing.T) step[F] {
	t.Helper()
	out := step[F]{metrics: u.train(t), grads: u.eng.NewGradients(), state: core.NewState[F](u.net)}
	copy(out.grads.Values, u.grads.Values)
	copy(out.grads.Mean, u.grads.Mean)
	copy(out.grads.Var, u.grads.Var)
	must(t, u.eng.Update(u.grads, core.SGD{LR: 0.01, Momentum: 0.9, WeightDecay: 1e-4}))
	must(t, u.eng.GetState(out.state))
	out.logits = u.eval(t, u.batch)
	return out
}

func sameStep[F core.Float](t *testing.T, who string, got, want step[F]) {
	t.Helper()
	if got.metrics != want.metrics {
		t.Errorf("%s: metrics %+v, want %+v", who, got.metrics, want.metrics)
	}
	sameBits(t, who+": gradients", got.grads.Values, want.grads.Values)
	sameBits(t, who+": batch means", got.grads.Mean, want.grads.Mean)
	sameBits(t, who+": batch variances", got.grads.Var, want.grads.Var)
	sameState(t, got.state, want.state)
	sameBits(t, who+": logits", got.logits, want.logits)
}

func sameState[F core.Float](t *testing.T, got, want *core.State[F]) {
	t.Helper()
	sameBits(t, "parameters", got.Params, want.Params)
	sameBits(t, "momentum", got.Momentum, want.Momentum)
	sameBits(t, "running means", got.Mean, want.Mean)
	sameBits(t, "running variances", got.Var, want.Var)
}

func copyState[F core.Float](to, from *core.State[F]) {
	copy(to.Params, from.Params)
	copy(to.Momentum, from.Momentum)
	copy(to.Mean, from.Mean)
	copy(to.Var, from.Var)
}

// sameBits compares bit for bit: a zero differs from its negative, and a NaN equals itself.
func sameBits[F core.Float](t *testing.T, what string, got, want []F) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%s: %d values, want %d", what, len(got), len(want))
		return
	}
	differ, first := 0, -1
	for i := range want {
		if math.Float64bits(float64(got[i])) != math.Float64bits(float64(want[i])) {
			if differ++; first < 0 {
				first = i
			}
		}
	}
	if differ > 0 {
		t.Errorf("%s: %d of %d values differ in their bits, the first at %d: %v, want %v", what, differ, len(want), first, got[first], want[first])
	}
}
