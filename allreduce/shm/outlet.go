package shm

import "sync"

// Outlet is the sender's side of a region.
//
// A slot is free, taken (its Slot is in somebody's hands here) or lent (the
// receiver reads it). What is free or taken is known here alone; the receiver's
// only say is to give back what is lent. So nothing it writes can make two
// holders of one slot here. A list of free slots in the shared memory itself
// would save the scan of the lent ones, and would have to be trusted.
//
// All methods may be called concurrently; none blocks.
type Outlet struct {
	offer  Offer
	mem    memory
	settle func() // closes the file descriptor

	mu     sync.Mutex
	slots  []Slot
	free   []int // the last one freed is taken first: it is still in the cache
	lent   []int
	taken  int
	closed bool
}

// A Slot is memory for one outgoing payload. It belongs to whoever took it
// until Free or Lend, one of which must be called, once.
type Slot struct {
	outlet *Outlet
	index  int
	n      int
}

const (
	stateHome = 0
	stateLent = 1
)

// newOutlet takes over memory that createMemory made for the offer.
func newOutlet(o Offer, m memory, settle func()) *Outlet {
	out := &Outlet{offer: o, mem: m, settle: settle, slots: make([]Slot, o.geometry.Slots)}
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

// Settle ends the offer: the receiver has opened the region, or never will.
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

// Take returns a slot for a payload of n bytes. It says no when n is longer
// than a slot, when no slot is free, or after Close.
func (o *Outlet) Take(n int) (*Slot, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
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
	o.taken++
	return s, true
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

// Want asks the receiver to call its wake function when it next frees a slot.
// It says whether one is free now, in which case nobody need wait.
func (o *Outlet) Want() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return false
	}
	// First the flag, then the look: whichever slot the look misses is freed by
	// somebody who sees the flag.
	o.mem.wanted().Store(1)
	o.collect()
	return len(o.free) > 0
}

// Taken is how many slots are in hands here, neither free nor lent.
func (o *Outlet) Taken() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.taken
}

// Close ends Take, and unmaps the region as soon as no slot is taken. What is
// lent stays readable at the receiver. May be called twice.
func (o *Outlet) Close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.settleLocked()
	o.closed = true
	o.unmapIdle()
}

// unmapIdle unmaps a closed region that nobody here writes to. Called with mu held.
func (o *Outlet) unmapIdle() {
	if o.closed && o.taken == 0 && o.mem.unmap != nil {
		o.mem.unmap()
		o.mem = memory{geometry: o.mem.geometry}
	}
}

// Bytes is the slot's memory, as long as was asked for.
func (s *Slot) Bytes() []byte { return s.outlet.mem.bytes(s.index, s.n) }

// Index is the slot's number, which tells the receiver where to look.
func (s *Slot) Index() int { return s.index }

// Free gives the slot back unsent.
func (s *Slot) Free() {
	o := s.outlet
	o.mu.Lock()
	defer o.mu.Unlock()
	o.free = append(o.free, s.index)
	o.taken--
	o.unmapIdle()
}

// Lend gives the slot to the receiver, who is then told its index and the
// payload's length. The memory must not be touched here any more.
func (s *Slot) Lend() {
	o := s.outlet
	o.mu.Lock()
	defer o.mu.Unlock()
	o.mem.state(s.index).Store(stateLent)
	o.lent = append(o.lent, s.index)
	o.taken--
	o.unmapIdle()
}
