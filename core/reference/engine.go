package reference

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"github.com/lockstep-ml/lockstep/core"
)

// Engine implements core.Engine. All memory for activations is its own; a value in [N, C, H, W] order stands for
// every node of the network.
type Engine[F core.Float] struct {
	net     *core.Network
	cfg     core.CompileConfig
	shapes  []core.Shape
	params  [][]core.Param // of every node, in its order
	norms   []core.Norm    // of every node; meaningful where it is a batch normalisation
	state   *core.State[F]
	threads int
	closed  bool

	out     [][]F     // every node's output
	winners [][]int32 // of every max-pool: the input index within its channel that won each output
	mean    []float64 // batch statistics of the last forward pass, by core.Norm's offsets
	invStd  []float64 // 1 / sqrt(biased variance + epsilon)
	grads   [][]F     // gradient with respect to every node's output; nil outside of its span in the backward pass
	spare   map[int][][]F
}

var _ core.Engine[float64] = (*Engine[float64])(nil)

var errClosed = errors.New("reference engine: closed")

// ErrNoBF16 is why New refuses that precision: it would hide what others are compared with.
var ErrNoBF16 = errors.New("reference engine: bf16 is a precision of faster engines")

// New compiles the network. The engine starts from core.NewState: set a state before using it.
func New[F core.Float](net *core.Network, cfg core.CompileConfig) (*Engine[F], error) {
	shapes, err := core.CheckCompile(net, cfg)
	if err != nil {
		return nil, err
	}
	if cfg.Precision == core.BF16 {
		return nil, ErrNoBF16
	}
	e := &Engine[F]{
		net: net, cfg: cfg, shapes: shapes, threads: cfg.Threads, state: core.NewState[F](net),
		params: make([][]core.Param, len(shapes)), norms: make([]core.Norm, len(shapes)),
		out: make([][]F, len(shapes)), winners: make([][]int32, len(shapes)), grads: make([][]F, len(shapes)),
		mean: make([]float64, net.NormLen()), invStd: make([]float64, net.NormLen()), spare: make(map[int][][]F),
	}
	if e.threads == 0 {
		e.threads = runtime.GOMAXPROCS(0)
	}
	for i, s := range shapes {
		e.out[i] = make([]F, cfg.Batch*s.Len())
		if net.Nodes[i].Op == core.OpMaxPool {
			e.winners[i] = make([]int32, cfg.Batch*s.Len())
		}
	}
	for _, p := range net.Params() {
		e.params[p.Node] = append(e.params[p.Node], p)
	}
	for _, n := range net.Norms() {
		e.norms[n.Node] = n
	}
	return e, nil
}

// Info implements core.Engine.
func (e *Engine[F]) Info() core.EngineInfo {
	var zero F
	bits, values := 8*unsafe.Sizeof(zero), 0
	for _, o := range e.out {
		values += len(o)
	}
	return core.EngineInfo{
		Name:       fmt.Sprintf("reference, float%d, %d threads", bits, e.threads),
		Numerics:   fmt.Sprintf("reference-float%d", bits),
		ArenaBytes: int64(values) * int64(unsafe.Sizeof(zero)),
	}
}

// SetState implements core.Engine.
func (e *Engine[F]) SetState(s *core.State[F]) error {
	if e.closed {
		return errClosed
	}
	if err := s.Check(e.net); err != nil {
		return fmt.Errorf("reference engine: %w", err)
	}
	copyState(e.state, s)
	return nil
}

// GetState implements core.Engine.
func (e *Engine[F]) GetState(s *core.State[F]) error {
	if e.closed {
		return errClosed
	}
	if err := s.Check(e.net); err != nil {
		return fmt.Errorf("reference engine: %w", err)
	}
	copyState(s, e.state)
	return nil
}

func copyState[F core.Float](to, from *core.State[F]) {
	copy(to.Params, from.Params)
	copy(to.Momentum, from.Momentum)
	copy(to.Mean, from.Mean)
	copy(to.Var, from.Var)
}

// NewGradients implements core.Engine.
func (e *Engine[F]) NewGradients() *core.Gradients[F] {
	return &core.Gradients[F]{
		Values: make([]F, e.net.ParamLen()),
		Mean:   make([]F, e.net.NormLen()),
		Var:    make([]F, e.net.NormLen()),
	}
}

// Train implements core.Engine.
func (e *Engine[F]) Train(b core.Batch, g *core.Gradients[F], h core.Hooks) (core.Metrics, error) {
	if err := e.trainable(g); err != nil {
		return core.Metrics{}, err
	}
	n, err := core.CheckBatch(e.net, e.cfg, b, true)
	if err != nil {
		return core.Metrics{}, err
	}
	e.forward(b.Images, n, true, g)
	last := len(e.out) - 1
	m := core.Score(e.out[last], b.Labels, e.net.Classes, e.gradient(last))
	h.ForwardDone()
	e.backward(g, h)
	return m, nil
}

// Update implements core.Engine.
func (e *Engine[F]) Update(g *core.Gradients[F], h core.SGD) error {
	if err := e.trainable(g); err != nil {
		return err
	}
	lr, momentum, decay := F(h.LR), F(h.Momentum), F(h.WeightDecay)
	for i, w := range e.state.Params {
		v := F(momentum*e.state.Momentum[i]) + (g.Values[i] + F(decay*w))
		e.state.Momentum[i] = v
		e.state.Params[i] = w - F(lr*v)
	}
	for i := range e.state.Mean {
		e.state.Mean[i] = F(core.BNMomentum*g.Mean[i]) + F((1-core.BNMomentum)*e.state.Mean[i])
		e.state.Var[i] = F(core.BNMomentum*g.Var[i]) + F((1-core.BNMomentum)*e.state.Var[i])
	}
	return nil
}

func (e *Engine[F]) trainable(g *core.Gradients[F]) error {
	switch {
	case e.closed:
		return errClosed
	case e.cfg.EvalOnly:
		return errors.New("reference engine: compiled for evaluation only; compile it without EvalOnly to train")
	}
	if err := g.Check(e.net); err != nil {
		return fmt.Errorf("reference engine: %w", err)
	}
	return nil
}

// Eval implements core.Engine.
func (e *Engine[F]) Eval(b core.Batch, logits []F) error {
	if e.closed {
		return errClosed
	}
	n, err := core.CheckBatch(e.net, e.cfg, b, false)
	if err != nil {
		return err
	}
	if len(logits) != n*e.net.Classes {
		return fmt.Errorf("reference engine: room for %d logits, %d images have %d", len(logits), n, n*e.net.Classes)
	}
	e.forward(b.Images, n, false, nil)
	copy(logits, e.out[len(e.out)-1])
	return nil
}

// Output gives what the newest pass left as a node's output for its n images, [n, C, H, W]. It is the engine's own memory, which the
// next pass overwrites. Nothing is fused here, so every node has one.
func (e *Engine[F]) Output(node, n int) []F {
	if e.closed {
		return nil
	}
	return e.out[node][:n*e.shapes[node].Len()]
}

// Close implements core.Engine. It lets go of the memory; there are no threads between calls.
func (e *Engine[F]) Close() error {
	e.closed = true
	e.state, e.out, e.winners, e.grads, e.spare = nil, nil, nil, nil, nil
	return nil
}
