package allreduce

import (
	"encoding/binary"
	"math"
)

// roundMagic is 1.5 * 2^52: adding it to a float64 x with |x| < 2^51 leaves
// RNE(x) in the low bits of the sum's significand, in two's complement.
const roundMagic = 3 << 51

// blockCode returns the exponent code of up to BlockSize values: 0 when all are
// zero, 255 when one is a NaN or an infinity, else max(1, largest biased exponent).
func blockCode(v []float32) byte {
	var m0, m1, m2, m3 uint32
	for len(v) >= 4 {
		q := v[:4:4]
		m0 = max(m0, math.Float32bits(q[0])&0x7fffffff)
		m1 = max(m1, math.Float32bits(q[1])&0x7fffffff)
		m2 = max(m2, math.Float32bits(q[2])&0x7fffffff)
		m3 = max(m3, math.Float32bits(q[3])&0x7fffffff)
		v = v[4:]
	}
	for _, x := range v {
		m0 = max(m0, math.Float32bits(x)&0x7fffffff)
	}
	m := max(m0, m1, m2, m3)
	if m == 0 {
		return codeZero
	}
	return byte(max(1, m>>23))
}

// maxCodes raises codes to what v needs, block by block.
func maxCodes(codes []byte, v []float32) {
	for i := range codes {
		lo := i * BlockSize
		codes[i] = max(codes[i], blockCode(v[lo:min(lo+BlockSize, len(v))]))
	}
}

// maxBytes sets each a[i] to the larger of a[i] and b[i].
func maxBytes(a, b []byte) {
	b = b[:len(a)]
	for i, x := range b {
		a[i] = max(a[i], x)
	}
}

// quantise rounds x*scale to the nearest integer, ties to even. The conversion
// around the product keeps a compiler from fusing it with the addition; the
// product is exact, so fusing would not change it, but the reader need not know.
func quantise(x float32, scale float64) int32 {
	return int32(uint32(math.Float64bits(float64(float64(x)*scale) + roundMagic)))
}

func quantiseAdd(acc []int32, v []float32, scale float64) {
	acc = acc[:len(v)]
	for len(v) >= 4 && len(acc) >= 4 {
		a, q := acc[:4:4], v[:4:4]
		a[0] += quantise(q[0], scale)
		a[1] += quantise(q[1], scale)
		a[2] += quantise(q[2], scale)
		a[3] += quantise(q[3], scale)
		acc, v = acc[4:], v[4:]
	}
	for i := range v {
		acc[i] += quantise(v[i], scale)
	}
}

func quantiseAddClamp(acc []int32, v []float32, scale float64, limit int32) {
	acc = acc[:len(v)]
	for i, x := range v {
		acc[i] += max(-limit, min(limit, quantise(x, scale)))
	}
}

func decodeScale(dst []float32, acc []int32, unit float64) {
	acc = acc[:len(dst)]
	for len(dst) >= 4 && len(acc) >= 4 {
		d, a := dst[:4:4], acc[:4:4]
		d[0] = float32(float64(a[0]) * unit)
		d[1] = float32(float64(a[1]) * unit)
		d[2] = float32(float64(a[2]) * unit)
		d[3] = float32(float64(a[3]) * unit)
		dst, acc = dst[4:], acc[4:]
	}
	for i := range dst {
		dst[i] = float32(float64(acc[i]) * unit)
	}
}

func decodeDivide(dst []float32, acc []int32, unit, divisor float64) {
	acc = acc[:len(dst)]
	for i := range dst {
		dst[i] = float32(float64(float64(acc[i])*unit) / divisor)
	}
}

// load reads len(acc) integers of w bits, little-endian, from b.
func (w Wire) load(acc []int32, b []byte) {
	if w == Wire16 {
		for len(acc) >= 4 {
			q, x := acc[:4:4], binary.LittleEndian.Uint64(b)
			q[0], q[1], q[2], q[3] = int32(int16(x)), int32(int16(x>>16)), int32(int16(x>>32)), int32(int64(x)>>48)
			acc, b = acc[4:], b[8:]
		}
		for i := range acc {
			acc[i] = int32(int16(binary.LittleEndian.Uint16(b[2*i:])))
		}
		return
	}
	for len(acc) >= 4 {
		q, s := acc[:4:4], b[:16:16]
		q[0] = int32(binary.LittleEndian.Uint32(s[0:]))
		q[1] = int32(binary.LittleEndian.Uint32(s[4:]))
		q[2] = int32(binary.LittleEndian.Uint32(s[8:]))
		q[3] = int32(binary.LittleEndian.Uint32(s[12:]))
		acc, b = acc[4:], b[16:]
	}
	for i := range acc {
		acc[i] = int32(binary.LittleEndian.Uint32(b[4*i:]))
	}
}

// store writes acc as integers of w bits, little-endian, to b.
func (w Wire) store(b []byte, acc []int32) {
	if w == Wire16 {
		for len(acc) >= 4 {
			q := acc[:4:4]
			x := uint64(uint16(q[0])) | uint64(uint16(q[1]))<<16 | uint64(uint16(q[2]))<<32 | uint64(uint16(q[3]))<<48
			binary.LittleEndian.PutUint64(b, x)
			acc, b = acc[4:], b[8:]
		}
		for i, x := range acc {
			binary.LittleEndian.PutUint16(b[2*i:], uint16(x))
		}
		return
	}
	for len(acc) >= 4 {
		q, d := acc[:4:4], b[:16:16]
		binary.LittleEndian.PutUint32(d[0:], uint32(q[0]))
		binary.LittleEndian.PutUint32(d[4:], uint32(q[1]))
		binary.LittleEndian.PutUint32(d[8:], uint32(q[2]))
		binary.LittleEndian.PutUint32(d[12:], uint32(q[3]))
		acc, b = acc[4:], b[16:]
	}
	for i, x := range acc {
		binary.LittleEndian.PutUint32(b[4*i:], uint32(x))
	}
}

// firstNonFinite returns the index of the first NaN or infinity, -1 when there is none.
func firstNonFinite(v []float32) int {
	for i, x := range v {
		if math.Float32bits(x)&0x7f800000 == 0x7f800000 {
			return i
		}
	}
	return -1
}
