package cpu

import "unsafe"

const (
	lanes      = 16         // channels of a block
	pixelBytes = lanes * 4  // bytes of one pixel of a block
	blockLen   = 16 * lanes // values of a 16x16 block of weights
)

// The kernels take one pointer to a struct of arguments; the assembly reads the fields by name (go_asm.h).
// Pointers go into the engine's arena, strides are in bytes, and every pixel is 16 float32.

// convArgs describes one tile of a convolution: rows x cols output pixels of one output block, or of two. Every tap adds
// lanes x 16 weights of each block times the input pixels that start at in + tap.
type convArgs struct {
	in       unsafe.Pointer // input pixel under the tile's first pixel
	w        unsafe.Pointer // weights: [ntaps][lanes][16]
	out      unsafe.Pointer // first output pixel
	taps     unsafe.Pointer // *int: byte offsets from in
	ntaps    int
	lanes    int // input lanes used, 1 to 16
	inRow    int // from one row of the tile to the next, in the input
	outPix   int // from one output pixel to the next
	outRow   int
	wBlock   int // from the weights of the first output block to those of the second
	outBlock int // from the first output block's pixel to the second's
	chunk    int // taps summed in registers before the sum goes to out
	// ahead is prefetched, aheadStep bytes further at every input lane; a kernel may ignore it.
	ahead     unsafe.Pointer
	aheadStep int
	add       int // 1: add to what out holds
	// tiles is how many of one shape there are, 1 or more, each inTile and outTile bytes after the one before, and its weights wTile
	// bytes after that one's. The kernel spoils tiles, in, out and w.
	tiles, inTile, outTile, wTile int
	//lint:ignore U1000 the kernels' own, from tile to tile
	left, adding int
}

// wgradArgs describes the gradient of a block of weights, summed over pixels of several images. What a kernel keeps in registers is told
// at kernels: one 16x16 block at one tap, or more.
type wgradArgs struct {
	x       unsafe.Pointer // input pixel under the first tap
	dy, dw  unsafe.Pointer // output gradients, [16 in][16 out] result
	images  int
	xImage  int // from one image to the next
	dyImage int
	rows    int
	xRow    int
	dyRow   int
	cols    int
	dyBlock int // from the first output block to the second
	dwBlock int
	dwTap   int // from one tap's result to the next
	add     int // 1: add the sum to what dw holds
}

// ewArgs describes a pass over rows x cols pixels of one channel block. Which pointers a pass uses is told at kernels.
type ewArgs struct {
	y, a, g, out unsafe.Pointer
	coef         unsafe.Pointer // coefficient vectors, see coefs
	res          unsafe.Pointer // results of a reduction: vectors of 16
	rows, cols   int
	yRow         int
	aRow         int
	gRow         int
	outRow       int
}

// Vectors of 16 that a normalised channel block carries, in ewArgs.coef.
const (
	coefScale = iota // out = y*scale + shift
	coefShift
	coefMean // batch mean
	coefA    // dy = A*g + (B*(y-mean) + C)
	coefB
	coefC
	coefVectors
)

// peakArgs describes a loop that measures arithmetic and has no result.
type peakArgs struct {
	rounds    int
	half, one float32
}

// sgdArgs describes an update of n weights; vector kernels do whole vectors, the caller the rest.
type sgdArgs struct {
	w, v, g                unsafe.Pointer
	n                      int
	decay, momentum, negLR float32
}

// transposeArgs describes up to 16x16 values: value c of the row at in + rowAt[r] goes to value r of the column at out + colAt[c].
type transposeArgs struct {
	in, out      unsafe.Pointer
	rowAt, colAt unsafe.Pointer // *int: byte offsets
	rows, cols   int            // vector kernels want 16 of each
}

// imageArgs describes rows x cols pixels whose channels lie in planes, each without gaps.
type imageArgs struct {
	in, out    unsafe.Pointer
	plane      int // from one channel to the next
	channels   int // vector kernels want imageLanes
	rows, cols int
	outRow     int
}

// winogradArgs describes n tiles of a row, each of 4x4 pixels read, two apart, or of 2x2 pixels written, and of 16 values in as many
// planes. For filters and their gradients, n is the input lanes of a pair of blocks, of which one side holds nine blocks of weights.
type winogradArgs struct {
	in, out       unsafe.Pointer
	inRow, outRow int // of pixels
	plane         int // from one plane of values to the next
	n             int
	add           int // 1: add to what the pixels hold
	half          float32
}

// pixelArgs describes pixels, or pieces of them, to copy or to add. They may lie apart.
type pixelArgs struct {
	in, out       unsafe.Pointer
	rows, cols    int
	inPix, outPix int // from one pixel to the next
	inRow, outRow int
	lanes         int // of each pixel
}

// poolArgs describes n windows of a row and the output pixels that show their maxima.
type poolArgs struct {
	in, out       unsafe.Pointer // the first window's first pixel; the first output pixel
	dIn, dOut     unsafe.Pointer // their gradients
	inRow, dInRow int
	rows, cols    int // of a window
	step          int // from one window to the next
	n             int
}
