package raster

import "github.com/lockstep-ml/lockstep/internal/simd"

// normaliseArgs asks for n pixels, no fewer than a vector holds.
type normaliseArgs struct {
	dst  [3]*float32
	src  *byte
	n    int
	c    *[3]constants
	flip bool
}

// row is Row without its checks.
func (n *Normaliser) row(red, green, blue []float32, src []byte, flip bool) {
	width := 8
	if n.use == simd.AVX512 {
		width = 16
	}
	if n.use == simd.Generic || len(red) < width {
		n.plainRow(red, green, blue, src, flip)
		return
	}
	a := normaliseArgs{dst: [3]*float32{&red[0], &green[0], &blue[0]}, src: &src[0], n: len(red), c: &n.c, flip: flip}
	if n.use == simd.AVX512 {
		normaliseAVX512(&a)
	} else {
		normaliseAVX2(&a)
	}
}

// normaliseAVX2 wants 8 pixels or more.
//
//go:noescape
func normaliseAVX2(a *normaliseArgs)

// normaliseAVX512 wants 16 pixels or more.
//
//go:noescape
func normaliseAVX512(a *normaliseArgs)
