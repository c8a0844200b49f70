package shard

import (
	"errors"
	"fmt"
	"math/bits"
)

// Plan says which image every place of every step uses. It is pure: no state, no order of calls. Safe for concurrent use.
type Plan struct {
	Seed        uint64 // the run's seed
	Images      int    // images of the training split
	GlobalBatch int    // images of one step, over all replicas
	Replicas    int    // shares of the global batch
}

// Validate reports every fault of the plan at once.
func (p Plan) Validate() error {
	var errs []error
	for _, f := range []struct {
		name string
		v    int
	}{{"images", p.Images}, {"global batch", p.GlobalBatch}, {"replicas", p.Replicas}} {
		if f.v < 1 {
			errs = append(errs, fmt.Errorf("plan: %s is %d, want at least 1", f.name, f.v))
		}
	}
	if p.Replicas > 0 && p.GlobalBatch > 0 && p.GlobalBatch%p.Replicas != 0 {
		errs = append(errs, fmt.Errorf("plan: a global batch of %d does not divide into %d replicas", p.GlobalBatch, p.Replicas))
	}
	return errors.Join(errs...)
}

// ReplicaBatch is the number of images of one replica in one step.
func (p Plan) ReplicaBatch() int { return p.GlobalBatch / p.Replicas }

// Sample gives the epoch and the data set's index of place i of a replica's batch at a step. Place and replica must be in range;
// anything else is a fault of the caller and panics.
func (p Plan) Sample(step uint64, replica, i int) (epoch uint64, index int) {
	if replica < 0 || replica >= p.Replicas || i < 0 || i >= p.ReplicaBatch() {
		panic(fmt.Sprintf("shard: place %d of replica %d, want 0..%d of 0..%d", i, replica, p.ReplicaBatch()-1, p.Replicas-1))
	}
	epoch, place := p.position(step, replica*p.ReplicaBatch()+i)
	perm := NewPermutation(p.Seed, epoch, p.Images)
	return epoch, perm.At(int(place))
}

// position divides step*GlobalBatch + offset by Images, in 128 bits so that no step number can overflow.
func (p Plan) position(step uint64, offset int) (epoch, place uint64) {
	hi, lo := bits.Mul64(step, uint64(p.GlobalBatch))
	lo, carry := bits.Add64(lo, uint64(offset), 0)
	hi += carry
	if hi >= uint64(p.Images) {
		panic(fmt.Sprintf("shard: step %d lies beyond 2^64 epochs", step))
	}
	return bits.Div64(hi, lo, uint64(p.Images))
}

// StepsPerEpoch is Images/GlobalBatch, seldom whole.
func (p Plan) StepsPerEpoch() float64 { return float64(p.Images) / float64(p.GlobalBatch) }

// EpochOf is the epoch of the first image of a step.
func (p Plan) EpochOf(step uint64) uint64 {
	epoch, _ := p.position(step, 0)
	return epoch
}

// StepOfEpochEnd is the number of steps after which every image of epochs 0..e has been used: the first step that holds no image
// of epoch e. It is ceil((e+1)*Images/GlobalBatch).
func (p Plan) StepOfEpochEnd(e uint64) uint64 {
	hi, lo := bits.Mul64(e+1, uint64(p.Images))
	lo, carry := bits.Add64(lo, uint64(p.GlobalBatch)-1, 0)
	hi += carry
	if e+1 == 0 || hi >= uint64(p.GlobalBatch) {
		panic(fmt.Sprintf("shard: epoch %d ends beyond 2^64 steps", e))
	}
	q, _ := bits.Div64(hi, lo, uint64(p.GlobalBatch))
	return q
}
