package cpu

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"unsafe"
)

type bfWgradCase struct {
	name                string
	run                 func(a *bfWgradArgs)
	taps, blocks, lanes int
}

func bfWgradCases(k *bfKernels) []bfWgradCase {
	out := []bfWgradCase{{"wgrad", k.wgrad, 1, 1, lanes}, {"wgradPair", k.wgradPair, 1, 2, lanes}, {"wgradRow", k.wgradRow, 3, 1, lanes}}
	for taps := 1; taps <= maxImageTaps; taps++ {
		for blocks := 1; blocks <= 2; blocks++ {
			out = append(out, bfWgradCase{fmt.Sprintf("wgradImage of %d taps, %d blocks", taps, blocks), func(a *bfWgradArgs) { k.wgradImage(a, taps, blocks) }, taps, blocks, imageLanes})
		}
	}
	return out
}

func TestBFWeightGradientKernels(t *testing.T) {
	bfVectorFamilies(t, func(t *testing.T, k *bfKernels) {
		rng := rand.New(rand.NewPCG(3, 3))
		for i, c := range bfWgradCases(k) {
			for pairs := 1; pairs <= 40; pairs++ {
				bfWgradCompare(t, rng, k, c, bfWgradCases(bfGeneric)[i], pairs)
			}
		}
	})
}

func bfWgradCompare(t *testing.T, rng *rand.Rand, k *bfKernels, c, generic bfWgradCase, pairs int) {
	t.Helper()
	images, rows, odd := 1+rng.IntN(3), 1+rng.IntN(4), pairs%5 == 0
	xGap, dyGap := rng.IntN(3), rng.IntN(2)                    // rows between images
	xRow, dyRow := pairs+c.taps+rng.IntN(3), pairs+rng.IntN(2) // in pairs
	xAll, dyBlock, dwTap := images*(rows+xGap)*xRow, images*(rows+dyGap)*dyRow, (1+rng.IntN(2))*blockLen
	dwBlock := c.taps*dwTap + rng.IntN(2)*blockLen
	x, dy := guard(xAll*lanes, pairs%lanes), guard(c.blocks*dyBlock*lanes, pairs%7)
	dw, want := guard(c.blocks*dwBlock, pairs%lanes), guard(c.blocks*dwBlock, pairs%lanes)
	bfNoise(rng, x.data, odd)
	bfNoise(rng, dy.data, odd)
	noise(rng, dw.data, false)
	copy(want.data, dw.data)
	b := bfWgradArgs{dy: dy.ptr(), dw: want.ptr(), images: images, rows: rows, xRow: xRow * 64, dyRow: dyRow * 64, pairs: pairs,
		dyBlock: dyBlock * 64, dwBlock: 4 * dwBlock, dwTap: 4 * dwTap, add: rng.IntN(2)}
	a := b
	xk, scale := x.ptr(), k.pixelPair/64
	if scale != 1 {
		xk, a.dy = swapPairs(x.ptr(), xAll), swapPairs(dy.ptr(), c.blocks*dyBlock)
	}
	b.xSkip, b.dySkip = xGap*b.xRow, dyGap*b.dyRow
	a.xSkip, a.dySkip = b.xSkip*scale, b.dySkip*scale
	a.dw, a.xRow, a.dyRow, a.dyBlock = dw.ptr(), b.xRow*scale, b.dyRow*scale, b.dyBlock*scale
	for i := range c.taps {
		at := rng.IntN(c.taps)
		b.x[i], a.x[i] = unsafe.Add(x.ptr(), 64*at), unsafe.Add(xk, k.pixelPair*at)
	}
	c.run(&a)
	generic.run(&b)
	name := fmt.Sprintf("%s %s, %d images of %d rows of %d pairs", k.name, c.name, images, rows, pairs)
	dw.check(t, name)
	for i := 0; i < len(dw.data); i += blockLen { // only the lanes that count
		if err := same(dw.data[i:i+c.lanes*lanes], want.data[i:i+c.lanes*lanes]); err != nil {
			t.Fatalf("%s: block %d: %v", name, i/blockLen, err)
		}
	}
}

// TestBFPairs: pairs of pixels, of rows of every length.
func TestBFPairs(t *testing.T) {
	bfVectorFamilies(t, func(t *testing.T, k *bfKernels) {
		rng := rand.New(rand.NewPCG(6, 6))
		for pixels := range 60 {
			rows, half := 1+rng.IntN(3), lanes/2
			n, gap := (pixels+1)/2, rng.IntN(2)
			src := guard(rows*(pixels+1)*half-half, rng.IntN(lanes))
			bfNoise(rng, src.data, true)
			want := guard(rows*(n+gap)*lanes, 0)
			got := guard(rows*(n+gap)*k.pixelPair/4, rng.IntN(lanes))
			b := bfPairArgs{src: src.ptr(), dst: want.ptr(), rows: rows, pixels: pixels, srcRow: (pixels + 1) * bfPixelBytes, dstRow: (n + gap) * 64}
			a := b
			a.dst, a.dstRow = got.ptr(), (n+gap)*k.pixelPair
			k.pair(&a)
			bfPairGeneric(&b)
			name := fmt.Sprintf("%s, %d rows of %d pixels", k.name, rows, pixels)
			got.check(t, name)
			w := want.data
			if k.pixelPair != 64 {
				w = unsafe.Slice((*float32)(swapPairs(want.ptr(), rows*(n+gap))), len(got.data))
			}
			if err := sameBF(got.data, w); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
	})
}

// TestBFWeightGradientScheme sums the gradient of a 3x3 window's weights over images of odd width, as a convolution has to: pairs of x from its
// rows' first pixel and from their second, a row of the window a call.
func TestBFWeightGradientScheme(t *testing.T) {
	const images, side, padded, half = 2, 7, 9, lanes / 2
	rng := rand.New(rand.NewPCG(8, 8))
	x, dy := aligned(images*padded*padded*half), aligned(images*side*side*half)
	bfNoise(rng, x, false)
	bfNoise(rng, dy, false)
	want := bfWindowGradient(x, dy, images, side)
	for _, k := range bfFamilies() {
		xRow, dyRow := (padded+1)/2*k.pixelPair, (side+1)/2*k.pixelPair
		even, odd, dyPairs := aligned(images*padded*xRow/4), aligned(images*padded*xRow/4), aligned(images*side*dyRow/4)
		p := bfPairArgs{src: unsafe.Pointer(&x[0]), dst: unsafe.Pointer(&even[0]), rows: images * padded, pixels: padded, srcRow: padded * bfPixelBytes, dstRow: xRow}
		k.pair(&p)
		p.src, p.dst, p.pixels = unsafe.Add(p.src, bfPixelBytes), unsafe.Pointer(&odd[0]), padded-1
		k.pair(&p)
		k.pair(&bfPairArgs{src: unsafe.Pointer(&dy[0]), dst: unsafe.Pointer(&dyPairs[0]), rows: images * side, pixels: side, srcRow: side * bfPixelBytes, dstRow: dyRow})
		dw := aligned(9 * blockLen)
		for kh := range 3 {
			at := unsafe.Add(unsafe.Pointer(&even[0]), kh*xRow)
			k.wgradRow(&bfWgradArgs{x: [maxImageTaps]unsafe.Pointer{at, unsafe.Add(unsafe.Pointer(&odd[0]), kh*xRow), unsafe.Add(at, k.pixelPair)},
				dy: unsafe.Pointer(&dyPairs[0]), dw: unsafe.Pointer(&dw[3*kh*blockLen]), images: images, xSkip: (padded - side) * xRow,
				rows: side, xRow: xRow, dyRow: dyRow, pairs: (side + 1) / 2, dwTap: 4 * blockLen})
		}
		near(t, k.name, dw, want, 1e-5)
	}
}

// bfWindowGradient is the gradient [3*3][16 in][16 out] in float64.
func bfWindowGradient(x, dy []float32, images, side int) []float64 {
	out := make([]float64, 9*blockLen)
	px, pdy := unsafe.Slice((*bfVector)(unsafe.Pointer(&x[0])), images*(side+2)*(side+2)), unsafe.Slice((*bfVector)(unsafe.Pointer(&dy[0])), images*side*side)
	for i := range pdy {
		image, r, c := i/(side*side), i/side%side, i%side
		for t := range 9 {
			for l, v := range px[(image*(side+2)+r+t/3)*(side+2)+c+t%3] {
				for o, g := range pdy[i] {
					out[t*blockLen+l*lanes+o] += float64(bfWiden(v)) * float64(bfWiden(g))
				}
			}
		}
	}
	return out
}
