package cpu

import "github.com/lockstep-ml/lockstep/core"

// linearUnit is the fully connected layer: a convolution over one image whose pixels are the batch's images. It computes in float32,
// whatever the features before it are kept in.
type linearUnit struct {
	conv    *convUnit
	bias    core.Param
	in, dIn *tensor // [image][block][1][1]
	addDX   bool
}

// pack gathers the images' features into one row of pixels.
func (u *linearUnit) pack(e *Engine) {
	s := &e.scratch[0]
	for b := range u.in.blocks {
		row := s.rows(u.conv.in, 0, b, 0, 1)
		for i := range e.n {
			s.used = 0
			*row.pixel(0, i) = *s.load(s.rows(u.in, i, b, 0, 1)).pixel(0, 0)
		}
	}
}

// unpack adds the bias and writes [image][class].
func (u *linearUnit) unpack(e *Engine, params, logits []float32) {
	classes := u.conv.y.c
	for i := range e.n {
		out := logits[i*classes : (i+1)*classes]
		for c := range out {
			out[c] = e.scratch[0].rows(u.conv.y, 0, c/lanes, 0, 1).pixel(0, i)[c%lanes] + params[u.bias.Offset+c]
		}
	}
}

// packGradient takes the loss's gradient and sums that of the bias.
func (u *linearUnit) packGradient(e *Engine) {
	classes := u.conv.y.c
	for b := range u.conv.dy.blocks {
		u.conv.dy.zero(0, b)
	}
	for c := range classes {
		sum := 0.0
		row := e.scratch[0].rows(u.conv.dy, 0, c/lanes, 0, 1)
		for i := range e.n {
			g := e.dLogits[i*classes+c]
			sum += float64(g)
			row.pixel(0, i)[c%lanes] = g
		}
		e.grads.Values[u.bias.Offset+c] = float32(sum)
	}
}

// unpackGradient gives each image its features' gradient.
func (u *linearUnit) unpackGradient(e *Engine) {
	s := &e.scratch[0]
	for b := range u.in.blocks {
		row := s.rows(u.conv.dx, 0, b, 0, 1)
		for i := range e.n {
			s.used = 0
			to, g := s.rows(u.dIn, i, b, 0, 1), row.pixel(0, i)
			if u.addDX {
				d := s.load(to).pixel(0, 0)
				for l, v := range g {
					d[l] += v
				}
			} else {
				u.dIn.zeroHalo(i, b)
				*to.pixel(0, 0) = *g
			}
			s.store(to)
		}
	}
}
