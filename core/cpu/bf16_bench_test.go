package cpu

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
	"unsafe"
)

// least runs f 4 times a round and gives the fastest round's time of one run: other processes only ever add to it.
func least(b *testing.B, f func()) float64 {
	best := time.Duration(1 << 62)
	for b.Loop() {
		for range 200 {
			begun := time.Now()
			for range 4 {
				f()
			}
			best = min(best, time.Since(begun))
		}
	}
	return best.Seconds() / 4
}

func benchmarkBF(b *testing.B, do func(b *testing.B, k *bfKernels)) {
	for _, k := range bfFamilies()[1:] {
		b.Run(k.name, func(b *testing.B) { do(b, k) })
	}
}

// BenchmarkBFConv times tiles whose data are in the cache.
func BenchmarkBFConv(b *testing.B) {
	benchmarkBF(b, func(b *testing.B, k *bfKernels) {
		for _, s := range [][3]int{{1, 14, 2}, {1, 12, 2}, {1, 8, 2}, {2, 7, 2}, {1, 14, 1}, {2, 12, 1}, {3, 8, 1}, {4, 6, 1}} {
			for _, ntaps := range []int{4, 36, 144} {
				b.Run(fmt.Sprintf("%dx%dx%d/taps%d", s[0], s[1], s[2], ntaps), func(b *testing.B) { benchmarkBFConv(b, k, s[0], s[1], s[2], ntaps) })
			}
		}
	})
}

func benchmarkBFConv(b *testing.B, k *bfKernels, rows, cols, blocks, ntaps int) {
	const width, half = 16, lanes / 2
	rng := rand.New(rand.NewPCG(1, 1))
	in, w := aligned(16*width*half), aligned(blocks*ntaps*8*lanes)
	out, want := aligned(blocks*rows*cols*half), aligned(blocks*rows*cols*half)
	bfNoise(rng, in, false)
	bfNoise(rng, w, false)
	taps, scaled := make([]int, ntaps), make([]int, ntaps)
	for i := range taps {
		at := i%3 + i/3%3*width
		taps[i], scaled[i] = at*bfPixelBytes, at*k.sourcePixel
	}
	g := bfConvArgs{in: unsafe.Pointer(&in[0]), w: unsafe.Pointer(&w[0]), out: unsafe.Pointer(&want[0]), taps: unsafe.Pointer(&taps[0]), ntaps: ntaps, pairs: 8,
		inRow: width * bfPixelBytes, outPix: bfPixelBytes, outRow: cols * bfPixelBytes, wBlock: ntaps * 8 * 64, outBlock: rows * cols * bfPixelBytes}
	a := g
	a.in, a.w, a.out, a.taps = k.source(g.in, 16*width), k.weights(g.w, blocks*ntaps*8), unsafe.Pointer(&out[0]), unsafe.Pointer(&scaled[0])
	a.inRow, a.wBlock = width*k.sourcePixel, ntaps*8*k.weightPair
	bfConvGeneric(&g, rows, cols, blocks)
	k.conv(&a, rows, cols, blocks)
	if err := sameBF(out, want); err != nil {
		b.Fatal(err)
	}
	flops := 2 * 256 * ntaps * rows * cols * blocks
	b.ReportMetric(float64(flops)/least(b, func() { k.conv(&a, rows, cols, blocks) })/1e9, "GFLOP/s")
}

// BenchmarkBFWeightGradient times 200 pixels, in rows.
func BenchmarkBFWeightGradient(b *testing.B) {
	benchmarkBF(b, func(b *testing.B, k *bfKernels) {
		for i, c := range bfWgradCases(k) {
			for _, cols := range []int{7, 14, 56} {
				b.Run(fmt.Sprintf("%s/cols%d", c.name, cols), func(b *testing.B) { benchmarkBFWgrad(b, k, c, bfWgradCases(bfGeneric)[i], cols) })
			}
		}
	})
}

func benchmarkBFWgrad(b *testing.B, k *bfKernels, c, generic bfWgradCase, cols int) {
	rows, pairs := 200/cols, (cols+1)/2
	rng := rand.New(rand.NewPCG(1, 1))
	x, dy := aligned(rows*(pairs+2)*lanes), aligned(2*rows*pairs*lanes)
	dw, want := aligned(8*blockLen), aligned(8*blockLen)
	bfNoise(rng, x, false)
	bfNoise(rng, dy, false)
	g := bfWgradArgs{dy: unsafe.Pointer(&dy[0]), dw: unsafe.Pointer(&want[0]), images: 1, rows: rows, xRow: (pairs + 2) * 64, dyRow: pairs * 64, pairs: pairs,
		dyBlock: rows * pairs * 64, dwBlock: 4 * 4 * blockLen, dwTap: 4 * blockLen}
	a, xk, scale := g, unsafe.Pointer(&x[0]), k.pixelPair/64
	a.dw = unsafe.Pointer(&dw[0])
	if scale != 1 {
		xk, a.dy = swapPairs(xk, rows*(pairs+2)), swapPairs(g.dy, 2*rows*pairs)
	}
	a.xRow, a.dyRow, a.dyBlock = g.xRow*scale, g.dyRow*scale, g.dyBlock*scale
	for t := range c.taps {
		g.x[t], a.x[t] = unsafe.Add(unsafe.Pointer(&x[0]), 64*(t/2)), unsafe.Add(xk, k.pixelPair*(t/2))
	}
	generic.run(&g)
	c.run(&a)
	if err := same(dw, want); err != nil {
		b.Fatal(err)
	}
	flops := 2 * rows * cols * c.lanes * lanes * c.taps * c.blocks
	b.ReportMetric(float64(flops)/least(b, func() { c.run(&a) })/1e9, "GFLOP/s")
}

// BenchmarkBFPasses times a block of 56x56 pixels, in GB/s of bf16 read and written.
func BenchmarkBFPasses(b *testing.B) {
	benchmarkBF(b, func(b *testing.B, k *bfKernels) {
		const side, half = 56, lanes / 2
		touched := map[string]int{"stats": 1, "apply": 2, "applyReLU": 2, "applyAddReLU": 3, "reduceZ": 2, "reduceA": 4, "dx": 3, "dxZ": 3, "accumulate": 3, "narrow": 3, "widen": 3}
		buf := [4][]float32{}
		for i := range buf {
			buf[i] = aligned(side * side * lanes)
			bfNoise(rand.New(rand.NewPCG(1, 1)), buf[i], false)
		}
		coef, res := aligned(coefVectors*lanes), aligned(3*lanes)
		for name, f := range bfPassCases(k) {
			n, ok := touched[name]
			if !ok {
				continue
			}
			b.Run(name, func(b *testing.B) {
				row := side * bfPixelBytes
				a := ewArgs{y: unsafe.Pointer(&buf[0][0]), a: unsafe.Pointer(&buf[1][0]), g: unsafe.Pointer(&buf[2][0]), out: unsafe.Pointer(&buf[3][0]),
					coef: unsafe.Pointer(&coef[0]), res: unsafe.Pointer(&res[0]), rows: side, cols: side, yRow: row, aRow: row, gRow: row, outRow: row}
				if name == "narrow" {
					a.yRow *= 2
				}
				if name == "widen" {
					a.outRow *= 2
				}
				b.ReportMetric(float64(n*side*row)/least(b, func() { f(&a) })/1e9, "GB/s")
			})
		}
	})
}
