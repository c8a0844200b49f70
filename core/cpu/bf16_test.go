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
	if _, err := exec.LookPath("go"); err != nil {
		t.Skipf("the generator does not run here: %v", err)
	}
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

// flushCases are sums x0*y0 + x1*y1 at the edge where float32 turns denormal; all factors are bf16.
func flushCases() []struct{ x0, y0, x1, y1, want float32 } {
	const least, zero = 0x1p-126, float32(0)
	return []struct{ x0, y0, x1, y1, want float32 }{
		{1, 2, 1, 3, 5},
		{0x1p-63, 0x1p-63, 0, 0, least},
		{0x1p-63, 0x1p-64, 0, 0, 0},
		{0x1p-63, 0x1p-63, 0x1p-63, -0x1p-64, least},                 // what came first was lost
		{-0x1p-63, 0x1p-64, -1, zero, float32(math.Copysign(0, -1))}, // -0 and -0
		{0x1p-75, -0x1p-75, 0x1p-63, 0x1p-63, 0},                     // 2^-126 - 2^-150 has 24 bits: a denormal
		{0x1p-75, -0x1p-76, 0x1p-63, 0x1p-63, least},                 // in the middle, 24 bits round up
		{0x1p-75, -0x1.02p-76, 0x1p-63, 0x1p-63, 0},                  // barely below that, down
		{0x1p-75, -0x1.fcp-77, 0x1p-63, 0x1p-63, least},
		{0x1p-75, 0x1.02p-76, -0x1p-63, 0x1p-63, float32(math.Copysign(0, -1))},
		{-0x1p-63, 0x1p-63, 0x1p-63, 0x1p-63, 0},
		{0x1p-100, 0x1p-100, -0x1p-63, 0x1p-63, -least},
		{0x1p-127, 0x1p100, 1, 0, 0}, // a denormal factor counts as zero
		{0x1p-60, 0x1p-66, 1, float32(math.Inf(1)), float32(math.Inf(1))},
	}
}

// TestFlushCases holds every family, the generic one included, to what flushCases says.
func TestFlushCases(t *testing.T) {
	for _, k := range bfFamilies() {
		for _, c := range flushCases() {
			var x, dy bfPairs
			for l := range x {
				x[l] = [2]uint16{bfBits(c.x0), bfBits(c.x1)}
				dy[l] = [2]uint16{bfBits(c.y0), bfBits(c.y1)}
			}
			dw := aligned(blockLen)
			a := bfWgradArgs{dy: unsafe.Pointer(&dy), dw: unsafe.Pointer(&dw[0]), images: 1, rows: 1, pairs: 1}
			a.x[0] = unsafe.Pointer(&x)
			if k.pixelPair != 64 {
				a.x[0], a.dy = swapPairs(a.x[0], 1), swapPairs(a.dy, 1)
			}
			k.wgrad(&a)
			for _, got := range dw {
				// A lone factor of zero may lose the sign of a zero sum: the sums start from +0.
				if got != c.want || got != 0 && math.Float32bits(got) != math.Float32bits(c.want) {
					t.Fatalf("%s: %v*%v + %v*%v = %v, want %v", k.name, c.x0, c.y0, c.x1, c.y1, got, c.want)
				}
			}
		}
	}
}

// bfBits is a value that bf16 holds, denormals too.
func bfBits(v float32) uint16 { return uint16(math.Float32bits(v) >> 16) }

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
