package ringbench

import "math"

// fill writes the values [at, at+len(dst)) of a replica's gradient: a function of replica and index alone, so that any process can make any
// part of any replica's. Magnitudes differ from block to block by up to 2^7, as they do between layers, and signs are as likely as not.
func fill(dst []float32, replica, at int) {
	for i := range dst {
		x := mix(uint64(replica)<<40 ^ uint64(at+i))
		scale := mix(uint64(replica)<<40^uint64(at+i)>>10) & 7 // of 1024 values
		v := float32(int32(x>>32)) * (1.0 / (1 << 31))
		dst[i] = v * float32(math.Ldexp(1, -int(scale)-6))
	}
}

// mix is the finaliser of splitmix64.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
