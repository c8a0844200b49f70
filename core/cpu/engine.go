package cpu

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"github.com/lockstep-ml/lockstep/core"
)

// Numerics and NumericsBF16 name the arithmetic of this engine at either precision, whatever kernels and threads it uses.
const (
	Numerics     = "float32 fused blocks of 16, version 3"
	NumericsBF16 = "bf16 pairs into float32 sums, blocks of 16, version 1"
)

// Engine is a network compiled for one batch size and resolution. Its methods may not run concurrently.
//
// The rejected designs: a graph executor that walks the nodes for every batch (it allocates, and it cannot
// fuse), and one goroutine for each piece of work (starting them costs more than a small layer takes).
type Engine struct {
	net       *core.Network
	cfg       core.CompileConfig
	kern      *kernels
	bf        *bfKernels // nil in float32
	act       *passes    // over activations and their gradients
	math      arithmetic // of the convolutions
	px        int        // bytes of a pixel of an activation
	pool      *pool
	arena     []float32
	free      func() error // gives the arena back
	memory    Memory
	roomBytes int // of every thread's room
	state     *core.State[float32]

	fwd, bwd []step
	finals   map[int][]core.Param // by backward step
	convs    []*convUnit
	norms    []*normUnit
	linear   *linearUnit
	relays   []relay
	relayJob func(item, thread int)
	sgdJob   func(item, thread int)
	scratch  []scratch
	groups   []span // of images
	slots    slots

	// The call in progress.
	n               int
	training        bool
	byGroup         bool // the step in progress goes group by group
	images          []float32
	grads           *core.Gradients[float32]
	logits, dLogits []float32
	trainLogits     []float32
	sgd             sgdArgs
	closed          bool
}

// scratch is one thread's kernel arguments, padded so that two threads share no cache line.
type scratch struct {
	conv      convArgs
	ahead     ahead
	wgrad     wgradArgs
	ew        ewArgs
	sgd       sgdArgs
	transpose transposeArgs
	image     imageArgs
	pixel     pixelArgs
	winograd  winogradArgs
	pool      poolArgs
	vector    vector
	bf        *bfKernels
	bfConv    bfConvArgs
	bfWgrad   bfWgradArgs
	bfPair    bfPairArgs
	bfWeight  bfWeightArgs
	room      []float32 // what an item of work may use till its end, see take
	used      int       // bytes of it
	_         [64]byte
}

// relay is a piece of the work of laying weights out in blocks.
type relay struct {
	conv  *convUnit
	block int // of output channels
}

// sgdChunk is how many weights one item of an update treats.
const sgdChunk = 1 << 14

var errClosed = errors.New("cpu: the engine is closed")

// New compiles net. It fails when the configuration is not valid, when the network cannot take the resolution, when LOCKSTEP_SIMD asks
// for kernels that the machine cannot run, with ErrNoBF16 when it cannot run that precision, and with ErrMemory, before it takes any, when
// memory does not suffice.
func New(net *core.Network, cfg core.CompileConfig) (*Engine, error) {
	k, bf, err := chooseFor(cfg.Precision)
	if err != nil {
		return nil, err
	}
	return newEngine(net, cfg, k, bf)
}

// chooseFor picks the kernels for a precision; bf is nil for float32.
func chooseFor(p core.Precision) (k *kernels, bf *bfKernels, err error) {
	if p == core.BF16 {
		if bf, err = requireBF(); err != nil {
			return nil, nil, err
		}
		return bf.like, bf, nil
	}
	k, err = choose()
	return k, nil, err
}

func newEngine(net *core.Network, cfg core.CompileConfig, k *kernels, bf *bfKernels) (*Engine, error) {
	return newEngineWithin(net, cfg, k, bf, availableMemory)
}

// newEngineWithin compiles for bf16 where there are kernels for it, for float32 else. It asks available how many bytes there are, if
// anybody knows.
func newEngineWithin(net *core.Network, cfg core.CompileConfig, k *kernels, bf *bfKernels, available func() (int64, bool)) (*Engine, error) {
	e, buffers, err := lay(net, cfg, k, bf)
	if err != nil {
		return nil, err
	}
	if have, known := available(); known && e.memory.Total() > have {
		return nil, refuse(e, have)
	}
	if err := e.allocate(buffers); err != nil {
		return nil, err
	}
	e.planRelays()
	e.relayState()
	return e, nil
}

// lay makes an engine that has its program, and the plan of its memory, but no memory.
func lay(net *core.Network, cfg core.CompileConfig, k *kernels, bf *bfKernels) (*Engine, []*buffer, error) {
	if err := cfg.Validate(); err != nil {
		return nil, nil, err
	}
	if cfg.Threads == 0 {
		cfg.Threads = runtime.GOMAXPROCS(0)
	}
	e := &Engine{net: net, cfg: cfg, kern: k, pool: newPool(cfg.Threads), finals: map[int][]core.Param{}, scratch: make([]scratch, cfg.Threads), bf: bf}
	e.math, e.act, e.px = floats{k}, &k.passes, pixelBytes
	if bf != nil {
		e.math, e.act, e.px = halves{bf}, &bf.passes, bfPixelBytes
	}
	buffers, err := compile(e)
	return e, buffers, err
}

// allocate makes the memory that was planned.
func (e *Engine) allocate(buffers []*buffer) (err error) {
	if e.arena, e.free, err = allocate(int(e.memory.Arena / 4)); err != nil {
		return err
	}
	place(buffers, e.arena)
	e.state = core.NewState[float32](e.net)
	for _, u := range e.convs {
		u.allocate()
	}
	for _, u := range e.norms {
		u.allocate()
	}
	for i := range e.scratch {
		e.scratch[i].bf, e.scratch[i].room = e.bf, aligned(e.roomBytes/4)
	}
	e.slots.allocate(e.groups, e.cfg.Batch)
	for _, list := range [][]step{e.fwd, e.bwd} {
		for i := range list {
			list[i].close(e)
		}
	}
	e.trainLogits = make([]float32, e.cfg.Batch*e.net.Classes)
	e.dLogits = make([]float32, e.cfg.Batch*e.net.Classes)
	return nil
}

// Info describes the engine.
func (e *Engine) Info() core.EngineInfo {
	info := core.EngineInfo{
		Name:       fmt.Sprintf("cpu, %d threads, %s", e.cfg.Threads, e.kern.name),
		Numerics:   Numerics,
		ArenaBytes: int64(len(e.arena)) * 4,
	}
	if e.bf != nil {
		info.Name, info.Numerics = fmt.Sprintf("cpu, %d threads, bf16 by %s", e.cfg.Threads, e.bf.name), NumericsBF16
	}
	return info
}

// SetState copies s into the engine.
func (e *Engine) SetState(s *core.State[float32]) error {
	if e.closed {
		return errClosed
	}
	if err := s.Check(e.net); err != nil {
		return err
	}
	copyState(e.state, s)
	e.relayState()
	return nil
}

// GetState copies the engine's state into s.
func (e *Engine) GetState(s *core.State[float32]) error {
	if e.closed {
		return errClosed
	}
	if err := s.Check(e.net); err != nil {
		return err
	}
	copyState(s, e.state)
	return nil
}

func copyState(dst, src *core.State[float32]) {
	copy(dst.Params, src.Params)
	copy(dst.Momentum, src.Momentum)
	copy(dst.Mean, src.Mean)
	copy(dst.Var, src.Var)
}

// NewGradients allocates room for one replica's gradients.
func (e *Engine) NewGradients() *core.Gradients[float32] {
	return &core.Gradients[float32]{Values: aligned(e.net.ParamLen()), Mean: make([]float32, e.net.NormLen()), Var: make([]float32, e.net.NormLen())}
}

func (e *Engine) checkGradients(g *core.Gradients[float32]) error {
	if e.closed {
		return errClosed
	}
	if e.cfg.EvalOnly {
		return errors.New("cpu: the engine was compiled for evaluation only")
	}
	if len(g.Values) != e.net.ParamLen() || len(g.Mean) != e.net.NormLen() || len(g.Var) != e.net.NormLen() {
		return fmt.Errorf("cpu: gradients of %d values, %d means and %d variances do not fit %s", len(g.Values), len(g.Mean), len(g.Var), e.net.Name)
	}
	return nil
}

// Train runs the forward and the backward pass on one batch; see core.Engine.
func (e *Engine) Train(b core.Batch, g *core.Gradients[float32], h core.Hooks) (core.Metrics, error) {
	if err := e.checkGradients(g); err != nil {
		return core.Metrics{}, err
	}
	if _, err := core.CheckBatch(e.net, e.cfg, b, true); err != nil {
		return core.Metrics{}, err
	}
	e.begin(b.Images, e.cfg.Batch, e.trainLogits, true)
	e.grads = g
	for i := range e.fwd {
		e.fwd[i].run(e)
	}
	m := core.Score(e.logits, b.Labels, e.net.Classes, e.dLogits)
	h.ForwardDone()
	for i := range e.bwd {
		s := &e.bwd[i]
		s.run(e)
		if s.readyLo < s.readyHi {
			h.Final(s.readyLo, s.readyHi)
		}
	}
	e.end()
	return m, nil
}

func (e *Engine) begin(images []float32, n int, logits []float32, training bool) {
	e.images, e.n, e.logits, e.training = images, n, logits, training
}

// end lets go of the caller's memory.
func (e *Engine) end() { e.images, e.logits, e.grads = nil, nil, nil }

// Eval runs the forward pass with running statistics; see core.Engine.
func (e *Engine) Eval(b core.Batch, logits []float32) error {
	if e.closed {
		return errClosed
	}
	n, err := core.CheckBatch(e.net, e.cfg, b, false)
	if err != nil {
		return err
	}
	if len(logits) != n*e.net.Classes {
		return fmt.Errorf("cpu: room for %d logits, %d images of %d classes need %d", len(logits), n, e.net.Classes, n*e.net.Classes)
	}
	for _, u := range e.norms {
		u.running(e.state)
	}
	e.begin(b.Images, n, logits, false)
	for i := range e.fwd {
		if s := &e.fwd[i]; !s.trains {
			s.run(e)
		}
	}
	e.end()
	return nil
}

// Update applies one step of SGD: v = momentum*v + (decay*w + g), w = w - lr*v, each product fused with its sum and
// rounded once to float32; then the running statistics move by core.BNMomentum.
func (e *Engine) Update(g *core.Gradients[float32], h core.SGD) error {
	if err := e.checkGradients(g); err != nil {
		return err
	}
	e.grads = g
	e.sgd = sgdArgs{decay: float32(h.WeightDecay), momentum: float32(h.Momentum), negLR: float32(-h.LR)}
	e.pool.run((len(g.Values)+sgdChunk-1)/sgdChunk, e.sgdJob)
	move(e.state.Mean, g.Mean)
	move(e.state.Var, g.Var)
	e.end()
	e.relayState()
	return nil
}

func move(running, batch []float32) {
	for i, v := range batch {
		running[i] = float32((1-core.BNMomentum)*running[i]) + float32(core.BNMomentum*v)
	}
}

func (e *Engine) updateChunk(item, thread int) {
	from := item * sgdChunk
	to := min(from+sgdChunk, len(e.grads.Values))
	a := &e.scratch[thread].sgd
	*a = e.sgd
	a.w, a.v, a.g = unsafe.Pointer(&e.state.Params[from]), unsafe.Pointer(&e.state.Momentum[from]), unsafe.Pointer(&e.grads.Values[from])
	a.n = to - from
	e.kern.sgd(a)
}

func (e *Engine) lay(r relay, thread int) {
	e.scratch[thread].used = 0
	r.conv.math.relay(e, r.conv, r.block, thread)
}

func (e *Engine) planRelays() {
	for _, u := range e.convs {
		for b := range u.outCB {
			e.relays = append(e.relays, relay{u, b})
		}
	}
	e.sgdJob = e.updateChunk
	e.relayJob = func(item, thread int) { e.lay(e.relays[item], thread) }
}

// relayState lays the parameters out as the kernels want them.
func (e *Engine) relayState() {
	e.pool.run(len(e.relays), e.relayJob)
	for _, u := range e.norms {
		u.load(e.state.Params)
	}
}

// Close ends the engine's threads and lets its memory go; it may be called twice.
func (e *Engine) Close() error {
	if e.closed {
		return nil
	}
	e.closed = true
	e.pool.close()
	e.fwd, e.bwd, e.convs, e.norms, e.linear, e.arena = nil, nil, nil, nil, nil, nil
	if err := e.free(); err != nil {
		return fmt.Errorf("cpu: giving the arena back: %w", err)
	}
	return nil
}
