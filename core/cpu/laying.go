package cpu

import "unsafe"

// laying is where the values of a 16x16 pair of channel blocks lie, as byte offsets.
type laying struct {
	rows    []int // the canonical layout's rows, one an output channel, from the first
	forward []int // columns of those rows, input channel by input channel and tap by tap, in a block of wFwd
	sums    []int // the same columns in a block of sums of gradients
	squares []int // rows of 16
}

func (u *convUnit) planLaying() {
	columns := func(channels int) (at []int) {
		for c := range channels {
			for t := range u.kk {
				at = append(at, (t*channels+c)*pixelBytes)
			}
		}
		return at
	}
	l := &u.laying
	l.forward, l.sums = columns(u.inLanes), columns(lanes)
	for i := range lanes {
		l.rows = append(l.rows, 4*i*u.in.c*u.kk)
		l.squares = append(l.squares, i*pixelBytes)
	}
}

// canonical gives the first of the values of input block ib and output block ob in the canonical layout, how many rows there are, and
// how long they are.
func (u *convUnit) canonical(values []float32, ib, ob int) (first *float32, rows, cols int) {
	rows, cols = min(lanes, u.y.c-ob*lanes), min(lanes, u.in.c-ib*lanes)*u.kk
	return &values[u.param.Offset+(ob*u.in.c+ib)*lanes*u.kk], rows, cols
}

// relayForward fills w, a pair of blocks, from the canonical layout. Lanes without a channel stay zero.
func (u *convUnit) relayForward(e *Engine, ob, ib, thread int, w []float32) {
	from, rows, cols := u.canonical(e.state.Params, ib, ob)
	a := &e.scratch[thread].transpose
	for j := 0; j < cols; j += lanes {
		*a = transposeArgs{in: unsafe.Add(unsafe.Pointer(from), 4*j), out: unsafe.Pointer(&w[0]), rows: rows, cols: min(lanes, cols-j),
			rowAt: unsafe.Pointer(&u.laying.rows[0]), colAt: unsafe.Pointer(&u.laying.forward[j])}
		e.kern.transpose(a)
	}
}

// square transposes tap t of w, which relayForward has filled, to a 16x16 block of the backward pass.
func (u *convUnit) square(e *Engine, t, thread int, w []float32, out *float32) {
	a := &e.scratch[thread].transpose
	*a = transposeArgs{in: unsafe.Pointer(&w[t*u.inLanes*lanes]), out: unsafe.Pointer(out),
		rows: u.inLanes, cols: lanes, rowAt: unsafe.Pointer(&u.laying.squares[0]), colAt: unsafe.Pointer(&u.laying.squares[0])}
	e.kern.transpose(a)
}

// writeGradient brings a pair of blocks of sums to the canonical layout.
func (u *convUnit) writeGradient(e *Engine, ob, ib, thread int, sums []float32) {
	to, rows, cols := u.canonical(e.grads.Values, ib, ob)
	a := &e.scratch[thread].transpose
	for j := 0; j < cols; j += lanes {
		*a = transposeArgs{in: unsafe.Pointer(&sums[0]), out: unsafe.Add(unsafe.Pointer(to), 4*j), rows: min(lanes, cols-j), cols: rows,
			rowAt: unsafe.Pointer(&u.laying.sums[j]), colAt: unsafe.Pointer(&u.laying.rows[0])}
		e.kern.transpose(a)
	}
}
