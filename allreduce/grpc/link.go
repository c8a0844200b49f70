package ringgrpc

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/lockstep-ml/lockstep/allreduce"
)

// link joins the neighbours of one level in one generation: lanes to the right one,
// each a connection of its own, and as many streams as the left one has lanes.
//
// Which lane a message takes is left to chance: they all take from one queue, and
// the inbox finds messages by key. The first lane that breaks breaks the link.
//
// Between neighbours on one host most messages go through shared memory instead;
// see shared.
//
// Goroutines, all in wg: write and watch of each lane, the server's handler and
// read of each stream from the left, readShared and the region's Watch. They end when over is closed (and abortGrace
// has passed at most), which fail and Close do.
type link struct {
	node       *Node
	generation uint64
	rank, size int // among all workers
	group      int // workers in a group; as many as all in a flat ring
	level      allreduce.Level
	seat       allreduce.Seat
	rightAddr  string
	inbox      *allreduce.Inbox // shared with the sibling
	sibling    *link            // of the other level, nil in a flat ring; it fails when this fails
	coding     coding

	ctx    context.Context // of the client streams
	cancel context.CancelFunc
	// Written by connect alone:
	lanes   []*lane
	dialled bool // all of them

	queue     chan allreduce.Message
	flush     chan struct{} // closed by Close: write what is queued, then end
	flushed   chan struct{} // closed by Close when awaitRight is over
	over      chan struct{} //bounded: closed by fail, and by Close at its end
	attached  chan struct{} // closed when the left neighbour has linked
	rightGone chan struct{} //bounded: closed when the right neighbour has ended a stream
	rightDone chan struct{} // closed when it has ended them all
	wg        sync.WaitGroup
	closeOnce sync.Once
	shared    shared
	joining   sync.Mutex // held by connect; Close may come from elsewhere

	mu       sync.Mutex
	cause    error // why over was closed; nil for Close
	isOver   bool
	leftAddr string
	linked   []bool // by lane, whether the left neighbour has attached; empty before the first
	missing  int    // of them
	reading  int    // streams from the left that have not ended in good order
	sending  int    // streams to the right that it has not ended
}

func newLink(n *Node, generation uint64, rank, size int, rightAddr string) *link {
	l := &link{
		node: n, generation: generation, rank: rank, size: size, group: size, rightAddr: rightAddr,
		seat:      allreduce.Seats(rank, size, 0)[allreduce.Inner],
		inbox:     allreduce.NewInbox(allreduce.RunDigest(n.cfg.Run), generation, n.cfg.InboxBytes),
		queue:     make(chan allreduce.Message, n.cfg.QueueLength),
		flush:     make(chan struct{}),
		flushed:   make(chan struct{}),
		over:      make(chan struct{}),
		attached:  make(chan struct{}),
		rightGone: make(chan struct{}),
		rightDone: make(chan struct{}),
	}
	l.coding.mode = n.cfg.Coding
	if told := n.cfg.CodingChanged; told != nil {
		l.coding.report = func(f CodingFigures) { told(l.level, f) }
	}
	l.ctx, l.cancel = context.WithCancel(context.Background()) //bounded: cancelled by connect when its context ends, after a failure, and by Close
	return l
}

func (l *link) left() int  { return l.seat.Left() }
func (l *link) right() int { return l.seat.Right() }

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
		return fmt.Errorf("left neighbour, rank %d, has not linked%s: %w", l.left(), l.partly(), context.Cause(ctx))
	}
	if !stop() {
		return context.Cause(ctx) // ended in this instant, and took the stream with it
	}
	return nil
}

// fail ends the generation with err, in the other level too; the first one stays.
func (l *link) fail(err error) {
	if !l.finish(err) {
		return
	}
	l.inbox.Fail(err)
	if l.sibling != nil {
		l.sibling.fail(err)
	}
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
	l.closeShared()
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

// Send is allreduce.Transport's for one level.
func (l *link) Send(ctx context.Context, m allreduce.Message) error {
	err := l.sendable()
	if err == nil && lend(&m) {
		return nil
	}
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

// Close is allreduce.Transport's for one level.
func (l *link) Close() error {
	var err error
	l.closeOnce.Do(func() {
		l.joining.Lock()
		defer l.joining.Unlock()
		if l.dialled {
			if out := l.shared.out.Load(); out != nil {
				out.Close() // what was lent is received before the end
			}
			close(l.flush)
			err = l.awaitRight()
		}
		l.meetSibling()
		if l.finish(nil) || !l.dialled {
			l.cancel() // after a failure, abortGrace does
		}
		l.inbox.Fail(allreduce.ErrClosed)
		l.wg.Wait() //bounded: over is closed and the streams are cancelled, abortGrace later at most
		l.cancel()
		for _, lane := range l.lanes {
			err = errors.Join(err, lane.conn.Close())
		}
	})
	return err
}

// meetSibling waits until the other level, which is being closed too, has come as
// far: an inbox that failed sooner would make what still comes there an error.
func (l *link) meetSibling() {
	close(l.flushed)
	if l.sibling != nil {
		<-l.sibling.flushed //bounded: the other level is being closed too, and waits CloseTimeout at most
	}
}

// awaitRight waits until the right neighbour has read all, or the link failed.
func (l *link) awaitRight() error {
	t := time.NewTimer(l.node.cfg.CloseTimeout)
	defer t.Stop()
	select {
	case <-l.rightDone:
	case <-l.over:
	case <-t.C:
		return fmt.Errorf("ringgrpc: close generation %d: rank %d (%s) has not read everything within %v",
			l.generation, l.right(), l.rightAddr, l.node.cfg.CloseTimeout)
	}
	return nil
}
