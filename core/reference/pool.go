package reference

import "github.com/lockstep-ml/lockstep/core"

// maxPool takes the largest value of each window and notes where it was. Of equal values the first wins, row by
// row, and a NaN wins over everything: PyTorch's choices. Padding never wins.
func (e *Engine[F]) maxPool(i, n int) {
	in, s := e.input(i, 0)
	out := e.shapes[i]
	e.parallel(n*s.C, func(plane int) {
		x := e.out[in][plane*s.H*s.W:][:s.H*s.W]
		y := e.out[i][plane*out.H*out.W:][:out.H*out.W]
		winners := e.winners[i][plane*out.H*out.W:][:out.H*out.W]
		win := e.window(i)
		for oy := range out.H {
			for ox := range out.W {
				at := win.largest(func(a, b int) bool { return x[a] > x[b] || x[a] != x[a] }, oy, ox)
				y[oy*out.W+ox], winners[oy*out.W+ox] = x[at], int32(at)
			}
		}
	})
}

// largest gives the place, within a plane of the input, that beats every earlier one in the window of output pixel (oy, ox).
func (w window) largest(beats func(a, b int) bool, oy, ox int) int {
	best := -1
	for ky := range w.kernel {
		for kx := range w.kernel {
			iy, ix := oy*w.stride+ky-w.pad, ox*w.stride+kx-w.pad
			if !w.inside(iy, ix) {
				continue
			}
			if at := iy*w.in.W + ix; best < 0 || beats(at, best) {
				best = at
			}
		}
	}
	if best < 0 {
		panic("reference: a pooling window that lies wholly in the padding")
	}
	return best
}

func (e *Engine[F]) maxPoolBackward(i int) {
	in, s := e.input(i, 0)
	out := e.shapes[i]
	dx := e.gradient(in)
	if dx == nil {
		return
	}
	e.parallel(e.cfg.Batch*s.C, func(plane int) {
		to := dx[plane*s.H*s.W:]
		for p := plane * out.H * out.W; p < (plane+1)*out.H*out.W; p++ {
			to[e.winners[i][p]] += e.grads[i][p]
		}
	})
}

// avgPool takes the mean over rows and columns.
func (e *Engine[F]) avgPool(i, n int) {
	in, s := e.input(i, 0)
	pixels := s.H * s.W
	e.parallel(n, func(img int) {
		for c := img * s.C; c < (img+1)*s.C; c++ {
			var sum F
			for _, v := range e.out[in][c*pixels:][:pixels] {
				sum += v
			}
			e.out[i][c] = sum / F(pixels)
		}
	})
}

func (e *Engine[F]) avgPoolBackward(i int) {
	in, s := e.input(i, 0)
	dx, pixels := e.gradient(in), s.H*s.W
	if dx == nil {
		return
	}
	e.parallel(e.cfg.Batch, func(img int) {
		for c := img * s.C; c < (img+1)*s.C; c++ {
			share := e.grads[i][c] / F(pixels)
			for p := c * pixels; p < (c+1)*pixels; p++ {
				dx[p] += share
			}
		}
	})
}

// linear: y [N, O] = x [N, C] times W [O, C] transposed, plus bias.
func (e *Engine[F]) linear(i, n int) {
	in, s := e.input(i, 0)
	o, y := e.shapes[i].C, e.out[i][:n*e.shapes[i].C]
	clear(y)
	e.addProduct(y, e.out[in][:n*s.C], e.weights(e.state.Params, i, 0), n, o, s.C)
	bias := e.weights(e.state.Params, i, 1)
	for p := range y {
		y[p] += bias[p%o]
	}
}

// linearBackward: dW = dy transposed times x, dbias = sum of dy over the images, dx = dy times W.
func (e *Engine[F]) linearBackward(i int, g *core.Gradients[F]) {
	in, s := e.input(i, 0)
	n, o, dy := e.cfg.Batch, e.shapes[i].C, e.grads[i]
	dyT, xT, wT := e.borrow(o*n), e.borrow(s.C*n), e.borrow(s.C*o)
	e.transpose(dyT, dy, n, o)
	e.transpose(xT, e.out[in], n, s.C)
	dw, dbias := e.weights(g.Values, i, 0), e.weights(g.Values, i, 1)
	clear(dw)
	e.addProduct(dw, dyT, xT, o, s.C, n)
	for c := range dbias {
		dbias[c] = 0
		for _, v := range dyT[c*n:][:n] {
			dbias[c] += v
		}
	}
	if dx := e.gradient(in); dx != nil {
		e.transpose(wT, e.weights(e.state.Params, i, 0), o, s.C)
		e.addProduct(dx, dy, wT, n, s.C, o)
	}
	for _, buf := range [][]F{dyT, xT, wT} {
		e.giveBack(buf)
	}
}
