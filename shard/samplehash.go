package shard

// HashSums is how many independent hashes of a sample's index SampleHash gives.
const HashSums = 4

// hashBits is the width of each: sums over a batch of 256 images stay below 2^22, and are whole in float32.
const hashBits = 14

// SampleHash names a sample by four numbers below 2^14, such that sums over a batch tell, with a chance of error of some 2^-56, which
// samples it was made of: the bits of splitmix64 (Steele, Lea, Flood 2014) of the index.
func SampleHash(index int) (h [HashSums]uint32) {
	x := uint64(index) + 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	x ^= x >> 31
	for i := range h {
		h[i] = uint32(x>>(hashBits*i)) & (1<<hashBits - 1)
	}
	return h
}

// StepSums is what a step's samples must add up to, over all replicas; instead says which image was used in place of a damaged one, and
// may be nil.
func (p Plan) StepSums(step uint64, instead map[int]int) (sums [HashSums]uint32) {
	for r := range p.Replicas {
		for i := range p.ReplicaBatch() {
			_, index := p.Sample(step, r, i)
			if by, ok := instead[index]; ok {
				index = by
			}
			for k, h := range SampleHash(index) {
				sums[k] += h
			}
		}
	}
	return sums
}
