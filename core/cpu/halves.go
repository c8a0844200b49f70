package cpu

import "unsafe"

// halves is the arithmetic of bf16. Where a family's kernels read other pixels than a tensor has, a strip of the source is brought to
// them in a thread's room, once for the output blocks of an item.
type halves struct{ k *bfKernels }

const (
	// swapWorth is for how many taps of how many output blocks a strip of the source should be prepared: that then takes 1.5 % of the time.
	swapWorth = 36
	// maxStrip bounds a strip's bytes, so that it shares a second-level cache with the weights of two output blocks.
	maxStrip = 384 << 10
	// singly is so many products that a call treats one tile: these kernels know no more.
	singly = 1 << 20
)

func (h halves) swaps() bool { return h.k.sourcePixel != bfPixelBytes }

// inLanes come in pairs.
func (h halves) inLanes(channels int) int { return (channels + 1) / 2 * 2 }

func (h halves) items(blocks, taps, grids int) []span {
	unit := h.k.like.blocks()
	if !h.swaps() {
		return runsOf(blocks, unit, unit)
	}
	return runsOf(blocks, unit, max(unit, swapWorth*grids/taps))
}

// weightBytes: weights have their family's width; n is even, and counts those of float32.
func (h halves) weightBytes(n int) int { return h.weightAt(n) }

// weightAt is the byte where the weight n of a layout by float32s lies.
func (h halves) weightAt(n int) int { return n / (2 * lanes) * h.k.weightPair }

func (h halves) settle(m *gemm) (room int) {
	m.inRow = m.src.cols * h.k.sourcePixel
	rows := m.src.rows
	strips := []span{{0, m.h}}
	if h.swaps() && len(m.at) > 0 {
		m.low, m.reach = m.at[0].row, 0
		for _, p := range m.at {
			m.low = min(m.low, p.row)
		}
		for _, p := range m.at {
			m.reach = max(m.reach, p.row-m.low)
		}
		strips = divide(m.h, max(1, maxStrip/(m.src.planes*m.inRow)-m.reach))
		rows = m.reach
		for _, s := range strips {
			rows = max(rows, m.reach+s.n)
		}
		room = m.src.planes * rows * m.inRow
	}
	m.pitch = rows * m.inRow
	m.taps = m.offsets(m.pitch, m.low, h.k.sourcePixel)
	for _, s := range strips {
		m.strips = append(m.strips, strip{s, h.k.like.allTiles(s.n, m.w, singly)})
	}
	return room
}

// multiply goes strip by strip, in each for as many output blocks at a time as tiles may have.
func (h halves) multiply(s *scratch, m *gemm, src, out unsafe.Pointer, w []float32, blocks span, outBlock int, add bool) {
	if len(m.taps) == 0 && add {
		return
	}
	unit := h.k.like.blocks()
	a := &s.bfConv
	*a = bfConvArgs{taps: unsafe.Pointer(unsafe.SliceData(m.taps)), ntaps: len(m.taps), pairs: m.lanes / 2,
		inRow: m.inRow, outPix: m.outPix, outRow: m.outRow, wBlock: h.weightAt(m.wBlock), outBlock: outBlock}
	if add {
		a.add = 1
	}
	for i := range m.strips {
		st := &m.strips[i]
		in, to := h.source(s, m, src, st.span), unsafe.Add(out, m.outBase+st.from*m.outRow)
		for b := 0; b < blocks.n; b += unit {
			n := min(unit, blocks.n-b)
			a.w = unsafe.Pointer(&w[h.weightAt(m.weights+(blocks.from+b)*m.wBlock)/4])
			for _, t := range st.tiles[n] {
				a.in = unsafe.Add(in, t.y*m.inRow+t.x*h.k.sourcePixel)
				a.out = unsafe.Add(to, b*outBlock+t.y*m.outRow+t.x*m.outPix)
				h.k.conv(a, t.rows, t.cols, n)
			}
		}
	}
}

// source gives what the kernels read for a strip of the output.
func (h halves) source(s *scratch, m *gemm, src unsafe.Pointer, strip span) unsafe.Pointer {
	if !h.swaps() || len(m.taps) == 0 {
		return unsafe.Add(src, strip.from*m.inRow)
	}
	s.used = 0
	room := s.take(m.src.planes * m.pitch)
	for p := range m.src.planes {
		s.ew = ewArgs{rows: 1, cols: (strip.n + m.reach) * m.src.cols, y: unsafe.Add(src, (p*m.src.rows+strip.from+m.low)*m.src.cols*bfPixelBytes),
			out: unsafe.Add(room, p*m.pitch)}
		h.k.swap(&s.ew)
	}
	return room
}

// relay rounds weights from what float32 has: a pair of blocks lies in room in between.
func (h halves) relay(e *Engine, u *convUnit, ob, thread int) {
	s := &e.scratch[thread]
	n := u.kk * u.inLanes * lanes
	w, square := s.floats(n), s.floats(blockLen)
	for ib := range u.inCB {
		clear(w)
		u.relayForward(e, ob, ib, thread, w)
		h.lay(s, w, u.wFwd, ob*u.fwd.wBlock+ib*n)
		for i := range u.bwd {
			m := &u.bwd[i]
			for j, t := range m.window {
				if u.inLanes < lanes {
					clear(square)
				}
				u.square(e, t, thread, w, &square[0])
				h.lay(s, square, u.wBwd, m.weights+ib*m.wBlock+(ob*len(m.window)+j)*blockLen)
			}
		}
	}
}

// lay writes weights from the n-th on.
func (h halves) lay(s *scratch, from, to []float32, n int) {
	s.bfWeight = bfWeightArgs{src: unsafe.Pointer(&from[0]), dst: unsafe.Pointer(&to[h.weightAt(n)/4]), pairs: len(from) / (2 * lanes)}
	h.k.layWeights(&s.bfWeight)
}
