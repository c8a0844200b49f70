package coder

import "github.com/lockstep-ml/lockstep/internal/simd"

// split writes the low and the high bytes of the values in src, two bytes each,
// to lo and hi, which have half its length.
func split(f simd.Family, lo, hi, src []byte) {
	n := len(src) / 2
	lo, hi, src = lo[:n], hi[:n], src[:2*n]
	if whole := n &^ 31; f >= simd.AVX2 && whole > 0 {
		splitAVX2(&lo[0], &hi[0], &src[0], whole)
		lo, hi, src = lo[whole:], hi[whole:], src[2*whole:]
	}
	splitGeneric(lo, hi, src)
}

// merge undoes split.
func merge(f simd.Family, dst, lo, hi []byte) {
	n := len(dst) / 2
	lo, hi, dst = lo[:n], hi[:n], dst[:2*n]
	if whole := n &^ 31; f >= simd.AVX2 && whole > 0 {
		mergeAVX2(&dst[0], &lo[0], &hi[0], whole)
		lo, hi, dst = lo[whole:], hi[whole:], dst[2*whole:]
	}
	mergeGeneric(dst, lo, hi)
}

//go:noescape
func splitAVX2(lo, hi, src *byte, n int)

//go:noescape
func mergeAVX2(dst, lo, hi *byte, n int)
