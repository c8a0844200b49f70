package cpu

import "unsafe"

// floats is the arithmetic of float32.
type floats struct{ k *kernels }

func (f floats) inLanes(channels int) int { return channels }

// items are as many blocks as the largest tiles have.
func (f floats) items(blocks, _, _ int) []span { return runsOf(blocks, f.k.blocks(), f.k.blocks()) }

// runsOf cuts blocks into runs of at most limit, each a multiple of unit but for the last.
func runsOf(blocks, unit, limit int) (out []span) {
	for _, r := range divide((blocks+unit-1)/unit, max(1, limit/unit)) {
		from := r.from * unit
		out = append(out, span{from, min(r.n*unit, blocks-from)})
	}
	return out
}

func (f floats) weightBytes(n int) int { return 4 * n }

func (f floats) settle(m *gemm) int {
	m.inRow = m.src.cols * m.src.px
	m.taps = m.offsets(m.src.rows*m.inRow, 0, m.src.px)
	s := strip{span: span{0, m.h}}
	if m.rows {
		s.tiles[1] = f.k.rowTiles(m.h, m.w, len(m.taps)*m.lanes)
	} else {
		s.tiles = f.k.allTiles(m.h, m.w, len(m.taps)*m.lanes)
	}
	m.strips = []strip{s}
	return 0
}

// multiply goes tile by tile, for as many output blocks at a time as tiles may have.
func (f floats) multiply(s *scratch, m *gemm, src, out unsafe.Pointer, w []float32, blocks span, outBlock int, add bool) {
	if len(m.taps) == 0 && add {
		return
	}
	a := &s.conv
	a.taps, a.ntaps, a.lanes, a.add = unsafe.Pointer(unsafe.SliceData(m.taps)), len(m.taps), m.lanes, 0
	if add {
		a.add = 1
	}
	a.inRow, a.outPix, a.outRow, a.chunk = m.inRow, m.outPix, m.outRow, m.chunk
	a.w, a.wBlock, a.outBlock = unsafe.Pointer(unsafe.SliceData(w[m.weights+blocks.from*m.wBlock:])), 4*m.wBlock, outBlock
	tiles := m.strips[0].tiles[blocks.n]
	for i, t := range tiles {
		a.ahead, a.aheadStep = s.ahead.piece(a.w, i, len(tiles), t.count*len(m.taps)*m.lanes)
		a.tiles, a.inTile, a.outTile, a.wTile = t.count, t.rows*m.inRow, t.rows*m.outRow, 0
		a.in = unsafe.Add(src, t.y*m.inRow+t.x*pixelBytes)
		a.out = unsafe.Add(out, m.outBase+t.y*m.outRow+t.x*m.outPix)
		if m.rows {
			f.k.convRow(a, t.cols)
		} else {
			f.k.conv(a, t.rows, t.cols, blocks.n)
		}
	}
}

func (f floats) relay(e *Engine, u *convUnit, ob, thread int) {
	block := u.kk * u.inLanes * lanes
	for ib := range u.inCB {
		w := u.wFwd[ob*u.fwd.wBlock+ib*block:][:block]
		if u.kk > 1 {
			clear(w) // in order, so that the memory is fetched ahead: the columns go here and there in it
		}
		u.relayForward(e, ob, ib, thread, w)
		for i := range u.bwd {
			m := &u.bwd[i]
			for j, t := range m.window {
				u.square(e, t, thread, w, &u.wBwd[m.weights+ib*m.wBlock+(ob*len(m.window)+j)*blockLen])
			}
		}
	}
}

func (f floats) sumsOfPair(u *convUnit) int { return u.kk }

func (f floats) settleSums(u *convUnit) (taps []tapRun, room int) {
	switch {
	case u.rolls():
		return u.tapRuns(3, 1), 0
	case u.ofImage():
		return u.tapRuns(maxImageTaps, u.s), 0
	}
	return u.tapRuns(1, u.s), 0
}

func (f floats) sumTile(e *Engine, u *convUnit, t channelTile, group, thread int) {
	w := &u.weights
	a := &e.scratch[thread].wgrad
	*a = wgradArgs{xImage: w.x.image, dyImage: u.dy.image, xRow: w.x.row, dyRow: u.dy.row,
		dyBlock: u.dy.block, dwBlock: u.kk * blockLen * 4}
	for i, p := range w.pieces[group] {
		add, slot := min(i, 1), e.slot(w.x, p.images.from, thread)
		for ob := t.out.from; ob < t.out.from+t.out.n; ob += 2 {
			for ib := t.in.from; ib < t.in.from+t.in.n; ib++ {
				f.sumPiece(u, a, p, slot, group, ib, ob, min(2, t.out.from+t.out.n-ob), add)
			}
		}
	}
}

// sumPiece adds one piece of pixels, whose first image is at slot of x, to the gradients between an input block and one or two
// output blocks.
func (f floats) sumPiece(u *convUnit, a *wgradArgs, p pixelPiece, slot, group, ib, ob, blocks, add int) {
	w := &u.weights
	a.images, a.rows, a.cols, a.add = p.images.n, p.rows, u.y.w, add
	if a.xRow == a.cols*pixelBytes && a.dyRow == a.xRow { // without borders, rows are one
		a.rows, a.cols = 1, p.rows*u.y.w
	}
	dw := w.sums(u, group, ib, ob)
	x, dy := unsafe.Add(w.x.start(slot, 0), p.row*w.x.row), unsafe.Add(u.dy.at(p.images.from, ob), p.row*u.dy.row)
	for _, t := range w.taps {
		a.x, a.dwTap = unsafe.Add(x, u.fwd.taps[ib*u.kk+t.first]), t.step*blockLen*4
		a.dy, a.dw = dy, unsafe.Add(dw, 4*t.first*blockLen)
		switch {
		case u.ofImage():
			f.k.wgradImage(a, t.n, blocks)
		case u.rolls():
			for b := range blocks {
				a.dy, a.dw = unsafe.Add(dy, b*a.dyBlock), unsafe.Add(dw, b*a.dwBlock+4*t.first*blockLen)
				f.k.wgradRow(a)
			}
		case blocks == 2:
			f.k.wgradPair(a)
		default:
			f.k.wgrad(a)
		}
	}
}
