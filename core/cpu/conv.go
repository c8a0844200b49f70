package cpu

import (
	"unsafe"

	"github.com/lockstep-ml/lockstep/core"
)

// gemm is one blocked sum of products over taps that yields a grid of output pixels: a convolution's forward pass,
// or one phase of its backward pass.
type gemm struct {
	taps    []int     // byte offsets in the source image, relative to the pixel under the first tap
	window  []int     // backward: the weights behind the taps of one block, as kh*k + kw
	lanes   int       // source lanes a tap
	rows    bool      // the taps come in threes, for convRow
	chunk   int       // taps
	tiles   [3][]tile // by the output blocks of a tile
	inBase  int       // bytes from the source image's start
	inRow   int
	outBase int // bytes from pixel (0, 0) of the output block
	outPix  int
	outRow  int
	weights int // first weight of output block 0
	wBlock  int // weights of one output block
}

// cover sets the tiles for h x w output pixels.
func (m *gemm) cover(k *kernels, h, w int) {
	for blocks := 1; blocks <= k.blocks(); blocks++ {
		if m.rows {
			m.tiles[blocks] = k.rowTiles(h, w, len(m.taps)*m.lanes)
		} else {
			m.tiles[blocks] = k.tiles(h, w, blocks, len(m.taps)*m.lanes)
		}
	}
}

// run computes output blocks b to b + blocks-1 of one image; outBlock is the distance of two blocks in the output.
func (m *gemm) run(k *kernels, s *scratch, src, out unsafe.Pointer, w []float32, b, blocks, outBlock int, add bool) {
	if len(m.taps) == 0 && add {
		return
	}
	a := &s.conv
	a.taps, a.ntaps, a.lanes, a.add = unsafe.Pointer(unsafe.SliceData(m.taps)), len(m.taps), m.lanes, 0
	if add {
		a.add = 1
	}
	a.inRow, a.outPix, a.outRow, a.chunk = m.inRow, m.outPix, m.outRow, m.chunk
	a.w, a.wBlock, a.outBlock = unsafe.Pointer(unsafe.SliceData(w[m.weights+b*m.wBlock:])), 4*m.wBlock, outBlock
	for i, t := range m.tiles[blocks] {
		a.ahead, a.aheadStep = s.ahead.piece(a.w, i, len(m.tiles[blocks]), t.count*len(m.taps)*m.lanes)
		a.tiles, a.inTile, a.outTile = t.count, t.rows*m.inRow, t.rows*m.outRow
		a.in = unsafe.Add(src, m.inBase+t.y*m.inRow+t.x*pixelBytes)
		a.out = unsafe.Add(out, m.outBase+t.y*m.outRow+t.x*m.outPix)
		if m.rows {
			k.convRow(a, t.cols)
		} else {
			k.conv(a, t.rows, t.cols, blocks)
		}
	}
}

// threes says whether a pass that writes so many blocks of 16 channels goes by rows of the window: a single block cannot share a
// pixel's broadcast value with another.
func (u *convUnit) threes(lanesIn, blocksOut int) bool {
	return u.k == 3 && u.s == 1 && lanesIn == lanes && blocksOut == 1
}

// convUnit is a convolution without bias: weights [out][in][k][k].
//
// A stride s > 1 is undone by splitting the padded input into s*s planes, plane (a, b) holding every s-th row from a
// and every s-th column from b: within a plane all taps read neighbouring pixels. Backward, the gradient of each
// plane is a convolution of dy with the taps that reach the plane, written to every s-th pixel.
type convUnit struct {
	param          core.Param
	k, s, p        int
	in, y          *tensor
	src            *tensor // what the taps read: in, or the planes of it
	planes         []int   // which planes are kept, as a*s + b; nil without stride
	planeBytes     int
	fwd            gemm
	bwd            []gemm
	wFwd, wBwd     []float32
	lenFwd, lenBwd int
	stats          *normUnit // whose statistics the forward pass gathers
	dx, dy         *tensor   // gradients; dx nil where none is wanted
	// What the parts before this one will read from memory for the next image, to be fetched meanwhile.
	fwdAhead, bwdAhead []fetch
	addDX              bool
	weights            weightGrad
	inCB, outCB, kk    int
	inLanes            int
	xTaps              []int
	laying             laying
}

// chunkTaps is how many taps of 16 products a convolution sums before it adds the sum to those of the taps before. A sum of n
// products in chunks of m rounds as sqrt(m + n/m), against sqrt(n) in one go: for the 4608 products of ResNet-50's widest 3x3, a
// fifth. Fewer taps would round no less for the usual widths and cost more stores.
const chunkTaps = 3

// chunkOf is a chunk's taps: a row of the window where that is longer and the input has few channels.
func (u *convUnit) chunkOf(lanesIn int) int {
	if lanesIn < lanes {
		return max(chunkTaps, u.k)
	}
	return chunkTaps
}

func newConv(p core.Param, nd core.Node, in, y *tensor) *convUnit {
	u := &convUnit{param: p, k: nd.Kernel, s: nd.Stride, p: nd.Pad, in: in, y: y, src: in}
	u.inCB, u.outCB, u.kk, u.inLanes = in.blocks, y.blocks, u.k*u.k, lanes
	if in.blocks == 1 {
		u.inLanes = in.c
	}
	u.planLaying()
	if u.s > 1 {
		u.split()
	}
	return u
}

// product dresses a step of one of the passes that multiply by the weights.
func (u *convUnit) product(s step) step {
	const large, enough = 1 << 18, 196 // weights that leave little of a second-level cache; pixels that make up for reading them
	if u.kk*u.in.c*u.y.c >= large {
		s.reuse = (enough + u.y.h*u.y.w - 1) / (u.y.h * u.y.w)
	}
	return s.costing(u.flops())
}

// flops counts the operations of one of the three passes over the batch.
func (u *convUnit) flops() int64 {
	return 2 * int64(u.y.images*u.y.h*u.y.w) * int64(u.kk*u.in.c*u.y.c)
}

// split lays out the planes of a strided convolution's input.
func (u *convUnit) split() {
	for a := range min(u.s, u.k) {
		for b := range min(u.s, u.k) {
			u.planes = append(u.planes, a*u.s+b)
		}
	}
	h, w := (u.in.h+2*u.p+u.s-1)/u.s, (u.in.w+2*u.p+u.s-1)/u.s
	u.planeBytes = h * w * pixelBytes
	u.src = newTensor(u.in.images, u.in.c, h*len(u.planes), w, 0)
}

// tapOffset is where tap (kh, kw) of an input block reads, from the source image's start.
func (u *convUnit) tapOffset(block, kh, kw int) int {
	if u.planes == nil {
		return block*u.src.block + (u.in.halo-u.p+kh)*u.src.row + (u.in.halo-u.p+kw)*pixelBytes
	}
	want, at := kh%u.s*u.s+kw%u.s, 0
	for u.planes[at] != want {
		at++
	}
	return block*u.src.block + at*u.planeBytes + kh/u.s*u.src.row + kw/u.s*pixelBytes
}

func (u *convUnit) planForward(k *kernels) {
	for b := range u.inCB {
		for kh := range u.k {
			for kw := range u.k {
				u.xTaps = append(u.xTaps, u.tapOffset(b, kh, kw))
			}
		}
	}
	u.fwd = gemm{taps: u.xTaps, lanes: u.inLanes, chunk: u.chunkOf(u.inLanes), rows: u.threes(u.inLanes, u.outCB),
		inRow: u.src.row, outPix: pixelBytes, outRow: u.y.row, wBlock: u.inCB * u.kk * u.inLanes * lanes}
	u.fwd.cover(k, u.y.h, u.y.w)
	u.lenFwd = u.outCB * u.fwd.wBlock
}

// gradHalo is the border that the backward pass wants round dy.
func (u *convUnit) gradHalo() int {
	reach := func(size, out int) int {
		low := (u.k-1)/u.s - u.p/u.s
		return max(0, low, (size-1+u.p)/u.s-(out-1))
	}
	return max(reach(u.in.h, u.y.h), reach(u.in.w, u.y.w))
}

// phase is the input rows (or columns) that one set of taps reaches: rows first, first+s, ... count of them.
type phase struct{ tap, first, count, from int }

// phases lists them for a side of n pixels; from is the output row under tap j = 0 of the first.
func (u *convUnit) phases(n int) []phase {
	var out []phase
	for a := range u.s {
		first := a - u.p
		for first < 0 {
			first += u.s
		}
		if first < n {
			out = append(out, phase{a, first, (n-1-first)/u.s + 1, (first + u.p - a) / u.s})
		}
	}
	return out
}

func (u *convUnit) planBackward(k *kernels) {
	at := 0
	for _, v := range u.phases(u.in.h) {
		for _, h := range u.phases(u.in.w) {
			m := gemm{lanes: lanes, chunk: u.chunkOf(lanes), rows: u.threes(lanes, u.inCB), inRow: u.dy.row, outPix: u.s * pixelBytes, outRow: u.s * u.dx.row,
				inBase:  u.dy.firstPixel + v.from*u.dy.row + h.from*pixelBytes,
				outBase: v.first*u.dx.row + h.first*pixelBytes, weights: at}
			for b := range u.outCB {
				m.window = m.window[:0]
				for kh := v.tap; kh < u.k; kh += u.s {
					for kw := h.tap + (u.k-1-h.tap)/u.s*u.s; h.tap <= kw && kw < u.k; kw -= u.s { // from left to right in dy
						m.window = append(m.window, kh*u.k+kw)
						m.taps = append(m.taps, b*u.dy.block-kh/u.s*u.dy.row-kw/u.s*pixelBytes)
					}
				}
			}
			m.cover(k, v.count, h.count)
			m.wBlock = len(m.taps) * blockLen
			at += u.inCB * m.wBlock
			u.bwd = append(u.bwd, m)
		}
	}
	u.lenBwd = at + 1
}

// splitImage fills the planes of one image's block.
func (u *convUnit) splitImage(e *Engine, item, thread int) {
	image, block := item/u.inCB, item%u.inCB
	// have is which rows (or columns) of a plane the input has, from the plane's row first on; the others are padding.
	have := func(first, count, size int) (from, to int) {
		for from < count && from*u.s+first < -u.in.halo {
			from++
		}
		for to = count; to > from && (to-1)*u.s+first >= size+u.in.halo; {
			to--
		}
		return from, to
	}
	a := &e.scratch[thread].pixel
	hp, wp := u.planeBytes/u.src.row, u.src.w
	for i, pl := range u.planes {
		y, x := pl/u.s-u.p, pl%u.s-u.p
		r0, r1 := have(y, hp, u.in.h)
		c0, c1 := have(x, wp, u.in.w)
		dst := unsafe.Add(u.src.at(image, block), i*u.planeBytes)
		if r1-r0 < hp || c1-c0 < wp {
			clear(unsafe.Slice((*float32)(dst), u.planeBytes/4))
		}
		*a = pixelArgs{in: unsafe.Add(u.in.at(image, block), (y+r0*u.s)*u.in.row+(x+c0*u.s)*pixelBytes), inPix: u.s * pixelBytes, inRow: u.s * u.in.row,
			out: unsafe.Add(dst, r0*u.src.row+c0*pixelBytes), outPix: pixelBytes, outRow: u.src.row,
			rows: r1 - r0, cols: c1 - c0, lanes: lanes}
		if a.rows > 0 && a.cols > 0 {
			e.kern.copyPixels(a)
		}
	}
}

// blockRuns is how many items the output blocks of one image make, some of them two at a time.
func blockRuns(k *kernels, blocks int) int { return (blocks + k.blocks() - 1) / k.blocks() }

// blockRun gives the first block of an item and how many blocks it has.
func blockRun(k *kernels, i, blocks int) (first, n int) {
	first = i * k.blocks()
	return first, min(k.blocks(), blocks-first)
}

func (u *convUnit) forward(e *Engine, item, thread int) {
	runs := blockRuns(e.kern, u.outCB)
	image := item / runs
	first, n := blockRun(e.kern, item%runs, u.outCB)
	s := &e.scratch[thread]
	s.ahead.set(e, u.fwdAhead, image, item%runs, runs)
	u.fwd.run(e.kern, s, u.src.start(e.slot(u.src, image, thread), 0), u.y.at(image, first), u.wFwd, first, n, u.y.block, false)
	for b := first; b < first+n; b++ {
		u.y.zeroHalo(image, b)
		if u.stats != nil && e.training {
			u.stats.gather(e, image, b, thread)
		}
	}
}

func (u *convUnit) backwardData(e *Engine, item, thread int) {
	runs := blockRuns(e.kern, u.inCB)
	image := item / runs
	first, n := blockRun(e.kern, item%runs, u.inCB)
	for b := first; b < first+n && !u.addDX; b++ {
		u.dx.zeroHalo(image, b)
	}
	s := &e.scratch[thread]
	s.ahead.set(e, u.bwdAhead, image, item%runs, runs)
	for i := range u.bwd {
		u.bwd[i].run(e.kern, s, u.dy.start(image, 0), u.dx.at(image, first), u.wBwd, first, n, u.dx.block, u.addDX)
	}
}
