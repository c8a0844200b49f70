package cpu

import (
	"fmt"

	"github.com/lockstep-ml/lockstep/core"
)

// compiler turns a network's nodes into units, the units into steps, and the tensors into places in the arena.
type compiler struct {
	e       *Engine
	net     *core.Network
	shapes  []core.Shape
	users   [][]int
	params  map[string]core.Param
	norms   map[int]core.Norm
	convs   map[int]*convUnit // by node
	values  []*tensor         // by node; nil inside a fused chain
	grads   []*tensor
	units   map[int]*normUnit  // by the node that ends a chain
	fused   map[int]*normChain // by the node that ends a chain
	inside  map[int]bool       // nodes that a chain swallowed
	undo    []func()           // backward steps of each unit, in forward order
	pending []func()           // weight gradients to be added
	groups  []span             // of images
	ahead   []fetch            // what the last normalisation's pass reads from memory
	apart   bool               // the next step must not join the last
	touched []*buffer
	roomLen int // bytes of room that a thread needs
	now     int // index of the step being added; parts of a step share it, so that their buffers do not overlap
}

// normChain is a normalisation with the sum and the ReLU that follow it.
type normChain struct {
	norm, short int // nodes; short is -1 without a sum
	relu        bool
}

// compile writes e's program and returns the buffers of its arena, placed but not allocated. What it costs does not grow with the batch.
func compile(e *Engine) ([]*buffer, error) {
	shapes, err := e.net.Shapes(e.cfg.Resolution)
	if err != nil {
		return nil, fmt.Errorf("cpu: %w", err)
	}
	if err := countable(e.net, e.cfg, shapes); err != nil {
		return nil, err
	}
	c := &compiler{e: e, net: e.net, shapes: shapes, users: make([][]int, len(shapes)), params: map[string]core.Param{},
		norms: map[int]core.Norm{}, convs: map[int]*convUnit{}, values: make([]*tensor, len(shapes)), grads: make([]*tensor, len(shapes)),
		units: map[int]*normUnit{}, fused: map[int]*normChain{}, inside: map[int]bool{}, groups: imageGroups(e.cfg.Batch)}
	for i, nd := range c.net.Nodes {
		for _, in := range nd.Inputs {
			c.users[in] = append(c.users[in], i)
		}
	}
	if err := c.check(); err != nil {
		return nil, err
	}
	for _, p := range c.net.Params() {
		c.params[p.Name] = p
	}
	for _, n := range c.net.Norms() {
		c.norms[n.Node] = n
	}
	e.groups = c.groups
	e.slots = newSlots(c.groups, e.cfg.Batch, e.cfg.Threads)
	c.lower()
	e.roomBytes = c.roomLen
	e.memory = e.measure(plan(c.touched))
	return c.touched, nil
}

// checkFleeting panics if something that lives within a step would be read in another.
func (c *compiler) checkFleeting(t *tensor) {
	if t != nil && t.fleeting && t.buf.first != t.buf.last {
		panic(fmt.Sprintf("cpu: network %s: a fleeting tensor of %d channels is used from step %d to %d", c.net.Name, t.c, t.buf.first, t.buf.last))
	}
}

// imageGroups cuts a batch for steps that go group by group.
func imageGroups(batch int) []span { return divide(batch, (batch-1)/minItems+1) }

func (c *compiler) check() error {
	last := len(c.net.Nodes) - 1
	for i, nd := range c.net.Nodes {
		if nd.Op == core.OpLinear && i != last {
			return fmt.Errorf("cpu: network %s: node %d (%s): a linear layer must be the last", c.net.Name, i, nd.Name)
		}
		if i != last && len(c.users[i]) == 0 {
			return fmt.Errorf("cpu: network %s: nothing reads node %d (%s %s)", c.net.Name, i, nd.Op, nd.Name)
		}
		if sh := c.shapes[i]; nd.Op == core.OpBatchNorm && !c.e.cfg.EvalOnly && c.e.cfg.Batch*sh.H*sh.W == 1 {
			return fmt.Errorf("cpu: network %s: node %d (%s) would normalise over a single value; take a larger batch or resolution", c.net.Name, i, nd.Name)
		}
		if nd.Op == core.OpMaxPool && nd.Pad >= nd.Kernel {
			return fmt.Errorf("cpu: network %s: node %d (%s): padding %d leaves windows of %d empty", c.net.Name, i, nd.Name, nd.Pad, nd.Kernel)
		}
	}
	return nil
}

func (c *compiler) lower() {
	for i, nd := range c.net.Nodes {
		c.chain(i, nd)
	}
	for i, nd := range c.net.Nodes {
		if ch := c.fused[i]; ch != nil {
			c.lowerNorm(i, ch)
		} else if !c.inside[i] {
			c.lowerNode(i, nd)
		}
	}
	if !c.e.cfg.EvalOnly {
		for i := len(c.undo) - 1; i >= 0; i-- {
			c.undo[i]()
		}
		c.flush()
		c.announce()
	}
	for i, t := range c.values {
		c.checkFleeting(t)
		if u := c.units[i]; u != nil {
			c.checkFleeting(u.again)
		}
	}
}

// chain finds what a normalisation can take in: a sum that nothing else has taken, then a ReLU; each only when
// nobody else reads what is between.
func (c *compiler) chain(i int, nd core.Node) {
	if nd.Op != core.OpBatchNorm {
		return
	}
	ch, end := &normChain{norm: i, short: -1}, i
	next := func() int {
		if len(c.users[end]) == 1 {
			return c.users[end][0]
		}
		return 0
	}
	if n := next(); c.net.Nodes[n].Op == core.OpAdd && !c.inside[n] && c.fused[n] == nil {
		ch.short = c.net.Nodes[n].Inputs[0] + c.net.Nodes[n].Inputs[1] - i
		c.inside[end] = true
		end = n
	}
	if n := next(); c.net.Nodes[n].Op == core.OpReLU {
		ch.relu = true
		c.inside[end] = true
		end = n
	}
	c.fused[end] = ch
}

// value makes the tensor of a node's output, with the border that the convolutions that read it want.
func (c *compiler) value(i int) *tensor {
	halo := 0
	for _, u := range c.users[i] {
		if nd := c.net.Nodes[u]; nd.Op == core.OpConv {
			halo = max(halo, nd.Pad)
		}
	}
	s := c.shapes[i]
	if c.fleeting(i) {
		c.values[i] = newTensor(c.e.slots.number, s.C, s.H, s.W, halo, c.px(i))
		c.values[i].fleeting = true
	} else {
		c.values[i] = newTensor(c.e.cfg.Batch, s.C, s.H, s.W, halo, c.px(i))
	}
	return c.values[i]
}

// px is the bytes of a pixel of a node's output. The features that only the fully connected layer reads are float32 at any precision.
func (c *compiler) px(i int) int {
	features := c.net.Nodes[i].Op == core.OpGlobalAvgPool
	for _, u := range c.users[i] {
		features = features && c.net.Nodes[u].Op == core.OpLinear
	}
	if features {
		return pixelBytes
	}
	return c.e.px
}

// fleeting says whether a node's output need not be kept: one convolution reads it, right after it is made, and it can be made
// again from the output of the convolution before when the gradient of the weights asks for it.
func (c *compiler) fleeting(i int) bool {
	ch := c.fused[i]
	if ch == nil || ch.short >= 0 || len(c.users[i]) != 1 || c.e.slots.number == 0 {
		return false
	}
	nd := c.net.Nodes[c.users[i][0]]
	return nd.Op == core.OpConv && nd.Stride == 1 && summedTogether(blocksOf(c.shapes[i].C), blocksOf(nd.Channels), nd.Kernel*nd.Kernel)
}

// gradient gives the tensor of the gradient of a node's output, and whether a contribution must be added to what is
// there.
func (c *compiler) gradient(i int) (t *tensor, add bool) {
	if c.grads[i] == nil {
		s, halo := c.shapes[i], 0
		if u := c.convs[c.gradientOf(i)]; u != nil {
			halo = u.gradHalo()
		}
		c.grads[i] = newTensor(c.e.cfg.Batch, s.C, s.H, s.W, halo, c.px(i))
	}
	t = c.grads[i]
	add = t.contributors > 0
	t.contributors++
	return t, add
}

// gradientOf is the node whose gradient will take the place of node i's in one buffer: what is under a chain without a shortcut,
// whose gradient is worked out pixel by pixel; else i itself.
func (c *compiler) gradientOf(i int) int {
	ch := c.fused[i]
	if ch == nil || ch.short >= 0 {
		return i
	}
	if from := c.net.Nodes[ch.norm].Inputs[0]; len(c.users[from]) == 1 {
		return from
	}
	return i
}

// touch says that the next step uses a buffer.
func (c *compiler) touch(bufs ...*buffer) {
	for _, b := range bufs {
		if b.first < 0 {
			b.first = c.now
			c.touched = append(c.touched, b)
		}
		b.last = c.now
	}
}

// forward adds a step to the forward pass, backward one to the backward pass.
func (c *compiler) forward(s step, uses ...*tensor) {
	c.add(&c.e.fwd, s, uses)
}

func (c *compiler) backward(s step, uses ...*tensor) {
	c.add(&c.e.bwd, s, uses)
}

// add appends a step, or joins it to the last one where both are over images. An engine that only evaluates has
// no use for the steps that train; but nothing joins across them, for buffers of one step share no memory.
func (c *compiler) add(list *[]step, s step, uses []*tensor) {
	if s.trains && c.e.cfg.EvalOnly {
		c.apart = true
		return
	}
	last := len(*list) - 1
	if join := last >= 0 && !c.apart && s.parts != nil && (*list)[last].parts != nil && (*list)[last].trains == s.trains; join {
		(*list)[last].join(s)
	} else {
		*list = append(*list, s)
		c.now++
		c.apart = false
	}
	for _, t := range uses {
		if t != nil {
			c.touch(t.buf)
			last := &(*list)[len(*list)-1]
			last.charge(work{bytes: int64(t.images) * int64(t.image)})
			last.bound = last.bound || t.fleeting
		}
	}
}

// announce sets when runs of gradients are told to the caller: the flat vector's end first, each run as soon as
// everything behind it is final.
func (c *compiler) announce() {
	hi := c.net.ParamLen()
	final := make(map[int]int) // end of a run to its start
	for i := range c.e.bwd {
		s := &c.e.bwd[i]
		for _, p := range c.e.finals[i] {
			final[p.Offset+p.Len] = p.Offset
		}
		lo := hi
		for start, ok := final[lo]; ok; start, ok = final[lo] {
			lo = start
		}
		s.readyLo, s.readyHi = lo, hi
		hi = lo
	}
	if hi != 0 {
		panic(fmt.Sprintf("cpu: gradients below %d are never final", hi))
	}
}

// finals notes parameters whose gradients the step just added completes.
func (c *compiler) final(ps ...core.Param) {
	c.e.finals[len(c.e.bwd)-1] = append(c.e.finals[len(c.e.bwd)-1], ps...)
}
