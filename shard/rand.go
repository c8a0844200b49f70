package shard

import "math/bits"

// splitmixStep is the increment of SplitMix64 (Steele, Lea, Flood 2014, "Fast Splittable Pseudorandom Number Generators"): 2^64
// divided by the golden ratio.
const splitmixStep = 0x9e3779b97f4a7c15

// mix is SplitMix64's output function, a bijection of 64-bit words in which every input bit moves about half of the output bits.
func mix(z uint64) uint64 {
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// Draw is a stream of random numbers that is a function of its key alone: the k-th number is mix(key + (k+1)*splitmixStep), which
// is SplitMix64 started at key. The zero Draw is a valid stream. It is a value: a copy continues on its own.
type Draw struct{ state uint64 }

// NewDraw keys a stream by the run's seed, the epoch and the image's index in the data set. Each word goes through mix before
// the next is added, so that (1, 2) and (2, 1) have nothing in common.
func NewDraw(seed, epoch uint64, index int) Draw {
	k := mix(seed + splitmixStep)
	k = mix((k ^ epoch) + splitmixStep)
	k = mix((k ^ uint64(index)) + splitmixStep)
	return Draw{k}
}

// Uint64 is the next number.
func (d *Draw) Uint64() uint64 {
	d.state += splitmixStep
	return mix(d.state)
}

// IntN is the next number, brought to 0..n-1 by the high half of its product with n. The bias is below n/2^64, and each call takes
// exactly one number, so what follows does not depend on luck. It panics when n < 1.
func (d *Draw) IntN(n int) int {
	if n < 1 {
		panic("shard: IntN wants a positive bound")
	}
	hi, _ := bits.Mul64(d.Uint64(), uint64(n))
	return int(hi)
}

// Float64 is the next number, in [0, 1) with 53 bits.
func (d *Draw) Float64() float64 { return float64(d.Uint64()>>11) / (1 << 53) }

// Permutation is a keyed permutation of 0..n-1 that is evaluated one place at a time, in constant memory: a Feistel network on the
// smallest whole number of bits that covers n, walked on until it falls below n again (Black and Rogaway 2002, "Ciphers with
// Arbitrary Finite Domains"). A shuffled array would be quicker to read, but costs 10 MB for ImageNet at each worker, and the
// whole of it at every epoch's start.
type Permutation struct {
	n           uint64
	left, right uint // bits of the two halves at the start; they swap roles every round
	key         [feistelRounds]uint64
}

// feistelRounds: four would do for large n by Luby and Rackoff; on the few bits of a small data set more are needed before places
// look independent, and ten cost 20 ns.
const feistelRounds = 10

// NewPermutation keys a permutation of 0..n-1 by seed and epoch. It panics when n < 1.
func NewPermutation(seed, epoch uint64, n int) Permutation {
	if n < 1 {
		panic("shard: a permutation wants at least one element")
	}
	width := max(2, uint(bits.Len64(uint64(n)-1)))
	p := Permutation{n: uint64(n), left: width / 2, right: width - width/2}
	d := NewDraw(seed^0x7065726d75746174, epoch, n) // "permutat": not the streams of augmentation
	for i := range p.key {
		p.key[i] = d.Uint64()
	}
	return p
}

// At is the element at place i. It panics when i is not in 0..n-1.
func (p *Permutation) At(i int) int {
	if i < 0 || uint64(i) >= p.n {
		panic("shard: place outside of the permutation")
	}
	x := uint64(i)
	for {
		if x = p.encrypt(x); x < p.n {
			return int(x)
		}
	}
}

func (p *Permutation) encrypt(x uint64) uint64 {
	lw, rw := p.left, p.right
	l, r := x>>rw, x&(1<<rw-1)
	for _, k := range p.key {
		l, r = r, (l^mix(r+k))&(1<<lw-1)
		lw, rw = rw, lw
	}
	return l<<rw | r
}
