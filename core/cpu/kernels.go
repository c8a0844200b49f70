package cpu

import (
	"fmt"
	"os"
	"unsafe"

	"github.com/lockstep-ml/lockstep/internal/simd"
)

// kernels is one family: every function gives the same bits in every family.
type kernels struct {
	name    string
	minCols int // of a convolution's tile: narrower than maxCols where that divides a row evenly
	maxCols int
	maxRows int
	maxPix  [3]int // rows*cols of a tile, by its output blocks; 0 where no tile has as many
	maxRow  int    // columns of convRow

	// conv treats one tile.
	conv func(a *convArgs, rows, cols, blocks int)
	// convRow treats cols pixels of one row and one block under a window three pixels wide: taps come in threes that read neighbouring
	// pixels, 16 lanes each, and every lane's three products are added together. A chunk is one three.
	convRow func(a *convArgs, cols int)
	// wgrad treats one tap of 16 input lanes and one output block; wgradPair two output blocks; wgradRow three taps side by side, whose
	// window hangs over each row's ends by one pixel that is zero in x; wgradImage up to maxImageTaps taps side by side, of imageLanes
	// input lanes, and one output block or two.
	wgrad, wgradPair, wgradRow func(a *wgradArgs)
	wgradImage                 func(a *wgradArgs, taps, blocks int)

	passes

	// sgd updates n weights: v = momentum*v + (decay*w + g), w = w + negLR*v.
	sgd func(a *sgdArgs)

	transpose func(a *transposeArgs)
	// image brings planes to pixels and zeroes the other lanes.
	image func(a *imageArgs)
	// copyPixels: out = in; addPixels: out += in.
	copyPixels, addPixels func(a *pixelArgs)
	// The transforms of winograd.go; winogradError and winogradWeights are those of its gradient.
	winogradInput, winogradOutput, winogradFilter func(a *winogradArgs)
	winogradError, winogradWeights                func(a *winogradArgs)
	// maxPool writes the maxima of windows: the first of equal ones, and a NaN above all. maxPoolGradient adds each output pixel's
	// gradient to the window's first pixel that equals the maximum.
	maxPool, maxPoolGradient func(a *poolArgs)
	// peak does nothing but multiply and add in registers: a.rounds times peakLanes products and sums.
	peak      func(a *peakArgs)
	peakLanes int
}

// passes are the kernels over pixels of one format: y, a, g and out are float32 or bf16, coef and res float32 in either case.
type passes struct {
	// stats: res = [first pixel K, sum of y-K, sum of (y-K)^2].
	stats func(a *ewArgs)
	// apply: out = y*scale + shift (+ a) (then ReLU); index 1 for the shortcut a, 2 for ReLU.
	apply [4]func(a *ewArgs)
	// reduce*: res = [sum of g, sum of g*(y-mean)]. reduceZ masks g where y*scale+shift is not above 0;
	// reduceA where a is not above 0, and writes the masked g back.
	reduce, reduceZ, reduceA func(a *ewArgs)
	// dx: out = A*g + (B*(y-mean) + C); dxZ masks g first as reduceZ does.
	dx, dxZ func(a *ewArgs)
	// accumulate: out += a.
	accumulate func(a *ewArgs)
}

const (
	imageLanes   = 3 // channels of an image
	maxImageTaps = 4
)

// simdVariable names the environment variable that forces a family.
const simdVariable = simd.Variable

// choose picks the family that the environment asks for, or the best one.
func choose() (*kernels, error) {
	all := families()
	want := os.Getenv(simdVariable)
	if want == "" {
		return all[len(all)-1], nil
	}
	for _, k := range all {
		if k.name == want {
			return k, nil
		}
	}
	have := ""
	for _, k := range all {
		have += " " + k.name
	}
	return nil, fmt.Errorf("cpu: %s=%s: this machine offers%s", simdVariable, want, have)
}

// composeWgrad makes a family's larger kernels out of its smallest.
func (k *kernels) composeWgrad() *kernels {
	k.wgradPair = func(a *wgradArgs) { k.eachWgrad(a, 1, 2) }
	k.wgradRow = func(a *wgradArgs) { k.eachWgrad(a, 3, 1) }
	k.wgradImage = k.eachWgrad
	return k
}

// eachWgrad calls wgrad for every tap and output block.
func (k *kernels) eachWgrad(a *wgradArgs, taps, blocks int) {
	whole := *a
	for b := range blocks {
		for t := range taps {
			a.x = unsafe.Add(whole.x, t*pixelBytes)
			a.dy = unsafe.Add(whole.dy, b*a.dyBlock)
			a.dw = unsafe.Add(whole.dw, b*a.dwBlock+t*a.dwTap)
			k.wgrad(a)
		}
	}
	*a = whole
}

// span is a piece of a line of pixels.
type span struct{ from, n int }

// divide cuts n into the fewest pieces of at most limit, as equal as can be.
func divide(n, limit int) []span {
	if n == 0 {
		return nil
	}
	pieces := (n-1)/limit + 1
	out := make([]span, 0, pieces)
	at := func(i int) int { return n/pieces*i + n%pieces*i/pieces } // i*n/pieces, without overflow
	for i := range pieces {
		from, to := at(i), at(i+1)
		out = append(out, span{from, to - from})
	}
	return out
}

// tile is a rectangle of output pixels that a convolution kernel keeps in registers, and how many of these are under one another:
// one call computes them all.
type tile struct{ y, x, rows, cols, count int }

// stack puts tiles of one column under one another: rows of h pixels, at most limit a tile, at most count tiles a call.
func stack(out []tile, h, limit, count int, c span) []tile {
	for _, r := range divide(h, limit) {
		if n := len(out) - 1; n >= 0 && out[n].x == c.from && out[n].rows == r.n && out[n].count < count && out[n].y+out[n].rows*out[n].count == r.from {
			out[n].count++
		} else {
			out = append(out, tile{r.from, c.from, r.n, c.n, 1})
		}
	}
	return out
}

// perCall is how many tiles of so many vectors a call may have: it should end within some 20 microseconds, since the scheduler
// cannot have the core before; and few are enough to make up for the call.
func perCall(vectors int) int { return min(max(1, (1<<17)/max(vectors, 1)), 4) }

// columns chooses the width of tiles for rows of w pixels.
func (k *kernels) columns(w int) int {
	for c := k.maxCols; c >= k.minCols; c-- {
		if w%c == 0 {
			return c
		}
	}
	return k.maxCols
}

// blocks is how many output blocks the largest tiles have.
func (k *kernels) blocks() int {
	if k.maxPix[2] > 0 {
		return 2
	}
	return 1
}

// allTiles covers h x w pixels, by the blocks of a tile.
func (k *kernels) allTiles(h, w, products int) (out [3][]tile) {
	for blocks := 1; blocks <= k.blocks(); blocks++ {
		out[blocks] = k.tiles(h, w, blocks, products)
	}
	return out
}

// rowTiles covers h x w pixels by pieces of rows, of equal length or nearly so; products is how many each pixel takes.
func (k *kernels) rowTiles(h, w, products int) (out []tile) {
	for _, c := range divide(w, k.maxRow) {
		out = stack(out, h, 1, perCall(c.n*products), c)
	}
	return out
}

// tiles covers h x w pixels of one or two blocks. Narrow images take several rows a tile. Which tiles there are changes no bit of
// the result.
func (k *kernels) tiles(h, w, blocks, products int) (out []tile) {
	if h == 0 || w == 0 {
		return nil
	}
	columns := divide(w, k.columns(w))
	rows := min(k.maxRows, max(1, k.maxPix[blocks]/columns[len(columns)-1].n))
	for _, c := range columns {
		out = stack(out, h, rows, perCall(rows*c.n*blocks*products), c)
	}
	return out
}
