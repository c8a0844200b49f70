package ringgrpc

import (
	"context"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/lockstep-ml/lockstep/allreduce"
	"github.com/lockstep-ml/lockstep/allreduce/coder"
)

// lane is one connection to the right neighbour. gRPC writes a connection from
// one goroutine, in frames of 16 KiB, so several carry more than one.
type lane struct {
	*link
	conn   *grpc.ClientConn
	stream grpc.ClientStream
	frame  frame // of the message being written
	coder  coder.Coder
	tcp    atomic.Pointer[net.TCPConn] // below conn, once it is dialled
}

// dial opens all lanes and waits until the neighbour has accepted them.
func (l *link) dial() error {
	var g errgroup.Group
	for i := range l.node.cfg.Lanes {
		n := &lane{link: l}
		var err error
		if n.conn, err = grpc.NewClient(l.rightAddr, append(dialOptions(l.node.cfg.Credentials), grpc.WithContextDialer(n.connect))...); err != nil {
			return err
		}
		l.lanes = append(l.lanes, n)
		g.Go(func() error { return n.shake(i) })
	}
	err := g.Wait() //bounded: shaking hands ends with the context of connect
	l.withdraw()
	if err != nil {
		return err
	}
	l.dialled, l.sending = true, len(l.lanes)
	for _, n := range l.lanes {
		l.coding.sockets = append(l.coding.sockets, socket{busy: n.busy})
	}
	for _, n := range l.lanes {
		l.wg.Go(n.write)
		l.wg.Go(n.watch)
	}
	return nil
}

// connect dials the connection below a lane.
func (n *lane) connect(ctx context.Context, addr string) (net.Conn, error) {
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if tcp, ok := c.(*net.TCPConn); ok {
		n.tcp.Store(tcp)
	}
	return c, err
}

// busy is how long the lane has had bytes under way, 0 where that is not known.
func (n *lane) busy() time.Duration {
	if c := n.tcp.Load(); c != nil {
		return busyTime(c)
	}
	return 0
}

// shake shakes hands for lane i.
func (n *lane) shake(i int) error {
	h := hello{
		version: helloVersion, rank: uint16(n.rank), size: uint16(n.size), generation: n.generation,
		lane: uint8(i), lanes: uint8(n.node.cfg.Lanes), group: uint16(n.group), level: n.level,
		digest: allreduce.RunDigest(n.node.cfg.Run), run: n.node.cfg.Run,
	}
	ctx := metadata.AppendToOutgoingContext(n.ctx, helloKey, string(h.encode()))
	if i == 0 {
		ctx = n.offer(ctx)
	}
	desc := &grpc.StreamDesc{StreamName: methodName, ClientStreams: true, ServerStreams: true}
	//bounded: the context of connect cancels n.ctx
	s, err := n.conn.NewStream(ctx, desc, "/"+serviceName+"/"+methodName, grpc.WaitForReady(true))
	if err != nil {
		return refusal(err)
	}
	md, err := s.Header()        //bounded: the context of connect cancels n.ctx
	if err == nil && md == nil { // ended without headers: the status says why
		err = s.RecvMsg(&frame{}) //bounded: the stream has ended already
	}
	if err != nil {
		return refusal(err)
	}
	n.stream = s
	if i == 0 {
		return n.answered(md)
	}
	return nil
}

// refusal turns a neighbour's FailedPrecondition into a *allreduce.RefusedError.
func refusal(err error) error {
	if st, ok := status.FromError(err); ok && st.Code() == codes.FailedPrecondition {
		return &allreduce.RefusedError{Reason: st.Message()}
	}
	return err
}

// write sends what is queued to the right neighbour.
func (n *lane) write() {
	for {
		select {
		case m := <-n.queue:
			if err := n.put(m); err != nil {
				return // watch has the reason
			}
		case <-n.over:
			n.sayGoodbye()
			return
		case <-n.flush:
			n.drain()
			return
		}
	}
}

func (n *lane) put(m allreduce.Message) error {
	n.pack(m)
	err := n.stream.SendMsg(&n.frame) //bounded: a neighbour that does not read is late for a hop, or for CloseTimeout: both cancel the stream
	n.frame = frame{}
	return err
}

// drain writes the rest of the queue and ends the sending side.
func (n *lane) drain() {
	for {
		select {
		case m := <-n.queue:
			if err := n.put(m); err != nil {
				return // watch has the reason
			}
		default:
			// A broken stream is what watch reports.
			_ = n.stream.CloseSend()
			return
		}
	}
}

// sayGoodbye tells the right neighbour why this worker gave up.
func (n *lane) sayGoodbye() {
	n.mu.Lock()
	cause := n.cause
	n.mu.Unlock()
	if cause == nil {
		return
	}
	// A neighbour that cannot be told finds out by the broken stream, so neither error matters.
	_ = n.stream.SendMsg(&frame{abort: true, reason: cause.Error()}) //bounded: the stream is cancelled after abortGrace
	_ = n.stream.CloseSend()
}

// watch waits for the end of the stream to the right neighbour, which sends
// nothing else.
func (n *lane) watch() {
	err := n.stream.RecvMsg(&frame{}) //bounded: the stream is cancelled after a failure, and by Close
	n.gone()
	switch {
	case errors.Is(err, io.EOF):
		return // it closed the generation; only sending to it fails now
	case err == nil:
		err = errors.New("neighbour sent a message against the direction of the ring")
	case status.Code(err) == codes.Aborted:
		err = &allreduce.PeerAbortedError{Reason: status.Convert(err).Message()}
	}
	n.fail(n.peerError(n.right(), err))
}

// gone counts the streams that the right neighbour has ended.
func (n *lane) gone() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.sending == len(n.lanes) {
		close(n.rightGone)
	}
	if n.sending--; n.sending == 0 {
		close(n.rightDone)
	}
}
