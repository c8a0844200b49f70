package cpu

import (
	"unsafe"

	"github.com/lockstep-ml/lockstep/core"
)

// gemm is one blocked sum of products over taps that yields a grid of output pixels: a convolution's forward pass,
// or one phase of its backward pass.
type gemm struct {
	src     source
	at      []spot // what the taps read for the first output pixel
	window  []int  // backward: the weights behind the taps of one block, as kh*k + kw
	lanes   int    // source lanes a tap
	h, w    int    // output pixels
	outBase int    // bytes from pixel (0, 0) of the output block
	outPix  int
	outRow  int
	weights int // first weight of output block 0
	wBlock  int // weights of one output block
	scheme
	winograd *winogradPlan // nil for other arithmetics
}

// source is what taps read of an image: planes of rows, each a channel block or, with a stride, a part of one.
type source struct{ planes, rows, cols, px int }

// spot is a pixel of a source.
type spot struct{ plane, row, col int }

// scheme is how an arithmetic goes about the sums of a gemm.
type scheme struct {
	taps   []int // byte offsets, relative to the pixel under the first tap
	chunk  int   // taps
	rows   bool  // the taps come in threes, for convRow
	strips []strip
	inRow  int
	pitch  int // from one plane of a strip's source to the next, where it is in room
	low    int // the first row of the source that a strip's first row reads, and how many rows more than it has itself it reads
	reach  int
}

// strip is some rows of the output, and its tiles by their output blocks.
type strip struct {
	span
	tiles [3][]tile
}

// offsets turns spots into bytes from the source's start, the planes pitch apart and counted from a row on.
func (m *gemm) offsets(pitch, row, px int) (out []int) {
	for _, p := range m.at {
		out = append(out, p.plane*pitch+((p.row-row)*m.src.cols+p.col)*px)
	}
	return out
}

// arithmetic is what a convolution multiplies: float32s, or bf16s into float32s.
type arithmetic interface {
	// inLanes is how many lanes the weights of an image's only input block have, where that has so many channels.
	inLanes(channels int) int
	// items cuts the output blocks of one image into items of work, for a pass that sums a window's taps in so many grids.
	items(blocks, taps, grids int) []span
	// weightBytes is what so many weights take as the kernels want them.
	weightBytes(n int) int
	// settle plans the sums of m, and gives the bytes of a thread's room that multiply takes.
	settle(m *gemm) int
	// multiply computes output blocks of one image; outBlock is the distance of two of them.
	multiply(s *scratch, m *gemm, src, out unsafe.Pointer, w []float32, blocks span, outBlock int, add bool)
	// relay lays out the weights of an output block: for the forward pass, and where there is one for the backward pass.
	relay(e *Engine, u *convUnit, ob, thread int)
	// settleSums plans the gradient of the weights, for which a pair of blocks has so many 16x16 sums at a time; sumTile computes it for a
	// tile of channels over a group of images.
	sumsOfPair(u *convUnit) int
	settleSums(u *convUnit) (taps []tapRun, room int)
	sumTile(e *Engine, u *convUnit, t channelTile, group, thread int)
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
	math           arithmetic
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
	outs, ins          []span // output blocks, input blocks of the items of a pass
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

func newConv(p core.Param, nd core.Node, in, y *tensor, math arithmetic) *convUnit {
	u := &convUnit{param: p, math: math, k: nd.Kernel, s: nd.Stride, p: nd.Pad, in: in, y: y, src: in}
	u.inCB, u.outCB, u.kk, u.inLanes = in.blocks, y.blocks, u.k*u.k, lanes
	if in.blocks == 1 {
		u.inLanes = math.inLanes(in.c)
	}
	u.outs = math.items(u.outCB, u.kk, 1)
	u.ins = math.items(u.inCB, u.kk, min(u.s, u.k)*min(u.s, u.k))
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
	u.planeBytes = h * w * u.in.px
	u.src = newTensor(u.in.images, u.in.c, h*len(u.planes), w, 0, u.in.px)
}

// source describes what the taps of the forward pass and of the weights' gradient read.
func (u *convUnit) source() source {
	if u.planes == nil {
		return tensorSource(u.src)
	}
	return source{u.inCB * len(u.planes), u.planeBytes / u.src.row, u.src.w, u.src.px}
}

func tensorSource(t *tensor) source {
	return source{t.blocks, t.h + 2*t.halo, t.w + 2*t.halo, t.px}
}

// tapPlace is where tap (kh, kw) of an input block reads.
func (u *convUnit) tapPlace(block, kh, kw int) spot {
	if u.planes == nil {
		return spot{block, u.in.halo - u.p + kh, u.in.halo - u.p + kw}
	}
	want, at := kh%u.s*u.s+kw%u.s, 0
	for u.planes[at] != want {
		at++
	}
	return spot{block*len(u.planes) + at, kh / u.s, kw / u.s}
}

// planForward gives the bytes of a thread's room that the pass takes.
func (u *convUnit) planForward() (room int) {
	m := gemm{src: u.source(), lanes: u.inLanes, h: u.y.h, w: u.y.w, outPix: u.y.px, outRow: u.y.row, wBlock: u.inCB * u.kk * u.inLanes * lanes}
	m.chunk, m.rows = u.chunkOf(u.inLanes), u.threes(u.inLanes, u.outCB)
	for b := range u.inCB {
		for kh := range u.k {
			for kw := range u.k {
				m.at = append(m.at, u.tapPlace(b, kh, kw))
			}
		}
	}
	room = u.math.settle(&m)
	u.fwd, u.lenFwd = m, u.outCB*m.wBlock
	return max(room, 4*(u.kk*u.inLanes*lanes+blockLen)) // relay's
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

// planBackward gives the bytes of a thread's room that the pass takes.
func (u *convUnit) planBackward() (room int) {
	at := 0
	for _, v := range u.phases(u.in.h) {
		for _, h := range u.phases(u.in.w) {
			m := gemm{src: tensorSource(u.dy), lanes: lanes, h: v.count, w: h.count, outBase: v.first*u.dx.row + h.first*u.dx.px,
				outPix: u.s * u.dx.px, outRow: u.s * u.dx.row, weights: at}
			m.chunk, m.rows = u.chunkOf(lanes), u.threes(lanes, u.inCB)
			for b := range u.outCB {
				m.window = m.window[:0]
				for kh := v.tap; kh < u.k; kh += u.s {
					for kw := h.tap + (u.k-1-h.tap)/u.s*u.s; h.tap <= kw && kw < u.k; kw -= u.s { // from left to right in dy
						m.window = append(m.window, kh*u.k+kw)
						m.at = append(m.at, spot{b, u.dy.halo + v.from - kh/u.s, u.dy.halo + h.from - kw/u.s})
					}
				}
			}
			m.wBlock = len(m.at) * blockLen
			at += u.inCB * m.wBlock
			room = max(room, u.math.settle(&m))
			u.bwd = append(u.bwd, m)
		}
	}
	u.lenBwd = at + 2*lanes
	return room
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
		*a = pixelArgs{in: unsafe.Add(u.in.at(image, block), (y+r0*u.s)*u.in.row+(x+c0*u.s)*u.in.px), inPix: u.s * u.in.px, inRow: u.s * u.in.row,
			out: unsafe.Add(dst, r0*u.src.row+c0*u.src.px), outPix: u.src.px, outRow: u.src.row,
			rows: r1 - r0, cols: c1 - c0, lanes: u.src.px / 4} // as float32s, whatever they are
		if a.rows > 0 && a.cols > 0 {
			e.kern.copyPixels(a)
		}
	}
}

func (u *convUnit) forward(e *Engine, item, thread int) {
	image, i := item/len(u.outs), item%len(u.outs)
	s, r := &e.scratch[thread], u.outs[i]
	s.ahead.set(e, u.fwdAhead, image, i, len(u.outs))
	u.math.multiply(s, &u.fwd, u.src.start(e.slot(u.src, image, thread), 0), u.y.at(image, r.from), u.wFwd, r, u.y.block, false)
	for b := r.from; b < r.from+r.n; b++ {
		u.y.zeroHalo(image, b)
		if u.stats != nil && e.training {
			u.stats.gather(e, image, b, thread)
		}
	}
}

func (u *convUnit) backwardData(e *Engine, item, thread int) {
	image, i := item/len(u.ins), item%len(u.ins)
	s, r := &e.scratch[thread], u.ins[i]
	for b := r.from; b < r.from+r.n && !u.addDX; b++ {
		u.dx.zeroHalo(image, b)
	}
	s.ahead.set(e, u.bwdAhead, image, i, len(u.ins))
	for i := range u.bwd {
		u.math.multiply(s, &u.bwd[i], u.dy.start(image, 0), u.dx.at(image, r.from), u.wBwd, r, u.dx.block, u.addDX)
	}
}
