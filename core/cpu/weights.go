package cpu

import "unsafe"

// weightGrad is how the gradient of a convolution's weights is computed: pieces of pixels that fit the first-level cache, within
// tiles of channel blocks whose sums fit the second, within groups of images. All three are chosen by shape; items are groups x tiles.
type weightGrad struct {
	groups  []span // of images
	tiles   []channelTile
	pieces  [][]pixelPiece // by group
	taps    []tapRun
	x       *tensor // what the taps read: the convolution's source, or its like
	partial *buffer // [group][in block][out block][k*k][16 in][16 out]
	length  int     // values of one group's partial sums
}

// channelTile is a rectangle of input and output blocks.
type channelTile struct{ in, out span }

// pixelPiece is what one kernel call sums over.
type pixelPiece struct {
	images    span
	row, rows int
}

// tapRun is taps of one row of the window that read neighbouring pixels: n of them, step apart in the window, from the first.
type tapRun struct{ first, n, step int }

const (
	// maxChain bounds the pixels that one kernel call sums into one weight's gradient: x and two blocks of dy then fit a first-level
	// cache of 48 KiB. Rounding errors grow with it too, and so does the time in which the scheduler cannot have the core (12 cycles
	// a pixel).
	maxChain = 200
	// minItems is how many independent pieces the gradient of a layer's weights is cut into at least, by tiles of channels and,
	// where these are few, by groups of images. Fewer leave cores idle at the end; more cost time to add the groups up.
	minItems = 32
	// maxSums bounds the 16x16 blocks of a tile, 1 KiB each, and maxSide the blocks on one of its sides: sums and pixels share a
	// second-level cache of 1 MiB.
	maxSums = 576
	maxSide = 16
	// maxTogether bounds the 16x16 blocks of a layer whose gradient of weights is summed in one step with the rest of its backward
	// pass: every group of images then has sums of its own.
	maxTogether = 256
)

// planWeightGradient settles tiles, groups and pieces; groups are given where others share them.
func (u *convUnit) planWeightGradient(groups []span) {
	w := &u.weights
	side := maxSide
	for side > 1 && side*side*u.kk > maxSums {
		side--
	}
	for _, out := range divide(u.outCB, side) {
		for _, in := range divide(u.inCB, side) {
			w.tiles = append(w.tiles, channelTile{in, out})
		}
	}
	w.groups = groups
	if groups == nil {
		n := min(u.y.images, (minItems+len(w.tiles)-1)/len(w.tiles))
		w.groups = divide(u.y.images, (u.y.images+n-1)/n)
	}
	w.taps = u.tapRuns()
	w.length = u.inCB * u.outCB * u.kk * blockLen
	w.partial = &buffer{len: len(w.groups) * w.length, first: -1}
}

// allocate makes what the convolution keeps outside the arena. How many pieces there are grows with the batch: they are no part of the plan.
func (u *convUnit) allocate() {
	u.wFwd, u.wBwd = aligned(u.lenFwd), aligned(u.lenBwd)
	for _, g := range u.weights.groups {
		u.weights.pieces = append(u.weights.pieces, u.pieces(g))
	}
}

// pieces cuts a group's pixels: whole images where several fit, else rows of one.
func (u *convUnit) pieces(g span) (out []pixelPiece) {
	if n := maxChain / (u.y.h * u.y.w); n > 1 {
		for _, im := range divide(g.n, n) {
			out = append(out, pixelPiece{span{g.from + im.from, im.n}, 0, u.y.h})
		}
		return out
	}
	for im := range g.n {
		for _, r := range divide(u.y.h, max(1, maxChain/u.y.w)) {
			out = append(out, pixelPiece{span{g.from + im, 1}, r.from, r.n})
		}
	}
	return out
}

// rolls says whether a row of the window is what wgradRow treats.
func (u *convUnit) rolls() bool { return u.k == 3 && u.s == 1 && u.p == 1 && u.inLanes == lanes }

// ofImage says whether the input has the channels that wgradImage treats.
func (u *convUnit) ofImage() bool { return u.inLanes == imageLanes }

// tapRuns lists the taps as kernels take them.
func (u *convUnit) tapRuns() (out []tapRun) {
	most := 1
	switch {
	case u.rolls():
		most = 3
	case u.ofImage():
		most = maxImageTaps
	}
	for kh := range u.k {
		for kw := range min(u.s, u.k) {
			for n := (u.k - kw + u.s - 1) / u.s; n > 0; kw, n = kw+most*u.s, n-most {
				out = append(out, tapRun{kh*u.k + kw, min(n, most), u.s})
			}
		}
	}
	return out
}

// backwardWeights sums the gradients of one tile of channels over one group of images.
func (u *convUnit) backwardWeights(e *Engine, item, thread int) {
	w := &u.weights
	g, t := item/len(w.tiles), w.tiles[item%len(w.tiles)]
	a := &e.scratch[thread].wgrad
	*a = wgradArgs{xImage: w.x.image, dyImage: u.dy.image, xRow: w.x.row, dyRow: u.dy.row,
		dyBlock: u.dy.block, dwBlock: u.kk * blockLen * 4}
	for i, p := range w.pieces[g] {
		add, slot := min(i, 1), e.slot(w.x, p.images.from, thread)
		for ob := t.out.from; ob < t.out.from+t.out.n; ob += 2 {
			for ib := t.in.from; ib < t.in.from+t.in.n; ib++ {
				u.sumPiece(e.kern, a, p, slot, g, ib, ob, min(2, t.out.from+t.out.n-ob), add)
			}
		}
	}
}

// sumPiece adds one piece of pixels, whose first image is at slot of x, to the gradients between an input block and one or two
// output blocks.
func (u *convUnit) sumPiece(k *kernels, a *wgradArgs, p pixelPiece, slot, g, ib, ob, blocks, add int) {
	w := &u.weights
	a.images, a.rows, a.cols, a.add = p.images.n, p.rows, u.y.w, add
	if a.xRow == a.cols*pixelBytes && a.dyRow == a.xRow { // without borders, rows are one
		a.rows, a.cols = 1, p.rows*u.y.w
	}
	dw := unsafe.Pointer(&w.partial.data[g*w.length+(ib*u.outCB+ob)*u.kk*blockLen])
	x, dy := unsafe.Add(w.x.start(slot, 0), p.row*w.x.row), unsafe.Add(u.dy.at(p.images.from, ob), p.row*u.dy.row)
	for _, t := range w.taps {
		a.x, a.dwTap = unsafe.Add(x, u.xTaps[ib*u.kk+t.first]), t.step*blockLen*4
		a.dy, a.dw = dy, unsafe.Add(dw, 4*t.first*blockLen)
		switch {
		case u.ofImage():
			k.wgradImage(a, t.n, blocks)
		case u.rolls():
			for b := range blocks {
				a.dy, a.dw = unsafe.Add(dy, b*a.dyBlock), unsafe.Add(dw, b*a.dwBlock+4*t.first*blockLen)
				k.wgradRow(a)
			}
		case blocks == 2:
			k.wgradPair(a)
		default:
			k.wgrad(a)
		}
	}
}

// combine adds the groups' sums in a fixed tree and writes the block's gradient in the canonical layout.
func (u *convUnit) combine(e *Engine, item, thread int) {
	n, w := u.kk*blockLen, &u.weights
	at := func(g int) []float32 { return w.partial.data[g*w.length+item*n:][:n] }
	a := &e.scratch[thread].ew
	*a = ewArgs{rows: 1, cols: n / lanes}
	for step := 1; step < len(w.groups); step *= 2 {
		for g := 0; g+step < len(w.groups); g += 2 * step {
			a.out, a.a = unsafe.Pointer(&at(g)[0]), unsafe.Pointer(&at(g + step)[0])
			e.kern.accumulate(a)
		}
	}
	u.writeGradient(e, item%u.outCB, item/u.outCB, thread, at(0))
}
