package reference

import (
	"fmt"

	"github.com/lockstep-ml/lockstep/core"
)

// forward computes every node's output for n images, in the network's order. When training it normalises with
// the batch's statistics and writes them to g; otherwise it uses the running ones.
func (e *Engine[F]) forward(images []float32, n int, train bool, g *core.Gradients[F]) {
	for i, v := range images {
		e.out[0][i] = F(v)
	}
	for i, nd := range e.net.Nodes[1:] {
		i++ // Nodes[0] is the input
		switch nd.Op {
		case core.OpConv:
			e.conv(i, n)
		case core.OpBatchNorm:
			if train {
				e.batchStatistics(i, g)
			} else {
				e.runningStatistics(i)
			}
			e.normalise(i, n)
		case core.OpReLU:
			e.relu(i, n)
		case core.OpMaxPool:
			e.maxPool(i, n)
		case core.OpAdd:
			e.add(i, n)
		case core.OpPadShortcut:
			e.padShortcut(i, n)
		case core.OpGlobalAvgPool:
			e.avgPool(i, n)
		case core.OpLinear:
			e.linear(i, n)
		default:
			panic(fmt.Sprintf("reference: node %d has operation %s, which the forward pass does not know", i, nd.Op))
		}
	}
}

// backward takes the gradient with respect to the last node's output back through the nodes in reverse order.
// Each node adds to its inputs' gradients, so a node with several readers has the sum, last reader first. A
// node's parameters are done when it is.
func (e *Engine[F]) backward(g *core.Gradients[F], h core.Hooks) {
	for i := len(e.net.Nodes) - 1; i > 0; i-- {
		nd := e.net.Nodes[i]
		if e.grads[i] == nil {
			e.gradient(i) // nothing reads this node: its gradient is zero
		}
		switch nd.Op {
		case core.OpConv:
			e.convBackward(i, g)
		case core.OpBatchNorm:
			e.normaliseBackward(i, g)
		case core.OpReLU:
			e.reluBackward(i)
		case core.OpMaxPool:
			e.maxPoolBackward(i)
		case core.OpAdd:
			e.addBackward(i)
		case core.OpPadShortcut:
			e.padShortcutBackward(i)
		case core.OpGlobalAvgPool:
			e.avgPoolBackward(i)
		case core.OpLinear:
			e.linearBackward(i, g)
		default:
			panic(fmt.Sprintf("reference: node %d has operation %s, which the backward pass does not know", i, nd.Op))
		}
		e.release(i)
		if ps := e.params[i]; len(ps) > 0 {
			last := ps[len(ps)-1]
			h.Final(ps[0].Offset, last.Offset+last.Len)
		}
	}
	e.release(0)
}

// gradient gives the gradient with respect to node i's output, zero when first asked for. The gradient of the
// images is never wanted: nil stands for it.
func (e *Engine[F]) gradient(i int) []F {
	if i == 0 {
		return nil
	}
	if e.grads[i] == nil {
		e.grads[i] = e.borrow(len(e.out[i]))
	}
	return e.grads[i]
}

// release gives node i's gradient back once the node is done.
func (e *Engine[F]) release(i int) {
	if e.grads[i] != nil {
		e.giveBack(e.grads[i])
		e.grads[i] = nil
	}
}

// borrow gives n zeros. Buffers of one length are kept and used again: a deep network's gradients would
// otherwise be allocated and collected at every step.
func (e *Engine[F]) borrow(n int) []F {
	free := e.spare[n]
	if len(free) == 0 {
		return make([]F, n)
	}
	buf := free[len(free)-1]
	e.spare[n] = free[:len(free)-1]
	clear(buf)
	return buf
}

func (e *Engine[F]) giveBack(buf []F) { e.spare[len(buf)] = append(e.spare[len(buf)], buf) }

// input gives node i's k-th input: its index and shape.
func (e *Engine[F]) input(i, k int) (int, core.Shape) {
	in := e.net.Nodes[i].Inputs[k]
	return in, e.shapes[in]
}

// weights gives the values of node i's k-th parameter inside a vector in the canonical layout.
func (e *Engine[F]) weights(vector []F, i, k int) []F {
	p := e.params[i][k]
	return vector[p.Offset : p.Offset+p.Len]
}
