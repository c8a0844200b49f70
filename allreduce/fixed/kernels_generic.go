package fixed

import "math"

// roundMagic is 1.5 * 2^52: adding it to a float64 x with |x| < 2^51 leaves
// RNE(x) in the low bits of the sum's significand, in two's complement.
const roundMagic = 3 << 51

func largestGeneric(v []float32) uint32 {
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
	return max(m0, m1, m2, m3)
}

// reduceGeneric is the rule itself, in float64.
func reduceGeneric(p *piece) {
	var scratch [BlockSize]int32
	sums := scratch[:p.n]
	if p.in != nil {
		p.wire.load(sums, p.in)
	}
	for _, v := range p.replicas {
		v = v[p.at : p.at+p.n]
		if p.clamp {
			quantiseAddClamp(sums, v, p.quantum, p.limit)
		} else {
			quantiseAdd(sums, v, p.quantum)
		}
	}
	if p.out != nil {
		p.wire.store(p.out, sums)
	}
	if p.dst == nil {
		return
	}
	if r := int(p.divisor); r&(r-1) == 0 {
		// Dividing by a power of two is exact in float64, so it can join the unit.
		decodeScale(p.dst, sums, p.unit/p.divisor)
	} else {
		decodeDivide(p.dst, sums, p.unit, p.divisor)
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
