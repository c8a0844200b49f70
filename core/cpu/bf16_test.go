package cpu

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os/exec"
	"testing"
	"unsafe"
)

// TestEncoder runs the generator's own tests.
func TestEncoder(t *testing.T) {
	if out, err := exec.Command("go", "test", "-C", "_gen", "-v", ".").CombinedOutput(); err != nil {
		t.Errorf("go test -C core/cpu/_gen: %v\n%s", err, out)
	} else {
		t.Logf("%s", out)
	}
}

// bfVectorFamilies are the families of bf16 kernels to compare with the generic one. What cannot run is skipped by name.
func bfVectorFamilies(t *testing.T, do func(t *testing.T, k *bfKernels)) {
	t.Helper()
	can := map[string]*bfKernels{}
	for _, k := range bfFamilies()[1:] {
		can[k.name] = k
	}
	for _, name := range []string{"avx512bf16", "avx512fma"} {
		t.Run(name, func(t *testing.T) {
			if can[name] == nil {
				t.Skipf("this machine has no %s kernels (where CPUID hides AVX512_BF16, %s=1 has them tested)", name, assumeVariable)
			}
			do(t, can[name])
		})
	}
}

// bfNoise fills memory with bf16: around 1; where odd, also with very small and very large values, denormals, infinities and NaN.
func bfNoise(rng *rand.Rand, s []float32, odd bool) {
	p := unsafe.Slice((*uint16)(unsafe.Pointer(unsafe.SliceData(s))), 2*len(s))
	for i := range p {
		p[i] = bfRound(float32(rng.NormFloat64()))
		if odd && rng.IntN(4) == 0 {
			p[i] = uint16(rng.Uint32()) // anything
		}
		if odd && rng.IntN(3) == 0 { // products near the smallest normal float32
			p[i] = uint16(rng.Uint32())&0x807f | uint16(58+rng.IntN(12))<<7
		}
	}
}

// sameBF compares bits; any NaN equals any other.
func sameBF(a, b []float32) error {
	p, q := unsafe.Slice((*uint16)(unsafe.Pointer(unsafe.SliceData(a))), 2*len(a)), unsafe.Slice((*uint16)(unsafe.Pointer(unsafe.SliceData(b))), 2*len(b))
	for i := range p {
		if x, y := bfWiden(p[i]), bfWiden(q[i]); p[i] != q[i] && (x == x || y == y) {
			return fmt.Errorf("value %d is %v (%#x), generic has %v (%#x)", i, x, p[i], y, q[i])
		}
	}
	return nil
}

// source is what a family's convolution reads instead of pixels of bf16.
func (k *bfKernels) source(p unsafe.Pointer, pixels int) unsafe.Pointer {
	if k.sourcePixel == bfPixelBytes {
		return p
	}
	out := aligned(pixels * lanes)
	bfSwapGeneric(&ewArgs{y: p, out: unsafe.Pointer(&out[0]), rows: 1, cols: pixels})
	return unsafe.Pointer(&out[0])
}

// weights is what a family makes of weights laid out as pairs.
func (k *bfKernels) weights(p unsafe.Pointer, pairs int) unsafe.Pointer {
	if k.weightPair == 2*bfPixelBytes {
		return p
	}
	return swapPairs(p, pairs)
}

// swapPairs widens [n][16][2] bf16 to [n][2][16] float32, the second value of each pair first.
func swapPairs(p unsafe.Pointer, n int) unsafe.Pointer {
	out := aligned(n*2*lanes + lanes)
	for i, v := range unsafe.Slice((*bfPairs)(p), n) {
		for l := range v {
			out[2*i*lanes+l], out[(2*i+1)*lanes+l] = bfWiden(v[l][1]), bfWiden(v[l][0])
		}
	}
	return unsafe.Pointer(&out[0])
}

// TestDot: the generic sum of products against exact arithmetic, and flushed denormals at the edge.
func TestFMAFlushed(t *testing.T) {
	const least = 0x1p-126
	for _, c := range []struct{ x, y, z, want float32 }{
		{1, 2, 3, 5},
		{0x1p-63, 0x1p-63, 0, least},
		{0x1p-63, 0x1p-64, 0, 0},
		{-0x1p-63, 0x1p-64, 0, float32(math.Copysign(0, -1))},
		{0x1p-75, -0x1p-75, least, 0},                                  // 2^-126 - 2^-150 is 24 ones: tiny
		{0x1p-75, -0x1p-76, least, least},                              // half of that rounds up
		{0x1p-75, -0x1.8p-76, least, 0},                                // 3/4 rounds down
		{0x1p-75, -0x1.7cp-76, least, 0},                               // but not up, if barely more than half
		{0x1p-63, 0x1p-63, -least, 0},                                  // exact zero
		{0x1p-100, 0x1p-100, -least, -least},                           // lost in rounding
		{0x1p-60, 0x1p-66, float32(math.Inf(1)), float32(math.Inf(1))}, // no number
	} {
		if got := fmaFlushed(c.x, c.y, c.z); math.Float32bits(got) != math.Float32bits(c.want) {
			t.Errorf("%v * %v + %v = %v, want %v", c.x, c.y, c.z, got, c.want)
		}
	}
}

func TestBFConvKernels(t *testing.T) {
	bfVectorFamilies(t, func(t *testing.T, k *bfKernels) {
		rng := rand.New(rand.NewPCG(2, 2))
		for blocks := 1; blocks <= k.like.blocks(); blocks++ {
			for rows := 1; rows <= k.like.maxRows; rows++ {
				for cols := 1; rows*cols <= k.like.maxPix[blocks] && cols <= k.like.maxCols; cols++ {
					for _, taps := range []int{0, 1, 3, 4, 9} {
						for flags := range 4 {
							bfConvCase(t, rng, k, rows, cols, blocks, taps, []int{1, 2, 8}[rng.IntN(3)], flags&1, flags>>1)
						}
					}
				}
			}
		}
	})
}

func bfConvCase(t *testing.T, rng *rand.Rand, k *bfKernels, rows, cols, blocks, ntaps, pairs, add, wide int) {
	t.Helper()
	const half = lanes / 2 // float32s of a pixel in bf16
	odd, outPixel := ntaps == 4, half*(1+wide)
	inRow, skew := (cols+rng.IntN(3))*half, rng.IntN(lanes)
	in := guard(rows*inRow+200*half, skew)
	wPairs := max(1, ntaps*pairs)
	w := guard(blocks*wPairs*lanes, rng.IntN(lanes))
	outPix := (1 + rng.IntN(2)) * outPixel
	outRow := cols * outPix
	outBlock := rows*outRow + rng.IntN(3)*outPixel
	out, want := guard(blocks*outBlock, skew), guard(blocks*outBlock, skew)
	bfNoise(rng, in.data, odd)
	bfNoise(rng, w.data, odd)
	bfNoise(rng, out.data, odd && wide == 0)
	copy(want.data, out.data)
	taps := make([]int, ntaps+1)
	scaled := make([]int, ntaps+1)
	for i := range taps {
		n := rng.IntN(100)
		taps[i], scaled[i] = n*bfPixelBytes, n*k.sourcePixel
	}
	b := bfConvArgs{in: in.ptr(), w: w.ptr(), out: want.ptr(), taps: unsafe.Pointer(&taps[0]), ntaps: ntaps, pairs: pairs,
		inRow: 4 * inRow, outPix: 4 * outPix, outRow: 4 * outRow, wBlock: 4 * wPairs * lanes, outBlock: 4 * outBlock, add: add, wide: wide}
	a := b
	a.in, a.w, a.out = k.source(b.in, len(in.data)/half), k.weights(b.w, blocks*wPairs), out.ptr()
	a.taps, a.inRow, a.wBlock = unsafe.Pointer(&scaled[0]), 4*inRow*k.sourcePixel/bfPixelBytes, wPairs*k.weightPair
	k.conv(&a, rows, cols, blocks)
	bfConvGeneric(&b, rows, cols, blocks)
	name := fmt.Sprintf("%s %dx%d tile of %d blocks, %d taps of %d pairs, add %d, wide %d", k.name, rows, cols, blocks, ntaps, pairs, add, wide)
	out.check(t, name)
	compare := sameBF
	if wide != 0 {
		compare = same
	}
	if err := compare(out.data, want.data); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

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
	rows, odd := 1+rng.IntN(4), pairs%5 == 0
	xRow, dyRow := pairs+c.taps+rng.IntN(3), pairs+rng.IntN(2) // in pairs
	dyBlock, dwTap := rows*dyRow, (1+rng.IntN(2))*blockLen
	dwBlock := c.taps*dwTap + rng.IntN(2)*blockLen
	x, dy := guard(rows*xRow*lanes, pairs%lanes), guard(c.blocks*dyBlock*lanes, pairs%7)
	dw, want := guard(c.blocks*dwBlock, pairs%lanes), guard(c.blocks*dwBlock, pairs%lanes)
	bfNoise(rng, x.data, odd)
	bfNoise(rng, dy.data, odd)
	noise(rng, dw.data, false)
	copy(want.data, dw.data)
	b := bfWgradArgs{dy: dy.ptr(), dw: want.ptr(), rows: rows, xRow: xRow * 64, dyRow: dyRow * 64, pairs: pairs,
		dyBlock: dyBlock * 64, dwBlock: 4 * dwBlock, dwTap: 4 * dwTap, add: rng.IntN(2)}
	a := b
	xk, scale := x.ptr(), k.pixelPair/64
	if scale != 1 {
		xk, a.dy = swapPairs(x.ptr(), rows*xRow), swapPairs(dy.ptr(), c.blocks*dyBlock)
	}
	a.dw, a.xRow, a.dyRow, a.dyBlock = dw.ptr(), b.xRow*scale, b.dyRow*scale, b.dyBlock*scale
	for i := range c.taps {
		at := rng.IntN(c.taps)
		b.x[i], a.x[i] = unsafe.Add(x.ptr(), 64*at), unsafe.Add(xk, k.pixelPair*at)
	}
	c.run(&a)
	generic.run(&b)
	name := fmt.Sprintf("%s %s, %d rows of %d pairs", k.name, c.name, rows, pairs)
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

// TestBFWeights: weights are rounded and laid out.
func TestBFWeights(t *testing.T) {
	bfVectorFamilies(t, func(t *testing.T, k *bfKernels) {
		rng := rand.New(rand.NewPCG(7, 7))
		for pairs := range 40 {
			src, want := guard(pairs*2*lanes, rng.IntN(lanes)), guard(pairs*lanes, 0)
			got := guard(pairs*k.weightPair/4, rng.IntN(lanes))
			for i := range src.data {
				src.data[i] = bfDraw(rng)
			}
			k.layWeights(&bfWeightArgs{src: src.ptr(), dst: got.ptr(), pairs: pairs})
			bfWeightsGeneric(&bfWeightArgs{src: src.ptr(), dst: want.ptr(), pairs: pairs})
			got.check(t, k.name)
			w := unsafe.Slice((*float32)(k.weights(want.ptr(), pairs)), len(got.data))
			if err := sameBF(got.data, w); err != nil {
				t.Fatalf("%s, %d pairs: %v", k.name, pairs, err)
			}
		}
	})
}

// bfDraw draws a float32 that is hard to round, or anything.
func bfDraw(rng *rand.Rand) float32 {
	b := rng.Uint32()
	switch rng.IntN(4) {
	case 0:
		b = b&0xffff0000 | 0x7fff + uint32(rng.IntN(3)) // a tie, or nearly
	case 1:
		b &= 0x807fffff // a denormal
	case 2:
		b |= 0x7f800000 // infinity or NaN
		b &^= uint32(rng.IntN(2)) * 0x7fffff
	}
	return math.Float32frombits(b)
}

func bfPassCases(k *bfKernels) map[string]func(*ewArgs) {
	return map[string]func(*ewArgs){
		"stats": k.stats, "apply": k.apply[0], "applyAdd": k.apply[1], "applyReLU": k.apply[2], "applyAddReLU": k.apply[3],
		"reduce": k.reduce, "reduceZ": k.reduceZ, "reduceA": k.reduceA, "dx": k.dx, "dxZ": k.dxZ, "accumulate": k.accumulate,
		"narrow": k.narrow, "widen": k.widen, "swap": k.swap,
	}
}

func TestBFPasses(t *testing.T) {
	lengths := []int{100, 127, 333, 999, 1000}
	for n := range 40 {
		lengths = append(lengths, n)
	}
	bfVectorFamilies(t, func(t *testing.T, k *bfKernels) {
		rng := rand.New(rand.NewPCG(4, 4))
		for name, f := range bfPassCases(k) {
			for _, cols := range lengths {
				bfPassCompare(t, rng, name, f, bfPassCases(bfGeneric)[name], 1+rng.IntN(3), cols)
			}
		}
	})
}

// bfPassCompare runs a pass of two families on the same memory, each row with a gap behind it.
func bfPassCompare(t *testing.T, rng *rand.Rand, name string, f, generic func(*ewArgs), rows, cols int) {
	t.Helper()
	length := func(wide bool) (row, n int) {
		pixel := lanes / 2
		if wide {
			pixel = lanes
		}
		row = (cols + 1) * pixel
		return row, max(pixel, rows*row-pixel) // stats looks at a first pixel
	}
	row, n := length(false)
	yRow, yLen := length(name == "narrow")
	outRow, outLen := length(name == "widen" || name == "swap")
	var run [2]struct{ g, out, res guarded }
	y, a, coef, skew := guard(yLen, rng.IntN(lanes)), guard(n, rng.IntN(lanes)), guard(coefVectors*lanes, 0), rng.IntN(lanes)
	bfNoise(rng, y.data, cols%7 == 3)
	if name == "narrow" {
		for i := range y.data {
			y.data[i] = bfDraw(rng)
		}
	}
	bfNoise(rng, a.data, cols%7 == 3)
	noise(rng, coef.data, false)
	seed := rng.Uint64()
	for i, pass := range []func(*ewArgs){f, generic} {
		r := &run[i]
		r.g, r.out, r.res = guard(n, skew), guard(outLen, skew), guard(3*lanes, skew)
		again := rand.New(rand.NewPCG(seed, 0))
		bfNoise(again, r.g.data, cols%7 == 3)
		bfNoise(again, r.out.data, false)
		args := ewArgs{y: y.ptr(), a: a.ptr(), g: r.g.ptr(), out: r.out.ptr(), coef: coef.ptr(), res: r.res.ptr(),
			rows: rows, cols: cols, yRow: 4 * yRow, aRow: 4 * row, gRow: 4 * row, outRow: 4 * outRow}
		pass(&args)
		for _, m := range []guarded{r.g, r.out, r.res, y, a, coef} {
			m.check(t, name)
		}
	}
	for _, err := range []error{sameBF(run[0].g.data, run[1].g.data), sameBF(run[0].out.data, run[1].out.data), same(run[0].res.data, run[1].res.data)} {
		if err != nil {
			t.Fatalf("%s of %dx%d: %v", name, rows, cols, err)
		}
	}
}

// TestChooseBF: a family can be asked for, by its name or by that of the float32 family it goes with.
func TestChooseBF(t *testing.T) {
	for _, k := range bfFamilies() {
		t.Setenv(simdVariable, k.name)
		if got, err := chooseBF(); err != nil || got != k {
			t.Errorf("asked for %s: %v, %v", k.name, got, err)
		}
	}
	t.Setenv(simdVariable, "mmx")
	if _, err := chooseBF(); err == nil {
		t.Error("asked for mmx, got no error")
	}
	t.Setenv(simdVariable, "")
	if got, err := chooseBF(); err != nil || got == nil {
		t.Errorf("asked for nothing: %v, %v", got, err)
	} else {
		t.Logf("the fastest here is %s", got.name)
	}
}
