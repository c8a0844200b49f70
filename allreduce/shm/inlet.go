package shm

import (
	"fmt"
	"sync"
)

// Inlet is the receiver's side of a region. All methods may be called
// concurrently; none blocks.
type Inlet struct {
	mem  memory
	wake func()

	mu     sync.Mutex
	loans  []Loan // by slot
	held   int
	closed bool
}

// A Loan is one received payload, until Free.
type Loan struct {
	inlet *Inlet
	index int
	held  bool
}

// Open maps the region that an offer describes. The error says why that is not
// possible; most often the sender is on another host. wake is called when a
// slot was freed that the sender waits for; it must not block, and may come from
// any goroutine that frees a payload.
func Open(o Offer, wake func()) (*Inlet, error) {
	if err := o.geometry.Validate(); err != nil {
		return nil, err
	}
	m, err := open(o)
	if err != nil {
		return nil, err
	}
	in := &Inlet{mem: m, wake: wake, loans: make([]Loan, o.geometry.Slots)}
	for i := range in.loans {
		in.loans[i] = Loan{inlet: in, index: i}
	}
	return in, nil
}

// Payload returns what the sender wrote to a slot. index and length come from
// the peer and are checked; an error means that it broke the protocol. The payload
// must only be read, and its Loan freed once.
func (in *Inlet) Payload(index, length uint32) ([]byte, *Loan, error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	switch g := in.mem.geometry; {
	case in.closed:
		return nil, nil, ErrClosed
	case index >= uint32(g.Slots):
		return nil, nil, fmt.Errorf("shm: sender names slot %d of %d", index, g.Slots)
	case length > uint32(g.SlotBytes):
		return nil, nil, fmt.Errorf("shm: sender announces %d bytes in a slot of %d", length, g.SlotBytes)
	case in.loans[index].held:
		return nil, nil, fmt.Errorf("shm: sender lends slot %d twice", index)
	case in.mem.state(int(index)).Load() != stateLent:
		return nil, nil, fmt.Errorf("shm: sender names slot %d, which it has not lent", index)
	}
	l := &in.loans[index]
	l.held = true
	in.held++
	return in.mem.bytes(int(index), int(length)), l, nil
}

// Free gives the slot back to the sender. The payload must not be touched any more.
func (l *Loan) Free() {
	in := l.inlet
	in.mu.Lock()
	if !l.held {
		in.mu.Unlock()
		panic(fmt.Sprintf("shm: slot %d was expected to be on loan, and was freed twice", l.index))
	}
	l.held = false
	in.held--
	in.mem.state(l.index).Store(stateHome)
	wanted := in.mem.wanted()
	wake := wanted.Load() != 0 && wanted.Swap(0) != 0
	in.unmapIdle()
	in.mu.Unlock()
	if wake {
		in.wake()
	}
}

// Held is how many payloads have been received and not freed.
func (in *Inlet) Held() int {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.held
}

// Slots is how many there are.
func (in *Inlet) Slots() int { return in.mem.geometry.Slots }

// Close refuses further payloads, and unmaps the region as soon as the last one
// is freed. May be called twice.
func (in *Inlet) Close() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.closed = true
	in.unmapIdle()
}

// unmapIdle unmaps a closed region that nobody reads. Called with mu held.
func (in *Inlet) unmapIdle() {
	if in.closed && in.held == 0 && in.mem.unmap != nil {
		in.mem.unmap()
		in.mem = memory{geometry: in.mem.geometry}
	}
}
