package reference

import "github.com/lockstep-ml/lockstep/core"

// A convolution is a product of matrices, image by image. A patch is what one output pixel sees of the input:
// K = channels * kernel * kernel values in the order of a row of the weights, zero where the window leaves the
// image. With the patches of the P output pixels as the rows of a matrix X [P, K]:
//
//	output [O, P]             = W [O, K]  times  X transposed
//	gradient of W [O, K]      = dY [O, P] times  X,                summed over the images in their order
//	gradient of X [P, K]      = dY transposed  times  W            and each patch added back to where it was cut

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
	patches := e.borrow(p * k)
	defer e.giveBack(patches)
	for img := range n {
		e.patches(patches, e.out[in][img*inLen:][:inLen], win)
		y := e.out[i][img*outLen:][:outLen]
		clear(y)
		e.addProduct(y, w, patches, win.out.C, p, k)
	}
}

func (e *Engine[F]) convBackward(i int, g *core.Gradients[F]) {
	win := e.window(i)
	in, _ := e.input(i, 0)
	p, k, o, inLen, outLen := win.pixels(), win.patchLen(), win.out.C, win.in.Len(), win.out.Len()
	dx, dy, dw := e.gradient(in), e.grads[i], e.weights(g.Values, i, 0)
	clear(dw)
	wT := e.borrow(k * o)
	e.transpose(wT, e.weights(e.state.Params, i, 0), o, k)
	patches, patchesT, dyT := e.borrow(p*k), e.borrow(k*p), e.borrow(p*o)
	for img := range e.cfg.Batch {
		dyImg := dy[img*outLen:][:outLen]
		e.patches(patches, e.out[in][img*inLen:][:inLen], win)
		e.transpose(patchesT, patches, p, k)
		e.addProduct(dw, dyImg, patchesT, o, k, p)
		if dx == nil {
			continue
		}
		e.transpose(dyT, dyImg, o, p)
		clear(patchesT)
		e.addProduct(patchesT, wT, dyT, k, p, o) // now the patches' gradient, transposed
		e.addPatches(dx[img*inLen:][:inLen], patchesT, win)
	}
	for _, buf := range [][]F{wT, patches, patchesT, dyT} {
		e.giveBack(buf)
	}
}

// patches cuts one image x [C, H, W] into rows: to [P, K].
func (e *Engine[F]) patches(to, x []F, w window) {
	k := w.patchLen()
	e.parallel(w.out.H, func(oy int) {
		for ox := range w.out.W {
			patch := to[(oy*w.out.W+ox)*k:][:k]
			at := 0
			for c := range w.in.C {
				plane := x[c*w.in.H*w.in.W:]
				for ky := range w.kernel {
					for kx := range w.kernel {
						iy, ix := oy*w.stride+ky-w.pad, ox*w.stride+kx-w.pad
						patch[at] = 0
						if w.inside(iy, ix) {
							patch[at] = plane[iy*w.in.W+ix]
						}
						at++
					}
				}
			}
		}
	})
}

// addPatches adds the gradients of one image's patches, from [K, P], to the gradient of the image dx [C, H, W]:
// each input value collects from the windows it was in, by the place in the window and not by the window.
func (e *Engine[F]) addPatches(dx, from []F, w window) {
	p := w.pixels()
	e.parallel(w.in.C, func(c int) {
		plane := dx[c*w.in.H*w.in.W:]
		for ky := range w.kernel {
			for kx := range w.kernel {
				row := from[((c*w.kernel+ky)*w.kernel+kx)*p:][:p]
				for oy := range w.out.H {
					for ox := range w.out.W {
						iy, ix := oy*w.stride+ky-w.pad, ox*w.stride+kx-w.pad
						if w.inside(iy, ix) {
							plane[iy*w.in.W+ix] += row[oy*w.out.W+ox]
						}
					}
				}
			}
		}
	})
}
