package shard

import (
	"context"
	"errors"
	"fmt"
	"io"
)

// EvalConfig is what an Eval needs.
type EvalConfig struct {
	Dataset   *Dataset
	Transform Transform // Transform.Train is false, usually
	Batch     int       // images of a batch
	Worker    int       // which share: batches Worker, Worker+Workers, ...
	Workers   int       // of how many; 0 means 1
	Supply
}

// Validate reports every fault of the configuration at once.
func (c EvalConfig) Validate() error {
	errs := []error{c.Transform.Validate(), c.Supply.Validate(), present(c.Dataset)}
	if c.Batch < 1 {
		errs = append(errs, fmt.Errorf("evaluation: batch of %d, want at least 1", c.Batch))
	}
	if c.Workers < 0 || c.Worker < 0 || c.Worker >= max(1, c.Workers) {
		errs = append(errs, fmt.Errorf("evaluation: worker %d of %d", c.Worker, c.Workers))
	}
	return errors.Join(errs...)
}

// Eval goes once through a data set in its own order, in batches that do not depend on how many workers share them. All batches
// have the same shape: behind the last image, and in place of a damaged one that is skipped, Labels is -1 and the image zero, and
// the caller leaves those out of its counts.
type Eval struct {
	p       prefetcher
	batches uint64
	next    uint64
}

// NewEval starts nothing.
func NewEval(c EvalConfig) (*Eval, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	n := uint64(c.Dataset.Len())
	e := &Eval{batches: (n + uint64(c.Batch) - 1) / uint64(c.Batch), next: uint64(c.Worker)}
	locate := func(step uint64, _, i int) (uint64, int) {
		if k := step*uint64(c.Batch) + uint64(i); k < n {
			return 0, int(k)
		}
		return 0, -1
	}
	e.p = prefetcher{ds: c.Dataset, transform: c.Transform, places: c.Batch, locate: locate, stride: uint64(max(1, c.Workers)),
		end: e.batches, Supply: c.Supply, dropEmpty: true}
	e.p.init()
	return e, nil
}

// Batches is the number of batches of the whole split, over all workers.
func (e *Eval) Batches() int { return int(e.batches) }

// Run is Loader.Run.
func (e *Eval) Run(ctx context.Context) error { return e.p.run(ctx) }

// Close is Loader.Close.
func (e *Eval) Close() error { return e.p.close() }

// evalReplicas: a batch of an evaluation is one replica's worth.
var evalReplicas = []int{0}

// Next returns this worker's next batch; Batch.Step is its number. After the last it returns io.EOF. Calls must not overlap.
func (e *Eval) Next(ctx context.Context) (*Batch, error) {
	if e.next >= e.batches {
		return nil, io.EOF
	}
	b, err := e.p.get(ctx, e.next, evalReplicas)
	if err != nil {
		return nil, err
	}
	e.next += e.p.stride
	return b, nil
}

// Release is Loader.Release.
func (e *Eval) Release(b *Batch) { e.p.release(b) }
