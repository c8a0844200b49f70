package ringgrpc

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lockstep-ml/lockstep/allreduce"
)

const (
	serviceName = "lockstep.ring.v1.Ring"
	methodName  = "Link"
)

// ErrNodeClosed is returned by what was still in progress, or begun, after a
// Node's Close.
var ErrNodeClosed = errors.New("ringgrpc: node is closed")

// Node is a process's part in the rings of one run, generation after
// generation. All methods may be called concurrently.
type Node struct {
	cfg Config

	mu      sync.Mutex
	links   map[uint64]*link // by generation, until closed
	latest  uint64           // highest generation joined
	joined  bool             // latest is meaningful
	waiting int              // streams that wait for a generation
	changed chan struct{}    // closed and replaced by Join and Close
	closed  bool
}

// NewNode makes a Node. Starts nothing.
func NewNode(cfg Config) (*Node, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return &Node{cfg: cfg, links: map[uint64]*link{}, changed: make(chan struct{})}, nil
}

// Register adds the ring's service to a server that does not serve yet.
func (n *Node) Register(s *grpc.Server) {
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: serviceName,
		HandlerType: (*any)(nil),
		Streams: []grpc.StreamDesc{{
			StreamName:    methodName,
			Handler:       func(srv any, s grpc.ServerStream) error { return srv.(*Node).serve(s) },
			ClientStreams: true,
			ServerStreams: true,
		}},
	}, n)
}

// Join takes part in a generation as rank of size workers, whose right
// neighbour listens at rightAddr (not used when size is 1). It blocks until
// both neighbours are linked or ctx ends; the error then says who is missing.
// Generations must be joined in rising order. The caller closes the transport.
func (n *Node) Join(ctx context.Context, generation uint64, rank, size int, rightAddr string) (allreduce.Transport, error) {
	if size < 1 || size > allreduce.MaxSize || rank < 0 || rank >= size {
		return nil, fmt.Errorf("ringgrpc: rank %d of %d: size must be 1..%d and rank below it", rank, size, allreduce.MaxSize)
	}
	l := newLink(n, generation, rank, size, rightAddr)
	if err := n.add(l); err != nil {
		return nil, err
	}
	if size == 1 {
		return l, nil
	}
	if err := l.connect(ctx); err != nil {
		err = fmt.Errorf("ringgrpc: join generation %d as rank %d of %d: %w", generation, rank, size, err)
		l.Abort(err)
		// The failure to join is what the caller needs to know.
		_ = l.Close()
		return nil, err
	}
	return l, nil
}

// add makes l known, so that the left neighbour can link to it.
func (n *Node) add(l *link) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return ErrNodeClosed
	}
	if n.joined && l.generation <= n.latest {
		return fmt.Errorf("ringgrpc: generation %d was joined already, cannot join %d", n.latest, l.generation)
	}
	n.latest, n.joined = l.generation, true
	n.links[l.generation] = l
	n.notify()
	return nil
}

func (n *Node) remove(l *link) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.links, l.generation)
}

// notify wakes streams that wait for a generation. Called with mu held.
func (n *Node) notify() {
	close(n.changed)
	n.changed = make(chan struct{})
}

// Close aborts and closes all transports and refuses neighbours from now on.
// May be called twice. The server stays the caller's.
func (n *Node) Close() error {
	n.mu.Lock()
	if !n.closed {
		n.closed = true
		n.notify()
	}
	var open []*link
	for _, l := range n.links { // order does not matter: all are closed
		open = append(open, l)
	}
	n.mu.Unlock()
	var errs []error
	for _, l := range open {
		l.Abort(ErrNodeClosed)
		errs = append(errs, l.Close())
	}
	return errors.Join(errs...)
}

// serve is the handler of a left neighbour's stream.
func (n *Node) serve(s grpc.ServerStream) error {
	h, err := helloFrom(s.Context())
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	if reason := h.refuse(n.cfg.Run); reason != "" {
		return status.Error(codes.FailedPrecondition, reason)
	}
	l, err := n.find(s.Context(), &h)
	if err != nil {
		return err
	}
	release, err := l.attach(s.Context(), &h)
	if err != nil {
		return err
	}
	defer release()
	if err := s.SendHeader(l.answer(&h)); err != nil {
		l.fail(l.peerError(l.left(), err))
		return err
	}
	return l.receive(s)
}

// find returns the link of the neighbour's generation, and waits for it when
// this node has not joined it yet.
func (n *Node) find(ctx context.Context, h *hello) (*link, error) {
	ctx, cancel := context.WithTimeout(ctx, n.cfg.JoinWait)
	defer cancel()
	for {
		n.mu.Lock()
		l, changed, err := n.lookUp(h.generation)
		if l != nil || err != nil {
			n.mu.Unlock()
			return l, err
		}
		n.waiting++
		n.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			err = status.Errorf(codes.FailedPrecondition, "this worker did not join generation %d in time", h.generation)
		}
		n.mu.Lock()
		n.waiting--
		n.mu.Unlock()
		if err != nil {
			return nil, err
		}
	}
}

// lookUp returns the generation's link, or why there will never be one, or a
// channel that closes when it is worth looking again. Called with mu held.
func (n *Node) lookUp(generation uint64) (*link, <-chan struct{}, error) {
	switch l := n.links[generation]; {
	case n.closed:
		return nil, nil, status.Error(codes.Unavailable, "this worker is shutting down")
	case l != nil:
		return l, nil, nil
	case n.joined && generation <= n.latest:
		return nil, nil, status.Errorf(codes.FailedPrecondition, "generation %d is over, this worker has joined %d", generation, n.latest)
	case n.waiting >= maxWaiting:
		return nil, nil, status.Errorf(codes.ResourceExhausted, "%d streams wait here already for a generation to begin", n.waiting)
	}
	return nil, n.changed, nil
}
