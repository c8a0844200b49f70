package allreduce_test

import (
	"math"
	"math/big"
)

// referenceMean is the definition of the ring's result in arbitrary precision,
// written without a look at the implementation's tricks: all[r][i] is value i of
// replica r, all finite. divide says mean or sum.
func referenceMean(all [][]float32, wireBits int, divide bool) []float32 {
	n, replicas := len(all[0]), int64(len(all))
	out := make([]float32, n)
	limit := new(big.Int).Lsh(big.NewInt(1), uint(wireBits-1))
	limit.Sub(limit, big.NewInt(1)).Div(limit, big.NewInt(replicas))
	bits := new(big.Int).Add(limit, big.NewInt(1)).BitLen() - 1
	for lo := 0; lo < n; lo += 1024 {
		hi := min(lo+1024, n)
		bound, zero := boundExponent(all, lo, hi)
		if zero {
			continue
		}
		k := bits - bound
		for i := lo; i < hi; i++ {
			sum := new(big.Int)
			for _, g := range all {
				sum.Add(sum, clampTo(limit, roundEven(scaled(float64(g[i]), k))))
			}
			r := new(big.Rat).SetInt(sum)
			r.Mul(r, pow2(-k))
			if divide {
				r.Quo(r, new(big.Rat).SetInt64(replicas))
			}
			f, _ := r.Float64() // nearest, ties to even; inexactness is expected
			out[i] = float32(f)
		}
	}
	return out
}

// boundExponent returns the least e >= -125 with |g| < 2^e for all g.
func boundExponent(all [][]float32, lo, hi int) (e int, zero bool) {
	e, zero = -125, true
	for _, g := range all {
		for _, x := range g[lo:hi] {
			if x == 0 {
				continue
			}
			zero = false
			_, exp := math.Frexp(math.Abs(float64(x))) // x = f * 2^exp, f in [0.5, 1)
			e = max(e, exp)
		}
	}
	return e, zero
}

func pow2(k int) *big.Rat {
	p := new(big.Int).Lsh(big.NewInt(1), uint(max(k, -k)))
	r := new(big.Rat).SetInt(p)
	if k < 0 {
		r.Inv(r)
	}
	return r
}

func scaled(x float64, k int) *big.Rat {
	r := new(big.Rat).SetFloat64(x)
	return r.Mul(r, pow2(k))
}

// roundEven rounds to the nearest integer, ties to even.
func roundEven(r *big.Rat) *big.Int {
	num2 := new(big.Int).Lsh(r.Num(), 1)
	den2 := new(big.Int).Lsh(r.Denom(), 1)
	num2.Add(num2, r.Denom()) // floor(r + 1/2) = floor((2num + den) / (2den))
	q, m := new(big.Int).DivMod(num2, den2, new(big.Int))
	if m.Sign() == 0 && q.Bit(0) == 1 {
		q.Sub(q, big.NewInt(1))
	}
	return q
}

func clampTo(limit, q *big.Int) *big.Int {
	if q.CmpAbs(limit) <= 0 {
		return q
	}
	if q.Sign() < 0 {
		return new(big.Int).Neg(limit)
	}
	return limit
}
