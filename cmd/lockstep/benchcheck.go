package main

import (
	"errors"
	"fmt"
	"math"

	"github.com/lockstep-ml/lockstep/core"
	"github.com/lockstep-ml/lockstep/core/cpu"
	"github.com/lockstep-ml/lockstep/core/reference"
)

// deviation is how far the engine is from the float64 reference on one small batch, relative to the reference. The first layer's gradient
// comes last in the backward pass and so has seen every layer's, the last one's has seen every layer's forward pass.
type deviation struct {
	Loss  float64 `json:"loss_deviation"`
	First float64 `json:"first_gradient_deviation"` // of the first weights: norm of the difference over the norm
	Last  float64 `json:"last_gradient_deviation"`
}

// allowance is the largest deviation of the loss and of the gradients that the check lets pass.
type allowance struct{ loss, gradient float64 }

// allowances are ten times what float32 needs, or more, and a few times what bf16 does, which
// rounds every activation to 8 bits and so opens or shuts some ReLUs.
var allowances = map[core.Precision]allowance{
	core.FP32: {1e-5, 1e-4},
	core.BF16: {0.02, 0.5},
}

const checkTries = 3

// within is false for a NaN too.
func (d deviation) within(a allowance) bool {
	return d.Loss <= a.loss && d.First <= a.gradient && d.Last <= a.gradient
}

// checkImages and checkResolution keep the reference to seconds; the latter suits every network.
const checkImages = 2

func checkResolution(net *core.Network) int { return min(net.Resolution, 64) }

// checkEngine compares loss and gradients with the reference's.
func checkEngine(net *core.Network, threads int, p core.Precision) (deviation, error) {
	cfg := core.CompileConfig{Batch: checkImages, Resolution: checkResolution(net), Threads: threads, Precision: p}
	engine, err := cpu.New(net, cfg)
	if err != nil {
		return deviation{}, err
	}
	defer engine.Close() // nothing is lost by it
	cfg.Precision = core.FP32
	ref, err := reference.New[float64](net, cfg)
	if err != nil {
		return deviation{}, err
	}
	defer ref.Close() // nothing is lost by it
	return settle(allowances[p], func(seed uint64) (deviation, error) {
		return compare(net, engine, ref, synthetic(net, cfg.Batch, cfg.Resolution), seed)
	})
}

// settle tries several weights until one gives a deviation that passes: a single ReLU that a rounding error flips moves a gradient by a
// hundredth, but an engine that is wrong is wrong with all weights.
func settle(a allowance, try func(seed uint64) (deviation, error)) (d deviation, err error) {
	for seed := range uint64(checkTries) {
		if d, err = try(seed + 1); err != nil || d.within(a) {
			return d, err
		}
	}
	return d, fmt.Errorf("beside the reference, the engine's loss is off by %.1e (%.0e is allowed) and the gradient of the first and of the last weights by %.1e and %.1e (%.0e): "+
		"not timing a wrong result; LOCKSTEP_SIMD=generic tells whether it is the vector kernels", d.Loss, a.loss, d.First, d.Last, a.gradient)
}

// steady draws weights by He's initialisation and biases that open most ReLUs wide and shut the rest: every fourth channel. With
// biases of zero a deep network's gradient is chaotic, and float32 cannot tell what is right: the first gradient of ResNet-152 is off by
// a tenth.
func steady(net *core.Network, seed uint64) *core.State[float32] {
	s := core.NewState[float32](net)
	core.InitHe(net, seed, s)
	for _, p := range net.Params() {
		for i := range p.Len {
			if p.Kind == core.BNBias {
				s.Params[p.Offset+i] = 3
				if i%4 == 3 {
					s.Params[p.Offset+i] = -3
				}
			}
		}
	}
	return s
}

// compare runs one batch through both from the same weights.
func compare(net *core.Network, engine core.Engine[float32], ref core.Engine[float64], b core.Batch, seed uint64) (deviation, error) {
	state, exact := steady(net, seed), core.NewState[float64](net)
	for i, w := range state.Params {
		exact.Params[i] = float64(w)
	}
	if err := errors.Join(engine.SetState(state), ref.SetState(exact)); err != nil {
		return deviation{}, err
	}
	got, want := engine.NewGradients(), ref.NewGradients()
	m, err := engine.Train(b, got, core.Hooks{})
	if err != nil {
		return deviation{}, err
	}
	n, err := ref.Train(b, want, core.Hooks{})
	if err != nil {
		return deviation{}, err
	}
	first, last := outerWeights(net)
	off := func(p core.Param) float64 {
		return relative(got.Values[p.Offset:p.Offset+p.Len], want.Values[p.Offset:p.Offset+p.Len])
	}
	return deviation{Loss: math.Abs(m.LossSum/n.LossSum - 1), First: off(first), Last: off(last)}, nil
}

// outerWeights gives the weights of the first and of the last layer.
func outerWeights(net *core.Network) (first, last core.Param) {
	for _, p := range net.Params() {
		if p.Kind != core.ConvWeight && p.Kind != core.LinearWeight {
			continue
		}
		if first.Len == 0 {
			first = p
		}
		last = p
	}
	return first, last
}

// relative is the norm of the difference over the norm of what is wanted.
func relative(got []float32, want []float64) float64 {
	diff, norm := 0.0, 0.0
	for i, w := range want {
		d := float64(got[i]) - w
		diff, norm = diff+d*d, norm+w*w
	}
	return math.Sqrt(diff / norm)
}
