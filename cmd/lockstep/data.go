package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/lockstep-ml/lockstep/core"
	"github.com/lockstep-ml/lockstep/shard"
	"github.com/lockstep-ml/lockstep/worker"
)

// dataset is a run's data: the training split, and the one to evaluate on, nil where there is none.
type dataset struct {
	train, test *shard.Dataset
}

// openSplits opens both splits.
func openSplits(ctx context.Context, o shard.Options) (*dataset, error) {
	o.Split = "train"
	train, err := shard.Open(ctx, o)
	if err != nil {
		return nil, err
	}
	o.Split = "test"
	if o.ValPath != "" {
		o.ClassNames = train.Classes()
	}
	test, err := shard.Open(ctx, o)
	if err != nil && !errors.Is(err, shard.ErrNoSplit) {
		return nil, errors.Join(err, train.Close())
	}
	return &dataset{train: train, test: test}, nil
}

func (d *dataset) close() error {
	err := d.train.Close()
	if d.test != nil {
		err = errors.Join(err, d.test.Close())
	}
	return err
}

// fingerprint covers both splits.
func (d *dataset) fingerprint() string {
	if d.test == nil {
		return d.train.Fingerprint()
	}
	return d.train.Fingerprint() + "+" + d.test.Fingerprint()
}

func (d *dataset) summary() string {
	s := fmt.Sprintf("%d training images of %d classes", d.train.Len(), len(d.train.Classes()))
	if d.test == nil {
		return s + ", no test images"
	}
	return fmt.Sprintf("%s, %d test images", s, d.test.Len())
}

func (d *dataset) damaged() []string {
	names := d.train.Damaged()
	if d.test != nil {
		names = append(names, d.test.Damaged()...)
	}
	return names
}

// feed gives the worker package its batches.
type feed struct {
	data   *dataset
	loader *shard.Loader
	eval   shard.EvalConfig
	stop   context.CancelFunc
	run    sync.WaitGroup
}

// openFeed starts the loader's goroutines, which feed.close ends.
func openFeed(d *dataset, plan shard.Plan, train, test shard.Transform, supply, evalSupply shard.Supply) (*feed, error) {
	l, err := shard.NewLoader(shard.LoaderConfig{Dataset: d.train, Plan: plan, Transform: train, Supply: supply})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background()) //bounded: cancelled by feed.close
	f := &feed{data: d, loader: l, stop: cancel,
		eval: shard.EvalConfig{Dataset: d.test, Transform: test, Batch: plan.ReplicaBatch(), Supply: evalSupply}}
	f.run.Go(func() { l.Run(ctx) }) // its error also comes with Next
	return f, nil
}

func (f *feed) close() error {
	f.stop()
	err := f.loader.Close()
	f.run.Wait() //bounded: the loader is closed
	return errors.Join(err, f.data.close())
}

// Next implements worker.Data.
func (f *feed) Next(ctx context.Context, step uint64, replicas []int) (worker.Batches, error) {
	if len(replicas) == 0 {
		return worker.Batches{Release: func() {}}, nil
	}
	b, err := f.loader.Next(ctx, step, replicas)
	if err != nil {
		return worker.Batches{}, err
	}
	out := worker.Batches{Waited: b.Wait, Release: func() { f.loader.Release(b) }}
	for k := range replicas {
		images, labels := b.Replica(k)
		out.Replica = append(out.Replica, core.Batch{Images: images, Labels: labels})
		out.Samples = append(out.Samples, b.Sums(k))
	}
	for _, s := range b.Skipped {
		out.Skipped = append(out.Skipped, worker.Skipped{Sample: s.Sample, By: s.By, Name: f.data.train.Name(s.Sample)})
	}
	return out, nil
}

// Evaluate implements worker.Data.
func (f *feed) Evaluate(ctx context.Context, k, n int, visit func(core.Batch) error) (skipped []worker.Skipped, err error) {
	if f.data.test == nil {
		return nil, errors.New("there are no test images to evaluate on")
	}
	c := f.eval
	c.Worker, c.Workers = k, n
	damaged, err := visitAll(ctx, c, visit)
	for _, i := range damaged {
		skipped = append(skipped, worker.Skipped{Sample: i, By: -1, Name: f.data.test.Name(i)})
	}
	return skipped, err
}

// visitAll goes once through a share of a split and leaves empty places out. It gives the images that were left out as damaged.
func visitAll(ctx context.Context, c shard.EvalConfig, visit func(core.Batch) error) (damaged []int, err error) {
	e, err := shard.NewEval(c)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	var run sync.WaitGroup
	run.Go(func() { e.Run(ctx) }) // its error also comes with Next
	defer run.Wait()              //bounded: cancel comes first
	defer cancel()
	for {
		b, err := e.Next(ctx)
		if err == io.EOF {
			return damaged, e.Close()
		}
		if err != nil {
			return nil, err
		}
		for _, s := range b.Skipped {
			damaged = append(damaged, s.Sample)
		}
		batch := compact(b)
		if len(batch.Labels) > 0 {
			err = visit(batch)
		}
		e.Release(b)
		if err != nil {
			return nil, err
		}
	}
}

// compact moves a batch's images together, over places that are empty.
func compact(b *shard.Batch) core.Batch {
	per := len(b.Images) / len(b.Labels)
	n := 0
	for i, l := range b.Labels {
		if l < 0 {
			continue
		}
		if i != n {
			copy(b.Images[n*per:(n+1)*per], b.Images[i*per:(i+1)*per])
			b.Labels[n] = l
		}
		n++
	}
	return core.Batch{Images: b.Images[:n*per], Labels: b.Labels[:n]}
}
