package cpu

import "unsafe"

// halfSums is how the gradient of a convolution's weights is summed from bf16. Pixels are multiplied in pairs of neighbours, so those of a
// piece are laid out as pairs in a thread's room: dy's once for each output block of a tile; x's once for each input block, from an even
// column on and, where a tap wants it, from an odd one.
type halfSums struct {
	at        []spot // what the taps read of the first input block; the first one's row and column are the least
	planes    int    // of a block of x
	reachRows int    // from the first tap to the last one
	reachCols int
	parities  int  // 2 where taps read odd columns
	whole     bool // x and dy have no borders: a piece's rows are one
}

// pairing is a piece laid out as pairs, in bytes.
type pairing struct {
	pixelPiece
	rows, cols int
	xRows      int // of one image
	xRow       int
	xPlane     int
	xParity    int
	xAll       int
	dyRow      int
	dyBlock    int
}

func planHalfSums(u *convUnit) *halfSums {
	h := &halfSums{at: u.fwd.at[:u.kk], planes: max(1, len(u.planes)), parities: 1}
	for _, t := range h.at {
		h.reachRows, h.reachCols = max(h.reachRows, t.row-h.at[0].row), max(h.reachCols, t.col-h.at[0].col)
	}
	if h.reachCols > 0 {
		h.parities = 2
	}
	row := u.y.w * bfPixelBytes
	h.whole = u.kk == 1 && u.weights.x.row == row && u.dy.row == row
	return h
}

// pair lays out a piece of rows of w pixels, pixelPair bytes each two of them.
func (h *halfSums) pair(c pixelPiece, w, pixelPair int) pairing {
	p := pairing{pixelPiece: c, rows: c.rows, cols: w}
	if h.whole {
		p.rows, p.cols = 1, c.rows*w
	}
	p.xRows = p.rows + h.reachRows
	p.xRow = (p.cols + h.reachCols + 1) / 2 * pixelPair
	p.xPlane = c.images.n * p.xRows * p.xRow
	p.xParity = h.planes * p.xPlane
	p.xAll = h.parities * p.xParity
	p.dyRow = (p.cols + 1) / 2 * pixelPair
	p.dyBlock = c.images.n * p.rows * p.dyRow
	return p
}

func (h halves) sumsOfPair(u *convUnit) int { return u.kk }

// settleSums takes a row of a window of three at once, wherever its taps lie.
func (h halves) settleSums(u *convUnit) (taps []tapRun, room int) {
	w, most, blocks := &u.weights, 1, 0
	w.halves = planHalfSums(u)
	for _, t := range w.tiles {
		blocks = max(blocks, t.out.n)
	}
	for _, c := range u.largestPieces() {
		p := w.halves.pair(c, u.y.w, h.k.pixelPair)
		room = max(room, p.xAll+blocks*p.dyBlock+128)
	}
	switch {
	case u.ofImage():
		most = maxImageTaps
	case u.k == 3:
		most = 3
	}
	return u.tapRuns(most, 1), room
}

func (h halves) sumTile(e *Engine, u *convUnit, t channelTile, group, thread int) {
	s, w := &e.scratch[thread], &u.weights
	for i, c := range w.pieces[group] {
		p := w.halves.pair(c, u.y.w, h.k.pixelPair)
		s.used = 0
		x, dy := s.take(p.xAll), s.take(t.out.n*p.dyBlock)
		for ob := range t.out.n {
			h.pairDY(s, u, &p, t.out.from+ob, unsafe.Add(dy, ob*p.dyBlock))
		}
		s.bfWgrad = bfWgradArgs{images: c.images.n, xSkip: w.halves.reachRows * p.xRow, rows: p.rows, xRow: p.xRow, dyRow: p.dyRow,
			pairs: (p.cols + 1) / 2, dyBlock: p.dyBlock, dwBlock: u.kk * blockLen * 4, dwTap: blockLen * 4, add: min(i, 1)}
		for ib := t.in.from; ib < t.in.from+t.in.n; ib++ {
			h.pairX(s, u, &p, e.slot(w.x, c.images.from, thread), ib, x)
			for ob := 0; ob < t.out.n; ob += 2 {
				h.sumTaps(&s.bfWgrad, u, &p, x, unsafe.Add(dy, ob*p.dyBlock), w.sums(u, group, ib, t.out.from+ob), min(2, t.out.n-ob))
			}
		}
	}
}

func (h halves) pairDY(s *scratch, u *convUnit, p *pairing, ob int, to unsafe.Pointer) {
	for i := range p.images.n {
		s.bfPair = bfPairArgs{src: unsafe.Add(u.dy.at(p.images.from+i, ob), p.row*u.dy.row), dst: unsafe.Add(to, i*p.rows*p.dyRow),
			rows: p.rows, pixels: p.cols, srcRow: u.dy.row, dstRow: p.dyRow}
		h.k.pair(&s.bfPair)
	}
}

// pairX lays out what the taps read of an input block, of images from a slot on.
func (h halves) pairX(s *scratch, u *convUnit, p *pairing, slot, ib int, to unsafe.Pointer) {
	w, first := &u.weights, u.weights.halves.at[0]
	row := u.fwd.src.cols * bfPixelBytes
	for i := range p.images.n {
		from := unsafe.Add(w.x.start(slot+i, ib), (p.row+first.row)*row+first.col*bfPixelBytes)
		for pl := range w.halves.planes {
			for odd := range w.halves.parities {
				s.bfPair = bfPairArgs{src: unsafe.Add(from, pl*u.fwd.src.rows*row+odd*bfPixelBytes), dst: unsafe.Add(to, odd*p.xParity+pl*p.xPlane+i*p.xRows*p.xRow),
					rows: p.xRows, pixels: p.cols + w.halves.reachCols - odd, srcRow: row, dstRow: p.xRow}
				h.k.pair(&s.bfPair)
			}
		}
	}
}

// sumTaps adds a piece to the gradients between an input block and one or two output blocks.
func (h halves) sumTaps(a *bfWgradArgs, u *convUnit, p *pairing, x, dy, dw unsafe.Pointer, blocks int) {
	at := u.weights.halves.at
	for _, t := range u.weights.taps {
		for j := range t.n {
			row, col := at[t.first+j].row-at[0].row, at[t.first+j].col-at[0].col
			a.x[j] = unsafe.Add(x, col%2*p.xParity+at[t.first+j].plane*p.xPlane+row*p.xRow+col/2*h.k.pixelPair)
		}
		a.dy, a.dw = dy, unsafe.Add(dw, 4*t.first*blockLen)
		switch {
		case u.ofImage():
			h.k.wgradImage(a, t.n, blocks)
		case t.n == 3:
			h.k.wgradRow(a)
			if blocks == 2 {
				a.dy, a.dw = unsafe.Add(dy, a.dyBlock), unsafe.Add(a.dw, a.dwBlock)
				h.k.wgradRow(a)
			}
		case blocks == 2:
			h.k.wgradPair(a)
		default:
			h.k.wgrad(a)
		}
	}
}
