package reference

import "github.com/lockstep-ml/lockstep/core"

// A convolution is a product of matrices, image by image. A patch is what one output pixel sees of the input:
// K = channels * kernel * kernel values in the order of a row of the weights, zero where the window leaves the
// image. With the patches of the P output pixels as the columns of a matrix X [K, P]:
//
//	output [O, P]         = W [O, K] times X
//	gradient of W [O, K]  = dY [O, P] times X transposed, summed over the images in their order
//	gradient of X [K, P]  = W transposed times dY, and each value added back to where it was cut from

// window is the geometry of a convolution, for patches.
type window struct {
	in, out             core.Shape
	kernel, stride, pad int
}

func (e *Engine[F]) window(i int) window {
	nd := e.net.Nodes[i]
	_, in := e.input(i, 0)
	return window{in: in, out: e.shapes[i], kernel: nd.Kernel, stride: nd.Stride, pad: nd.Pad}
}

func (w window) pixels() int   { return w.out.H * w.out.W }
func (w window) patchLen() int { return w.in.C * w.kernel * w.kernel }
func (w window) inside(y, x int) bool {
	return uint(y) < uint(w.in.H) && uint(x) < uint(w.in.W)
}

func (e *Engine[F]) conv(i, n int) {
	win := e.window(i)
	in, _ := e.input(i, 0)
	p, k, inLen, outLen := win.pixels(), win.patchLen(), win.in.Len(), win.out.Len()
	w := e.weights(e.state.Params, i, 0)
	x, xT := e.borrow(k*p), e.borrow(p*k)
	for img := range n {
		e.patches(x, e.out[in][img*inLen:][:inLen], win)
		e.transpose(xT, x, k, p)
		y := e.out[i][img*outLen:][:outLen]
		clear(y)
		e.addProduct(y, w, xT, win.out.C, p, k)
	}
	e.giveBack(x)
	e.giveBack(xT)
}

func (e *Engine[F]) convBackward(i int, g *core.Gradients[F]) {
	win := e.window(i)
	in, _ := e.input(i, 0)
	p, k, o, inLen, outLen := win.pixels(), win.patchLen(), win.out.C, win.in.Len(), win.out.Len()
	dx, dy, dw := e.gradient(in), e.grads[i], e.weights(g.Values, i, 0)
	clear(dw)
	x, wT, dyT := e.borrow(k*p), e.borrow(k*o), e.borrow(p*o)
	e.transpose(wT, e.weights(e.state.Params, i, 0), o, k)
	for img := range e.cfg.Batch {
		dyImg := dy[img*outLen:][:outLen]
		e.patches(x, e.out[in][img*inLen:][:inLen], win)
		e.addProduct(dw, dyImg, x, o, k, p)
		if dx == nil {
			continue
		}
		e.transpose(dyT, dyImg, o, p)
		clear(x)
		e.addProduct(x, wT, dyT, k, p, o)
		e.addPatches(dx[img*inLen:][:inLen], x, win)
	}
	for _, buf := range [][]F{x, wT, dyT} {
		e.giveBack(buf)
	}
}

// patches cuts one image [C, H, W] into the columns of x [K, P].
func (e *Engine[F]) patches(x, image []F, w window) {
	e.parallel(w.in.C, func(c int) {
		w.eachRow(c, func(row, oy, iy, dx int) {
			to := x[row*w.pixels()+oy*w.out.W:][:w.out.W]
			clear(to)
			if uint(iy) >= uint(w.in.H) {
				return
			}
			from := image[(c*w.in.H+iy)*w.in.W:][:w.in.W]
			for ox := range to {
				if ix := ox*w.stride + dx; uint(ix) < uint(len(from)) {
					to[ox] = from[ix]
				}
			}
		})
	})
}

// addPatches adds the gradients of patches, the columns of x [K, P], to the gradient of their image [C, H, W]:
// each value collects from the windows it was in, ordered by its place in the window and not by the window.
func (e *Engine[F]) addPatches(image, x []F, w window) {
	e.parallel(w.in.C, func(c int) {
		w.eachRow(c, func(row, oy, iy, dx int) {
			if uint(iy) >= uint(w.in.H) {
				return
			}
			to := image[(c*w.in.H+iy)*w.in.W:][:w.in.W]
			for ox, v := range x[row*w.pixels()+oy*w.out.W:][:w.out.W] {
				if ix := ox*w.stride + dx; uint(ix) < uint(len(to)) {
					to[ix] += v
				}
			}
		})
	})
}

// eachRow goes through the rows of the patches' matrix that channel c fills and, within each, the rows of output
// pixels. Output pixel (oy, ox) sees the input at (iy, ox*stride + dx), which may be outside.
func (w window) eachRow(c int, f func(row, oy, iy, dx int)) {
	for ky := range w.kernel {
		for kx := range w.kernel {
			for oy := range w.out.H {
				f((c*w.kernel+ky)*w.kernel+kx, oy, oy*w.stride+ky-w.pad, kx-w.pad)
			}
		}
	}
}
