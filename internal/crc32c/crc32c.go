// Package crc32c computes the CRC-32C (Castagnoli) of long pieces faster than hash/crc32 does, which it equals: with AVX-512 and
// VPCLMULQDQ it takes 256 bytes a turn, and leaves the rest, and other machines, to hash/crc32.
//
// Folding: a message is a polynomial over GF(2), and its remainder stays the same when a block of it is replaced by a shorter one that
// is congruent, moved along. A 128-bit block H*x^64 + L that lies 2048 bits before another is H*x^(64+2048) + L*x^2048 there: two products
// with constants, added to what is there. What is left of a message in the end is 256 bytes and the tail, and no further reduction is
// needed: hash/crc32 takes them (Gopal et al., "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ", 2009).
package crc32c

import (
	"encoding/binary"
	"hash/crc32"
	"math/bits"
	"sync"
)

var table = crc32.MakeTable(crc32.Castagnoli)

// pool keeps what hash/crc32 would let escape to the heap.
var pool = sync.Pool{New: func() any { return new([block]byte) }}

const (
	block = 256
	// least is how long a piece must be: with less, the last 256 bytes and the tail are most of it.
	least = 4 * block
)

// constants are x^(63+2048) and x^(2048-1) modulo the polynomial, as carry-less products of reflected values want them: these come out
// with one factor of x more.
var constants = [2]uint64{power(63 + 8*block), power(8*block - 1)}

// power is x^n modulo the polynomial, reflected in 64 bits.
func power(n int) uint64 {
	r := uint32(1)
	for range n {
		carry := r >> 31
		r <<= 1
		if carry != 0 {
			r ^= bits.Reverse32(crc32.Castagnoli) // without its x^32
		}
	}
	return bits.Reverse64(uint64(r))
}

// Update returns the result of adding p to crc, as hash/crc32's does.
func Update(crc uint32, p []byte) uint32 {
	if len(p) < least || !folds() {
		return crc32.Update(crc, table, p)
	}
	sums := pool.Get().(*[block]byte)
	defer pool.Put(sums)
	copy(sums[:], p)
	le := binary.LittleEndian
	le.PutUint32(sums[:], le.Uint32(sums[:])^^crc)
	p = p[block:]
	whole := len(p) / block * block
	fold(sums, p[:whole])
	return crc32.Update(crc32.Update(^uint32(0), table, sums[:]), table, p[whole:])
}
