package shard

import (
	"context"
	"errors"
	"fmt"
	"math"
)

// LoaderConfig is what a Loader needs.
type LoaderConfig struct {
	Dataset   *Dataset
	Plan      Plan // Plan.Images must be Dataset.Len()
	Transform Transform
	Decoders  int // goroutines that decode and augment; 0 means DefaultDecoders()
	Depth     int // batches made ahead of the one in use, beyond the one asked for; 0 means DefaultDepth
}

// Validate reports every fault of the configuration at once.
func (c LoaderConfig) Validate() error {
	errs := []error{c.Plan.Validate(), c.Transform.Validate(), validatePool(c.Dataset, c.Decoders, c.Depth)}
	if c.Dataset != nil && c.Plan.Images != c.Dataset.Len() {
		errs = append(errs, fmt.Errorf("loader: the plan counts %d images, the data set has %d", c.Plan.Images, c.Dataset.Len()))
	}
	return errors.Join(errs...)
}

func validatePool(ds *Dataset, decoders, depth int) error {
	var errs []error
	if ds == nil {
		errs = append(errs, errors.New("loader: no data set"))
	}
	if decoders < 0 || decoders > 1024 {
		errs = append(errs, fmt.Errorf("loader: %d decoders, want 0 (default) to 1024", decoders))
	}
	if depth < 0 || depth > 1024 {
		errs = append(errs, fmt.Errorf("loader: depth %d, want 0 (default) to 1024", depth))
	}
	return errors.Join(errs...)
}

// Loader makes the training batches of the replicas that a worker hosts, ahead of their use. It guesses that the set of replicas
// stays and the step grows by one; when a call shows otherwise, what was made ahead is thrown away.
type Loader struct {
	p    prefetcher
	plan Plan
}

// NewLoader starts nothing.
func NewLoader(c LoaderConfig) (*Loader, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	l := &Loader{plan: c.Plan}
	l.p = prefetcher{ds: c.Dataset, seed: c.Plan.Seed, transform: c.Transform, places: c.Plan.ReplicaBatch(), locate: c.Plan.Sample,
		stride: 1, end: math.MaxUint64, decoders: c.Decoders, depth: c.Depth}
	l.p.init()
	return l, nil
}

// Run decodes until ctx is done, whose error it returns, or until Close, when it returns nil. It blocks, owns all goroutines, and
// can be called once.
func (l *Loader) Run(ctx context.Context) error { return l.p.run(ctx) }

// Close ends Run, waits for it, and makes Next fail with ErrClosed. It may be called twice. It does not close the Dataset.
func (l *Loader) Close() error {
	l.p.close()
	return nil
}

// Next returns the batch of a step for these replicas, in this order. It blocks until the batch is ready, ctx is done or the loader
// is closed. Calls must not overlap. A damaged image is a *DamagedError unless the data set skips them.
func (l *Loader) Next(ctx context.Context, step uint64, replicas []int) (*Batch, error) {
	for _, r := range replicas {
		if r < 0 || r >= l.plan.Replicas {
			return nil, fmt.Errorf("loader: step %d: replica %d, want 0..%d", step, r, l.plan.Replicas-1)
		}
	}
	return l.p.get(ctx, step, replicas)
}

// Release gives a batch's memory back; the caller must not touch it afterwards. It may run at any time, once for each batch.
func (l *Loader) Release(b *Batch) { l.p.release(b) }
