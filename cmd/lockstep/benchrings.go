package main

import (
	"context"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"github.com/lockstep-ml/lockstep/allreduce"
	ringgrpc "github.com/lockstep-ml/lockstep/allreduce/grpc"
	"github.com/lockstep-ml/lockstep/internal/ringbench"
	"github.com/lockstep-ml/lockstep/worker"
)

// benchRings gives the benchmark the trainer's own ring.
type benchRings struct {
	*rings
	link ringbench.Link
}

// openBenchRings implements ringbench.Member.Open.
func openBenchRings(sec *network) func(ringbench.Link, string) (ringbench.Rings, error) {
	return func(l ringbench.Link, host string) (ringbench.Rings, error) {
		if err := checkBenchLink(l); err != nil {
			return nil, err
		}
		r, err := openRings(l.Run, net.JoinHostPort(host, "0"), l.Wire, l.Transport, l.Coding, sec, nil)
		if err != nil {
			return nil, err
		}
		return &benchRings{r, l}, nil
	}
}

func checkBenchLink(l ringbench.Link) error {
	if l.Wire != 32 && l.Wire != 16 {
		return fmt.Errorf("--wire %d: gradients travel in 32 or 16 bits", l.Wire)
	}
	if _, err := parseCoding(l.Coding); err != nil {
		return err
	}
	return checkTransport(l.Transport)
}

// Address implements ringbench.Rings.
func (r *benchRings) Address() string { return r.addr }

// Close implements ringbench.Rings.
func (r *benchRings) Close() error { return r.close() }

// benchHop bounds a hop of the benchmark. A slow link is what it may be there to measure; a dead neighbour is noticed by its connection.
const benchHop = time.Minute

// Join implements ringbench.Rings.
func (r *benchRings) Join(ctx context.Context, p ringbench.Place, counted bool) (ringbench.Ring, error) {
	m := worker.Membership{Run: r.link.Run, Generation: p.Generation, Rank: p.Rank, Names: p.Names, Addresses: p.Addresses, Replicas: r.link.Replicas, Group: p.Group}
	cfg := allreduce.DefaultConfig()
	cfg.HopTimeout = benchHop
	var count counter
	var wrap func(allreduce.Transport) allreduce.Transport
	if counted {
		wrap = func(t allreduce.Transport) allreduce.Transport { return &countedTransport{t, &count} }
	}
	rg, err := r.join(ctx, m, cfg, wrap)
	if err != nil {
		return nil, err
	}
	return &benchRing{rg, &count}, nil
}

// aloneRing is a ring of one worker.
func aloneRing(l ringbench.Link) (ringbench.Ring, error) {
	cfg := allreduce.DefaultConfig()
	cfg.Run, cfg.Generation, cfg.Replicas, cfg.Wire = l.Run, 1, l.Replicas, allreduce.Wire(l.Wire)
	rg, err := allreduce.New(cfg, nil)
	if err != nil {
		return nil, err
	}
	return &benchRing{&ring{rg, nil}, &counter{}}, nil
}

// benchRing is a ring as the benchmark knows it.
type benchRing struct {
	*ring
	count *counter
}

// Mean implements ringbench.Ring.
func (r *benchRing) Mean(ctx context.Context, step uint64, bucket int, exact bool, hosted []ringbench.Hosted, dst []float32) error {
	local := make([]worker.Contribution, len(hosted))
	for i, h := range hosted {
		local[i] = worker.Contribution(h)
	}
	return r.ring.Mean(ctx, step, bucket, exact, local, dst)
}

// Sent implements ringbench.Ring.
func (r *benchRing) Sent() (messages, bytes int64) {
	return r.count.messages.Load(), r.count.bytes.Load()
}

// Coding implements ringbench.Ring.
func (r *benchRing) Coding() (links []ringbench.Coding) {
	for _, f := range ringgrpc.CodingOf(r.transport) {
		links = append(links, ringbench.Coding(f))
	}
	return links
}

// Ways implements ringbench.Ring.
func (r *benchRing) Ways() (links []string) {
	for _, w := range ringgrpc.WaysOf(r.transport) {
		links = append(links, w.Right.String())
	}
	return links
}

type counter struct{ messages, bytes atomic.Int64 }

// countedTransport counts what is sent, headers included. It hides whatever else a transport can do, so no ring over it is timed.
type countedTransport struct {
	allreduce.Transport
	count *counter
}

// Send implements allreduce.Transport.
func (t *countedTransport) Send(ctx context.Context, m allreduce.Message) error {
	t.count.messages.Add(1)
	t.count.bytes.Add(allreduce.HeaderSize + int64(m.Header.Length))
	return t.Transport.Send(ctx, m)
}
