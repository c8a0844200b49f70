//go:build !amd64

package fixed

import "github.com/lockstep-ml/lockstep/internal/simd"

// largest returns the largest magnitude of up to BlockSize values as the bits of a float32, in which a NaN counts as above an infinity.
func largest(_ simd.Family, v []float32) uint32 { return largestGeneric(v) }

// reduce forms the sums of a piece and writes them where it says.
func reduce(_ simd.Family, p *piece) { reduceGeneric(p) }

// fence is for families that write past the caches.
func fence() {}
