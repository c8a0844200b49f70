package jpeg

// The inverse cosine transform of Loeffler, Ligtenberg and Moschytz ("Practical Fast 1-D DCT Algorithms with 11 Multiplications",
// ICASSP 1989) in 13-bit fixed point, columns first with 2 bits kept between the passes: the choices of libjpeg's accurate integer
// transform ("islow", its default), so that the results are the same to the bit.
const (
	idctBits = 13
	passBits = 2

	cos0298 = 2446  // 0.298631336, and so on, times 2^13
	cos0390 = 3196  // 0.390180644
	cos0541 = 4433  // 0.541196100
	cos0765 = 6270  // 0.765366865
	cos0899 = 7373  // 0.899976223
	cos1175 = 9633  // 1.175875602
	cos1501 = 12299 // 1.501321110
	cos1847 = 15137 // 1.847759065
	cos1961 = 16069 // 1.961570560
	cos2053 = 16819 // 2.053119869
	cos2562 = 20995 // 2.562915447
	cos3072 = 25172 // 3.072711026
)

// middleLimit bounds the values between the passes. Those of an image are within 8,192; below the limit sums of two fit in the 16 bits that
// vector kernels have for them.
const middleLimit = 1 << 14

// butterfly is the one-dimensional transform: its eight results are e0+o0, e1+o1, e2+o2, e3+o3, e3-o3, e2-o2, e1-o1, e0-o0, scaled
// by 2^13.
func butterfly(x0, x1, x2, x3, x4, x5, x6, x7 int32) (e0, e1, e2, e3, o0, o1, o2, o3 int32) {
	r := (x2 + x6) * cos0541
	a2, a3 := r-x6*cos1847, r+x2*cos0765
	a0, a1 := (x0+x4)<<idctBits, (x0-x4)<<idctBits
	e0, e1, e2, e3 = a0+a3, a1+a2, a1-a2, a0-a3

	z5 := (x7 + x3 + x5 + x1) * cos1175
	z1, z2 := (x7+x1)*-cos0899, (x5+x3)*-cos2562
	z3, z4 := (x7+x3)*-cos1961+z5, (x5+x1)*-cos0390+z5
	o3 = x7*cos0298 + z1 + z3
	o2 = x5*cos2053 + z2 + z4
	o1 = x3*cos3072 + z2 + z3
	o0 = x1*cos1501 + z1 + z4
	return
}

func idctGeneric(jobs []job) bool {
	for i := range jobs {
		if !idctBlock(&jobs[i]) {
			return false
		}
	}
	return true
}

// idctBlock transforms one block. False: out of range.
func idctBlock(j *job) bool {
	var c [64]int32
	out, outside := j.out(), uint32(0)
	for x := range 8 {
		outside |= idctColumn(&c, j, x)
	}
	for y := range 8 {
		idctRow(out[y*j.comp.stride:][:8:8], (*[8]int32)(c[8*y:]))
	}
	return outside == 0
}

// beyond is not zero unless v is inside of -limit+1..limit-1. limit is a power of two.
func beyond(v, limit int32) uint32 { return uint32((v^v>>31)-v>>31) &^ uint32(limit-1) }

// idctColumn dequantises column x and transforms it into c. The result is not zero where something was out of range.
func idctColumn(c *[64]int32, j *job, x int) (outside uint32) {
	var v [8]int32
	for y := range v {
		v[y] = int32(j.coef[8*y+x]) * int32(j.comp.quant[8*y+x])
		outside |= beyond(v[y], coefLimit)
	}
	if v[1]|v[2]|v[3]|v[4]|v[5]|v[6]|v[7] == 0 {
		dc := v[0] << passBits
		for y := range 8 {
			c[8*y+x] = dc
		}
		return outside
	}
	const half, shift = 1 << (idctBits - passBits - 1), idctBits - passBits
	e0, e1, e2, e3, o0, o1, o2, o3 := butterfly(v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7])
	e0, e1, e2, e3 = e0+half, e1+half, e2+half, e3+half
	v = [8]int32{(e0 + o0) >> shift, (e1 + o1) >> shift, (e2 + o2) >> shift, (e3 + o3) >> shift,
		(e3 - o3) >> shift, (e2 - o2) >> shift, (e1 - o1) >> shift, (e0 - o0) >> shift}
	for y, w := range v {
		c[8*y+x] = w
		outside |= beyond(w, middleLimit)
	}
	return outside
}

func idctRow(o []byte, r *[8]int32) {
	const shift = idctBits + passBits + 3
	const half = 1<<(shift-1) + 128<<shift // rounding, and the level shift of T.81, A.3.1
	e0, e1, e2, e3, o0, o1, o2, o3 := butterfly(r[0], r[1], r[2], r[3], r[4], r[5], r[6], r[7])
	e0, e1, e2, e3 = e0+half, e1+half, e2+half, e3+half
	o[0], o[1], o[2], o[3] = clip((e0+o0)>>shift), clip((e1+o1)>>shift), clip((e2+o2)>>shift), clip((e3+o3)>>shift)
	o[4], o[5], o[6], o[7] = clip((e3-o3)>>shift), clip((e2-o2)>>shift), clip((e1-o1)>>shift), clip((e0-o0)>>shift)
}
