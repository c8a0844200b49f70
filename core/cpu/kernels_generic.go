package cpu

import (
	"math"
	"sync/atomic"
	"unsafe"
)

var genericKernels = (&kernels{
	name: "generic", minCols: 28, maxCols: 28, maxRows: 1, maxPix: [3]int{1: 28}, maxRow: 28,
	conv: convGeneric, convRow: convRowGeneric, wgrad: wgradGeneric,
	passes: passes{stats: statsGeneric,
		apply: [4]func(*ewArgs){
			func(a *ewArgs) { applyGeneric(a, false, false) },
			func(a *ewArgs) { applyGeneric(a, true, false) },
			func(a *ewArgs) { applyGeneric(a, false, true) },
			func(a *ewArgs) { applyGeneric(a, true, true) },
		},
		reduce:     func(a *ewArgs) { reduceGeneric(a, false, false) },
		reduceZ:    func(a *ewArgs) { reduceGeneric(a, true, false) },
		reduceA:    func(a *ewArgs) { reduceGeneric(a, false, true) },
		dx:         func(a *ewArgs) { dxGeneric(a, false) },
		dxZ:        func(a *ewArgs) { dxGeneric(a, true) },
		accumulate: accumulateGeneric,
	},
	sgd: sgdGeneric,

	transpose: transposeGeneric, image: imageGeneric,
	copyPixels:      func(a *pixelArgs) { pixelsGeneric(a, false) },
	addPixels:       func(a *pixelArgs) { pixelsGeneric(a, true) },
	winogradInput:   winogradInputGeneric,
	winogradOutput:  winogradOutputGeneric,
	winogradFilter:  winogradFilterGeneric,
	winogradError:   winogradErrorGeneric,
	winogradWeights: winogradWeightsGeneric,
	maxPool:         maxPoolGeneric,
	maxPoolGradient: maxPoolGradientGeneric,
	peak:            peakGeneric, peakLanes: 4,
}).composeWgrad()

// fma32 is x*y + z rounded once, as the vector instructions do it. The product of two float32 is exact in
// float64; the sum is rounded to odd there, so that rounding it again to float32 is as if it had been exact
// (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums: proved algorithms using rounding to odd", 2008).
func fma32(x, y, z float32) float32 {
	s := float64(x)*float64(y) + float64(z)
	// The second rounding can go wrong only where the first landed on the middle between two float32, or where those
	// lie closer than usual, below the smallest normal one.
	b := math.Float64bits(s)
	if b&(1<<29-1) != 1<<28 && (b<<1 >= smallestNormal<<1 || b<<1 == 0) {
		return float32(s)
	}
	return fmaToOdd(x, y, z)
}

// smallestNormal is 2^-126, the smallest normal float32, as a float64's bits.
const smallestNormal = (1023 - 126) << 52

func fmaToOdd(x, y, z float32) float32 { return float32(sumToOdd(float64(x)*float64(y), float64(z))) }

// sumToOdd is p + c rounded to odd: where bits are lost, the last bit that stays is set.
func sumToOdd(p, c float64) float64 {
	s := p + c
	b := s - p
	e := (p - (s - b)) + (c - b) // the part of p+c that s lost (Knuth's two-sum); NaN when s is no number
	if e > 0 || e < 0 {
		if bits := math.Float64bits(s); bits&1 == 0 {
			if (e > 0) == (s > 0) {
				bits++
			} else {
				bits--
			}
			s = math.Float64frombits(bits)
		}
	}
	return s
}

type vector = [lanes]float32

func vec(p unsafe.Pointer, off int) *vector { return (*vector)(unsafe.Add(p, off)) }

func convGeneric(a *convArgs, rows, cols, blocks int) {
	for more := true; more; more = a.nextTile() {
		convTile(a, rows, cols, blocks)
	}
}

// nextTile goes on unless that was the last: nothing may point behind the weights.
func (a *convArgs) nextTile() bool {
	if a.tiles--; a.tiles == 0 {
		return false
	}
	a.in, a.out, a.w = unsafe.Add(a.in, a.inTile), unsafe.Add(a.out, a.outTile), unsafe.Add(a.w, a.wTile)
	return true
}

func convTile(a *convArgs, rows, cols, blocks int) {
	for b := range blocks {
		for r := range rows {
			for c := range cols {
				convPixel(a, unsafe.Add(a.in, r*a.inRow+c*pixelBytes), unsafe.Add(a.w, b*a.wBlock), vec(a.out, b*a.outBlock+r*a.outRow+c*a.outPix))
			}
		}
	}
}

// convPixel computes one output pixel of one block.
func convPixel(a *convArgs, in, w unsafe.Pointer, out *vector) {
	taps := unsafe.Slice((*int)(a.taps), a.ntaps)
	if a.add == 0 {
		*out = vector{}
	}
	for t := 0; t < len(taps); t += a.chunk {
		sum := convChunk(in, unsafe.Add(w, t*a.lanes*pixelBytes), taps[t:min(t+a.chunk, len(taps))], a.lanes)
		if t == 0 && a.add == 0 {
			*out = sum
			continue
		}
		for o, v := range sum {
			out[o] += v
		}
	}
}

func convRowGeneric(a *convArgs, cols int) {
	for more := true; more; more = a.nextTile() {
		convRowTile(a, cols)
	}
}

func convRowTile(a *convArgs, cols int) {
	taps := unsafe.Slice((*int)(a.taps), a.ntaps)
	for c := range cols {
		out := vec(a.out, c*a.outPix)
		for t := 0; t < len(taps); t += 3 {
			x, w := unsafe.Add(a.in, c*pixelBytes+taps[t]), unsafe.Add(a.w, t*lanes*pixelBytes)
			var sum vector
			for i := range lanes {
				for j := range 3 {
					v, wi := vec(x, j*pixelBytes)[i], vec(w, (j*lanes+i)*pixelBytes)
					for o := range sum {
						sum[o] = fma32(v, wi[o], sum[o])
					}
				}
			}
			if t == 0 && a.add == 0 {
				*out = sum
				continue
			}
			for o, v := range sum {
				out[o] += v
			}
		}
	}
}

// convChunk is one pixel's sum over a chunk of taps.
func convChunk(in, w unsafe.Pointer, taps []int, inLanes int) (sum vector) {
	for _, t := range taps {
		x := vec(in, t)
		for i := range inLanes {
			v, wi := x[i], vec(w, i*pixelBytes)
			for o := range sum {
				sum[o] = fma32(v, wi[o], sum[o])
			}
		}
		w = unsafe.Add(w, inLanes*pixelBytes)
	}
	return sum
}

func wgradGeneric(a *wgradArgs) {
	var acc [lanes]vector
	for n := range a.images {
		for r := range a.rows {
			for c := range a.cols {
				x, dy := vec(a.x, n*a.xImage+r*a.xRow+c*pixelBytes), vec(a.dy, n*a.dyImage+r*a.dyRow+c*pixelBytes)
				for i := range acc {
					for o := range acc[i] {
						acc[i][o] = fma32(x[i], dy[o], acc[i][o])
					}
				}
			}
		}
	}
	for i := range acc {
		dw := vec(a.dw, i*pixelBytes)
		for o, v := range acc[i] {
			if a.add != 0 {
				v += dw[o]
			}
			dw[o] = v
		}
	}
}

// chains is how many partial sums a reduction keeps for each lane; pixel j of a row goes to chain j mod chains.
const chains = 4

type sums [chains]vector

func (s *sums) total(out *vector) {
	for o := range out {
		out[o] = (s[0][o] + s[1][o]) + (s[2][o] + s[3][o])
	}
}

func statsGeneric(a *ewArgs) {
	var s1, s2 sums
	k := *vec(a.y, 0)
	for r := range a.rows {
		for c := range a.cols {
			y := vec(a.y, r*a.yRow+c*pixelBytes)
			for o, v := range y {
				d := v - k[o]
				s1[c%chains][o] += d
				s2[c%chains][o] = fma32(d, d, s2[c%chains][o])
			}
		}
	}
	*vec(a.res, 0) = k
	s1.total(vec(a.res, pixelBytes))
	s2.total(vec(a.res, 2*pixelBytes))
}

func applyGeneric(a *ewArgs, add, relu bool) {
	scale, shift := vec(a.coef, coefScale*pixelBytes), vec(a.coef, coefShift*pixelBytes)
	for r := range a.rows {
		for c := range a.cols {
			y, out := vec(a.y, r*a.yRow+c*pixelBytes), vec(a.out, r*a.outRow+c*pixelBytes)
			for o, v := range y {
				z := fma32(v, scale[o], shift[o])
				if add {
					z += vec(a.a, r*a.aRow+c*pixelBytes)[o]
				}
				if relu && 0 > z {
					z = 0
				}
				out[o] = z
			}
		}
	}
}

func reduceGeneric(a *ewArgs, maskZ, maskA bool) {
	var s1, s2 sums
	scale, shift, mean := vec(a.coef, coefScale*pixelBytes), vec(a.coef, coefShift*pixelBytes), vec(a.coef, coefMean*pixelBytes)
	for r := range a.rows {
		for c := range a.cols {
			y, g := vec(a.y, r*a.yRow+c*pixelBytes), vec(a.g, r*a.gRow+c*pixelBytes)
			for o, v := range y {
				d := g[o]
				if maskZ && !(fma32(v, scale[o], shift[o]) > 0) {
					d = 0
				}
				if maskA {
					if !(vec(a.a, r*a.aRow+c*pixelBytes)[o] > 0) {
						d = 0
					}
					g[o] = d
				}
				s1[c%chains][o] += d
				s2[c%chains][o] = fma32(d, v-mean[o], s2[c%chains][o])
			}
		}
	}
	s1.total(vec(a.res, 0))
	s2.total(vec(a.res, pixelBytes))
}

func dxGeneric(a *ewArgs, mask bool) {
	scale, shift, mean := vec(a.coef, coefScale*pixelBytes), vec(a.coef, coefShift*pixelBytes), vec(a.coef, coefMean*pixelBytes)
	ca, cb, cc := vec(a.coef, coefA*pixelBytes), vec(a.coef, coefB*pixelBytes), vec(a.coef, coefC*pixelBytes)
	for r := range a.rows {
		for c := range a.cols {
			y, g, out := vec(a.y, r*a.yRow+c*pixelBytes), vec(a.g, r*a.gRow+c*pixelBytes), vec(a.out, r*a.outRow+c*pixelBytes)
			for o, v := range y {
				d := g[o]
				if mask && !(fma32(v, scale[o], shift[o]) > 0) {
					d = 0
				}
				out[o] = fma32(ca[o], d, fma32(cb[o], v-mean[o], cc[o]))
			}
		}
	}
}

func accumulateGeneric(a *ewArgs) {
	for r := range a.rows {
		for c := range a.cols {
			in, out := vec(a.a, r*a.aRow+c*pixelBytes), vec(a.out, r*a.outRow+c*pixelBytes)
			for o, v := range in {
				out[o] += v
			}
		}
	}
}

func sgdGeneric(a *sgdArgs) {
	w, v, g := unsafe.Slice((*float32)(a.w), a.n), unsafe.Slice((*float32)(a.v), a.n), unsafe.Slice((*float32)(a.g), a.n)
	for i := range w {
		v[i] = fma32(a.momentum, v[i], fma32(a.decay, w[i], g[i]))
		w[i] = fma32(a.negLR, v[i], w[i])
	}
}

// peakSink keeps the compiler from leaving the sums out.
var peakSink atomic.Uint32

func peakGeneric(a *peakArgs) {
	s, t, u, v := a.one, a.one, a.one, a.one
	for range a.rounds {
		s, t, u, v = fma32(s, a.half, a.one), fma32(t, a.half, a.one), fma32(u, a.half, a.one), fma32(v, a.half, a.one)
	}
	peakSink.Store(math.Float32bits(s + t + u + v))
}
