package ringgrpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/lockstep-ml/lockstep/allreduce"
)

// attach admits a stream of the left neighbour. The caller calls release when
// the stream's handler ends.
func (l *link) attach(ctx context.Context, h *hello) (release func(), err error) {
	if int(h.size) != l.size || int(h.group) != l.group || int(h.rank) != l.left() || l.size == 1 {
		return nil, status.Errorf(codes.FailedPrecondition,
			"in generation %d this worker is rank %d of %d in groups of %d and does not follow rank %d of %d in groups of %d in the %v level",
			l.generation, l.rank, l.size, l.group, h.rank, h.size, h.group, h.level)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.linked == nil {
		l.linked = make([]bool, h.lanes)
		l.missing, l.reading = len(l.linked), len(l.linked)
	}
	if int(h.lanes) != len(l.linked) || l.linked[h.lane] || l.isOver {
		return nil, status.Errorf(codes.FailedPrecondition, "generation %d has its left neighbour already, or is over", l.generation)
	}
	if h.lane == 0 {
		if err := l.consider(ctx); err != nil {
			return nil, err
		}
	}
	l.linked[h.lane] = true
	if p, ok := peer.FromContext(ctx); ok {
		l.leftAddr = p.Addr.String()
	}
	l.wg.Add(1)
	if l.missing--; l.missing == 0 {
		close(l.attached)
	}
	return l.wg.Done, nil
}

// partly says how much of the left neighbour has linked, "" for nothing.
func (l *link) partly() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.linked == nil {
		return ""
	}
	return fmt.Sprintf(" lane %d of %d", slices.Index(l.linked, false), len(l.linked))
}

// receive runs in the handler of a stream of the left neighbour. What it returns
// is how the stream ends for that neighbour: nil after an end in good order.
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
	var f frame
	for {
		err := s.RecvMsg(&f) //bounded: by the stream, which ends when receive returns: over is closed by any hop that is late
		switch {
		case errors.Is(err, io.EOF):
			l.lastWord()
			return nil
		case err != nil:
			return l.peerError(l.left(), err)
		case f.abort:
			return l.peerError(l.left(), &allreduce.PeerAbortedError{Reason: f.reason})
		}
		f.message.Bound = l.shared.out.Load() != nil // a copy costs less than sending it this way
		if f.coded {
			l.coding.decoded(f.message.Len(), f.decoding)
		}
		if err := l.inbox.Deliver(s.Context(), f.message); err != nil {
			return l.peerError(l.left(), err)
		}
	}
}

// lastWord ends the inbox when no stream from the left is left, nor the region.
func (l *link) lastWord() {
	l.mu.Lock()
	l.reading--
	last := l.reading == 0
	l.mu.Unlock()
	if last {
		l.inbox.End(l.level, l.peerError(l.left(), allreduce.ErrPeerClosed))
	}
}
