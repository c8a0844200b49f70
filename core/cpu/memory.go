package cpu

import (
	"errors"
	"fmt"
	"strings"

	"github.com/lockstep-ml/lockstep/core"
)

// Memory is what an engine takes, in bytes, with the gradients of one replica; a worker that hosts more adds Gradients for each. The
// caller's images, the program itself and what the Go runtime keeps in reserve are not counted.
type Memory struct {
	Arena      int64 // activations, their gradients, partial sums of the weights' gradients
	Weights    int64
	Momentum   int64
	Gradients  int64 // zero for evaluation only
	LaidOut    int64 // the weights as the kernels want them
	Statistics int64 // running and batch statistics, sums for them, logits; the threads' room
}

// Total is all of it.
func (m Memory) Total() int64 {
	return m.Arena + m.Weights + m.Momentum + m.Gradients + m.LaidOut + m.Statistics
}

// String gives the total, and what it is made of in falling order of what one can change.
func (m Memory) String() string {
	gib := func(n int64) float64 { return float64(n) / (1 << 30) }
	return fmt.Sprintf("%.1f GiB (activations %.1f, weights and momentum %.1f, laid out for the kernels %.1f, gradients %.1f, statistics %.1f)",
		gib(m.Total()), gib(m.Arena), gib(m.Weights+m.Momentum), gib(m.LaidOut), gib(m.Gradients), gib(m.Statistics))
}

// ErrMemory is in the error of an engine that would not fit.
var ErrMemory = errors.New("cpu: not enough memory")

// Plan tells what an engine compiled for cfg would take, and takes none of it.
func Plan(net *core.Network, cfg core.CompileConfig) (Memory, error) {
	k, bf, err := chooseFor(cfg.Precision)
	if err != nil {
		return Memory{}, err
	}
	e, _, err := lay(net, cfg, k, bf)
	if err != nil {
		return Memory{}, err
	}
	return e.memory, nil
}

// measure adds up what the program needs beside an arena of so many float32s.
func (e *Engine) measure(arena int) Memory {
	params, norms := int64(e.net.ParamLen()), int64(e.net.NormLen())
	m := Memory{Arena: 4 * int64(arena), Weights: 4 * params, Momentum: 4 * params, Statistics: 4 * 2 * norms}
	if !e.cfg.EvalOnly {
		m.Gradients = 4 * (params + 2*norms)
	}
	for _, u := range e.convs {
		m.LaidOut += int64(u.math.weightBytes(u.lenFwd) + u.math.weightBytes(u.lenBwd))
	}
	for _, u := range e.norms {
		m.Statistics += int64(u.bytes())
	}
	m.Statistics += 2 * 4 * int64(e.cfg.Batch) * int64(e.net.Classes)
	m.Statistics += int64(e.roomBytes) * int64(e.cfg.Threads)
	return m
}

// maxActivations bounds the activations of a batch: far beyond any machine, and small enough for every count of bytes to be right.
const maxActivations = 1 << 42

// countable refuses what is too large to plan for.
func countable(net *core.Network, cfg core.CompileConfig, shapes []core.Shape) error {
	values := 0.0
	for _, s := range shapes {
		values += float64(blocksOf(s.C)*lanes) * float64(s.H) * float64(s.W)
	}
	if need := 4 * values * float64(cfg.Batch); !(need <= maxActivations) {
		return fmt.Errorf("%w: %s at batch %d has some %.0f TiB of activations; take a smaller batch", ErrMemory, net.Name, cfg.Batch, need/(1<<40))
	}
	return nil
}

// refuse says what e would need of the memory there is, and with which batch it would do.
func refuse(e *Engine, available int64) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s at batch %d needs %v, this machine has %.1f GiB available; ", e.net.Name, e.cfg.Batch, e.memory, float64(available)/(1<<30))
	if n := largestBatch(e, available); n > 0 {
		fmt.Fprintf(&b, "take a smaller batch (about %d fit)", n)
	} else {
		b.WriteString("no batch is small enough: take a smaller network or another machine, or end what else runs here")
	}
	return fmt.Errorf("%w: %s", ErrMemory, b.String())
}

// largestBatch looks for the largest batch below e's that fits; 0 if none does. What it returns was planned, and fits.
func largestBatch(e *Engine, available int64) int {
	fits, over := 0, e.cfg.Batch
	for fits+1 < over {
		cfg := e.cfg
		cfg.Batch = fits + (over-fits)/2
		if small, _, err := lay(e.net, cfg, e.kern, e.bf); err == nil && small.memory.Total() <= available {
			fits = cfg.Batch
		} else {
			over = cfg.Batch
		}
	}
	return fits
}
