package jpeg

import (
	"slices"

	"github.com/lockstep-ml/lockstep/shard/raster"
)

// A plane is one component's samples, row by row.
type plane struct {
	pix    []byte
	stride int
}

func (p plane) row(y, n int) []byte { return p.pix[y*p.stride : y*p.stride+n] }

// A ycc is a decoded JPEG before colour conversion: luma at w x h, chroma at that size divided by (hs, vs), rounded up.
type ycc struct {
	w, h, hs, vs int
	y, cb, cr    plane
}

// An upsampler brings chroma to luma's size and converts to RGB as libjpeg does by default, so that images look the same to a
// network as they did to the one it was trained on: the "fancy" triangle filter for halved chroma (each output is 3/4 the nearer
// and 1/4 the further sample, with alternating rounding), replication for other ratios and for planes under three samples wide.
type upsampler struct {
	cb, cr []byte  // one full-width row of each
	sums   []int32 // vertically weighted column sums, for 4:2:0
}

// toRGB writes the image. dst has its size already.
func (u *upsampler) toRGB(dst *raster.Image, p *ycc) {
	cw, ch := (p.w+p.hs-1)/p.hs, (p.h+p.vs-1)/p.vs
	n := cw * p.hs
	u.cb = slices.Grow(u.cb[:0], n)[:n]
	u.cr = slices.Grow(u.cr[:0], n)[:n]
	u.sums = slices.Grow(u.sums[:0], cw)[:cw]
	for y := range p.h {
		u.chromaRow(u.cb, p.cb, y, cw, ch, p.hs, p.vs)
		u.chromaRow(u.cr, p.cr, y, cw, ch, p.hs, p.vs)
		rgbRow(dst.Pix[3*y*p.w:3*(y+1)*p.w], p.y.row(y, p.w), u.cb, u.cr)
	}
}

// chromaRow makes row y at full resolution.
func (u *upsampler) chromaRow(dst []byte, p plane, y, cw, ch, hs, vs int) {
	near := p.row(y/vs, cw)
	switch {
	case hs == 1 && vs == 1:
		copy(dst, near)
	case hs == 2 && vs == 1 && cw > 2:
		fancyH2(dst, near)
	case hs == 2 && vs == 2 && cw > 2:
		fancyH2V2(dst, near, p.row(further(y, ch), cw), u.sums)
	case hs == 1 && vs == 2:
		fancyV2(dst, near, p.row(further(y, ch), cw), y)
	default:
		for x := range dst {
			dst[x] = near[x/hs]
		}
	}
}

// further is the second nearest chroma row of output row y, at the edges the nearest itself.
func further(y, ch int) int {
	if y%2 == 0 {
		return max(y/2-1, 0)
	}
	return min(y/2+1, ch-1)
}

func fancyH2(dst, in []byte) {
	last := len(in) - 1
	dst[0] = in[0]
	dst[1] = byte((3*int32(in[0]) + int32(in[1]) + 2) >> 2)
	for x := 1; x < last; x++ {
		v := 3 * int32(in[x])
		dst[2*x] = byte((v + int32(in[x-1]) + 1) >> 2)
		dst[2*x+1] = byte((v + int32(in[x+1]) + 2) >> 2)
	}
	dst[2*last] = byte((3*int32(in[last]) + int32(in[last-1]) + 1) >> 2)
	dst[2*last+1] = in[last]
}

func fancyV2(dst, near, far []byte, y int) {
	bias := int32(1 + y%2)
	for x := range near {
		dst[x] = byte((3*int32(near[x]) + int32(far[x]) + bias) >> 2)
	}
}

func fancyH2V2(dst, near, far []byte, sums []int32) {
	for x := range sums {
		sums[x] = 3*int32(near[x]) + int32(far[x])
	}
	last := len(sums) - 1
	dst[0] = byte((4*sums[0] + 8) >> 4)
	dst[1] = byte((3*sums[0] + sums[1] + 7) >> 4)
	for x := 1; x < last; x++ {
		v := 3 * sums[x]
		dst[2*x] = byte((v + sums[x-1] + 8) >> 4)
		dst[2*x+1] = byte((v + sums[x+1] + 7) >> 4)
	}
	dst[2*last] = byte((3*sums[last] + sums[last-1] + 8) >> 4)
	dst[2*last+1] = byte((4*sums[last] + 7) >> 4)
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

func rgbRow(dst, luma, cb, cr []byte) {
	t := &yccTables
	cb, cr = cb[:len(luma)], cr[:len(luma)]
	for x, v := range luma {
		y, b, r := int32(v), cb[x], cr[x]
		p := dst[3*x : 3*x+3 : 3*x+3]
		p[0] = raster.Clip8(y + t.crR[r])
		p[1] = raster.Clip8(y + (t.cbG[b]+t.crG[r])>>16)
		p[2] = raster.Clip8(y + t.cbB[b])
	}
}
