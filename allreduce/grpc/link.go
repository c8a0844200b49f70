package ringgrpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/lockstep-ml/lockstep/allreduce"
)

// link is the transport of one generation: a client stream to the right
// neighbour, a server stream from the left one.
//
// Goroutines, all in wg: write and watch on the client stream, the server's
// handler and read on the other. They end when over is closed (and abortGrace
// has passed at most), which fail and Close do.
type link struct {
	node       *Node
	generation uint64
	rank, size int
	rightAddr  string
	inbox      *allreduce.Inbox

	ctx    context.Context // of the client stream
	cancel context.CancelFunc
	conn   *grpc.ClientConn
	stream grpc.ClientStream

	queue     chan allreduce.Message
	flush     chan struct{} // closed by Close: write what is queued, then end
	over      chan struct{} // closed by fail and by Close at its end
	attached  chan struct{} // closed when the left neighbour has linked
	rightGone chan struct{} // closed when the right neighbour has ended its stream
	wg        sync.WaitGroup
	closeOnce sync.Once
	joining   sync.Mutex // held by connect; Close may come from elsewhere

	mu       sync.Mutex
	cause    error // why over was closed; nil for Close
	isOver   bool
	leftAddr string
	linked   bool // the left neighbour has attached
}

var _ allreduce.Transport = (*link)(nil)

func newLink(n *Node, generation uint64, rank, size int, rightAddr string) *link {
	l := &link{
		node: n, generation: generation, rank: rank, size: size, rightAddr: rightAddr,
		inbox:     allreduce.NewInbox(allreduce.RunDigest(n.cfg.Run), generation, n.cfg.InboxBytes),
		queue:     make(chan allreduce.Message, n.cfg.QueueLength),
		flush:     make(chan struct{}),
		over:      make(chan struct{}),
		attached:  make(chan struct{}),
		rightGone: make(chan struct{}),
	}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	return l
}

func (l *link) left() int  { return (l.rank + l.size - 1) % l.size }
func (l *link) right() int { return (l.rank + 1) % l.size }

// peerError names a neighbour as the culprit of err.
func (l *link) peerError(rank int, err error) *allreduce.PeerError {
	l.mu.Lock()
	defer l.mu.Unlock()
	addr := l.leftAddr
	if rank == l.right() {
		addr = l.rightAddr
	}
	return &allreduce.PeerError{Peer: rank, Addr: addr, Err: err}
}

// connect links to the right neighbour and waits for the left one.
func (l *link) connect(ctx context.Context) error {
	l.joining.Lock()
	defer l.joining.Unlock()
	stop := context.AfterFunc(ctx, l.cancel)
	defer stop()
	if err := l.dial(); err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
		return fmt.Errorf("right neighbour, rank %d at %s: %w", l.right(), l.rightAddr, err)
	}
	select {
	case <-l.attached:
	case <-l.over:
		return l.ended()
	case <-ctx.Done():
		return fmt.Errorf("left neighbour, rank %d, has not linked: %w", l.left(), context.Cause(ctx))
	}
	if !stop() {
		return context.Cause(ctx) // ended in this instant, and took the stream with it
	}
	return nil
}

// dial opens the stream and waits until the neighbour has accepted it.
func (l *link) dial() error {
	conn, err := grpc.NewClient(l.rightAddr, dialOptions(l.node.cfg.Credentials)...)
	if err != nil {
		return err
	}
	l.conn = conn
	h := hello{
		version: helloVersion, rank: uint16(l.rank), size: uint16(l.size), generation: l.generation,
		digest: allreduce.RunDigest(l.node.cfg.Run), run: l.node.cfg.Run,
	}
	ctx := metadata.AppendToOutgoingContext(l.ctx, helloKey, string(h.encode()))
	desc := &grpc.StreamDesc{StreamName: methodName, ClientStreams: true, ServerStreams: true}
	s, err := conn.NewStream(ctx, desc, "/"+serviceName+"/"+methodName, grpc.WaitForReady(true))
	if err != nil {
		return refusal(err)
	}
	md, err := s.Header()
	if err == nil && md == nil { // ended without headers: the status says why
		err = s.RecvMsg(&frame{})
	}
	if err != nil {
		return refusal(err)
	}
	l.stream = s
	l.wg.Go(l.write)
	l.wg.Go(l.watch)
	return nil
}

// refusal turns a neighbour's FailedPrecondition into a *allreduce.RefusedError.
func refusal(err error) error {
	if st, ok := status.FromError(err); ok && st.Code() == codes.FailedPrecondition {
		return &allreduce.RefusedError{Reason: st.Message()}
	}
	return err
}

// attach admits the left neighbour's stream. The caller calls release when the
// stream's handler ends.
func (l *link) attach(ctx context.Context, h *hello) (release func(), err error) {
	if int(h.size) != l.size || int(h.rank) != l.left() || l.size == 1 {
		return nil, status.Errorf(codes.FailedPrecondition,
			"in generation %d this worker is rank %d of %d and does not follow rank %d of %d", l.generation, l.rank, l.size, h.rank, h.size)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.linked || l.isOver {
		return nil, status.Errorf(codes.FailedPrecondition, "generation %d has its left neighbour already, or is over", l.generation)
	}
	l.linked = true
	if p, ok := peer.FromContext(ctx); ok {
		l.leftAddr = p.Addr.String()
	}
	l.wg.Add(1)
	close(l.attached)
	return l.wg.Done, nil
}

// receive runs in the handler of the left neighbour's stream. What it returns is
// how the stream ends for that neighbour: nil after an end in good order.
func (l *link) receive(s grpc.ServerStream) error {
	ended := make(chan error, 1)
	// It ends when the stream does, at the latest when this handler returns.
	l.wg.Go(func() { ended <- l.read(s) })
	select {
	case err := <-ended:
		if err == nil {
			return nil
		}
		l.fail(err)
	case <-l.over:
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cause == nil {
		return nil
	}
	reason := l.cause.Error()
	return status.Error(codes.Aborted, reason[:min(len(reason), maxReason)])
}

// read moves messages into the inbox until the stream ends; nil says in good order.
func (l *link) read(s grpc.ServerStream) error {
	for {
		var f frame
		err := s.RecvMsg(&f)
		switch {
		case errors.Is(err, io.EOF):
			l.inbox.End(l.peerError(l.left(), allreduce.ErrPeerClosed))
			return nil
		case err != nil:
			return l.peerError(l.left(), err)
		case f.abort:
			return l.peerError(l.left(), &allreduce.PeerAbortedError{Reason: f.reason})
		}
		if err := l.inbox.Deliver(s.Context(), f.message); err != nil {
			return l.peerError(l.left(), err)
		}
	}
}

// write sends what is queued to the right neighbour.
func (l *link) write() {
	for {
		select {
		case m := <-l.queue:
			if err := l.stream.SendMsg(&frame{message: m}); err != nil {
				return // watch has the reason
			}
		case <-l.over:
			l.sayGoodbye()
			return
		case <-l.flush:
			l.drain()
			return
		}
	}
}

// drain writes the rest of the queue and ends the sending side.
func (l *link) drain() {
	for {
		select {
		case m := <-l.queue:
			if err := l.stream.SendMsg(&frame{message: m}); err != nil {
				return // watch has the reason
			}
		default:
			// A broken stream is what watch reports.
			_ = l.stream.CloseSend()
			return
		}
	}
}

// sayGoodbye tells the right neighbour why this worker gave up.
func (l *link) sayGoodbye() {
	l.mu.Lock()
	cause := l.cause
	l.mu.Unlock()
	if cause == nil {
		return
	}
	// A neighbour that cannot be told finds out by the broken stream, so neither error matters.
	_ = l.stream.SendMsg(&frame{abort: true, reason: cause.Error()})
	_ = l.stream.CloseSend()
}

// watch waits for the end of the stream to the right neighbour, which sends
// nothing else.
func (l *link) watch() {
	err := l.stream.RecvMsg(&frame{})
	close(l.rightGone)
	switch {
	case errors.Is(err, io.EOF):
		return // it closed the generation; only sending to it fails now
	case err == nil:
		err = errors.New("neighbour sent a message against the direction of the ring")
	case status.Code(err) == codes.Aborted:
		err = &allreduce.PeerAbortedError{Reason: status.Convert(err).Message()}
	}
	l.fail(l.peerError(l.right(), err))
}

// fail ends the generation with err; the first one stays.
func (l *link) fail(err error) {
	if !l.finish(err) {
		return
	}
	l.inbox.Fail(err)
	// Leaves the writer time to say why; Close waits for the goroutines.
	time.AfterFunc(abortGrace, l.cancel)
}

// finish closes over, once; it says whether it did.
func (l *link) finish(cause error) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.isOver {
		return false
	}
	l.isOver, l.cause = true, cause
	close(l.over)
	return true
}

// ended returns what the link failed with.
func (l *link) ended() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cause != nil {
		return l.cause
	}
	return allreduce.ErrClosed
}

// Buffer implements allreduce.Transport.
func (l *link) Buffer(_ context.Context, n int) (allreduce.Message, error) {
	if err := l.sendable(); err != nil {
		return allreduce.Message{}, err
	}
	return allreduce.NewBuffer(n).Message(), nil
}

// Send implements allreduce.Transport.
func (l *link) Send(ctx context.Context, m allreduce.Message) error {
	err := l.sendable()
	if err == nil {
		select {
		case l.queue <- m:
			return nil
		case <-l.over:
			err = l.ended()
		case <-l.rightGone:
			err = l.sendable()
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
	}
	m.Free()
	return err
}

// sendable returns why nothing can be sent any more, nil when it can.
func (l *link) sendable() error {
	select {
	case <-l.over:
		return l.ended()
	default:
	}
	select {
	case <-l.rightGone:
		return l.peerError(l.right(), allreduce.ErrPeerClosed)
	default:
		return nil
	}
}

// Recv implements allreduce.Transport.
func (l *link) Recv(ctx context.Context, k allreduce.Key) (allreduce.Message, error) {
	return l.inbox.Recv(ctx, k)
}

// Forget implements allreduce.Transport.
func (l *link) Forget(step uint64, bucket uint32) { l.inbox.Forget(step, bucket) }

// Abort implements allreduce.Transport.
func (l *link) Abort(err error) { l.fail(err) }

// Close implements allreduce.Transport.
func (l *link) Close() error {
	var err error
	l.closeOnce.Do(func() {
		l.joining.Lock()
		defer l.joining.Unlock()
		if l.stream != nil {
			close(l.flush)
			err = l.awaitRight()
		}
		if l.finish(nil) || l.stream == nil {
			l.cancel() // after a failure, abortGrace does
		}
		l.inbox.Fail(allreduce.ErrClosed)
		l.node.remove(l)
		l.wg.Wait()
		l.cancel()
		if l.conn != nil {
			err = errors.Join(err, l.conn.Close())
		}
	})
	return err
}

// awaitRight waits until the right neighbour has read all, or the link failed.
func (l *link) awaitRight() error {
	t := time.NewTimer(l.node.cfg.CloseTimeout)
	defer t.Stop()
	select {
	case <-l.rightGone:
	case <-l.over:
	case <-t.C:
		return fmt.Errorf("ringgrpc: close generation %d: rank %d (%s) has not read everything within %v",
			l.generation, l.right(), l.rightAddr, l.node.cfg.CloseTimeout)
	}
	return nil
}
