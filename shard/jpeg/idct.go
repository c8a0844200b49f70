package jpeg

import "github.com/lockstep-ml/lockstep/shard/raster"

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

// butterfly is the one-dimensional transform: its eight results are e0+o0, e1+o1, e2+o2, e3+o3, e3-o3, e2-o2, e1-o1, e0-o0, scaled
// by 2^13. Sums wrap on damaged input, which is harmless.
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

// idct writes the 8x8 block of the coefficients, in natural order, to out and clobbers them.
func idct(out []byte, stride int, c *[64]int32) {
	const half1, shift1 = 1 << (idctBits - passBits - 1), idctBits - passBits
	for x := range 8 {
		if c[8+x]|c[16+x]|c[24+x]|c[32+x]|c[40+x]|c[48+x]|c[56+x] == 0 {
			v := c[x] << passBits
			c[x], c[8+x], c[16+x], c[24+x], c[32+x], c[40+x], c[48+x], c[56+x] = v, v, v, v, v, v, v, v
			continue
		}
		e0, e1, e2, e3, o0, o1, o2, o3 := butterfly(c[x], c[8+x], c[16+x], c[24+x], c[32+x], c[40+x], c[48+x], c[56+x])
		e0, e1, e2, e3 = e0+half1, e1+half1, e2+half1, e3+half1
		c[x], c[8+x], c[16+x], c[24+x] = (e0+o0)>>shift1, (e1+o1)>>shift1, (e2+o2)>>shift1, (e3+o3)>>shift1
		c[32+x], c[40+x], c[48+x], c[56+x] = (e3-o3)>>shift1, (e2-o2)>>shift1, (e1-o1)>>shift1, (e0-o0)>>shift1
	}
	const shift2 = idctBits + passBits + 3
	const half2 = 1<<(shift2-1) + 128<<shift2 // rounding, and the level shift of T.81, A.3.1
	for y := range 8 {
		r := c[8*y : 8*y+8 : 8*y+8]
		o := out[y*stride : y*stride+8 : y*stride+8]
		e0, e1, e2, e3, o0, o1, o2, o3 := butterfly(r[0], r[1], r[2], r[3], r[4], r[5], r[6], r[7])
		e0, e1, e2, e3 = e0+half2, e1+half2, e2+half2, e3+half2
		o[0], o[1], o[2], o[3] = raster.Clip8((e0+o0)>>shift2), raster.Clip8((e1+o1)>>shift2), raster.Clip8((e2+o2)>>shift2), raster.Clip8((e3+o3)>>shift2)
		o[4], o[5], o[6], o[7] = raster.Clip8((e3-o3)>>shift2), raster.Clip8((e2-o2)>>shift2), raster.Clip8((e1-o1)>>shift2), raster.Clip8((e0-o0)>>shift2)
	}
}

// idctDC is idct of a block whose other coefficients are all zero.
func idctDC(out []byte, stride int, dc int32) {
	v := raster.Clip8((dc<<passBits+1<<(passBits+2))>>(passBits+3) + 128)
	for y := range 8 {
		o := out[y*stride : y*stride+8 : y*stride+8]
		for x := range o {
			o[x] = v
		}
	}
}
