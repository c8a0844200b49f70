package cpu

import (
	"unsafe"
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
	s := &e.scratch[thread]
	for y := range u.out.h {
		s.used = 0
		out := s.rows(u.out, image, block, y, 1)
		s.image = imageArgs{in: unsafe.Pointer(&src[y*u.out.w]), out: out.p, plane: 4 * plane, channels: channels, rows: 1, cols: u.out.w}
		e.kern.image(&s.image)
		s.store(out)
	}
}

// accumulate adds src to dst, blocks of equal height and width.
func accumulate(e *Engine, dst, src *tensor, image, block, thread int) {
	a := &e.scratch[thread].ew
	*a = ewArgs{rows: dst.h, cols: dst.w, out: dst.at(image, block), outRow: dst.row, a: src.at(image, block), aRow: src.row}
	e.act.accumulate(a)
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

func (u *reluUnit) forward(e *Engine, item, thread int) {
	image, block := item/u.out.blocks, item%u.out.blocks
	u.out.zeroHalo(image, block)
	s := &e.scratch[thread]
	for y := range u.out.h {
		s.used = 0
		in, out := s.load(s.rows(u.in, image, block, y, 1)), s.rows(u.out, image, block, y, 1)
		for x := range u.out.w {
			to := out.pixel(0, x)
			for l, v := range in.pixel(0, x) {
				if 0 > v {
					v = 0
				}
				to[l] = v
			}
		}
		s.store(out)
	}
}

func (u *reluUnit) backward(e *Engine, item, thread int) {
	image, block := item/u.out.blocks, item%u.out.blocks
	if !u.add {
		u.dIn.zero(image, block)
	}
	s := &e.scratch[thread]
	for y := range u.out.h {
		s.used = 0
		out, dIn, dOut := s.load(s.rows(u.out, image, block, y, 1)), s.load(s.rows(u.dIn, image, block, y, 1)), s.load(s.rows(u.dOut, image, block, y, 1))
		for x := range u.out.w {
			in, g := dIn.pixel(0, x), dOut.pixel(0, x)
			for l, v := range out.pixel(0, x) {
				if v > 0 {
					in[l] += g[l]
				}
			}
		}
		s.store(dIn)
	}
}

// avgPoolUnit is the mean over an image.
type avgPoolUnit struct {
	in, out, dIn, dOut *tensor
	add                bool
}

func (u *avgPoolUnit) forward(e *Engine, item, thread int) {
	image, block := item/u.out.blocks, item%u.out.blocks
	s := &e.scratch[thread]
	var sum [lanes]float64
	for y := range u.in.h {
		s.used = 0
		in := s.load(s.rows(u.in, image, block, y, 1))
		for x := range u.in.w {
			for l, v := range in.pixel(0, x) {
				sum[l] += float64(v)
			}
		}
	}
	u.out.zeroHalo(image, block)
	s.used = 0
	out := s.rows(u.out, image, block, 0, 1)
	to, n := out.pixel(0, 0), float64(u.in.h*u.in.w)
	for l, v := range sum {
		to[l] = float32(v / n)
	}
	s.store(out)
}

func (u *avgPoolUnit) backward(e *Engine, item, thread int) {
	image, block := item/u.out.blocks, item%u.out.blocks
	s := &e.scratch[thread]
	s.used = 0
	g, n := s.load(s.rows(u.dOut, image, block, 0, 1)).pixel(0, 0), float64(u.in.h*u.in.w)
	for l, v := range g {
		s.vector[l] = float32(float64(v) / n)
	}
	if !u.add {
		u.dIn.zero(image, block)
	}
	for y := range u.dIn.h {
		s.used = 0
		dIn := s.load(s.rows(u.dIn, image, block, y, 1))
		s.pixel = pixelArgs{in: unsafe.Pointer(&s.vector), out: dIn.p, outPix: pixelBytes, rows: 1, cols: dIn.cols, lanes: lanes}
		e.kern.addPixels(&s.pixel)
		s.store(dIn)
	}
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
	s := &e.scratch[thread]
	r, n := u.runs(block)
	for _, q := range r[:n] {
		for y := range u.out.h {
			s.used = 0
			in, out := s.load(s.rows(u.in, image, q.block, y*u.s, 1)), s.load(s.rows(u.out, image, block, y, 1))
			s.pixel = pixelArgs{in: unsafe.Add(in.p, 4*q.in), inPix: u.s * pixelBytes, out: unsafe.Add(out.p, 4*q.out), outPix: pixelBytes,
				rows: 1, cols: u.out.w, lanes: q.n}
			e.kern.copyPixels(&s.pixel)
			s.store(out)
		}
	}
}

// backward adds the gradient of one whole image.
func (u *padUnit) backward(e *Engine, image, thread int) {
	if !u.add {
		for b := range u.dIn.blocks {
			u.dIn.zero(image, b)
		}
	}
	s := &e.scratch[thread]
	for block := range u.out.blocks {
		r, n := u.runs(block)
		for _, q := range r[:n] {
			for y := range u.out.h {
				s.used = 0
				dOut, dIn := s.load(s.rows(u.dOut, image, block, y, 1)), s.load(s.rows(u.dIn, image, q.block, y*u.s, 1))
				s.pixel = pixelArgs{in: unsafe.Add(dOut.p, 4*q.out), inPix: pixelBytes, out: unsafe.Add(dIn.p, 4*q.in), outPix: u.s * pixelBytes,
					rows: 1, cols: u.out.w, lanes: q.n}
				e.kern.addPixels(&s.pixel)
				s.store(dIn)
			}
		}
	}
}
