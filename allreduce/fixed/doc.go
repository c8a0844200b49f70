// Package fixed is the arithmetic of the exact ring: float32 values in blocks of 1024 that share an exponent, as integers that add
// without rounding. docs/design/0002-exact-ring.md has the rule and its proof.
//
// It works on bytes as they travel: integers of 32 or 16 bits, little-endian, at any address. So sums can be formed in memory that
// was received, and sent on from there.
//
//	fixed.MaxCodes(codes, values)        // for each hosted replica; then take the maximum over all workers
//	b := fixed.Bucket{Grid: fixed.NewGrid(fixed.Wire32, 8, true), Codes: codes, Replicas: hosted, Dst: mean}
//	b.Sum(out, in, lo, hi)               // a segment that passes through
//	b.SumDecode(out, in, lo, hi)         // a segment whose sum this worker completes
//	b.Decode(in, lo, hi)                 // a segment that others completed
//
// The kernels exist in plain Go, AVX2 and AVX-512, with the same bits; LOCKSTEP_SIMD=generic|avx2|avx512 forces one. The caller must
// see to it that no code is 255 (a NaN or an infinity) and that codes are the maxima over all replicas: the sums of values that outgrow
// their code mean nothing, and differ between the kernels.
package fixed
