package cpu

import (
	"unsafe"

	"github.com/lockstep-ml/lockstep/core"
)

// inputUnit brings images from [N, C, H, W] to blocks of 16 channels.
type inputUnit struct{ out *tensor }

func (u *inputUnit) forward(e *Engine, item, thread int) {
	image, block := item/u.out.blocks, item%u.out.blocks
	u.out.zeroHalo(image, block)
	plane := u.out.h * u.out.w
	first := block * lanes
	channels := min(lanes, u.out.c-first)
	src := e.images[(image*u.out.c+first)*plane:][:channels*plane]
	a := &e.scratch[thread].image
	*a = imageArgs{in: unsafe.Pointer(&src[0]), out: u.out.at(image, block), plane: 4 * plane, channels: channels,
		rows: u.out.h, cols: u.out.w, outRow: u.out.row}
	e.kern.image(a)
}

// accumulate adds src to dst, blocks of equal height and width.
func accumulate(e *Engine, dst, src *tensor, image, block, thread int) {
	a := &e.scratch[thread].ew
	*a = ewArgs{rows: dst.h, cols: dst.w, out: dst.at(image, block), outRow: dst.row, a: src.at(image, block), aRow: src.row}
	e.kern.accumulate(a)
}

// spread is the gradient that passes through a sum unchanged: dst = src, or dst += src.
type spread struct {
	src, dst *tensor
	add      bool
}

func (u *spread) run(e *Engine, item, thread int) {
	image, block := item/u.src.blocks, item%u.src.blocks
	if !u.add {
		u.dst.zero(image, block)
	}
	accumulate(e, u.dst, u.src, image, block, thread)
}

// addUnit is a sum that no normalisation could take in.
type addUnit struct{ a, b, out *tensor }

func (u *addUnit) forward(e *Engine, item, thread int) {
	image, block := item/u.out.blocks, item%u.out.blocks
	u.out.zero(image, block)
	accumulate(e, u.out, u.a, image, block, thread)
	accumulate(e, u.out, u.b, image, block, thread)
}

// reluUnit is a ReLU that no normalisation could take in.
type reluUnit struct {
	in, out, dIn, dOut *tensor
	add                bool
}

func (u *reluUnit) forward(_ *Engine, item, _ int) {
	image, block := item/u.out.blocks, item%u.out.blocks
	u.out.zeroHalo(image, block)
	for y := range u.out.h {
		for x := range u.out.w {
			out := u.out.pixel(image, block, y, x)
			for l, v := range u.in.pixel(image, block, y, x) {
				if 0 > v {
					v = 0
				}
				out[l] = v
			}
		}
	}
}

func (u *reluUnit) backward(_ *Engine, item, _ int) {
	image, block := item/u.out.blocks, item%u.out.blocks
	if !u.add {
		u.dIn.zero(image, block)
	}
	for y := range u.out.h {
		for x := range u.out.w {
			in, g := u.dIn.pixel(image, block, y, x), u.dOut.pixel(image, block, y, x)
			for l, v := range u.out.pixel(image, block, y, x) {
				if v > 0 {
					in[l] += g[l]
				}
			}
		}
	}
}

// avgPoolUnit is the mean over an image.
type avgPoolUnit struct {
	in, out, dIn, dOut *tensor
	add                bool
}

func (u *avgPoolUnit) forward(_ *Engine, item, _ int) {
	image, block := item/u.out.blocks, item%u.out.blocks
	var sum [lanes]float64
	for y := range u.in.h {
		for x := range u.in.w {
			for l, v := range u.in.pixel(image, block, y, x) {
				sum[l] += float64(v)
			}
		}
	}
	u.out.zeroHalo(image, block)
	out, n := u.out.pixel(image, block, 0, 0), float64(u.in.h*u.in.w)
	for l, v := range sum {
		out[l] = float32(v / n)
	}
}

func (u *avgPoolUnit) backward(e *Engine, item, thread int) {
	image, block := item/u.out.blocks, item%u.out.blocks
	g, n := u.dOut.pixel(image, block, 0, 0), float64(u.in.h*u.in.w)
	t := &e.scratch[thread]
	for l, v := range g {
		t.vector[l] = float32(float64(v) / n)
	}
	if !u.add {
		u.dIn.zero(image, block)
	}
	t.pixel = pixelArgs{in: unsafe.Pointer(&t.vector), out: u.dIn.at(image, block), outPix: pixelBytes, outRow: u.dIn.row,
		rows: u.dIn.h, cols: u.dIn.w, lanes: lanes}
	e.kern.addPixels(&t.pixel)
}

// padUnit is shortcut A: every s-th pixel, channels moved up by shift, zeros elsewhere.
type padUnit struct {
	s, shift           int
	in, out, dIn, dOut *tensor
	add                bool
}

// run is a piece of an output block's lanes and where its values come from.
type laneRun struct{ out, block, in, n int }

// runs lists the input lanes that an output block shows: at most two pieces.
func (u *padUnit) runs(block int) (r [2]laneRun, n int) {
	for l := 0; l < lanes; {
		c := block*lanes + l - u.shift
		if c < 0 || c >= u.in.c {
			l++
			continue
		}
		m := min(lanes-l, lanes-c%lanes, u.in.c-c)
		r[n] = laneRun{l, c / lanes, c % lanes, m}
		n++
		l += m
	}
	return r, n
}

func (u *padUnit) forward(e *Engine, item, thread int) {
	image, block := item/u.out.blocks, item%u.out.blocks
	u.out.zero(image, block)
	a := &e.scratch[thread].pixel
	r, n := u.runs(block)
	for _, q := range r[:n] {
		*a = pixelArgs{in: unsafe.Add(u.in.at(image, q.block), 4*q.in), inPix: u.s * pixelBytes, inRow: u.s * u.in.row,
			out: unsafe.Add(u.out.at(image, block), 4*q.out), outPix: pixelBytes, outRow: u.out.row,
			rows: u.out.h, cols: u.out.w, lanes: q.n}
		e.kern.copyPixels(a)
	}
}

// backward adds the gradient of one whole image.
func (u *padUnit) backward(e *Engine, image, thread int) {
	if !u.add {
		for b := range u.dIn.blocks {
			u.dIn.zero(image, b)
		}
	}
	a := &e.scratch[thread].pixel
	for block := range u.out.blocks {
		r, n := u.runs(block)
		for _, q := range r[:n] {
			*a = pixelArgs{in: unsafe.Add(u.dOut.at(image, block), 4*q.out), inPix: pixelBytes, inRow: u.dOut.row,
				out: unsafe.Add(u.dIn.at(image, q.block), 4*q.in), outPix: u.s * pixelBytes, outRow: u.s * u.dIn.row,
				rows: u.out.h, cols: u.out.w, lanes: q.n}
			e.kern.addPixels(a)
		}
	}
}

// linearUnit is the fully connected layer: a convolution over one image whose pixels are the batch's images.
type linearUnit struct {
	conv    *convUnit
	bias    core.Param
	in, dIn *tensor // [image][block][1][1]
	addDX   bool
}

// pack gathers the images' features into one row of pixels.
func (u *linearUnit) pack(e *Engine) {
	for b := range u.in.blocks {
		for i := range e.n {
			*u.conv.in.pixel(0, b, 0, i) = *u.in.pixel(i, b, 0, 0)
		}
	}
}

// unpack adds the bias and writes [image][class].
func (u *linearUnit) unpack(e *Engine, params, logits []float32) {
	classes := u.conv.y.c
	for i := range e.n {
		out := logits[i*classes : (i+1)*classes]
		for c := range out {
			out[c] = u.conv.y.pixel(0, c/lanes, 0, i)[c%lanes] + params[u.bias.Offset+c]
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
		for i := range e.n {
			g := e.dLogits[i*classes+c]
			sum += float64(g)
			u.conv.dy.pixel(0, c/lanes, 0, i)[c%lanes] = g
		}
		e.grads.Values[u.bias.Offset+c] = float32(sum)
	}
}

// unpackGradient gives each image its features' gradient.
func (u *linearUnit) unpackGradient(e *Engine) {
	for b := range u.in.blocks {
		for i := range e.n {
			d, g := u.dIn.pixel(i, b, 0, 0), u.conv.dx.pixel(0, b, 0, i)
			if !u.addDX {
				u.dIn.zeroHalo(i, b)
				*d = *g
				continue
			}
			for l, v := range g {
				d[l] += v
			}
		}
	}
}
