package shm

import (
	"context"
	"sync"
)

// Outlet is the sender's side of a region.
//
// A slot is free, taken (its Slot is in somebody's hands here) or lent (the
// receiver reads it). What is free or taken is known here alone; the receiver's
// only say is to give back what is lent. So nothing it writes can make two
// holders of one slot here. A list of free slots in the shared memory itself
// would save the scan of the lent ones, and would have to be trusted.
//
// All methods may be called concurrently.
type Outlet struct {
	offer  Offer
	mem    memory
	arrive *bell  // rung here for a receiver that sleeps
	freed  *bell  // rung by the receiver
	settle func() // closes what only an offer needs

	mu       sync.Mutex
	slots    []Slot
	free     []int // the last one freed is taken first: it is still in the cache
	lent     []int
	count    uint32 // of payloads lent since the beginning
	taken    int
	closed   bool
	progress chan struct{} // closed and replaced to wake who waits for a slot
}

// A Slot is memory for one outgoing payload. It belongs to whoever took it
// until Free or Lend, one of which must be called, once.
type Slot struct {
	outlet *Outlet
	index  int
	n      int
	pieces [1][]byte
}

const (
	stateHome = 0
	stateLent = 1
)

// newOutlet takes over memory and bells made for the offer.
func newOutlet(o Offer, m memory, arrive, freed *bell, settle func()) *Outlet {
	out := &Outlet{
		offer: o, mem: m, arrive: arrive, freed: freed, settle: settle,
		slots: make([]Slot, o.geometry.Slots), progress: make(chan struct{}),
	}
	for i := range out.slots {
		out.slots[i] = Slot{outlet: out, index: i}
		out.free = append(out.free, len(out.slots)-1-i)
	}
	out.lent = make([]int, 0, len(out.slots))
	return out
}

// Create makes a region. The caller closes it; a process that ends closes it too.
func Create(g Geometry) (*Outlet, error) {
	if err := g.Validate(); err != nil {
		return nil, err
	}
	return create(g)
}

// Offer returns what a receiver needs to open the region, until Settle.
func (o *Outlet) Offer() Offer { return o.offer }

// Geometry returns the region's shape.
func (o *Outlet) Geometry() Geometry { return o.mem.geometry }

// Settle ends the offer: the receiver has opened the region, or never will.
// From here on each side notices when the other is gone.
func (o *Outlet) Settle() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.settleLocked()
}

func (o *Outlet) settleLocked() {
	if o.settle != nil {
		o.settle()
		o.settle = nil
	}
}

// Take returns a slot for a payload of n bytes, without waiting. It says no
// when n is longer than a slot, when no slot is free, or after Close.
func (o *Outlet) Take(n int) (*Slot, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.take(n)
}

// take is Take with mu held.
func (o *Outlet) take(n int) (*Slot, bool) {
	if n < 0 || n > o.mem.geometry.SlotBytes || o.closed {
		return nil, false
	}
	if len(o.free) == 0 {
		o.collect()
	}
	last := len(o.free) - 1
	if last < 0 {
		return nil, false
	}
	s := &o.slots[o.free[last]]
	o.free = o.free[:last]
	s.n = n
	s.pieces[0] = o.mem.payload(s.index, n)
	o.taken++
	return s, true
}

// Await is Take that waits until a slot is free, ctx ends or the region is
// closed. n must not be longer than a slot. Watch must run.
func (o *Outlet) Await(ctx context.Context, n int) (*Slot, error) {
	for {
		s, progress, err := o.tryAwait(n)
		if s != nil || err != nil {
			return s, err
		}
		select {
		case <-progress:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// tryAwait takes a slot or returns the channel that closes when one is free. First it
// sets the flag, then it looks again: whichever slot the look misses is freed by
// somebody who sees the flag.
func (o *Outlet) tryAwait(n int) (*Slot, <-chan struct{}, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return nil, nil, ErrClosed
	}
	if s, ok := o.take(n); ok {
		return s, nil, nil
	}
	o.mem.wanted().Store(1)
	s, _ := o.take(n)
	return s, o.progress, nil
}

// collect finds what the receiver has given back. Called with mu held.
func (o *Outlet) collect() {
	still := o.lent[:0]
	for _, i := range o.lent {
		if o.mem.state(i).Load() == stateLent {
			still = append(still, i)
		} else {
			o.free = append(o.free, i)
		}
	}
	o.lent = still
}

// Watch wakes Await when the receiver has freed a slot. It blocks until the
// receiver is gone or Close; whoever owns the Outlet runs it in a goroutine.
func (o *Outlet) Watch() {
	for o.freed.wait() == nil {
		o.mu.Lock()
		o.wake()
		o.mu.Unlock()
	}
}

// wake lets who waits look again. Called with mu held.
func (o *Outlet) wake() {
	close(o.progress)
	o.progress = make(chan struct{})
}

// Taken is how many slots are in hands here, neither free nor lent.
func (o *Outlet) Taken() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.taken
}

// Close ends Take, Await and Watch and tells the receiver that no more comes; it unmaps the
// region as soon as no slot is taken. What is lent stays readable at the
// receiver. May be called twice.
func (o *Outlet) Close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.settleLocked()
	o.arrive.close()
	o.freed.close()
	if !o.closed {
		o.closed = true
		o.wake()
	}
	o.unmapIdle()
}

// unmapIdle unmaps a closed region that nobody here writes to. Called with mu held.
func (o *Outlet) unmapIdle() {
	if o.closed && o.taken == 0 && o.mem.unmap != nil {
		o.mem.unmap()
		o.mem.control, o.mem.slots, o.mem.unmap = nil, nil, nil
	}
}

// Bytes is the slot's payload memory, as long as was asked for.
func (s *Slot) Bytes() []byte { return s.pieces[0] }

// Pieces is Bytes as a list of one.
func (s *Slot) Pieces() [][]byte { return s.pieces[:] }

// Free gives the slot back unsent.
func (s *Slot) Free() {
	o := s.outlet
	o.mu.Lock()
	defer o.mu.Unlock()
	o.free = append(o.free, s.index)
	o.taken--
	o.wake()
	o.unmapIdle()
}

// Lend gives the slot to the receiver with a header of at most HeadBytes. The
// memory must not be touched here any more. It never blocks.
func (s *Slot) Lend(head []byte) {
	if s.outlet.lend(s, head) {
		s.outlet.arrive.ring()
	}
}

// lend queues the slot; it says whether the receiver sleeps. What comes of a
// receiver that has gone is the transport's to find out.
func (o *Outlet) lend(s *Slot, head []byte) (asleep bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if n := copy(o.mem.head(s.index), head); n < len(head) {
		panic("shm: a header was expected to have at most HeadBytes")
	}
	o.mem.state(s.index).Store(stateLent)
	slot, length := o.mem.entry(o.count)
	slot.Store(uint32(s.index))
	length.Store(uint32(s.n))
	o.count++
	o.mem.lent().Store(o.count)
	o.lent = append(o.lent, s.index)
	o.taken--
	asleep = o.mem.asleep().Load() != 0 && o.mem.asleep().Swap(0) != 0
	o.unmapIdle()
	return asleep
}
