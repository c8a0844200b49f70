package core

import (
	"errors"
	"fmt"
	"math"
)

// Float is the arithmetic of an engine.
type Float interface{ float32 | float64 }

// Constants of batch normalisation, PyTorch's defaults (the paper names none).
const (
	BNEpsilon  = 1e-5 // added to the variance
	BNMomentum = 0.1  // share of the newest batch in the running statistics
)

// CompileConfig is what an engine is compiled for.
type CompileConfig struct {
	// Batch is the number of images of one call of Train, and the most of one call of Eval.
	Batch int
	// Resolution is the side of the images.
	Resolution int
	// Threads is how many cores to use; 0 means GOMAXPROCS. It never changes a result.
	Threads int
	// EvalOnly leaves out what only Train and Update need.
	EvalOnly bool
	// Precision is the arithmetic; empty means FP32. An engine refuses what it cannot do.
	Precision Precision
}

// Precision says what activations, their gradients and the weights of the convolutions are kept in. Sums, statistics, gradients of
// weights and the weights that an update works on have float32's precision, or more, in either case.
type Precision string

// The precisions, by the names that users give.
const (
	FP32 Precision = "fp32"
	BF16 Precision = "bf16"
)

// Validate reports a name that is none.
func (p Precision) Validate() error {
	switch p {
	case "", FP32, BF16:
		return nil
	}
	return fmt.Errorf("precision %q: the precisions are %s and %s", string(p), FP32, BF16)
}

// Validate reports every fault at once.
func (c CompileConfig) Validate() error {
	var errs []error
	if c.Batch < 1 || c.Resolution < 1 || c.Threads < 0 {
		errs = append(errs, fmt.Errorf("engine: batch %d, resolution %d, threads %d: the first two must be positive, the last not negative", c.Batch, c.Resolution, c.Threads))
	}
	if err := c.Precision.Validate(); err != nil {
		errs = append(errs, fmt.Errorf("engine: %w", err))
	}
	return errors.Join(errs...)
}

// CheckCompile reports what keeps an engine from being compiled, and gives every node's output shape: what an
// engine's constructor begins with. To train, batch normalisation needs two values or more in a channel: one has
// no unbiased variance.
func CheckCompile(n *Network, c CompileConfig) ([]Shape, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	shapes, err := n.Shapes(c.Resolution)
	if err != nil {
		return nil, fmt.Errorf("engine: network %s: %w", n.Name, err)
	}
	for _, norm := range n.Norms() {
		if s := shapes[norm.Node]; !c.EvalOnly && c.Batch*s.H*s.W < 2 {
			return nil, fmt.Errorf("engine: %s at batch %d and resolution %d: %s would normalise over a single value in each channel, which has no variance; use a larger batch or resolution",
				n.Name, c.Batch, c.Resolution, norm.Name)
		}
	}
	return shapes, nil
}

// State is everything that training changes, in the canonical layout (see the package comment).
type State[F Float] struct {
	Params   []F // ParamLen values
	Momentum []F // ParamLen values: v of SGD
	Mean     []F // NormLen values: running means
	Var      []F // NormLen values: running variances (unbiased)
}

// NewState allocates a zero state, with running variances of one.
func NewState[F Float](n *Network) *State[F] {
	s := &State[F]{
		Params: make([]F, n.ParamLen()), Momentum: make([]F, n.ParamLen()),
		Mean: make([]F, n.NormLen()), Var: make([]F, n.NormLen()),
	}
	for i := range s.Var {
		s.Var[i] = 1
	}
	return s
}

// Check reports a state that does not fit the network.
func (s *State[F]) Check(n *Network) error {
	if len(s.Params) != n.ParamLen() || len(s.Momentum) != n.ParamLen() || len(s.Mean) != n.NormLen() || len(s.Var) != n.NormLen() {
		return fmt.Errorf("state of %d parameters, %d momenta, %d means, %d variances does not fit %s, which has %d parameters and %d normalised channels",
			len(s.Params), len(s.Momentum), len(s.Mean), len(s.Var), n.Name, n.ParamLen(), n.NormLen())
	}
	return nil
}

// Gradients is what one replica's backward pass leaves for the ring, in the canonical layout. The engine that
// will fill it allocates it, so that an engine on a device may give memory that the device can write.
type Gradients[F Float] struct {
	Values []F // gradient of the batch's mean loss with respect to every parameter
	Mean   []F // the batch's mean of every normalised channel
	Var    []F // the batch's unbiased variance of every normalised channel
}

// Check reports gradients that do not fit the network.
func (g *Gradients[F]) Check(n *Network) error {
	if len(g.Values) != n.ParamLen() || len(g.Mean) != n.NormLen() || len(g.Var) != n.NormLen() {
		return fmt.Errorf("gradients of %d parameters, %d means, %d variances do not fit %s, which has %d parameters and %d normalised channels",
			len(g.Values), len(g.Mean), len(g.Var), n.Name, n.ParamLen(), n.NormLen())
	}
	return nil
}

// Batch is a batch of images as an engine takes it.
type Batch struct {
	Images []float32 // [N, 3, R, R], normalised
	Labels []int32   // N class numbers; may be nil for Eval
}

// Metrics adds up over the images of a batch.
type Metrics struct {
	Images   int
	LossSum  float64 // sum of the images' cross-entropies
	Correct1 int     // images whose label has the largest logit
	Correct5 int     // images whose label is among the five largest
}

// Add adds another batch's counts.
func (m *Metrics) Add(o Metrics) {
	m.Images += o.Images
	m.LossSum += o.LossSum
	m.Correct1 += o.Correct1
	m.Correct5 += o.Correct5
}

// SGD holds the hyper-parameters of one update, as PyTorch's torch.optim.SGD applies them (momentum without
// dampening, no Nesterov): v = Momentum*v + (g + WeightDecay*w); w = w - LR*v.
type SGD struct {
	LR          float64
	Momentum    float64
	WeightDecay float64 // on every parameter, as the paper and PyTorch do
}

// EngineInfo says what an engine is.
type EngineInfo struct {
	// Name is for people: "cpu, 2 threads, avx512".
	Name string
	// Numerics names the arithmetic: two engines of one Numerics give the same bits. It is part of a run's identity.
	Numerics string
	// ArenaBytes is the memory planned for activations and workspaces.
	ArenaBytes int64
}

// Hooks tell Train's caller how far it is. They are called from the goroutine that called Train, must not call the engine,
// and may be nil.
type Hooks struct {
	// Forward is called once, when the forward pass and the loss are done and the backward pass begins.
	Forward func()
	// Ready is called each time a run [lo, hi) of the gradient's Values is final. The runs do not overlap and
	// together cover everything.
	Ready func(lo, hi int)
}

// ForwardDone calls Forward if there is one.
func (h Hooks) ForwardDone() {
	if h.Forward != nil {
		h.Forward()
	}
}

// Final calls Ready if there is one.
func (h Hooks) Final(lo, hi int) {
	if h.Ready != nil {
		h.Ready(lo, hi)
	}
}

// Engine runs one compiled network. Its methods may not run concurrently with one another; all but Info may block
// for as long as the arithmetic takes. An engine computes every result in an order that depends on the compiled
// shapes alone, never on the number of threads.
type Engine[F Float] interface {
	Info() EngineInfo
	// SetState copies s into the engine.
	SetState(s *State[F]) error
	// GetState copies the engine's state into s.
	GetState(s *State[F]) error
	// NewGradients allocates room for one replica's gradients; a worker keeps one for each replica it hosts.
	NewGradients() *Gradients[F]
	// Train runs forward and backward passes on exactly Batch images and fills g, leaving the state as it was. The hooks tell how far it is. The images' loss and counts come back.
	Train(b Batch, g *Gradients[F], h Hooks) (Metrics, error)
	// Update applies one SGD step with the gradient g.Values, and moves the running statistics towards g.Mean and
	// g.Var by BNMomentum.
	Update(g *Gradients[F], h SGD) error
	// Eval runs the forward pass with running statistics on 1 to Batch images and writes [N, Classes] logits.
	// An image's logits do not depend on the others in the batch.
	Eval(b Batch, logits []F) error
	// Close frees the engine's memory and stops its threads; it may be called twice. After it, every other method
	// but Info returns an error.
	Close() error
}

// CheckBatch reports a batch that does not fit: n images wanted exactly, or at most when atMost is set.
// It returns the number of images.
func CheckBatch(net *Network, c CompileConfig, b Batch, train bool) (int, error) {
	per := net.Nodes[0].Channels * c.Resolution * c.Resolution
	n := len(b.Images) / per
	switch {
	case n*per != len(b.Images) || n == 0:
		return 0, fmt.Errorf("engine: %d image values are not a whole number of %dx%dx%d images", len(b.Images), net.Nodes[0].Channels, c.Resolution, c.Resolution)
	case train && n != c.Batch:
		return 0, fmt.Errorf("engine: batch of %d images, compiled for %d", n, c.Batch)
	case n > c.Batch:
		return 0, fmt.Errorf("engine: batch of %d images, compiled for at most %d", n, c.Batch)
	case (train || b.Labels != nil) && len(b.Labels) != n:
		return 0, fmt.Errorf("engine: %d labels for %d images", len(b.Labels), n)
	}
	for i, l := range b.Labels {
		if l < 0 || int(l) >= net.Classes {
			return 0, fmt.Errorf("engine: label %d of image %d is outside [0, %d)", l, i, net.Classes)
		}
	}
	return n, nil
}

// Score computes loss and counts from [N, classes] logits: cross-entropy as log-sum-exp in float64, one image
// after another. A tie is won by the lower class number, and a NaN beats every number, so an image whose own logit is NaN is
// never right. With a non-nil grad, it also writes the gradient of the
// mean loss with respect to the logits.
func Score[F Float](logits []F, labels []int32, classes int, grad []F) Metrics {
	m := Metrics{Images: len(labels)}
	for i, label := range labels {
		z := logits[i*classes : (i+1)*classes]
		top, rank := float64(z[0]), 0
		for c, v := range z {
			top = math.Max(top, float64(v))
			if !(v <= z[label]) || (v == z[label] && c < int(label)) {
				rank++
			}
		}
		sum := 0.0
		for _, v := range z {
			sum += math.Exp(float64(v) - top)
		}
		m.LossSum += math.Log(sum) + top - float64(z[label])
		if rank == 0 {
			m.Correct1++
		}
		if rank < min(5, classes) {
			m.Correct5++
		}
		if grad == nil {
			continue
		}
		for c, v := range z {
			p := math.Exp(float64(v)-top) / sum
			if c == int(label) {
				p--
			}
			grad[i*classes+c] = F(p / float64(len(labels)))
		}
	}
	return m
}
