package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/lockstep-ml/lockstep/core"
	"github.com/lockstep-ml/lockstep/core/cpu"
	"github.com/lockstep-ml/lockstep/shard"
	"github.com/lockstep-ml/lockstep/worker"
)

// jobOptions are what one worker decides for itself; none changes the trained bits.
type jobOptions struct {
	data       string // where this machine has the data; empty: where the run's settings say
	valData    string // likewise
	source     sourceFlags
	threads    int
	supply     supplyFlags
	ringListen string
	transport  string // how ring neighbours are reached
	advertise  string // host that neighbours dial; empty: the one listened on
	coding     string // as --coding names it
	gossip     string // HOST:PORT where this worker gossips
	log        *slog.Logger
}

// buildJob makes what a worker works on from a run's settings.
func buildJob(ctx context.Context, run string, s *settings, o jobOptions, sec *network) (job *worker.Job, err error) {
	var closers []func() error
	closeAll := func() error {
		var errs []error
		for i := len(closers) - 1; i >= 0; i-- {
			errs = append(errs, closers[i]())
		}
		return errors.Join(errs...)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, closeAll())
		}
	}()
	if o.data != "" {
		s.data = o.data
	}
	if o.valData != "" {
		s.valData = o.valData
	}
	warn := func(err error) { o.log.Warn("data", "err", err) }
	d, err := openSplits(ctx, s.dataOptions(o.source.options(warn)))
	if err != nil {
		return nil, err
	}
	net, err := s.network(len(d.train.Classes()))
	if err != nil {
		return nil, errors.Join(err, d.close())
	}
	train, test, err := s.transforms(ctx, net, d.train)
	if err != nil {
		return nil, errors.Join(err, d.close())
	}
	plan := shard.Plan{Seed: s.seed, Images: d.train.Len(), GlobalBatch: s.batch, Replicas: s.replicas()}
	supply, evalSupply := o.supply.supply(o.threads)
	f, err := openFeed(d, plan, train, test, supply, evalSupply)
	if err != nil {
		return nil, errors.Join(err, d.close())
	}
	closers = append(closers, func() error {
		tellDamaged(o.log, d.damaged())
		return f.close()
	})
	engine, err := cpu.New(net, core.CompileConfig{Batch: s.replicaBatch, Resolution: train.Resolution, Threads: o.threads, Precision: core.Precision(s.precision)})
	if errors.Is(err, cpu.ErrMemory) {
		err = fmt.Errorf("--replica-batch %d: %w", s.replicaBatch, err)
	}
	if err != nil {
		return nil, err
	}
	closers = append(closers, engine.Close)
	states := &worker.StateServer{}
	r, err := openRings(run, o.ringListen, s.wire, o.transport, o.coding, sec, states)
	if err != nil {
		return nil, err
	}
	r.log = o.log
	closers = append(closers, r.close)
	addr, err := advertised(r.addr, o.advertise)
	if err != nil {
		return nil, err
	}
	return &worker.Job{
		Network: net, Engine: engine, Data: f, Rings: r, States: states, Peers: peers{sec},
		Replicas: s.replicas(), ReplicaBatch: s.replicaBatch, WireBits: s.wire,
		SGD:         core.SGD{Momentum: s.momentum, WeightDecay: s.weightDecay},
		Fingerprint: d.fingerprint(), Summary: d.summary(), RingAddress: addr, GossipAddress: o.gossip, Close: closeAll,
	}, nil
}

// maxNamed bounds the damaged images that are named; the rest are counted.
const maxNamed = 10

// tellDamaged says how many images were passed over, and which.
func tellDamaged(log *slog.Logger, names []string) {
	if len(names) == 0 {
		return
	}
	log.Warn(fmt.Sprintf("damaged images passed over: %d (%s)", len(names), listed(names)))
}

// printJSON writes v as one line, the last of a command's standard output.
func printJSON(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "%s\n", b)
	return err
}
