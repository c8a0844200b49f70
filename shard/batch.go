package shard

import "time"

// Batch is one step's images for the replicas that were asked for. It belongs to the caller until it is released.
type Batch struct {
	Step         uint64
	Replicas     []int         // in the order asked for
	ReplicaBatch int           // images of each
	Images       []float32     // len(Replicas)*ReplicaBatch images of 3*H*W, planes of one image together (NCHW)
	Labels       []int32       // one for each image; -1 marks an empty place (evaluation only), whose image is zero
	Samples      []int         // one for each image: the index in the data set of what is in Images, -1 for an empty place
	Skipped      []Skip        // damaged images of the plan in whose place another stands, or none in an evaluation; in order of place
	Wait         time.Duration // how long Next had to wait for it

	held bool // by the caller
}

// A Skip is a damaged image that was passed over.
type Skip struct {
	Sample int // its index in the data set
	By     int // the index of what stands in its place, -1 for nothing
}

// Replica gives the images and labels of the k-th of b.Replicas.
func (b *Batch) Replica(k int) ([]float32, []int32) {
	n := b.ReplicaBatch
	v := len(b.Images) / len(b.Labels)
	return b.Images[k*n*v : (k+1)*n*v], b.Labels[k*n : (k+1)*n]
}

// Sums adds up the SampleHash of the k-th replica's images.
func (b *Batch) Sums(k int) (sums [HashSums]uint32) {
	for _, index := range b.Samples[k*b.ReplicaBatch : (k+1)*b.ReplicaBatch] {
		for i, h := range SampleHash(index) {
			sums[i] += h
		}
	}
	return sums
}

// Valid is the number of places that hold an image.
func (b *Batch) Valid() int {
	n := 0
	for _, l := range b.Labels {
		if l >= 0 {
			n++
		}
	}
	return n
}

// DamagedSample is the image's name, for those who know no more of the error.
func (e *DamagedError) DamagedSample() string { return e.Member }
