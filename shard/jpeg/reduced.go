package jpeg

// The transforms to 4 x 4 and 2 x 2 samples use libjpeg's factors and roundings (its jidctred), which differ from those of taking the mean of
// 8 x 8 samples. Each half is a sum over the odd rows or columns, with factors times 2^13.
const (
	red0211 = 1730  // 0.211164243, and so on
	red0510 = 4176  // 0.509795579
	red0601 = 4926  // 0.601344887
	red0721 = 5906  // 0.720959822
	red0850 = 6967  // 0.850430095
	red1062 = 8697  // 1.061594337
	red1273 = 10426 // 1.272758580
	red1452 = 11893 // 1.451774981
	red2173 = 17799 // 2.172734803
	red3625 = 29692 // 3.624509785
)

// quarters gives the four results of x0..x7, of which x4 has no part in them, times 2^14.
func quarters(x0, x1, x2, x3, x5, x6, x7 int32) (r0, r1, r2, r3 int32) {
	even := x2*cos1847 - x6*cos0765
	a, b := x0<<(idctBits+1)+even, x0<<(idctBits+1)-even
	inner := -x7*red0211 + x5*red1452 - x3*red2173 + x1*red1062
	outer := -x7*red0510 - x5*red0601 + x3*cos0899 + x1*cos2562
	return a + outer, b + inner, b - inner, a - outer
}

// halves gives the two results of x0..x7, of which x2, x4 and x6 have no part in them, times 2^15.
func halves(x0, x1, x3, x5, x7 int32) (r0, r1 int32) {
	odd := -x7*red0721 + x5*red0850 - x3*red1273 + x1*red3625
	return x0<<(idctBits+2) + odd, x0<<(idctBits+2) - odd
}

// dequantise gives row y of a block; outside is not zero where a coefficient was out of range.
func (j *job) dequantise(r *[8]int32, y int) (outside uint32) {
	coef, quant := j.coef[8*y:8*y+8:8*y+8], j.comp.quant[8*y:8*y+8:8*y+8]
	for x := range r {
		r[x] = int32(coef[x]) * int32(quant[x])
		outside |= beyond(r[x], coefLimit)
	}
	return outside
}

// idct4Generic transforms blocks to 4 x 4 samples. False: one was out of range.
func idct4Generic(jobs []job) bool {
	for i := range jobs {
		if !quarterBlock(&jobs[i]) {
			return false
		}
	}
	return true
}

func quarterBlock(j *job) bool {
	const half1, shift1 = 1 << (idctBits - passBits), idctBits - passBits + 1
	var c [8][8]int32
	outside := uint32(0)
	for _, y := range [7]int{0, 1, 2, 3, 5, 6, 7} {
		outside |= j.dequantise(&c[y], y)
	}
	for x := range 8 {
		r0, r1, r2, r3 := quarters(c[0][x], c[1][x], c[2][x], c[3][x], c[5][x], c[6][x], c[7][x])
		c[0][x], c[1][x], c[2][x], c[3][x] = (r0+half1)>>shift1, (r1+half1)>>shift1, (r2+half1)>>shift1, (r3+half1)>>shift1
		outside |= beyond(c[0][x], middleLimit) | beyond(c[1][x], middleLimit) | beyond(c[2][x], middleLimit) | beyond(c[3][x], middleLimit)
	}
	const shift2 = idctBits + passBits + 4
	const half2 = 1<<(shift2-1) + 128<<shift2
	out := j.out()
	for y := range 4 {
		r, o := &c[y], out[y*j.comp.stride:][:4:4]
		r0, r1, r2, r3 := quarters(r[0], r[1], r[2], r[3], r[5], r[6], r[7])
		o[0], o[1], o[2], o[3] = clip((r0+half2)>>shift2), clip((r1+half2)>>shift2), clip((r2+half2)>>shift2), clip((r3+half2)>>shift2)
	}
	return outside == 0
}

// idct2 transforms blocks to 2 x 2 samples. False: one was out of range.
func idct2(jobs []job) bool {
	for i := range jobs {
		if !halfBlock(&jobs[i]) {
			return false
		}
	}
	return true
}

func halfBlock(j *job) bool {
	const half1, shift1 = 1 << (idctBits - passBits + 1), idctBits - passBits + 2
	var c [8][8]int32
	outside := uint32(0)
	for _, y := range [5]int{0, 1, 3, 5, 7} {
		outside |= j.dequantise(&c[y], y)
	}
	for _, x := range [5]int{0, 1, 3, 5, 7} {
		r0, r1 := halves(c[0][x], c[1][x], c[3][x], c[5][x], c[7][x])
		c[0][x], c[1][x] = (r0+half1)>>shift1, (r1+half1)>>shift1
	}
	const shift2 = idctBits + passBits + 5
	const half2 = 1<<(shift2-1) + 128<<shift2
	out := j.out()
	for y := range 2 {
		r, o := &c[y], out[y*j.comp.stride:][:2:2]
		r0, r1 := halves(r[0], r[1], r[3], r[5], r[7])
		o[0], o[1] = clip((r0+half2)>>shift2), clip((r1+half2)>>shift2)
	}
	return outside == 0
}
