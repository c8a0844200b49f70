package cpu

import (
	"math"
	"unsafe"
)

var bfGeneric = &bfKernels{
	name: "generic", like: genericKernels, sourcePixel: bfPixelBytes, weightPair: 2 * bfPixelBytes, pixelPair: 2 * bfPixelBytes,
	conv: bfConvGeneric, swap: bfSwapGeneric, layWeights: bfWeightsGeneric,
	wgrad:      func(a *bfWgradArgs) { bfWgradGeneric(a, 1, lanes, 1) },
	wgradPair:  func(a *bfWgradArgs) { bfWgradGeneric(a, 1, lanes, 2) },
	wgradRow:   func(a *bfWgradArgs) { bfWgradGeneric(a, 3, lanes, 1) },
	wgradImage: func(a *bfWgradArgs, taps, blocks int) { bfWgradGeneric(a, taps, imageLanes, blocks) },
	pair:       bfPairGeneric,
	passes: passes{
		stats: bfStatsGeneric,
		apply: [4]func(*ewArgs){
			func(a *ewArgs) { bfApplyGeneric(a, false, false) },
			func(a *ewArgs) { bfApplyGeneric(a, true, false) },
			func(a *ewArgs) { bfApplyGeneric(a, false, true) },
			func(a *ewArgs) { bfApplyGeneric(a, true, true) },
		},
		reduce:     func(a *ewArgs) { bfReduceGeneric(a, false, false) },
		reduceZ:    func(a *ewArgs) { bfReduceGeneric(a, true, false) },
		reduceA:    func(a *ewArgs) { bfReduceGeneric(a, false, true) },
		dx:         func(a *ewArgs) { bfDXGeneric(a, false) },
		dxZ:        func(a *ewArgs) { bfDXGeneric(a, true) },
		accumulate: bfAccumulateGeneric,
	},
	narrow: bfNarrowGeneric, widen: bfWidenGeneric,
}

type bfVector = [lanes]uint16

func bfVec(p unsafe.Pointer, off int) *bfVector { return (*bfVector)(unsafe.Add(p, off)) }

// bfPairs is what one VDPBF16PS takes from memory.
type bfPairs = [lanes][2]uint16

// bfFlushed is a stored bf16's value, zero where that is a denormal.
func bfFlushed(h uint16) float32 {
	if h&0x7f80 == 0 {
		h &= 0x8000
	}
	return bfWiden(h)
}

// fmaFlushed is x*y + z rounded once, zero where that is a denormal; x, y and z are none. Whether it is one is asked after rounding
// to 24 bits, as the processor does.
func fmaFlushed(x, y, z float32) float32 {
	p := float64(x) * float64(y)
	s := p + float64(z)
	b := math.Float64bits(s)
	if b&(1<<29-1) != 1<<28 && (b<<1 >= smallestNormal<<1 || b<<1 == 0) { // see fma32
		return float32(s)
	}
	const tiny = 0x1p-126 - 0x1p-151 // from here on, 24 bits round up to 2^-126
	if s = sumToOdd(p, float64(z)); math.Abs(s) < tiny {
		return float32(math.Copysign(0, s))
	}
	return float32(s)
}

// bfDot adds the products of two pairs, the second first.
func bfDot(sum, a0, a1 float32, b [2]uint16) float32 {
	return fmaFlushed(a0, bfFlushed(b[0]), fmaFlushed(a1, bfFlushed(b[1]), sum))
}

func bfConvGeneric(a *bfConvArgs, rows, cols, blocks int) {
	for b := range blocks {
		for r := range rows {
			for c := range cols {
				sum := bfConvPixel(a, unsafe.Add(a.in, r*a.inRow+c*bfPixelBytes), unsafe.Add(a.w, b*a.wBlock))
				bfConvStore(a, &sum, unsafe.Add(a.out, b*a.outBlock+r*a.outRow+c*a.outPix))
			}
		}
	}
}

// bfConvPixel is the sum of one output pixel of one block.
func bfConvPixel(a *bfConvArgs, in, w unsafe.Pointer) (sum vector) {
	for n, t := range unsafe.Slice((*int)(a.taps), a.ntaps) {
		x := bfVec(in, t)
		for i := range a.pairs {
			x0, x1, wi := bfFlushed(x[2*i]), bfFlushed(x[2*i+1]), (*bfPairs)(unsafe.Add(w, (n*a.pairs+i)*2*bfPixelBytes))
			for o := range sum {
				sum[o] = bfDot(sum[o], x0, x1, wi[o])
			}
		}
	}
	return sum
}

func bfConvStore(a *bfConvArgs, sum *vector, out unsafe.Pointer) {
	for o, v := range sum {
		switch {
		case a.wide != 0 && a.add != 0:
			vec(out, 0)[o] += v
		case a.wide != 0:
			vec(out, 0)[o] = v
		case a.add != 0:
			v += bfWiden(bfVec(out, 0)[o])
			fallthrough
		default:
			bfVec(out, 0)[o] = bfRound(v)
		}
	}
}

func bfWgradGeneric(a *bfWgradArgs, taps, inLanes, blocks int) {
	for t := range taps {
		for i := range inLanes {
			for b := range blocks {
				sum := bfWgradSum(a, unsafe.Add(a.x[t], 4*i), unsafe.Add(a.dy, b*a.dyBlock))
				dw := vec(a.dw, t*a.dwTap+b*a.dwBlock+i*pixelBytes)
				for o, v := range sum {
					if a.add != 0 {
						v += dw[o]
					}
					dw[o] = v
				}
			}
		}
	}
}

// bfWgradSum sums the products of one input lane with one output block.
func bfWgradSum(a *bfWgradArgs, x, dy unsafe.Pointer) (sum vector) {
	xImage, dyImage := a.rows*a.xRow+a.xSkip, a.rows*a.dyRow+a.dySkip
	for n := range a.images {
		for r := range a.rows {
			for p := range a.pairs {
				xp := (*[2]uint16)(unsafe.Add(x, n*xImage+r*a.xRow+p*2*bfPixelBytes))
				dp := (*bfPairs)(unsafe.Add(dy, n*dyImage+r*a.dyRow+p*2*bfPixelBytes))
				x0, x1 := bfFlushed(xp[0]), bfFlushed(xp[1])
				for o := range sum {
					sum[o] = bfDot(sum[o], x0, x1, dp[o])
				}
			}
		}
	}
	return sum
}

func bfPairGeneric(a *bfPairArgs) {
	for r := range a.rows {
		for p := 0; p < a.pixels; p += 2 {
			src, dst := unsafe.Add(a.src, r*a.srcRow+p*bfPixelBytes), (*bfPairs)(unsafe.Add(a.dst, r*a.dstRow+p*bfPixelBytes))
			for l := range dst {
				dst[l] = [2]uint16{bfVec(src, 0)[l]}
				if p+1 < a.pixels {
					dst[l][1] = bfVec(src, bfPixelBytes)[l]
				}
			}
		}
	}
}

func bfWeightsGeneric(a *bfWeightArgs) {
	for p := range a.pairs {
		dst := (*bfPairs)(unsafe.Add(a.dst, p*2*bfPixelBytes))
		for i := range 2 {
			for o, v := range vec(a.src, (2*p+i)*pixelBytes) {
				dst[o][i] = bfRound(v)
			}
		}
	}
}
