package shm

import (
	"errors"
	"fmt"
	"io"
	"sync"
)

// Inlet is the receiver's side of a region. One goroutine calls Receive; Close,
// Held and the loans' Free may be called concurrently with it.
type Inlet struct {
	mem    memory
	arrive *bell // rung by the sender
	freed  *bell // rung here for a sender that waits

	mu     sync.Mutex
	loans  []Loan // by slot
	count  uint32 // of payloads received since the beginning
	held   int
	closed bool
}

// A Loan is one received payload, until Free.
type Loan struct {
	inlet  *Inlet
	index  int
	held   bool
	pieces [1][]byte
}

// Pieces is the payload as a list of one.
func (l *Loan) Pieces() [][]byte { return l.pieces[:] }

// Open maps the region that an offer describes. The error says why that is not
// possible; most often the sender is on another host.
func Open(o Offer) (*Inlet, error) {
	if err := o.geometry.Validate(); err != nil {
		return nil, err
	}
	in, err := open(o)
	if err != nil {
		return nil, err
	}
	in.loans = make([]Loan, o.geometry.Slots)
	for i := range in.loans {
		in.loans[i] = Loan{inlet: in, index: i}
	}
	return in, nil
}

// Receive waits for the next payload and copies its header to head, which has
// up to HeadBytes. The payload must only be read, and its loan freed once. The error is
// io.EOF once the sender has closed or died and everything it lent was received,
// ErrClosed after Close, or says how the sender broke the protocol.
func (in *Inlet) Receive(head []byte) (payload []byte, loan *Loan, err error) {
	var ended error
	for {
		payload, loan, err = in.next(head)
		if loan != nil || err != nil {
			return payload, loan, err
		}
		if ended != nil {
			return nil, nil, ended
		}
		if ended = in.arrive.wait(); ended != nil && !errors.Is(ended, io.EOF) {
			ended = ErrClosed
		}
	}
}

// next takes a payload from the queue; when there is none it has set the flag
// that makes the sender ring. Everything that it reads of the region is the
// peer's word, read once and checked.
func (in *Inlet) next(head []byte) ([]byte, *Loan, error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.closed {
		return nil, nil, ErrClosed
	}
	if in.mem.lent().Load() == in.count {
		in.mem.asleep().Store(1)
		if in.mem.lent().Load() == in.count {
			return nil, nil, nil
		}
	}
	g := in.mem.geometry
	if ahead := in.mem.lent().Load() - in.count; ahead > uint32(g.Slots) {
		return nil, nil, fmt.Errorf("shm: sender says it has lent %d slots of %d", ahead, g.Slots)
	}
	slot, length := in.mem.entry(in.count)
	i, n := slot.Load(), length.Load()
	switch {
	case i >= uint32(g.Slots):
		return nil, nil, fmt.Errorf("shm: sender names slot %d of %d", i, g.Slots)
	case n > uint32(g.SlotBytes):
		return nil, nil, fmt.Errorf("shm: sender announces %d bytes in a slot of %d", n, g.SlotBytes)
	case in.loans[i].held:
		return nil, nil, fmt.Errorf("shm: sender lends slot %d twice", i)
	}
	in.count++
	in.held++
	l := &in.loans[i]
	l.held, l.pieces[0] = true, in.mem.payload(int(i), int(n))
	copy(head, in.mem.head(int(i)))
	return l.pieces[0], l, nil
}

// Free gives the slot back to the sender. The payload must not be touched any more.
func (l *Loan) Free() {
	if l.inlet.free(l) {
		l.inlet.freed.ring()
	}
}

// free says whether the sender waits for a slot.
func (in *Inlet) free(l *Loan) (wanted bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if !l.held {
		panic(fmt.Sprintf("shm: slot %d was expected to be on loan, and was freed twice", l.index))
	}
	l.held = false
	in.held--
	in.mem.state(l.index).Store(stateHome)
	wanted = in.mem.wanted().Load() != 0 && in.mem.wanted().Swap(0) != 0
	in.unmapIdle()
	return wanted
}

// Held is how many payloads have been received and not freed.
func (in *Inlet) Held() int {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.held
}

// Geometry returns the region's shape.
func (in *Inlet) Geometry() Geometry { return in.mem.geometry }

// Close ends Receive, and unmaps the region as soon as the last payload is
// freed. May be called twice.
func (in *Inlet) Close() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.arrive.close()
	in.closed = true
	in.unmapIdle()
}

// unmapIdle unmaps a closed region that nobody reads. Called with mu held.
func (in *Inlet) unmapIdle() {
	if in.closed && in.held == 0 && in.mem.unmap != nil {
		in.mem.unmap()
		in.mem.control, in.mem.slots, in.mem.unmap = nil, nil, nil
		in.freed.close()
	}
}
