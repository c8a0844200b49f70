package jpeg

var genericKernels = &kernels{
	name: "generic", ac: acGeneric, idct: idctGeneric, idct4: idct4Generic, widen: widenGeneric, weigh: weighGeneric,
	spread1: spread1Generic, spread4: spread4Generic, mix: mixGeneric, rgb: rgbGeneric, grey: greyGeneric,
}

func widenGeneric(out []int16, in []byte) {
	in = in[:len(out)]
	for i := range out {
		out[i] = int16(in[i])
	}
}

func weighGeneric(out []int16, near, far []byte) {
	near, far = near[:len(out)], far[:len(out)]
	for i := range out {
		out[i] = 3*int16(near[i]) + int16(far[i])
	}
}

func spread1Generic(out []byte, in []int16) {
	for i := range len(in) - 2 {
		s, v := in[i:i+3:i+3], out[2*i:2*i+2:2*i+2]
		v[0] = byte((3*s[1] + s[0] + 1) >> 2)
		v[1] = byte((3*s[1] + s[2] + 2) >> 2)
	}
}

func spread4Generic(out []byte, in []int16) {
	for i := range len(in) - 2 {
		s, v := in[i:i+3:i+3], out[2*i:2*i+2:2*i+2]
		v[0] = byte((3*s[1] + s[0] + 8) >> 4)
		v[1] = byte((3*s[1] + s[2] + 7) >> 4)
	}
}

func mixGeneric(out, near, far []byte, bias int32) {
	near, far = near[:len(out)], far[:len(out)]
	for i := range out {
		out[i] = byte((3*int32(near[i]) + int32(far[i]) + bias) >> 2)
	}
}

// JFIF 1.02's conversion in 16-bit fixed point, rounded as libjpeg rounds:
// R = Y + 1.402 Cr, G = Y - 0.344136 Cb - 0.714136 Cr, B = Y + 1.772 Cb, with Cb and Cr around 128.
const (
	fixHalf   = 1 << 15
	fix140200 = 91881
	fix034414 = 22554
	fix071414 = 46802
	fix177200 = 116130
)

// yccTables holds the products for every chroma value, already shifted where they are not added to one another first.
var yccTables = func() (t struct{ crR, cbB, crG, cbG [256]int32 }) {
	for v := range 256 {
		c := int32(v) - 128
		t.crR[v] = (fix140200*c + fixHalf) >> 16
		t.cbB[v] = (fix177200*c + fixHalf) >> 16
		t.crG[v] = -fix071414 * c
		t.cbG[v] = -fix034414*c + fixHalf
	}
	return t
}()

func rgbGeneric(out, luma, cb, cr []byte) {
	t := &yccTables
	cb, cr = cb[:len(luma)], cr[:len(luma)]
	for x, v := range luma {
		y, b, r := int32(v), cb[x], cr[x]
		p := out[3*x : 3*x+3 : 3*x+3]
		p[0] = clip(y + t.crR[r])
		p[1] = clip(y + (t.cbG[b]+t.crG[r])>>16)
		p[2] = clip(y + t.cbB[b])
	}
}

func greyGeneric(out, luma []byte) {
	for x, v := range luma {
		p := out[3*x : 3*x+3 : 3*x+3]
		p[0], p[1], p[2] = v, v, v
	}
}
