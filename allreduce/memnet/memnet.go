// Package memnet is a transport for tests: a ring of workers in one process,
// with faults that are drawn from a seed.
//
// Whether a message is dropped, repeated, damaged or delayed depends on the
// seed and the message's own place (sender, step, bucket, phase, hop, segment)
// and not on timing, so a failing seed fails again.
//
//	net := memnet.New(memnet.Config{Run: "r", Size: 3, Faults: memnet.Faults{Seed: 1, Drop: 0.01}})
//	defer net.Close()
//	ring, err := allreduce.New(cfg, net.Endpoint(0))
package memnet

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lockstep-ml/lockstep/allreduce"
)

// ErrKilled is what operations of a killed rank fail with.
var ErrKilled = errors.New("memnet: this rank was killed")

// ErrReset is the cause that neighbours of a killed rank see.
var ErrReset = errors.New("memnet: connection reset")

// Faults are probabilities for each message, 0..1.
type Faults struct {
	Seed uint64
	// Drop loses the message without a word.
	Drop float64
	// Duplicate delivers it twice.
	Duplicate float64
	// Corrupt flips one bit of the payload, or of the checksum when it is empty.
	Corrupt float64
	// Truncate delivers the header with only half of the payload.
	Truncate float64
	// Delay delivers it up to MaxDelay later, after messages sent later.
	Delay    float64
	MaxDelay time.Duration
	// Only restricts the faults to messages for which it returns true. Nil
	// means all.
	Only func(from int, h allreduce.Header) bool
}

// Config describes the network.
type Config struct {
	Run        string
	Generation uint64
	Size       int
	Group      int // as in allreduce.Config
	Faults     Faults
	// Latency is how long every message takes, beside what the faults say. A rank
	// must not close while messages of its are under way.
	Latency time.Duration
	// Piece, above 0, cuts payloads into pieces of so many bytes on the way.
	Piece int
	// InboxBytes bounds what waits at a rank; 0 means the Inbox's default.
	InboxBytes int
}

// Network joins Size endpoints in a ring of one level or two.
type Network struct {
	cfg       Config
	endpoints []*Endpoint

	mu      sync.Mutex
	blocked map[way]bool // that lose everything
	closed  bool
	late    sync.WaitGroup
	stop    chan struct{}
}

// way is the link from a rank to its right neighbour in a level.
type way struct {
	from  int
	level allreduce.Level
}

// New makes a network. Starts nothing.
func New(cfg Config) *Network {
	n := &Network{cfg: cfg, blocked: map[way]bool{}, stop: make(chan struct{})}
	for rank := range cfg.Size {
		n.endpoints = append(n.endpoints, &Endpoint{
			net: n, rank: rank, seats: allreduce.Seats(rank, cfg.Size, cfg.Group),
			inbox: allreduce.NewInbox(allreduce.RunDigest(cfg.Run), cfg.Generation, cfg.InboxBytes),
		})
	}
	return n
}

// Endpoint returns the transport of a rank.
func (n *Network) Endpoint(rank int) *Endpoint { return n.endpoints[rank] }

// Partition makes the link from rank to its right neighbour in a level lose
// everything from now on, without anyone being told.
func (n *Network) Partition(rank int, l allreduce.Level) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.blocked[way{rank, l}] = true
}

// Kill ends a rank as a crash would: its own operations fail with ErrKilled,
// those of its neighbours with a *allreduce.PeerError that names it.
func (n *Network) Kill(rank int) {
	n.endpoints[rank].inbox.Fail(ErrKilled)
	n.breakNeighbours(rank, ErrReset)
}

func (n *Network) breakNeighbours(rank int, err error) {
	for _, seat := range n.endpoints[rank].seats {
		for _, other := range []int{seat.Right(), seat.Left()} {
			if other != rank {
				n.endpoints[other].inbox.Fail(&allreduce.PeerError{Peer: rank, Err: err})
			}
		}
	}
}

// Inject delivers a message to a rank as if a left neighbour had sent it.
func (n *Network) Inject(ctx context.Context, to int, m allreduce.Message) error {
	return n.endpoints[to].inbox.Deliver(ctx, m)
}

// Close drops what is delayed and waits for it. May be called twice.
func (n *Network) Close() {
	n.mu.Lock()
	if !n.closed {
		n.closed = true
		close(n.stop)
	}
	n.mu.Unlock()
	n.late.Wait() //bounded: each delivery waits for stop, and a second for room
}

// Endpoint is one rank's transport.
type Endpoint struct {
	net   *Network
	rank  int
	seats []allreduce.Seat
	inbox *allreduce.Inbox
	gone  atomic.Bool // aborted or closed
}

var _ allreduce.Transport = (*Endpoint)(nil)

// Buffer implements allreduce.Transport.
func (e *Endpoint) Buffer(_ context.Context, _ allreduce.Level, n int) (allreduce.Message, error) {
	return allreduce.NewBuffer(n).Message(), nil
}

// Send implements allreduce.Transport: it delivers into the right neighbour's
// inbox, or does what the faults say. It copies, as a wire would.
func (e *Endpoint) Send(ctx context.Context, m allreduce.Message) error {
	defer m.Free()
	if err := e.inbox.Failed(); err != nil {
		return err
	}
	n, level := e.net, m.Header.Phase.Level()
	n.mu.Lock()
	lost := n.blocked[way{e.rank, level}]
	n.mu.Unlock()
	if lost {
		return nil
	}
	fate := n.cfg.Faults.draw(e.rank, m.Header)
	if fate.drop {
		return nil
	}
	to := n.endpoints[e.seats[level].Right()]
	for range fate.copies {
		c := n.carry(&m, fate)
		if d := fate.delay + n.cfg.Latency; d > 0 {
			n.deliverLate(to, c, d)
			continue
		}
		if err := to.inbox.Deliver(ctx, c); err != nil {
			return e.sendError(ctx, to, err)
		}
	}
	return nil
}

// sendError tells the receiver's state from this rank's own.
func (e *Endpoint) sendError(ctx context.Context, to *Endpoint, err error) error {
	if own := e.inbox.Failed(); own != nil {
		return own
	}
	if ctx.Err() != nil || to.inbox.Failed() == nil {
		return err
	}
	return &allreduce.PeerError{Peer: to.rank, Err: ErrReset}
}

func (n *Network) deliverLate(to *Endpoint, m allreduce.Message, d time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		m.Free()
		return
	}
	n.late.Go(func() {
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-t.C:
		case <-n.stop:
			m.Free()
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		// A late message for a rank that is gone is lost, as on a real network.
		_ = to.inbox.Deliver(ctx, m)
	})
}

// Recv implements allreduce.Transport.
func (e *Endpoint) Recv(ctx context.Context, k allreduce.Key) (allreduce.Message, error) {
	return e.inbox.Recv(ctx, k)
}

// Forget implements allreduce.Transport.
func (e *Endpoint) Forget(step uint64, bucket uint32) { e.inbox.Forget(step, bucket) }

// Abort implements allreduce.Transport: the neighbours learn the reason at once.
func (e *Endpoint) Abort(err error) {
	if !e.gone.CompareAndSwap(false, true) {
		return
	}
	e.inbox.Fail(err) // when it has failed already, the neighbours still must know
	e.net.breakNeighbours(e.rank, &allreduce.PeerAbortedError{Reason: err.Error()})
}

// Close implements allreduce.Transport.
func (e *Endpoint) Close() error {
	if e.gone.CompareAndSwap(false, true) && e.inbox.Failed() == nil {
		for level, seat := range e.seats {
			right := e.net.endpoints[seat.Right()].inbox
			right.End(allreduce.Level(level), &allreduce.PeerError{Peer: e.rank, Err: allreduce.ErrPeerClosed})
		}
		e.inbox.Fail(allreduce.ErrClosed)
	}
	return nil
}

// fate is what happens to one message.
type fate struct {
	drop   bool
	copies int
	bit    int // to flip, -1 for none
	cut    bool
	delay  time.Duration
}

func (f *Faults) draw(from int, h allreduce.Header) fate {
	out := fate{copies: 1, bit: -1}
	if f.Only != nil && !f.Only(from, h) {
		return out
	}
	place := uint64(from)<<48 ^ h.Step<<32 ^ uint64(h.Bucket)<<24 ^ uint64(h.Phase)<<20 ^ uint64(h.Hop)<<10 ^ uint64(h.Segment)
	rng := rand.New(rand.NewPCG(f.Seed, place))
	out.drop = rng.Float64() < f.Drop
	if rng.Float64() < f.Duplicate {
		out.copies = 2
	}
	if rng.Float64() < f.Corrupt {
		out.bit = rng.IntN(max(1, 8*int(h.Length)))
	}
	out.cut = rng.Float64() < f.Truncate
	if rng.Float64() < f.Delay && f.MaxDelay > 0 {
		out.delay = 1 + time.Duration(rng.Int64N(int64(f.MaxDelay)))
	}
	return out
}

func (f fate) damage(h *allreduce.Header, payload []byte) []byte {
	if f.cut {
		return payload[:len(payload)/2]
	}
	switch {
	case f.bit < 0:
	case len(payload) == 0:
		h.CRC ^= 1
	default:
		payload[f.bit/8] ^= 1 << (f.bit % 8)
	}
	return payload
}

// carry makes what arrives of m.
func (n *Network) carry(m *allreduce.Message, f fate) allreduce.Message {
	h := m.Header
	payload := f.damage(&h, slices.Concat(m.Payload...))
	if n.cfg.Piece < 1 {
		return allreduce.NewMessage(h, payload, nil)
	}
	return allreduce.NewMessageInPieces(h, slices.Collect(slices.Chunk(payload, n.cfg.Piece)), nil)
}
