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
	a := &e.scratch[thread].pool
	in, out := u.in.at(image, block), u.out.at(image, block)
	for y := range u.out.h {
		first, rows := u.clip(y, u.in.h)
		for _, r := range u.runs {
			*a = poolArgs{in: unsafe.Add(in, first*u.in.row+r.in*pixelBytes), inRow: u.in.row, rows: rows, cols: r.cols,
				out: unsafe.Add(out, y*u.out.row+r.x*pixelBytes), step: u.s * pixelBytes, n: r.n}
			e.kern.maxPool(a)
		}
	}
}

func (u *maxPoolUnit) backward(e *Engine, item, thread int) {
	image, block := item/u.out.blocks, item%u.out.blocks
	if !u.add {
		u.dIn.zero(image, block)
	}
	a := &e.scratch[thread].pool
	in, out, dIn, dOut := u.in.at(image, block), u.out.at(image, block), u.dIn.at(image, block), u.dOut.at(image, block)
	for y := range u.out.h {
		first, rows := u.clip(y, u.in.h)
		for _, r := range u.runs {
			*a = poolArgs{in: unsafe.Add(in, first*u.in.row+r.in*pixelBytes), inRow: u.in.row, rows: rows, cols: r.cols,
				dIn: unsafe.Add(dIn, first*u.dIn.row+r.in*pixelBytes), dInRow: u.dIn.row,
				out: unsafe.Add(out, y*u.out.row+r.x*pixelBytes), dOut: unsafe.Add(dOut, y*u.dOut.row+r.x*pixelBytes),
				step: u.s * pixelBytes, n: r.n}
			e.kern.maxPoolGradient(a)
		}
	}
}
