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
	Supply
}

// Validate reports every fault of the configuration at once.
func (c LoaderConfig) Validate() error {
	errs := []error{c.Plan.Validate(), c.Transform.Validate(), c.Supply.Validate(), present(c.Dataset)}
	if c.Dataset != nil && c.Plan.Images != c.Dataset.Len() {
		errs = append(errs, fmt.Errorf("loader: the plan counts %d images, the data set has %d", c.Plan.Images, c.Dataset.Len()))
	}
	return errors.Join(errs...)
}

func present(ds *Dataset) error {
	if ds == nil {
		return errors.New("loader: no data set")
	}
	return nil
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
		stride: 1, end: math.MaxUint64, Supply: c.Supply}
	l.p.init()
	return l, nil
}

// Run fetches and decodes until ctx is done, whose error it returns, or until Close, when it returns nil. It blocks, owns all goroutines, and
// can be called once.
func (l *Loader) Run(ctx context.Context) error { return l.p.run(ctx) }

// Close ends Run, waits for it, and makes Next fail with ErrClosed. It may be called twice. It does not close the Dataset. Its error is
// a read that the system did not let go of.
func (l *Loader) Close() error { return l.p.close() }

// Next returns the batch of a step for these replicas, in this order. It blocks until the batch is ready, ctx is done or the loader
// is closed. Calls must not overlap. A damaged image is a *DamagedError unless the data set skips them; a read that takes longer than
// Supply.Stall is a *StallError.
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
