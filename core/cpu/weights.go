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
	halves  *halfSums
	length  int // values of one group's partial sums
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
	// In bf16, maxPairedChain does so for several images, of which x lies in the cache twice, and maxImageChain for images of 3 channels:
	// the rows that the window of one piece reads of the next are laid out for both.
	maxPairedChain = 150
	maxImageChain  = 450
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

// planWeightGradient settles tiles, groups and pieces; groups are given where others share them. It gives the bytes of a thread's room
// that the pass takes.
func (u *convUnit) planWeightGradient(groups []span) (room int) {
	w := &u.weights
	side := maxSide
	for side > 1 && side*side*u.math.sumsOfPair(u) > maxSums {
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
	w.taps, room = u.math.settleSums(u)
	w.length = u.inCB * u.outCB * u.kk * blockLen
	w.partial = &buffer{len: len(w.groups) * w.length, first: -1}
	return room
}

// allocate makes what the convolution keeps outside the arena. How many pieces there are grows with the batch: they are no part of the plan.
func (u *convUnit) allocate() {
	u.wFwd, u.wBwd = aligned(u.math.weightBytes(u.lenFwd)/4), aligned(u.math.weightBytes(u.lenBwd)/4)
	for _, g := range u.weights.groups {
		u.weights.pieces = append(u.weights.pieces, u.pieces(g))
	}
}

// pieces cuts a group's pixels: whole images where several fit, else rows of one.
func (u *convUnit) pieces(g span) (out []pixelPiece) {
	longest, several := u.chains()
	if n := several / (u.y.h * u.y.w); n > 1 {
		for _, im := range divide(g.n, n) {
			out = append(out, pixelPiece{span{g.from + im.from, im.n}, 0, u.y.h})
		}
		return out
	}
	for im := range g.n {
		for _, r := range divide(u.y.h, max(1, longest/u.y.w)) {
			out = append(out, pixelPiece{span{g.from + im, 1}, r.from, r.n})
		}
	}
	return out
}

// summedTogether says whether a layer's gradient of weights is summed in one step with the rest of its backward pass.
func summedTogether(inBlocks, outBlocks, taps int) bool {
	return inBlocks*outBlocks*taps <= maxTogether
}

// chains bounds the pixels of pieces of one image and of several.
func (u *convUnit) chains() (one, several int) {
	switch {
	case u.in.px != bfPixelBytes:
		return maxChain, maxChain
	case u.ofImage():
		return maxImageChain, maxPairedChain
	}
	return maxChain, maxPairedChain
}

// largestPieces is pieces of every size up to the largest there is, however many images: what plans are made by.
func (u *convUnit) largestPieces() []pixelPiece {
	images := 0
	for _, g := range u.weights.groups {
		images = max(images, g.n)
	}
	_, several := u.chains()
	return u.pieces(span{0, min(images, max(1, several/(u.y.h*u.y.w)))})
}

// rolls says whether a row of the window is what wgradRow treats.
func (u *convUnit) rolls() bool { return u.k == 3 && u.s == 1 && u.p == 1 && u.inLanes == lanes }

// ofImage says whether the input has the channels that wgradImage treats.
func (u *convUnit) ofImage() bool { return u.in.c == imageLanes }

// tapRuns lists the taps as kernels take them, up to most at a time that lie step apart in their row of the window.
func (u *convUnit) tapRuns(most, step int) (out []tapRun) {
	for kh := range u.k {
		for kw := range min(step, u.k) {
			for n := (u.k - kw + step - 1) / step; n > 0; kw, n = kw+most*step, n-most {
				out = append(out, tapRun{kh*u.k + kw, min(n, most), step})
			}
		}
	}
	return out
}

// backwardWeights sums the gradients of one tile of channels over one group of images.
func (u *convUnit) backwardWeights(e *Engine, item, thread int) {
	w := &u.weights
	u.math.sumTile(e, u, w.tiles[item%len(w.tiles)], item/len(w.tiles), thread)
}

// sums is where the gradients between a group's input block and output block ob go.
func (w *weightGrad) sums(u *convUnit, group, ib, ob int) unsafe.Pointer {
	return unsafe.Pointer(&w.partial.data[group*w.length+(ib*u.outCB+ob)*u.kk*blockLen])
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
