package cpu

import "unsafe"

func bfLoad(p unsafe.Pointer, off int) (out vector) {
	for o, h := range bfVec(p, off) {
		out[o] = bfWiden(h)
	}
	return out
}

func bfStore(p unsafe.Pointer, off int, v *vector) {
	out := bfVec(p, off)
	for o, x := range v {
		out[o] = bfRound(x)
	}
}

// eachPixel calls do for every pixel of a pass.
func eachPixel(a *ewArgs, do func(r, c int)) {
	for r := range a.rows {
		for c := range a.cols {
			do(r, c)
		}
	}
}

func bfStatsGeneric(a *ewArgs) {
	var s1, s2 sums
	k := bfLoad(a.y, 0)
	eachPixel(a, func(r, c int) {
		for o, v := range bfLoad(a.y, r*a.yRow+c*bfPixelBytes) {
			d := v - k[o]
			s1[c%chains][o] += d
			s2[c%chains][o] = fma32(d, d, s2[c%chains][o])
		}
	})
	*vec(a.res, 0) = k
	s1.total(vec(a.res, pixelBytes))
	s2.total(vec(a.res, 2*pixelBytes))
}

func bfApplyGeneric(a *ewArgs, add, relu bool) {
	scale, shift := vec(a.coef, coefScale*pixelBytes), vec(a.coef, coefShift*pixelBytes)
	eachPixel(a, func(r, c int) {
		out := bfLoad(a.y, r*a.yRow+c*bfPixelBytes)
		for o, v := range out {
			z := fma32(v, scale[o], shift[o])
			if add {
				z += bfWiden(bfVec(a.a, r*a.aRow+c*bfPixelBytes)[o])
			}
			if relu && 0 > z {
				z = 0
			}
			out[o] = z
		}
		bfStore(a.out, r*a.outRow+c*bfPixelBytes, &out)
	})
}

func bfReduceGeneric(a *ewArgs, maskZ, maskA bool) {
	scale, shift, mean := vec(a.coef, coefScale*pixelBytes), vec(a.coef, coefShift*pixelBytes), vec(a.coef, coefMean*pixelBytes)
	var s1, s2 sums
	eachPixel(a, func(r, c int) {
		y, g := bfLoad(a.y, r*a.yRow+c*bfPixelBytes), bfLoad(a.g, r*a.gRow+c*bfPixelBytes)
		for o, v := range y {
			if maskZ && !(fma32(v, scale[o], shift[o]) > 0) {
				g[o] = 0
			}
			if maskA && !(bfWiden(bfVec(a.a, r*a.aRow+c*bfPixelBytes)[o]) > 0) {
				g[o] = 0
			}
			s1[c%chains][o] += g[o]
			s2[c%chains][o] = fma32(g[o], v-mean[o], s2[c%chains][o])
		}
		if maskA {
			bfStore(a.g, r*a.gRow+c*bfPixelBytes, &g)
		}
	})
	s1.total(vec(a.res, 0))
	s2.total(vec(a.res, pixelBytes))
}

func bfDXGeneric(a *ewArgs, mask bool) {
	scale, shift, mean := vec(a.coef, coefScale*pixelBytes), vec(a.coef, coefShift*pixelBytes), vec(a.coef, coefMean*pixelBytes)
	ca, cb, cc := vec(a.coef, coefA*pixelBytes), vec(a.coef, coefB*pixelBytes), vec(a.coef, coefC*pixelBytes)
	eachPixel(a, func(r, c int) {
		out, g := bfLoad(a.y, r*a.yRow+c*bfPixelBytes), bfLoad(a.g, r*a.gRow+c*bfPixelBytes)
		for o, v := range out {
			if mask && !(fma32(v, scale[o], shift[o]) > 0) {
				g[o] = 0
			}
			out[o] = fma32(ca[o], g[o], fma32(cb[o], v-mean[o], cc[o]))
		}
		bfStore(a.out, r*a.outRow+c*bfPixelBytes, &out)
	})
}

func bfAccumulateGeneric(a *ewArgs) {
	eachPixel(a, func(r, c int) {
		out := bfLoad(a.out, r*a.outRow+c*bfPixelBytes)
		for o, v := range bfLoad(a.a, r*a.aRow+c*bfPixelBytes) {
			out[o] += v
		}
		bfStore(a.out, r*a.outRow+c*bfPixelBytes, &out)
	})
}

func bfNarrowGeneric(a *ewArgs) {
	eachPixel(a, func(r, c int) { bfStore(a.out, r*a.outRow+c*bfPixelBytes, vec(a.y, r*a.yRow+c*pixelBytes)) })
}

func bfWidenGeneric(a *ewArgs) {
	eachPixel(a, func(r, c int) { *vec(a.out, r*a.outRow+c*pixelBytes) = bfLoad(a.y, r*a.yRow+c*bfPixelBytes) })
}

func bfSwapGeneric(a *ewArgs) {
	eachPixel(a, func(r, c int) {
		out := vec(a.out, r*a.outRow+c*pixelBytes)
		for o, h := range bfVec(a.y, r*a.yRow+c*bfPixelBytes) {
			out[o^1] = bfWiden(h)
		}
	})
}
