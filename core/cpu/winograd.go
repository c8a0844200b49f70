package cpu

import "unsafe"

// winograd is the arithmetic of 3x3 convolutions with stride 1 by F(2x2, 3x3) of Lavin and Gray, "Fast Algorithms for Convolutional
// Neural Networks" (2016): a tile of 2x2 outputs takes 16 products a pair of channels, where the window takes 36. The products of all
// tiles at one of the 16 places are a 1x1 convolution, for the kernels of floats.
//
// F(4x4, 3x3) would take 36 products for 16 outputs, but it multiplies by numbers up to 8 and rounds an order of magnitude worse.
type winograd struct{ floats }

const (
	winogradValues = 16 // of a tile
	// winogradChunk is how many blocks of input channels are summed before the sum is stored, as chunkTaps.
	winogradChunk = 2
	// winogradTiles bounds the tiles of a strip, if one row of them is not more: their values, and the sums of two output blocks, leave
	// room in a second-level cache of 1 MiB for up to 128 channels; with fewer, the weights of more channels would be read more often.
	winogradTiles = 64
)

// winogradPlan is how the sums of a gemm are done tile by tile.
type winogradPlan struct {
	from     int // bytes from an image's start to the first tile's first pixel
	across   int // tiles in a row
	strips   []winogradStrip
	inBlocks int
	inPlane  int // bytes of a source's block
	pieces   int // of all strips, with as many output blocks as the largest tiles
}

// winogradStrip is some rows of tiles, and what the kernels take of them at a time, by output blocks.
type winogradStrip struct {
	span
	pieces [3][]span
	blocks []int // where the input blocks lie among the values of a place, as taps
}

// tiles counts the strip's.
func (s *winogradStrip) tiles(p *winogradPlan) int { return s.n * p.across }

// winogradPlane is the bytes that the values of one place take, with so many tiles of so many blocks of channels: an odd number of cache
// lines, so that the 16 values of a tile do not compete for the same lines of the cache.
func winogradPlane(tiles, blocks int) int { return (tiles*blocks | 1) * pixelBytes }

// plane is that of the strip's values.
func (s *winogradStrip) plane(p *winogradPlan, blocks int) int {
	return winogradPlane(s.tiles(p), blocks)
}

// suits says whether a convolution is one for winograd: that depends on its shape alone. With a single block of channels the transforms
// and the short sums take what the products save.
func suits(k, s, p int, in, y *tensor) bool {
	return k == 3 && s == 1 && p == 1 && in.c%lanes == 0 && y.c%lanes == 0 && in.blocks > 1 && y.blocks > 1 &&
		y.h%2 == 0 && y.w%2 == 0 && y.h*y.w >= winogradLeast
}

// winogradLeast is how many pixels an image must have: with fewer, reading 16/9 of the weights costs more than the products saved.
const winogradLeast = 64

// items are whole images: their pixels are transformed once for all output blocks.
func (a winograd) items(blocks, _, _ int) []span { return []span{{0, blocks}} }

// weightBytes makes room for 16 values in the place of 9 weights.
func (a winograd) weightBytes(n int) int {
	return 4 * ((n*winogradValues/9 + lanes - 1) / lanes * lanes)
}

func (a winograd) settle(m *gemm) (room int) {
	a.floats.settle(m)
	room = 2 * 4 * 9 * blockLen // relay's
	p := &winogradPlan{across: m.w / 2, inBlocks: len(m.at) / 9, inPlane: m.src.rows * m.inRow}
	first := m.at[0]
	for _, at := range m.at[:9] {
		first.row, first.col = min(first.row, at.row), min(first.col, at.col)
	}
	p.from = first.row*m.inRow + first.col*m.src.px
	for _, r := range divide(m.h/2, max(1, winogradTiles/p.across)) {
		s := winogradStrip{span: r, blocks: make([]int, 0, p.inBlocks)}
		for blocks := 1; blocks <= a.k.blocks(); blocks++ {
			s.pieces[blocks] = divide(s.tiles(p), min(a.k.maxCols, a.k.maxPix[blocks]))
		}
		for b := range p.inBlocks {
			s.blocks = append(s.blocks, b*s.tiles(p)*pixelBytes)
		}
		p.strips = append(p.strips, s)
		p.pieces += len(s.pieces[a.k.blocks()])
		room = max(room, winogradValues*(s.plane(p, p.inBlocks)+s.plane(p, a.k.blocks()))+2*pixelBytes)
	}
	m.winograd = p
	return room
}

// multiply goes strip by strip: the pixels of all input blocks become values, and then, for as many output blocks at a time as tiles may
// have, the values become sums and these outputs.
func (a winograd) multiply(s *scratch, m *gemm, src, out unsafe.Pointer, w []float32, blocks span, outBlock int, add bool) {
	p, most := m.winograd, a.k.blocks()
	call, calls := 0, p.pieces*((blocks.n+most-1)/most)
	for i := range p.strips {
		t := &p.strips[i]
		s.used = 0
		values, sums := s.take(winogradValues*t.plane(p, p.inBlocks)), s.take(winogradValues*t.plane(p, most))
		for b := range p.inBlocks {
			a.toValues(s, m, t, src, b, unsafe.Add(values, t.blocks[b]), t.plane(p, p.inBlocks))
		}
		c := &s.conv
		*c = convArgs{taps: unsafe.Pointer(unsafe.SliceData(t.blocks)), ntaps: p.inBlocks, lanes: lanes, chunk: winogradChunk, outPix: pixelBytes,
			inTile: t.plane(p, p.inBlocks), outTile: t.plane(p, most), wBlock: p.inBlocks * 4 * blockLen, outBlock: t.tiles(p) * pixelBytes}
		c.wTile = blocks.n * c.wBlock
		for from := 0; from < blocks.n; from += most {
			n := min(most, blocks.n-from)
			weights := unsafe.Pointer(unsafe.SliceData(w[from*p.inBlocks*blockLen:]))
			for _, piece := range t.pieces[n] {
				c.in, c.out, c.w = unsafe.Add(values, piece.from*pixelBytes), unsafe.Add(sums, piece.from*pixelBytes), weights
				c.tiles = winogradValues
				c.ahead, c.aheadStep = s.ahead.piece(c.w, call, calls, winogradValues*p.inBlocks*lanes)
				a.k.conv(c, 1, piece.n, n)
				call++
			}
			for b := range n {
				a.toOutput(s, m, t, unsafe.Add(sums, b*c.outBlock), unsafe.Add(out, (from+b)*outBlock), add)
			}
		}
	}
}

// toValues transforms what the strip's tiles read of one block of an image.
func (a winograd) toValues(s *scratch, m *gemm, t *winogradStrip, image unsafe.Pointer, block int, values unsafe.Pointer, plane int) {
	p := m.winograd
	g := &s.winograd
	for r := range t.n {
		*g = winogradArgs{in: unsafe.Add(image, p.from+block*p.inPlane+2*(t.from+r)*m.inRow), inRow: m.inRow,
			out: unsafe.Add(values, r*p.across*pixelBytes), plane: plane, n: p.across}
		a.k.winogradInput(g)
	}
}

// toOutput transforms the sums of one output block.
func (a winograd) toOutput(s *scratch, m *gemm, t *winogradStrip, sums, out unsafe.Pointer, add bool) {
	p := m.winograd
	g := &s.winograd
	*g = winogradArgs{outRow: m.outRow, plane: t.plane(p, a.k.blocks()), n: p.across}
	if add {
		g.add = 1
	}
	for r := range t.n {
		g.in = unsafe.Add(sums, r*p.across*pixelBytes)
		g.out = unsafe.Add(out, m.outBase+2*(t.from+r)*m.outRow)
		a.k.winogradOutput(g)
	}
}

// relay turns the weights of both passes into values; the backward pass's windows are turned by half a circle.
func (a winograd) relay(e *Engine, u *convUnit, ob, thread int) {
	s := &e.scratch[thread]
	w, turned := s.floats(9*blockLen), s.floats(9*blockLen)
	for ib := range u.inCB {
		u.relayForward(e, ob, ib, thread, w)
		a.filter(s, w, u.wFwd[(ob*u.inCB+ib)*blockLen:], u.inCB*u.outCB)
		if u.bwd == nil {
			continue
		}
		for t := range 9 {
			u.square(e, t, thread, w, &turned[(8-t)*blockLen])
		}
		a.filter(s, turned, u.wBwd[(ib*u.outCB+ob)*blockLen:], u.inCB*u.outCB)
	}
}

// filter transforms the weights of one pair of blocks, of so many pairs.
func (a winograd) filter(s *scratch, w, values []float32, pairs int) {
	s.winograd = winogradArgs{in: unsafe.Pointer(&w[0]), out: unsafe.Pointer(&values[0]), plane: 4 * pairs * blockLen, n: lanes, half: 0.5}
	a.k.winogradFilter(&s.winograd)
}
