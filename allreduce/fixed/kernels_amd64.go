package fixed

import "github.com/lockstep-ml/lockstep/internal/simd"

// largest returns the largest magnitude of up to BlockSize values as the bits of a float32, in which a NaN counts as above an infinity.
func largest(f simd.Family, v []float32) uint32 {
	switch f {
	case simd.AVX512:
		return largestAVX512(v)
	case simd.AVX2:
		whole := len(v) &^ 31
		return max(largestAVX2(v[:whole]), largestGeneric(v[whole:]))
	}
	return largestGeneric(v)
}

// reduce forms the sums of a piece and writes them where it says; the same bits in every family.
func reduce(f simd.Family, p *piece) {
	switch f {
	case simd.AVX512:
		if p.wire == Wire16 {
			reduce16AVX512(p)
		} else {
			reduce32AVX512(p)
		}
		return
	case simd.AVX2:
		if p.wire == Wire16 {
			reduce16AVX2(p)
		} else {
			reduce32AVX2(p)
		}
		p.skip(p.n &^ 15) // no masks: the last values are left to the generic kernel
	}
	if p.n > 0 {
		reduceGeneric(p)
	}
}

// fence has what was written past the caches seen before what is written after.
func fence()

//go:noescape
func largestAVX512(v []float32) uint32

//go:noescape
func largestAVX2(v []float32) uint32

//go:noescape
func reduce32AVX512(p *piece)

//go:noescape
func reduce16AVX512(p *piece)

//go:noescape
func reduce32AVX2(p *piece)

//go:noescape
func reduce16AVX2(p *piece)
