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

// link is one connection to the coordinator. run owns the stream: one goroutine receives, one sends, and heartbeats fill
// silences. When the stream breaks, in is closed and failure says why; what was to be said stays in the outbox.
type link struct {
	stream  pb.Control_AttachClient
	cancel  context.CancelFunc // ends the stream
	beat    time.Duration
	silence time.Duration

	in   chan *pb.CoordinatorMessage // all but heartbeats; closed when the stream is over
	out  *outbox
	end  chan struct{} // closed to end the sending side once the outbox is empty
	dead chan struct{} // closed when the stream is over

	mu  sync.Mutex
	err error
}

// linkDepth is how many messages may wait to be handled. The coordinator speaks a few times in a window.
const linkDepth = 16

func newLink(s pb.Control_AttachClient, cancel context.CancelFunc, out *outbox, beat, silence time.Duration) *link {
	return &link{
		stream: s, cancel: cancel, beat: beat, silence: silence, out: out,
		in: make(chan *pb.CoordinatorMessage, linkDepth), end: make(chan struct{}), dead: make(chan struct{}),
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
		msg, err := l.stream.Recv() //bounded: watch, below, cancels the stream when nothing is heard for l.silence
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
	sender.Wait() //bounded: both end with sctx
	close(l.in)
}

func (l *link) sendLoop(ctx context.Context) {
	tick := time.NewTicker(l.beat)
	defer tick.Stop()
	for ending := false; ; {
		beat := false
		select {
		case <-ctx.Done():
			return
		case <-l.dead:
			return
		case <-l.out.ready:
		case <-tick.C:
			beat = true
		case <-l.end:
			ending = true
		}
		msg := l.out.take()
		if msg == nil && beat {
			msg = &pb.WorkerMessage{Body: &pb.WorkerMessage_Heartbeat{Heartbeat: &pb.Heartbeat{}}}
		}
		if msg != nil {
			//bounded: watch cancels the stream when nothing is heard for l.silence
			if err := l.stream.Send(msg); err != nil && !errors.Is(err, io.EOF) { // EOF: the reason comes with Recv
				l.fail(err)
			}
		}
		if ending && l.out.empty() {
			if err := l.stream.CloseSend(); err != nil {
				l.fail(err)
			}
			return
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

// hangUp sends what is queued, and waits until the coordinator has heard it and ends the stream, a second at most: a stream that is
// cancelled drops what was not on its way yet.
func (l *link) hangUp() {
	timer := time.NewTimer(time.Second)
	defer timer.Stop()
	close(l.end)
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
