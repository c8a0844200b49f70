package ringbench

import (
	"math"
	"math/bits"
)

// fill writes the values [at, at+len(dst)) of a replica's gradient: a function of replica and index alone, so that any process can make any
// part of any replica's. Magnitudes differ from block to block by up to 2^7, as they do between layers, and signs are as likely as not. Within
// a block they fall off as a real gradient's do, exponentially or nearly so, which is what a coder of a link lives on.
func fill(dst []float32, replica, at int) {
	for i := range dst {
		x := mix(uint64(replica)<<40 ^ uint64(at+i))
		scale := mix(uint64(at+i)>>10) & 7 // of 1024 values, in all replicas
		dst[i] = bell(x) * float32(math.Ldexp(1, -int(scale)-6))
	}
}

// bell makes a random number one that halves in likelihood with each step of 1 from 0, up to 62. Only exact operations are used, so all
// processors make the same bits.
func bell(x uint64) float32 {
	zeros := bits.LeadingZeros64(x | 2) // the lowest bit is the sign
	rest := float32(x<<(zeros+1)>>40) * (1.0 / (1 << 24))
	v := (float32(zeros) + (1 - rest)) * (1.0 / 8)
	if x&1 != 0 {
		return -v
	}
	return v
}

// mix is the finaliser of splitmix64.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
