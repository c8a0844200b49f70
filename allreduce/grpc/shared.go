package ringgrpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/lockstep-ml/lockstep/allreduce"
	"github.com/lockstep-ml/lockstep/allreduce/shm"
)

// Sharing says whether neighbours on one host may move messages through shared
// memory. Both neighbours of a link must want it.
type Sharing uint8

const (
	// ShareAuto shares memory with a neighbour that can be reached through it.
	ShareAuto Sharing = iota
	// ShareNever sends everything over gRPC.
	ShareNever
	// ShareAlways refuses a neighbour that memory cannot be shared with.
	ShareAlways
)

// ParseSharing reads "auto", "grpc" or "shm".
func ParseSharing(s string) (Sharing, error) {
	switch s {
	case "auto":
		return ShareAuto, nil
	case "grpc":
		return ShareNever, nil
	case "shm":
		return ShareAlways, nil
	}
	return 0, fmt.Errorf("transport %q: must be auto, grpc or shm", s)
}

// Way is how messages travel to or from a neighbour.
type Way struct {
	// Shared says through shared memory.
	Shared bool
	// Reason says why not.
	Reason string
}

// String describes the way in a few words.
func (w Way) String() string {
	if w.Shared {
		return "shared memory"
	}
	return "gRPC (" + w.Reason + ")"
}

// Ways is how messages travel on a link: from the left neighbour, to the right one.
type Ways struct{ Left, Right Way }

// WaysOf returns how a transport that Node.Join or JoinGroups returned reaches its
// neighbours, by level. None for any other one, and in a ring of one worker.
func WaysOf(t allreduce.Transport) (ways []Ways) {
	for _, l := range linksOf(t) {
		l.mu.Lock()
		ways = append(ways, Ways{l.shared.left, l.shared.right})
		l.mu.Unlock()
	}
	return ways
}

const (
	offerKey  = "lockstep-ring-shm-bin" // in the request: an offer, or empty for none
	answerKey = "lockstep-ring-shm-answer-bin"
	accepted  = "yes" // any other answer is a reason
	forbidden = "not wanted by its configuration"
)

// shared is the part of a link that goes through memory: an outlet to the right
// neighbour, an inlet from the left one. Lane 0 carries the handshake.
type shared struct {
	out     atomic.Pointer[shm.Outlet] // nil until the right neighbour has accepted
	offered *shm.Outlet                // until it has answered; written by lane 0 alone

	// Guarded by the link's mu:
	in          *shm.Inlet
	left, right Way
}

// offer makes a region for the right neighbour and adds to the request what it
// must know.
func (n *lane) offer(ctx context.Context) context.Context {
	var err error
	if n.node.cfg.Sharing == ShareNever {
		err = errors.New(forbidden)
	} else {
		n.shared.offered, err = shm.Create(n.node.cfg.Region)
	}
	if err != nil {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.shared.right.Reason = err.Error()
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, offerKey, string(n.shared.offered.Offer().Encode()))
}

// answered takes in what the right neighbour said to the offer.
func (n *lane) answered(md metadata.MD) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	way, out := &n.shared.right, n.shared.offered
	if out != nil {
		answer := strings.Join(md.Get(answerKey), " ")
		way.Shared = answer == accepted
		switch {
		case answer == "":
			way.Reason = "it does not know of shared memory: use the same build on all workers"
		case !way.Shared:
			way.Reason = answer[:min(len(answer), maxReason)]
		}
		out.Settle()
	}
	if way.Shared && !n.isOver {
		n.shared.offered = nil
		n.shared.out.Store(out)
		n.wg.Go(out.Watch)
	}
	if !way.Shared && n.node.cfg.Sharing == ShareAlways {
		return fmt.Errorf("no memory can be shared with it: %s", way.Reason)
	}
	return nil
}

// withdraw closes a region that the right neighbour has not accepted.
func (l *link) withdraw() {
	if l.shared.offered != nil {
		l.shared.offered.Close()
		l.shared.offered = nil
	}
}

// consider opens the region that the left neighbour offers; the error refuses
// the link. Called with mu held.
func (l *link) consider(ctx context.Context) error {
	md, _ := metadata.FromIncomingContext(ctx) // none reads as an empty one
	in, way := l.open(md.Get(offerKey))
	if !way.Shared && l.node.cfg.Sharing == ShareAlways {
		return status.Error(codes.FailedPrecondition, "shared memory is wanted here, and cannot be had: "+way.Reason)
	}
	l.shared.in, l.shared.left = in, way
	if in != nil {
		l.reading++
		l.wg.Go(func() { l.readShared(in) })
	}
	return nil
}

// answer is what the left neighbour is told about its offer, in lane 0.
func (l *link) answer(h *hello) metadata.MD {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case h.lane != 0:
		return metadata.MD{}
	case l.shared.left.Shared:
		return metadata.Pairs(answerKey, accepted)
	}
	return metadata.Pairs(answerKey, l.shared.left.Reason)
}

func (l *link) open(offers []string) (*shm.Inlet, Way) {
	switch {
	case l.node.cfg.Sharing == ShareNever:
		return nil, Way{Reason: forbidden}
	case len(offers) != 1 || offers[0] == "":
		return nil, Way{Reason: "it offers none"}
	}
	offer, err := shm.DecodeOffer([]byte(offers[0]))
	if err != nil {
		return nil, Way{Reason: err.Error()}
	}
	in, err := shm.Open(offer)
	if err != nil {
		return nil, Way{Reason: err.Error()}
	}
	return in, Way{Shared: true}
}

// closeShared ends both ways; regions are unmapped when nobody uses them.
// Called with mu held.
func (l *link) closeShared() {
	if out := l.shared.out.Load(); out != nil {
		out.Close()
	}
	if l.shared.in != nil {
		l.shared.in.Close()
	}
}

// Buffer is allreduce.Transport's for one level: a slot of the right neighbour's
// region, where there is one and the payload fits.
func (l *link) Buffer(ctx context.Context, n int) (allreduce.Message, error) {
	out := l.shared.out.Load()
	if out == nil || n > out.Geometry().SlotBytes {
		return allreduce.NewBuffer(n).Message(), nil
	}
	s, err := out.Await(ctx, n)
	if errors.Is(err, shm.ErrClosed) {
		if err = l.sendable(); err == nil {
			err = allreduce.ErrClosed
		}
	}
	if err != nil {
		return allreduce.Message{}, err
	}
	m := allreduce.NewMessageInPieces(allreduce.Header{}, s.Pieces(), s)
	m.Unsummed = true
	return m, nil
}

// lend sends a message whose payload is in a slot; it says no for any other.
func lend(m *allreduce.Message) bool {
	s, ok := m.Owner().(*shm.Slot)
	if !ok {
		return false
	}
	var head [allreduce.HeaderSize]byte
	m.Header.Encode(head[:])
	s.Lend(head[:])
	return true
}

// readShared moves messages from the left neighbour's region into the inbox
// until there are no more.
func (l *link) readShared(in *shm.Inlet) {
	for {
		err := l.receiveShared(in)
		switch {
		case err == nil:
			continue
		case errors.Is(err, io.EOF):
			l.lastWord()
		case !errors.Is(err, shm.ErrClosed):
			l.fail(l.peerError(l.left(), err))
		}
		return
	}
}

func (l *link) receiveShared(in *shm.Inlet) error {
	var head [allreduce.HeaderSize]byte
	payload, loan, err := in.Receive(head[:])
	if err != nil {
		return err
	}
	h, err := allreduce.DecodeHeader(head[:])
	if err == nil && int(h.Length) != len(payload) {
		err = fmt.Errorf("ringgrpc: header announces %d bytes of payload, %d were lent", h.Length, len(payload))
	}
	if err != nil {
		loan.Free()
		return err
	}
	return l.inbox.Deliver(l.ctx, borrowed(h, in, loan))
}

// borrowed makes a message of a loan. When many payloads are held here the
// rest is copied: the sender's slots then come back whatever the buckets that wait for
// them do, so that none of them can wait for itself round the ring.
func borrowed(h allreduce.Header, in *shm.Inlet, loan *shm.Loan) allreduce.Message {
	m := allreduce.NewMessageInPieces(h, loan.Pieces(), loan)
	if in.Held() > in.Geometry().Slots*3/4 {
		m = allreduce.NewBuffer(m.Len()).Message()
		m.Header = h
		copy(m.Payload[0], loan.Pieces()[0])
		loan.Free()
	}
	m.Unsummed, m.Bound = true, true
	return m
}
