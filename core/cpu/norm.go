package cpu

import (
	"math"
	"unsafe"

	"github.com/lockstep-ml/lockstep/core"
)

// normUnit is a batch normalisation together with the shortcut's sum and the ReLU that follow it, where they do.
//
// Statistics are gathered per image and block as sums around the block's first pixel, and joined over the images in
// float64 by the parallel formula of Chan, Golub and LeVeque (1979).
type normUnit struct {
	norm          core.Norm
	weight, bias  core.Param
	y, out, short *tensor // short is nil without a shortcut
	relu          bool
	dy, dOut      *tensor
	again         *tensor // out, made a second time for the gradient of the weights that read it; nil where out is kept

	coefs   []float32 // [block][coefVectors][16]
	gamma   []float32 // padded with zeros to whole blocks, as beta
	beta    []float32
	mean    []float64
	rstd    []float64
	partial []float32 // [image][block][3][16]
}

func newNorm(norm core.Norm, weight, bias core.Param, y, out *tensor) *normUnit {
	return &normUnit{norm: norm, weight: weight, bias: bias, y: y, out: out}
}

// bytes is what allocate takes.
func (u *normUnit) bytes() int {
	n := u.y.blocks * lanes
	return n*(4*coefVectors+4*2+8*2) + 4*3*n*u.y.images
}

func (u *normUnit) allocate() {
	n := u.y.blocks * lanes
	u.coefs, u.partial = aligned(n*coefVectors), aligned(n*3*u.y.images)
	u.gamma, u.beta = make([]float32, n), make([]float32, n)
	u.mean, u.rstd = make([]float64, n), make([]float64, n)
}

func (u *normUnit) args(e *Engine, image, block, thread int) *ewArgs {
	a := &e.scratch[thread].ew
	*a = ewArgs{rows: u.y.h, cols: u.y.w, y: u.y.at(image, block), yRow: u.y.row,
		coef: unsafe.Pointer(&u.coefs[block*coefVectors*lanes]),
		res:  unsafe.Pointer(&u.partial[(image*u.y.blocks+block)*3*lanes])}
	return a
}

// gather takes one block's statistics.
func (u *normUnit) gather(e *Engine, image, block, thread int) {
	a := u.args(e, image, block, thread)
	if u.y.halo == 0 { // one long row: the chains then do not depend on the image's width
		a.rows, a.cols = 1, u.y.h*u.y.w
	}
	e.act.stats(a)
}

func (u *normUnit) gatherItem(e *Engine, item, thread int) {
	u.gather(e, item/u.y.blocks, item%u.y.blocks, thread)
}

// finish joins the images' statistics and prepares the normalisation of the batch.
func (u *normUnit) finish(e *Engine) {
	count := float64(u.y.h * u.y.w)
	total := count * float64(u.y.images)
	for b := range u.y.blocks {
		var mean, m2 [lanes]float64
		for im := range u.y.images {
			n := count * float64(im)
			share, cross := count/(n+count), n*count/(n+count)
			p := u.partial[(im*u.y.blocks+b)*3*lanes:][:3*lanes]
			for l := range mean {
				k, s1, s2 := float64(p[l]), float64(p[lanes+l]), float64(p[2*lanes+l])
				m := s1 / count
				d := k + m - mean[l]
				mean[l] += float64(d * share)
				m2[l] += (s2 - float64(s1*m)) + float64(d*d*cross)
			}
		}
		for l := range min(lanes, u.norm.Channels-b*lanes) {
			c, q := b*lanes+l, max(m2[l], 0) // a NaN stays
			e.grads.Mean[u.norm.Offset+c] = float32(mean[l])
			e.grads.Var[u.norm.Offset+c] = float32(q / max(total-1, 1))
			u.set(c, mean[l], q/total)
		}
	}
}

// running prepares the normalisation by running statistics.
func (u *normUnit) running(s *core.State[float32]) {
	for c := range u.norm.Channels {
		u.set(c, float64(s.Mean[u.norm.Offset+c]), float64(s.Var[u.norm.Offset+c]))
	}
}

func (u *normUnit) set(c int, mean, variance float64) {
	u.mean[c], u.rstd[c] = mean, 1/math.Sqrt(variance+core.BNEpsilon)
	scale := float64(u.gamma[c]) * u.rstd[c]
	v := u.coefs[c/lanes*coefVectors*lanes+c%lanes:]
	v[coefScale*lanes] = float32(scale)
	v[coefShift*lanes] = float32(float64(u.beta[c]) - float64(mean*scale))
	v[coefMean*lanes] = float32(mean)
}

// load takes weight and bias from the parameters.
func (u *normUnit) load(params []float32) {
	copy(u.gamma, params[u.weight.Offset:u.weight.Offset+u.weight.Len])
	copy(u.beta, params[u.bias.Offset:u.bias.Offset+u.bias.Len])
}

func (u *normUnit) apply(e *Engine, item, thread int) { u.applyTo(u.out, e, item, thread) }

func (u *normUnit) applyAgain(e *Engine, item, thread int) { u.applyTo(u.again, e, item, thread) }

func (u *normUnit) applyTo(out *tensor, e *Engine, item, thread int) {
	image, block := item/u.y.blocks, item%u.y.blocks
	a, slot := u.args(e, image, block, thread), e.slot(out, image, thread)
	a.out, a.outRow = out.at(slot, block), out.row
	kind := 0
	if u.short != nil {
		a.a, a.aRow = u.short.at(image, block), u.short.row
		kind = 1
	}
	if u.relu {
		kind += 2
	}
	e.act.apply[kind](a)
	out.zeroHalo(slot, block)
}

// reduce sums, over one block, the gradient that passed ReLU, and its products with the input.
func (u *normUnit) reduce(e *Engine, item, thread int) {
	image, block := item/u.y.blocks, item%u.y.blocks
	a := u.args(e, image, block, thread)
	a.g, a.gRow = u.dOut.at(image, block), u.dOut.row
	switch {
	case !u.relu:
		e.act.reduce(a)
	case u.short == nil:
		e.act.reduceZ(a)
	default:
		a.a, a.aRow = u.out.at(image, block), u.out.row
		e.act.reduceA(a)
	}
}

// finishBackward joins the sums into the gradients of weight and bias and the coefficients of dy:
//
//	dy = gamma*rstd * (g - mean(g) - (y-mean)*rstd^2 * mean(g*(y-mean)))
func (u *normUnit) finishBackward(e *Engine) {
	total := float64(u.y.images * u.y.h * u.y.w)
	for b := range u.y.blocks {
		var sums [2][lanes]float64
		for im := range u.y.images {
			p := u.partial[(im*u.y.blocks+b)*3*lanes:][:2*lanes]
			for l := range lanes {
				sums[0][l] += float64(p[l])
				sums[1][l] += float64(p[lanes+l])
			}
		}
		for l := range min(lanes, u.norm.Channels-b*lanes) {
			u.setBackward(e, b*lanes+l, sums[0][l], sums[1][l], total)
		}
	}
}

// setBackward takes one channel's sums of g and of g*(y-mean), over so many values.
func (u *normUnit) setBackward(e *Engine, c int, sg, sgy, total float64) {
	// The products were taken with the mean as float32 holds it; bring them to the exact one.
	v := u.coefs[c/lanes*coefVectors*lanes+c%lanes:]
	sgy += float64(sg * (float64(v[coefMean*lanes]) - u.mean[c]))
	e.grads.Values[u.weight.Offset+c] = float32(sgy * u.rstd[c])
	e.grads.Values[u.bias.Offset+c] = float32(sg)
	a := float64(u.gamma[c]) * u.rstd[c]
	b := -a * u.rstd[c] * u.rstd[c] * sgy / total
	v[coefA*lanes] = float32(a)
	v[coefB*lanes] = float32(b)
	v[coefC*lanes] = float32(float64(b*(float64(v[coefMean*lanes])-u.mean[c])) - float64(a*sg)/total)
}

func (u *normUnit) backward(e *Engine, item, thread int) {
	image, block := item/u.y.blocks, item%u.y.blocks
	a := u.args(e, image, block, thread)
	a.g, a.gRow = u.dOut.at(image, block), u.dOut.row
	a.out, a.outRow = u.dy.at(image, block), u.dy.row
	if u.relu && u.short == nil {
		e.act.dxZ(a)
	} else {
		e.act.dx(a)
	}
	u.dy.zeroHalo(image, block)
}
