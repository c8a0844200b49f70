package cpu

import "github.com/lockstep-ml/lockstep/core"

func (c *compiler) lowerNode(i int, nd core.Node) {
	switch nd.Op {
	case core.OpInput:
		c.lowerInput(i)
	case core.OpConv:
		c.lowerConv(i, nd)
	case core.OpReLU:
		c.lowerReLU(i, nd)
	case core.OpMaxPool:
		c.lowerMaxPool(i, nd)
	case core.OpAdd:
		c.lowerAdd(i, nd)
	case core.OpPadShortcut:
		c.lowerPad(i, nd)
	case core.OpGlobalAvgPool:
		c.lowerAvgPool(i, nd)
	case core.OpLinear:
		c.lowerLinear(nd)
	default:
		panic("cpu: no kernel for " + nd.Op.String())
	}
}

func (c *compiler) lowerInput(i int) {
	u := &inputUnit{out: c.value(i)}
	c.room(roomForRows(1, u.out))
	c.forward(perImage("input", u.out.blocks, c.job(u.forward)), u.out)
}

// room asks for so many bytes of room on every thread.
func (c *compiler) room(bytes int) { c.roomLen = max(c.roomLen, bytes) }

// job binds an engine to a unit's method.
func (c *compiler) job(f func(e *Engine, item, thread int)) func(item, thread int) {
	e := c.e
	return func(item, thread int) { f(e, item, thread) }
}

func (c *compiler) lowerConv(i int, nd core.Node) {
	in, y := c.values[nd.Inputs[0]], c.value(i)
	u := newConv(c.params[nd.Name+".weight"], nd, in, y, c.arithmetic(nd, in, y))
	c.convs[i] = u
	c.e.convs = append(c.e.convs, u)
	c.convForward(u, nd.Name, perImage(nd.Name, len(u.outs), c.job(u.forward)))
	c.undo = append(c.undo, func() {
		u.dy = c.grads[i]
		if nd.Inputs[0] != 0 {
			u.dx, u.addDX = c.gradient(nd.Inputs[0])
		}
		c.convBackward(u, nd.Inputs[0], nd.Name, perImage(nd.Name+" data", len(u.ins), c.job(u.backwardData)))
	})
}

// arithmetic chooses a convolution's by its shape.
func (c *compiler) arithmetic(nd core.Node, in, y *tensor) arithmetic {
	if f, ok := c.e.math.(floats); ok && suits(nd.Kernel, nd.Stride, nd.Pad, in, y) {
		return winograd{f}
	}
	return c.e.math
}

// convForward adds the steps of a convolution, of which run computes the products.
func (c *compiler) convForward(u *convUnit, name string, run step) {
	c.room(u.planForward())
	if u.planes != nil {
		c.forward(perImage(name+" split", u.inCB, c.job(u.splitImage)), u.in, u.src)
	}
	u.fwdAhead = c.takeAhead()
	c.forward(u.product(run), u.src, u.y)
}

// convBackward adds the gradient of a convolution's input, which data computes, and that of its weights: group by group in the
// same step where the sums are few, so that dy is still in the cache; else it is left for later, and the steps over images join on.
func (c *compiler) convBackward(u *convUnit, in int, name string, data step) {
	if u.dx != nil {
		c.room(u.planBackward())
		u.bwdAhead = c.takeAhead()
		if before := c.units[in]; before != nil {
			u.bwdAhead = fetching(u.bwdAhead, true, before.y, before.out)
		}
		c.backward(u.product(data), u.dy, u.dx)
	}
	w, x := &u.weights, u.src
	if u.in.fleeting {
		x = c.makeAgain(in, name)
	}
	w.x = x
	if u.y.images != c.e.cfg.Batch || !summedTogether(u.inCB, u.outCB, u.kk) {
		c.room(u.planWeightGradient(nil))
		c.pending = append(c.pending, func() {
			c.backward(fixed(name+" weights", len(w.groups)*len(w.tiles), c.job(u.backwardWeights)).costing(u.flops()), x, u.dy)
			c.touch(w.partial)
		})
	} else {
		c.room(u.planWeightGradient(c.groups))
		c.backward(perGroup(name+" weights", len(w.tiles), c.job(u.backwardWeights)).costing(u.flops()), x, u.dy)
		c.touch(w.partial)
	}
	c.pending = append(c.pending, func() {
		c.backward(fixed(name+" combine", u.inCB*u.outCB, c.job(u.combine)))
		c.touch(w.partial)
		c.final(u.param)
	})
}

// takeAhead gives what the step so far will read for the next image; the first convolution of a step fetches it.
func (c *compiler) takeAhead() []fetch {
	t := c.ahead
	c.ahead = nil
	return t
}

// makeAgain adds a part that makes a node's fleeting output once more, and gives the tensor.
func (c *compiler) makeAgain(node int, name string) *tensor {
	u := c.units[node]
	u.again = newTensor(c.e.slots.number, u.out.c, u.out.h, u.out.w, u.out.halo, u.out.px)
	u.again.fleeting = true
	c.backward(perImage(name+" again", u.y.blocks, c.job(u.applyAgain)), u.y, u.again)
	return u.again
}

// flush adds the weight gradients that were left for later.
func (c *compiler) flush() {
	for len(c.pending) > 0 {
		next := c.pending[0]
		c.pending = c.pending[1:]
		next()
	}
}

// lowerNorm adds a normalisation and what it took in; end is the last node of the chain.
func (c *compiler) lowerNorm(end int, ch *normChain) {
	nd := c.net.Nodes[ch.norm]
	from := nd.Inputs[0]
	u := newNorm(c.norms[ch.norm], c.params[nd.Name+".weight"], c.params[nd.Name+".bias"], c.values[from], c.value(end))
	u.relu = ch.relu
	if ch.short >= 0 {
		u.short = c.values[ch.short]
	}
	c.e.norms = append(c.e.norms, u)
	c.units[end] = u
	if cv := c.convs[from]; cv != nil && cv.stats == nil {
		cv.stats = u
	} else {
		gather := perImage(nd.Name+" statistics", u.y.blocks, c.job(u.gatherItem))
		gather.trains = true
		c.forward(gather, u.y)
	}
	e := c.e
	c.forward(step{name: nd.Name + " finish", serial: func() { u.finish(e) }, trains: true})
	c.forward(perImage(nd.Name+" apply", u.y.blocks, c.job(u.apply)), u.y, u.out, u.short)
	c.ahead = fetching(nil, false, u.y, u.short)
	c.undo = append(c.undo, func() { c.normBackward(u, end, from, ch.short, nd.Name) })
}

func (c *compiler) normBackward(u *normUnit, end, from, short int, name string) {
	e := c.e
	u.dOut = c.grads[end]
	uses := []*tensor{u.y, u.dOut}
	if u.relu && u.short != nil {
		uses = append(uses, u.out)
	}
	c.backward(perImage(name+" reduce", u.y.blocks, c.job(u.reduce)), uses...)
	c.flush()
	c.backward(step{name: name + " finish", serial: func() { u.finishBackward(e) }})
	c.final(u.weight, u.bias)
	if c.gradientOf(end) == from {
		c.grads[from] = u.dOut
		u.dOut.contributors = 0
	}
	dy, add := c.gradient(from)
	u.dy = dy
	if add { // somebody else reads the normalisation's input too
		u.dy = newTensor(dy.images, dy.c, dy.h, dy.w, 0, dy.px)
	}
	c.backward(perImage(name+" backward", u.y.blocks, c.job(u.backward)), u.y, u.dOut, u.dy)
	c.ahead = fetching(nil, false, u.y, u.dOut)
	if add {
		c.pass(u.dy, dy, true, name)
	}
	if short > 0 {
		c.share(u.dOut, short, name)
	}
}

// pass adds a step that hands a gradient on.
func (c *compiler) pass(src, dst *tensor, add bool, name string) {
	u := &spread{src: src, dst: dst, add: add}
	c.backward(perImage(name+" spread", src.blocks, c.job(u.run)), src, dst)
}

// share gives a gradient to one more node. The first to contribute lends its buffer where the shapes agree: after
// this nobody reads it as what it was.
func (c *compiler) share(g *tensor, node int, name string) {
	if u := c.convs[node]; c.grads[node] == nil && (u == nil || u.gradHalo() == g.halo) && !g.lent {
		g.lent = true
		same := *g
		same.lent, same.contributors = false, 1
		c.grads[node] = &same
		return
	}
	dst, add := c.gradient(node)
	c.pass(g, dst, add, name)
}

func (c *compiler) lowerAdd(i int, nd core.Node) {
	u := &addUnit{a: c.values[nd.Inputs[0]], b: c.values[nd.Inputs[1]], out: c.value(i)}
	c.forward(perImage(nd.Name, u.out.blocks, c.job(u.forward)), u.a, u.b, u.out)
	c.undo = append(c.undo, func() {
		for _, in := range nd.Inputs {
			if in > 0 {
				dst, add := c.gradient(in)
				c.pass(c.grads[i], dst, add, nd.Name)
			}
		}
	})
}

func (c *compiler) lowerReLU(i int, nd core.Node) {
	u := &reluUnit{in: c.values[nd.Inputs[0]], out: c.value(i)}
	c.room(roomForRows(3, u.out))
	c.forward(perImage(nd.Name, u.out.blocks, c.job(u.forward)), u.in, u.out)
	c.undo = append(c.undo, func() {
		if nd.Inputs[0] == 0 {
			return
		}
		u.dOut = c.grads[i]
		u.dIn, u.add = c.gradient(nd.Inputs[0])
		c.backward(perImage(nd.Name+" backward", u.out.blocks, c.job(u.backward)), u.out, u.dIn, u.dOut)
	})
}

func (c *compiler) lowerMaxPool(i int, nd core.Node) {
	u := newMaxPool(nd.Kernel, nd.Stride, nd.Pad, c.values[nd.Inputs[0]], c.value(i))
	c.room(roomForRows(2*nd.Kernel, u.in) + roomForRows(2, u.out))
	c.forward(perImage(nd.Name, u.out.blocks, c.job(u.forward)), u.in, u.out)
	c.undo = append(c.undo, func() {
		if nd.Inputs[0] == 0 {
			return
		}
		u.dOut = c.grads[i]
		u.dIn, u.add = c.gradient(nd.Inputs[0])
		c.backward(perImage(nd.Name+" backward", u.out.blocks, c.job(u.backward)), u.in, u.out, u.dIn, u.dOut)
	})
}

func (c *compiler) lowerAvgPool(i int, nd core.Node) {
	u := &avgPoolUnit{in: c.values[nd.Inputs[0]], out: c.value(i)}
	c.room(roomForRows(1, u.in, u.out))
	c.forward(perImage(nd.Name, u.out.blocks, c.job(u.forward)), u.in, u.out)
	c.undo = append(c.undo, func() {
		if nd.Inputs[0] == 0 {
			return
		}
		u.dOut = c.grads[i]
		u.dIn, u.add = c.gradient(nd.Inputs[0])
		c.backward(perImage(nd.Name+" backward", u.out.blocks, c.job(u.backward)), u.dIn, u.dOut)
	})
}

func (c *compiler) lowerPad(i int, nd core.Node) {
	u := &padUnit{s: nd.Stride, in: c.values[nd.Inputs[0]], out: c.value(i)}
	u.shift = (u.out.c - u.in.c) / 2
	c.room(roomForRows(1, u.in, u.out))
	c.forward(perImage(nd.Name, u.out.blocks, c.job(u.forward)), u.in, u.out)
	c.undo = append(c.undo, func() {
		if nd.Inputs[0] == 0 {
			return
		}
		u.dOut = c.grads[i]
		u.dIn, u.add = c.gradient(nd.Inputs[0])
		c.backward(perImage(nd.Name+" backward", 1, c.job(u.backward)), u.dIn, u.dOut)
	})
}

func (c *compiler) lowerLinear(nd core.Node) {
	e, in := c.e, c.values[nd.Inputs[0]]
	batch := e.cfg.Batch
	row, y := newTensor(1, in.c, 1, batch, 0, pixelBytes), newTensor(1, nd.Channels, 1, batch, 0, pixelBytes)
	u := &linearUnit{conv: newConv(c.params[nd.Name+".weight"], core.Node{Kernel: 1, Stride: 1}, row, y, floats{e.kern}), bias: c.params[nd.Name+".bias"], in: in}
	e.linear = u
	c.room(roomForRows(1, in))
	e.convs = append(e.convs, u.conv)
	c.forward(step{name: nd.Name + " pack", serial: func() { u.pack(e) }}, in, row)
	c.convForward(u.conv, nd.Name, fixed(nd.Name, len(u.conv.outs), c.job(u.conv.forward)))
	c.forward(step{name: nd.Name + " logits", serial: func() { u.unpack(e, e.state.Params, e.logits) }}, y)
	c.undo = append(c.undo, func() { c.linearBackward(u, nd) })
}

func (c *compiler) linearBackward(u *linearUnit, nd core.Node) {
	e := c.e
	u.conv.dy = newTensor(1, u.conv.y.c, 1, u.conv.y.w, 0, pixelBytes)
	c.backward(step{name: nd.Name + " gradient", serial: func() { u.packGradient(e) }}, u.conv.dy)
	c.final(u.bias)
	if nd.Inputs[0] != 0 {
		u.conv.dx = newTensor(1, u.in.c, 1, u.conv.y.w, 0, pixelBytes)
		u.dIn, u.addDX = c.gradient(nd.Inputs[0])
	}
	c.convBackward(u.conv, nd.Inputs[0], nd.Name, fixed(nd.Name+" data", len(u.conv.ins), c.job(u.conv.backwardData)))
	if u.dIn != nil {
		c.backward(step{name: nd.Name + " unpack", serial: func() { u.unpackGradient(e) }}, u.conv.dx, u.dIn)
	}
}
