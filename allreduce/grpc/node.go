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
	members map[uint64]*membership // by generation, until closed
	latest  uint64                 // highest generation joined
	joined  bool                   // latest is meaningful
	waiting int                    // streams that wait for a generation
	changed chan struct{}          // closed and replaced by Join and Close
	closed  bool
}

// NewNode makes a Node. Starts nothing.
func NewNode(cfg Config) (*Node, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return &Node{cfg: cfg, members: map[uint64]*membership{}, changed: make(chan struct{})}, nil
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

// Join takes part in a generation as rank of size workers in a flat ring, whose
// right neighbour listens at rightAddr (not used when size is 1). It is JoinGroups
// for who knows only that neighbour.
func (n *Node) Join(ctx context.Context, generation uint64, rank, size int, rightAddr string) (allreduce.Transport, error) {
	return n.join(ctx, generation, rank, size, 0, func(int) string { return rightAddr })
}

// JoinGroups takes part in a generation as rank of as many workers as there are
// addresses, in groups of group (see allreduce.Config). It blocks until all
// neighbours are linked, ctx ends or JoinTimeout is over; the error then says who
// is missing.
// Generations must be joined in rising order. The caller closes the transport.
func (n *Node) JoinGroups(ctx context.Context, generation uint64, rank, group int, addresses []string) (allreduce.Transport, error) {
	return n.join(ctx, generation, rank, len(addresses), group, func(rank int) string { return addresses[rank] })
}

func (n *Node) join(ctx context.Context, generation uint64, rank, size, group int, addr func(rank int) string) (allreduce.Transport, error) {
	if size < 1 || size > allreduce.MaxSize || rank < 0 || rank >= size {
		return nil, fmt.Errorf("ringgrpc: rank %d of %d: size must be 1..%d and rank below it", rank, size, allreduce.MaxSize)
	}
	if err := allreduce.CheckGroup(size, group); err != nil {
		return nil, fmt.Errorf("ringgrpc: %w", err)
	}
	m := newMembership(n, generation, rank, size, group, addr)
	if err := n.add(m); err != nil {
		return nil, err
	}
	if size == 1 {
		return m, nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, n.cfg.JoinTimeout, fmt.Errorf("not within JoinTimeout, %v: %w", n.cfg.JoinTimeout, context.DeadlineExceeded))
	defer cancel()
	if err := m.connect(ctx); err != nil {
		err = fmt.Errorf("ringgrpc: join generation %d as rank %d of %d: %w", generation, rank, size, err)
		m.Abort(err)
		// The failure to join is what the caller needs to know.
		_ = m.Close()
		return nil, err
	}
	return m, nil
}

// add makes m known, so that left neighbours can link to it.
func (n *Node) add(m *membership) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return ErrNodeClosed
	}
	if n.joined && m.generation <= n.latest {
		return fmt.Errorf("ringgrpc: generation %d was joined already, cannot join %d", n.latest, m.generation)
	}
	n.latest, n.joined = m.generation, true
	n.members[m.generation] = m
	n.notify()
	return nil
}

func (n *Node) remove(m *membership) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.members, m.generation)
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
	var open []*membership
	for _, m := range n.members { // order does not matter: all are closed
		open = append(open, m)
	}
	n.mu.Unlock()
	var errs []error
	for _, m := range open {
		m.Abort(ErrNodeClosed)
		errs = append(errs, m.Close())
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

// find returns the link of the neighbour's generation and level, and waits for it
// when this node has not joined that generation yet.
func (n *Node) find(ctx context.Context, h *hello) (*link, error) {
	ctx, cancel := context.WithTimeout(ctx, n.cfg.JoinWait)
	defer cancel()
	for {
		n.mu.Lock()
		l, changed, err := n.lookUp(h)
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

// lookUp returns the link, or why there will never be one, or a channel that closes
// when it is worth looking again. Called with mu held.
func (n *Node) lookUp(h *hello) (*link, <-chan struct{}, error) {
	switch m := n.members[h.generation]; {
	case n.closed:
		return nil, nil, status.Error(codes.Unavailable, "this worker is shutting down")
	case m != nil && int(h.level) < len(m.links):
		return m.links[h.level], nil, nil
	case m != nil:
		return nil, nil, status.Errorf(codes.FailedPrecondition, "in generation %d this worker has no %v level", h.generation, h.level)
	case n.joined && h.generation <= n.latest:
		return nil, nil, status.Errorf(codes.FailedPrecondition, "generation %d is over, this worker has joined %d", h.generation, n.latest)
	case n.waiting >= maxWaiting:
		return nil, nil, status.Errorf(codes.ResourceExhausted, "%d streams wait here already for a generation to begin", n.waiting)
	}
	return nil, n.changed, nil
}
