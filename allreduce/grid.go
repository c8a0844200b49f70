package allreduce

import (
	"math"
	"math/bits"
)

// BlockSize is how many consecutive values of a bucket share one exponent.
// Smaller blocks would fit the values better but cost more bytes in the
// exponent pass; at 1024 that pass is 1/4096 of the data pass of 32-bit blocks.
const BlockSize = 1024

const (
	codeZero      = 0   // all values are zero
	codeNonFinite = 255 // a NaN or an infinity is present
)

// grid is the fixed-point scale of a run: how float32 values become integers
// of which Replicas can be added in wire bits without overflow.
//
// With w = wire bits and R = replicas:
//
//	limit = floor((2^(w-1) - 1) / R)   each replica's |q| is at most this
//	bits  = floor(log2(limit + 1))     so 2^bits <= limit+1
//	k     = bits - (code - 126)        q = RNE(g * 2^k), clamped to ±limit
//
// A block of code c in 1..254 has |g| < 2^(c-126), so |g * 2^k| < 2^bits. The sum of
// any subset of the R replicas is at most R*limit <= 2^(w-1) - 1 in magnitude: no
// partial sum overflows. The clamp acts only when 2^bits = limit+1 and a value within
// half a quantum of the bound rounds up to 2^bits; it then moves by at most one
// quantum. docs/design/0002-exact-ring.md has the proof.
type grid struct {
	wire     Wire
	replicas int
	limit    int32
	bits     int
	// clamp is false when no rounded value can exceed limit: either 2^bits <=
	// limit, or bits >= 24, where a float32's 24 significant bits leave it an
	// integer on this grid at the bound, which needs no rounding up.
	clamp bool
	// divisor is 1 for a sum, the number of replicas for a mean.
	divisor float64
}

func newGrid(w Wire, replicas int, mean bool) grid {
	limit := int32((int64(1)<<(w-1) - 1) / int64(replicas))
	b := bits.Len32(uint32(limit)+1) - 1
	g := grid{wire: w, replicas: replicas, limit: limit, bits: b, divisor: 1}
	g.clamp = int64(1)<<b > int64(limit) && b < 24
	if mean {
		g.divisor = float64(replicas)
	}
	return g
}

// exp2 returns 2^k for k in -1022..1023, exactly.
func exp2(k int) float64 { return math.Float64frombits(uint64(k+1023) << 52) }

// quantum returns 2^k, what values of a block are multiplied by. It is exact in
// float64 for every code, though not in float32.
func (g *grid) quantum(code byte) float64 { return exp2(g.bits - (int(code) - 126)) }

// unit returns 2^-k, what one step of the integers is worth.
func (g *grid) unit(code byte) float64 { return exp2(int(code) - 126 - g.bits) }

// blocks returns how many blocks n values have.
func blocks(n int) int { return (n + BlockSize - 1) / BlockSize }

// addReplica quantises v, all of one block of the given code, and adds it to acc.
func (g *grid) addReplica(acc []int32, v []float32, code byte) {
	if code == codeZero {
		return
	}
	if g.clamp {
		quantiseAddClamp(acc, v, g.quantum(code), g.limit)
		return
	}
	quantiseAdd(acc, v, g.quantum(code))
}

// decode turns the sums of one block into dst, sum * 2^-k / divisor: the product is
// exact in float64, the quotient is rounded to float64 and then to float32.
func (g *grid) decode(dst []float32, acc []int32, code byte) {
	if code == codeZero {
		clear(dst)
		return
	}
	r := int(g.divisor)
	if r&(r-1) == 0 {
		// Dividing by a power of two is exact in float64, so it can join the unit.
		decodeScale(dst, acc, g.unit(code)/g.divisor)
		return
	}
	decodeDivide(dst, acc, g.unit(code), g.divisor)
}
