package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	pb "github.com/lockstep-ml/lockstep/internal/proto/lockstep/v1"
)

// link is the attachment to the coordinator. run owns the stream: one goroutine receives, one sends, and heartbeats fill
// silences. When the stream breaks, in is closed and failure says why.
type link struct {
	stream  pb.Control_AttachClient
	cancel  context.CancelFunc // ends the stream
	beat    time.Duration
	silence time.Duration

	in   chan *pb.CoordinatorMessage // all but heartbeats; closed when the stream is over
	out  chan *pb.WorkerMessage      // nil ends the sending side
	dead chan struct{}               // closed when the stream is over

	mu  sync.Mutex
	err error
}

// linkDepth is how many messages may wait on each side. A window sends a report a step and the coordinator
// answers once a window, so a few are plenty; a full queue makes the sender wait.
const linkDepth = 16

func newLink(s pb.Control_AttachClient, cancel context.CancelFunc, beat, silence time.Duration) *link {
	return &link{
		stream: s, cancel: cancel, beat: beat, silence: silence,
		in: make(chan *pb.CoordinatorMessage, linkDepth), out: make(chan *pb.WorkerMessage, linkDepth), dead: make(chan struct{}),
	}
}

// run serves the stream until it breaks or ctx, which must be the stream's own, ends. What was received before a break
// can still be read from in.
func (l *link) run(ctx context.Context) {
	sctx, cancel := context.WithCancel(ctx)
	var sender sync.WaitGroup
	sender.Go(func() { l.sendLoop(sctx) })
	heard := make(chan struct{}, 1)
	sender.Go(func() { l.watch(sctx, heard) })
	for {
		msg, err := l.stream.Recv()
		if err != nil {
			l.fail(err)
			break
		}
		select {
		case heard <- struct{}{}:
		default:
		}
		if msg.GetHeartbeat() != nil {
			continue
		}
		select {
		case l.in <- msg:
		case <-l.dead:
		case <-ctx.Done():
		}
	}
	cancel()
	sender.Wait()
	close(l.in)
}

func (l *link) sendLoop(ctx context.Context) {
	tick := time.NewTicker(l.beat)
	defer tick.Stop()
	for {
		var msg *pb.WorkerMessage
		select {
		case <-ctx.Done():
			return
		case <-l.dead:
			return
		case msg = <-l.out:
		case <-tick.C:
			msg = &pb.WorkerMessage{Body: &pb.WorkerMessage_Heartbeat{Heartbeat: &pb.Heartbeat{}}}
		}
		if msg == nil {
			if err := l.stream.CloseSend(); err != nil {
				l.fail(err)
			}
			return
		}
		if err := l.stream.Send(msg); err != nil && !errors.Is(err, io.EOF) { // EOF: the reason comes with Recv
			l.fail(err)
		}
	}
}

// watch fails the link when nothing is heard for too long.
func (l *link) watch(ctx context.Context, heard <-chan struct{}) {
	timer := time.NewTimer(l.silence)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-heard:
			timer.Reset(l.silence)
		case <-timer.C:
			l.fail(fmt.Errorf("silent for %v", l.silence))
			return
		}
	}
}

// fail records the first reason and wakes whoever waits.
func (l *link) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		l.err = err
		close(l.dead)
		l.cancel()
	}
}

// failure is why the stream is over.
func (l *link) failure() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return fmt.Errorf("%w: %w", ErrCoordinatorLost, l.err)
}

// send queues a message; it blocks while the queue is full and fails when the stream is over.
func (l *link) send(m *pb.WorkerMessage) error {
	select {
	case l.out <- m:
		return nil
	case <-l.dead:
		return l.failure()
	}
}

// hangUp sends what is queued, and waits until the coordinator has heard it and ends the stream, a second at most: a stream that is
// cancelled drops what was not on its way yet.
func (l *link) hangUp() {
	timer := time.NewTimer(time.Second)
	defer timer.Stop()
	select {
	case l.out <- nil:
	case <-l.dead:
		return
	case <-timer.C:
		return
	}
	select {
	case <-l.dead:
	case <-timer.C:
	}
}

// next waits for a message; in is closed when the stream is over, and the silence timeout bounds that.
func (l *link) next(ctx context.Context) (*pb.CoordinatorMessage, error) {
	select {
	case m, ok := <-l.in:
		if !ok {
			return nil, l.failure()
		}
		return m, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
