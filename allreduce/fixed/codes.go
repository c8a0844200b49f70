package fixed

import (
	"math"

	"github.com/lockstep-ml/lockstep/internal/simd"
)

const (
	codeZero = 0 // all values are zero
	// CodeNonFinite is the code of a block with a NaN or an infinity; it wins every maximum.
	CodeNonFinite = 255
)

// MaxCodes raises codes, Blocks(len(v)) of them, to what v needs, block by block.
func MaxCodes(codes []byte, v []float32) { maxCodes(chosen(), codes, v) }

func maxCodes(f simd.Family, codes []byte, v []float32) {
	for i := range codes {
		lo := i * BlockSize
		codes[i] = max(codes[i], codeOf(largest(f, v[lo:min(lo+BlockSize, len(v))])))
	}
}

// codeOf gives the exponent code of a block from the bits of its largest magnitude: 0 when
// all values are zero, 255 when one is a NaN or an infinity, else max(1, biased exponent).
func codeOf(largest uint32) byte {
	if largest == 0 {
		return codeZero
	}
	return byte(max(1, largest>>23))
}

// MaxBytes sets each a[i] to the larger of a[i] and b[i].
func MaxBytes(a, b []byte) {
	b = b[:len(a)]
	for i, x := range b {
		a[i] = max(a[i], x)
	}
}

// FirstNonFinite returns the index of the first NaN or infinity, -1 when there is none.
func FirstNonFinite(v []float32) int {
	for i, x := range v {
		if math.Float32bits(x)&0x7f800000 == 0x7f800000 {
			return i
		}
	}
	return -1
}
