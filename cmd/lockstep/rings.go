package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"github.com/lockstep-ml/lockstep/allreduce"
	ringgrpc "github.com/lockstep-ml/lockstep/allreduce/grpc"
	pb "github.com/lockstep-ml/lockstep/internal/proto/lockstep/v1"
	"github.com/lockstep-ml/lockstep/worker"
)

// The ways to a ring neighbour, as flags name them. auto shares memory with those on the same host.
const (
	transportAuto = "auto"
	transportGRPC = "grpc"
	transportSHM  = "shm"
)

// transportHelp describes the flag.
const transportHelp = "how ring neighbours are reached: grpc; shm, shared memory, which refuses one that is not on this host; auto, what works"

// checkTransport refuses what openRings could not make.
func checkTransport(name string) error {
	if _, err := ringgrpc.ParseSharing(name); err != nil {
		return fmt.Errorf("--transport %s: the transports are %s, %s and %s", name, transportAuto, transportGRPC, transportSHM)
	}
	return nil
}

// rings gives the worker package the exact ring over gRPC.
type rings struct {
	node   *ringgrpc.Node
	server *grpc.Server
	served chan error
	addr   string
	wire   allreduce.Wire
	log    *slog.Logger // told how neighbours are reached, and when a link starts or stops coding; nil for nobody
}

// openRings listens for left neighbours and serves them until close. It is the one place where a transport is chosen.
// states is served to other workers beside; nil for none.
func openRings(run, listen string, wire int, transport, coding string, sec *network, states pb.PeerServer) (*rings, error) {
	if err := checkTransport(transport); err != nil {
		return nil, err
	}
	code, err := parseCoding(coding)
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return nil, fmt.Errorf("listening for ring neighbours: %w", err)
	}
	cfg := ringgrpc.DefaultConfig()
	cfg.Run, cfg.Credentials = run, sec.client()
	if cfg.Sharing, err = ringgrpc.ParseSharing(transport); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	r := &rings{}
	cfg.Coding, cfg.CodingChanged = code, r.codingChanged
	node, err := ringgrpc.NewNode(cfg)
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	*r = rings{
		node: node, addr: l.Addr().String(), wire: allreduce.Wire(wire), served: make(chan error, 1),
		server: grpc.NewServer(append(ringgrpc.ServerOptions(), grpc.Creds(sec.server()),
			grpc.KeepaliveParams(keepalive.ServerParameters{Time: 10 * time.Second, Timeout: 10 * time.Second}))...),
	}
	node.Register(r.server)
	if states != nil {
		pb.RegisterPeerServer(r.server, states)
	}
	go func() { r.served <- r.server.Serve(l) }() //bounded: close stops the server, and the channel has room for its word
	return r, nil
}

// codingHelp describes the flag.
const codingHelp = "send 16-bit values to the ring neighbour in coded form: auto, where that measures faster than the link; on; off. The bits are the same"

const codingAuto = "auto"

func parseCoding(name string) (ringgrpc.Coding, error) {
	c, err := ringgrpc.ParseCoding(name)
	if err != nil {
		return c, fmt.Errorf("--coding %s: must be auto, on or off", name)
	}
	return c, nil
}

// codingChanged says that a link has started or stopped coding.
func (r *rings) codingChanged(level allreduce.Level, f ringgrpc.CodingFigures) {
	if r.log == nil {
		return
	}
	what := "the link to the right neighbour is slower than the coder: coding"
	if !f.On {
		what = "coding no longer pays on the link to the right neighbour"
	}
	r.log.Info(what, "level", level, "figures", f)
}

func (r *rings) close() error {
	err := r.node.Close()
	stop := time.AfterFunc(lastWords, r.server.Stop) // a neighbour that does not read must not hold the end up
	r.server.GracefulStop()                          //bounded: Stop, after lastWords
	stop.Stop()
	return errors.Join(err, <-r.served) //bounded: the server has been stopped
}

// lastWords is how long neighbours have to hear how the ring ended: a stop that does not wait would cut their streams off before.
const lastWords = time.Second

// beginTimeout bounds how far a worker may lag behind its neighbour.
const beginTimeout = 10 * time.Minute

// Join implements worker.Rings.
func (r *rings) Join(ctx context.Context, m worker.Membership) (worker.Ring, error) {
	rg, err := r.join(ctx, m, allreduce.DefaultConfig(), nil)
	if err != nil {
		return nil, err
	}
	return rg, nil
}

// join makes a generation's ring. wrap, if not nil, is put round its transport.
func (r *rings) join(ctx context.Context, m worker.Membership, cfg allreduce.Config, wrap func(allreduce.Transport) allreduce.Transport) (*ring, error) {
	cfg.Run, cfg.Generation, cfg.Wire = m.Run, m.Generation, r.wire
	cfg.Rank, cfg.Size, cfg.Replicas, cfg.Names = m.Rank, len(m.Names), m.Replicas, m.Names
	cfg.Group = m.Group
	// A bucket begins when the slowest worker's backward pass has reached it: minutes, for a deep network on a slow core.
	// A worker that is dead or frozen is noticed long before, by its connection or its heartbeats.
	cfg.BeginTimeout = beginTimeout
	transport, err := r.node.JoinGroups(ctx, m.Generation, m.Rank, m.Group, m.Addresses)
	if err != nil {
		return nil, err
	}
	for level, ways := range ringgrpc.WaysOf(transport) {
		if r.log != nil {
			r.log.Info("joined the ring", "generation", m.Generation, "rank", m.Rank, "of", len(m.Names), "level", allreduce.Level(level), "from_left", ways.Left, "to_right", ways.Right)
		}
	}
	if wrap != nil {
		transport = wrap(transport)
	}
	rg, err := allreduce.New(cfg, transport)
	if err != nil {
		return nil, errors.Join(err, transport.Close())
	}
	return &ring{rg, transport}, nil
}

// ring gives the worker package one generation's ring.
type ring struct {
	*allreduce.Ring
	transport allreduce.Transport
}

// Mean implements worker.Ring.
func (r ring) Mean(ctx context.Context, step uint64, bucket int, exact bool, local []worker.Contribution, dst []float32) error {
	parts := make([]allreduce.Contribution, len(local))
	for i, c := range local {
		parts[i] = allreduce.Contribution{Replica: c.Replica, Values: c.Values}
	}
	b := allreduce.Bucket{Step: step, ID: bucket}
	if exact {
		b.Wire = allreduce.Wire32
	}
	return explained(r.Reduce(ctx, b, parts, dst))
}

// Measure implements worker.Ring.
func (r ring) Measure(ctx context.Context) (hop time.Duration, bytesPerSecond float64, err error) {
	s, err := r.Ring.Measure(ctx)
	return s.Hop, s.BytesPerSecond, explained(err)
}

// explained gives a ring's error the worker package's interfaces.
func explained(err error) error {
	var nf *allreduce.NonFiniteError
	var hop *allreduce.HopError
	switch {
	case errors.As(err, &nf):
		return nonFinite{nf}
	case errors.As(err, &hop):
		return peerError{hop}
	}
	return err
}

type nonFinite struct{ *allreduce.NonFiniteError }

// NonFinite implements worker.NonFinite.
func (e nonFinite) NonFinite() (replica, index int, local bool) { return e.Replica, e.Index, e.Local }

type peerError struct{ *allreduce.HopError }

// Peer implements worker.PeerError.
func (e peerError) Peer() string { return e.PeerName }
