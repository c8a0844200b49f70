package cpu

import "unsafe"

// maxPoolUnit takes the largest value of each window; padding never wins. The gradient goes to the first pixel of
// the window, in reading order, that holds the maximum, as in PyTorch.
type maxPoolUnit struct {
	k, s, p            int
	in, out, dIn, dOut *tensor
	add                bool
	runs               []windowRun // of an output row
}

// windowRun is n neighbouring output pixels, from x on, whose windows show cols columns of the input, the first from column in on.
type windowRun struct{ x, n, in, cols int }

func newMaxPool(k, s, p int, in, out *tensor) *maxPoolUnit {
	u := &maxPoolUnit{k: k, s: s, p: p, in: in, out: out}
	for x := range out.w {
		first, cols := u.clip(x, in.w)
		last := len(u.runs) - 1
		if last >= 0 && cols == k && u.runs[last].cols == k {
			u.runs[last].n++
			continue
		}
		u.runs = append(u.runs, windowRun{x, 1, first, cols})
	}
	return u
}

// clip gives the part of a window that lies on a side of n pixels.
func (u *maxPoolUnit) clip(i, n int) (first, count int) {
	first = i*u.s - u.p
	to := min(first+u.k, n)
	first = max(first, 0)
	return first, to - first
}

func (u *maxPoolUnit) forward(e *Engine, item, thread int) {
	image, block := item/u.out.blocks, item%u.out.blocks
	u.out.zeroHalo(image, block)
	s := &e.scratch[thread]
	for y := range u.out.h {
		s.used = 0
		first, n := u.clip(y, u.in.h)
		in, out := s.load(s.rows(u.in, image, block, first, n)), s.rows(u.out, image, block, y, 1)
		for _, r := range u.runs {
			s.pool = poolArgs{in: unsafe.Pointer(in.pixel(0, r.in)), inRow: in.row, rows: n, cols: r.cols,
				out: unsafe.Pointer(out.pixel(0, r.x)), step: u.s * pixelBytes, n: r.n}
			e.kern.maxPool(&s.pool)
		}
		s.store(out)
	}
}

func (u *maxPoolUnit) backward(e *Engine, item, thread int) {
	image, block := item/u.out.blocks, item%u.out.blocks
	if !u.add {
		u.dIn.zero(image, block)
	}
	s := &e.scratch[thread]
	for y := range u.out.h {
		s.used = 0
		first, n := u.clip(y, u.in.h)
		in, dIn := s.load(s.rows(u.in, image, block, first, n)), s.load(s.rows(u.dIn, image, block, first, n))
		out, dOut := s.load(s.rows(u.out, image, block, y, 1)), s.load(s.rows(u.dOut, image, block, y, 1))
		for _, r := range u.runs {
			s.pool = poolArgs{in: unsafe.Pointer(in.pixel(0, r.in)), inRow: in.row, rows: n, cols: r.cols,
				dIn: unsafe.Pointer(dIn.pixel(0, r.in)), dInRow: dIn.row,
				out: unsafe.Pointer(out.pixel(0, r.x)), dOut: unsafe.Pointer(dOut.pixel(0, r.x)),
				step: u.s * pixelBytes, n: r.n}
			e.kern.maxPoolGradient(&s.pool)
		}
		s.store(dIn)
	}
}
