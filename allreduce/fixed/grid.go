package fixed

import (
	"fmt"
	"math"
	"math/bits"

	"github.com/lockstep-ml/lockstep/internal/simd"
)

const (
	// BlockSize is how many consecutive values of a bucket share one exponent.
	// Smaller blocks would fit the values better but cost more bytes in the
	// exponent pass; at 1024 that pass is 1/4096 of the data pass of 32-bit blocks.
	BlockSize = 1024
	// MaxReplicas bounds the replicas of a grid. With 4096 of them a 16-bit
	// value keeps 3 bits of its own, which is the least that is still a gradient.
	MaxReplicas = 4096
)

// Blocks returns how many blocks n values have.
func Blocks(n int) int { return (n + BlockSize - 1) / BlockSize }

// Grid is the fixed-point scale of a run: how float32 values become integers
// of which all replicas' can be added in wire bits without overflow.
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
type Grid struct {
	wire  Wire
	limit int32
	bits  int
	// clamp is false when no rounded value can exceed limit: either 2^bits <=
	// limit, or bits >= 24, where a float32's 24 significant bits leave it an
	// integer on this grid at the bound, which needs no rounding up.
	clamp bool
	// divisor is 1 for a sum, the number of replicas for a mean.
	divisor float64
	inverse float64 // 1/divisor, rounded
	shifts  bool    // divisor is a power of two, so inverse is exact
	family  simd.Family
	// streamFrom is the length of a bucket from which its result is written past the caches.
	streamFrom int
}

// NewGrid returns the grid of a run of 1..MaxReplicas replicas; mean says whether decoding divides by their number.
func NewGrid(w Wire, replicas int, mean bool) Grid {
	if !w.Valid() || replicas < 1 || replicas > MaxReplicas {
		panic(fmt.Sprintf("fixed: a grid needs 32 or 16 bits and 1..%d replicas, not %d bits and %d replicas", MaxReplicas, w, replicas))
	}
	limit := int32((int64(1)<<(w-1) - 1) / int64(replicas))
	b := bits.Len32(uint32(limit)+1) - 1
	g := Grid{wire: w, limit: limit, bits: b, divisor: 1, family: chosen(), streamFrom: streamFrom}
	g.clamp = int64(1)<<b > int64(limit) && b < 24
	if mean {
		g.divisor = float64(replicas)
	}
	g.inverse = 1 / g.divisor
	g.shifts = int(g.divisor)&(int(g.divisor)-1) == 0
	return g
}

// Wire returns the width of the grid's integers.
func (g *Grid) Wire() Wire { return g.wire }

// exp2 returns 2^k for k in -1022..1023, exactly.
func exp2(k int) float64 { return math.Float64frombits(uint64(k+1023) << 52) }

// scale is what a block's code means on a grid: the rule's own figures, in float64, and those with which vector
// kernels get the same bits from float32.
type scale struct {
	wire    Wire
	limit   int32
	clamp   bool
	quantum float64 // 2^k: q = RNE(v * quantum). Exact in float64 for every code
	unit    float64 // 2^-k: what one step of the integers is worth
	divisor float64

	// factor * factor2 = 2^k. A product of v is exact, unless it is below 2^-126 and rounds to zero one way or the other.
	factor, factor2 float32
	// direct says that float32(s) * step gives the bits of float32(s * unit / divisor).
	direct bool
	step   float32
	// q = s*inverse, q += (s - q*ratio)*inverse, fused, gives those bits always once it is rounded to float32.
	inverse, ratio float64
}

// set makes s the scale of a block with a code in 1..254, field by field: see Bucket.run.
func (s *scale) set(g *Grid, code byte) {
	k := g.bits - (int(code) - 126)
	s.wire, s.limit, s.clamp, s.divisor = g.wire, g.limit, g.clamp, g.divisor
	quantum, unit := exp2(k), exp2(-k)
	s.quantum, s.unit = quantum, unit
	s.factor, s.factor2 = float32(exp2(min(k, 127))), float32(exp2(max(k-127, 0)))
	step := unit / g.divisor
	s.direct = g.shifts && step >= 0x1p-126 // else a result may be denormal, and round twice
	s.step = float32(step)
	s.inverse, s.ratio = unit*g.inverse, quantum*g.divisor
}
