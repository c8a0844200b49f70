package allreduce

import (
	"context"
	"fmt"
	"sync"
)

// DefaultInboxBytes bounds what waits in an Inbox. The ring's window keeps a
// well-behaved neighbour far below it (Size*Window segments for each bucket in
// flight); it is there for one that is not.
const DefaultInboxBytes = 256 << 20

// Inbox is the receiving half of a transport: it keeps what came from the left
// neighbours, of both levels, until the ring asks for it by key. Its payload bytes are bounded:
// Deliver waits when it is full, which pushes back on the sender.
//
// Invariants: exponents are given out at most once while their bucket is
// remembered; a message of another run or generation is never stored. One queue in
// order of arrival would be simpler, but buckets overlap, so the message a bucket
// waits for can stand behind another bucket's.
type Inbox struct {
	run, generation uint64
	limit           int

	failed chan struct{}         // closed by Fail
	ended  [levels]chan struct{} // closed by End

	mu       sync.Mutex
	stored   map[Key]*letter      // exponents
	data     map[bucketKey]*mail  // the rest, in order of arrival
	unused   *letter              // for the next messages
	waiting  map[Key]chan Message // buffered, one message
	idle     []chan Message       // empty, for the next waits
	bytes    int
	done     recentSet
	fail     error         // breaks everything
	end      [levels]error // breaks waits for what is not there
	blocked  int           // Delivers that wait for space
	progress chan struct{} // closed and replaced to wake them
}

// NewInbox makes an Inbox for one generation of one run. limit bounds the
// stored payload bytes; 0 means DefaultInboxBytes.
func NewInbox(runDigest, generation uint64, limit int) *Inbox {
	if limit <= 0 {
		limit = DefaultInboxBytes
	}
	return &Inbox{
		run: runDigest, generation: generation, limit: limit,
		failed: make(chan struct{}), ended: [levels]chan struct{}{make(chan struct{}), make(chan struct{})},
		stored: map[Key]*letter{}, data: map[bucketKey]*mail{}, waiting: map[Key]chan Message{},
		progress: make(chan struct{}),
	}
}

// Deliver stores m or hands it to who waits for it; it owns m, also when it
// fails. It blocks while the inbox is full. A *RefusedError says that m is of
// another run or generation. A repeated message is dropped.
func (b *Inbox) Deliver(ctx context.Context, m Message) error {
	if err := b.admit(&m.Header); err != nil {
		m.Free()
		return err
	}
	for {
		placed, progress, err := b.offer(m)
		if placed {
			return nil
		}
		if err != nil {
			m.Free()
			return err
		}
		select {
		case <-progress:
		case <-b.failed:
		case <-ctx.Done():
			m.Free()
			return context.Cause(ctx)
		}
		b.mu.Lock()
		b.blocked--
		b.mu.Unlock()
	}
}

func (b *Inbox) admit(h *Header) error {
	if h.Run != b.run {
		return &RefusedError{Reason: fmt.Sprintf("message of another run (digest %016x, this one has %016x)", h.Run, b.run)}
	}
	if h.Generation != b.generation {
		return &RefusedError{Reason: fmt.Sprintf("message of generation %d, this is generation %d", h.Generation, b.generation)}
	}
	return nil
}

// offer tries once to place m. When it neither did nor failed, it has counted
// the caller as blocked and the returned channel closes when it is worth
// another try.
func (b *Inbox) offer(m Message) (placed bool, progress <-chan struct{}, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fail != nil {
		return false, nil, b.fail
	}
	k := m.Header.Key
	if _, dup := b.stored[k]; dup || b.done.has(bucketKey{k.Step, k.Bucket}) {
		m.Free()
		return true, nil, nil
	}
	if ch, ok := b.waiting[wanted(k)]; ok {
		delete(b.waiting, wanted(k))
		ch <- m //bounded: it has room for one, and is taken from waiting by its one message
		return true, nil, nil
	}
	// An empty inbox takes any message, so that a small limit cannot block forever.
	if b.bytes > 0 && b.bytes+m.Len() > b.limit {
		b.blocked++
		return false, b.progress, nil
	}
	b.store(m)
	return true, nil, nil
}

// Recv is Transport.Recv.
func (b *Inbox) Recv(ctx context.Context, k Key) (Message, error) {
	from, also := sources(k.Phase)
	k = wanted(k)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fail != nil {
		return Message{}, b.fail
	}
	if m, ok := b.take(k); ok {
		return m, nil
	}
	if err := b.over(from, also); err != nil {
		return Message{}, err
	}
	ch := b.place(k)
	b.wake() // a blocked Deliver may hold this very message
	b.mu.Unlock()
	var err error
	select {
	case m := <-ch:
		b.mu.Lock()
		b.idle = append(b.idle, ch)
		return m, nil
	case <-ctx.Done():
		err = context.Cause(ctx)
	case <-b.failed:
	case <-b.ended[from]:
	case <-b.ended[also]:
	}
	b.mu.Lock()
	if err == nil {
		err = b.over(from, also)
	}
	return b.giveUp(k, ch, err)
}

// sources are the levels that owe what a wait of a phase is for.
func sources(p Phase) (Level, Level) {
	if p == PhaseBothData {
		return Inner, Outer
	}
	return p.Level(), p.Level()
}

// over returns why nothing comes any more from one of two levels. Called with mu held.
func (b *Inbox) over(from, also Level) error {
	if b.end[from] != nil {
		return b.end[from]
	}
	return b.end[also]
}

// place makes the place where a message that is waited for is put. Called with
// mu held.
func (b *Inbox) place(k Key) chan Message {
	var ch chan Message
	if n := len(b.idle); n > 0 {
		ch, b.idle = b.idle[n-1], b.idle[:n-1]
	} else {
		ch = make(chan Message, 1)
	}
	b.waiting[k] = ch
	return ch
}

// giveUp ends the wait for k with err, or with the inbox's own failure, unless its
// message came in the same instant. Called with mu held.
func (b *Inbox) giveUp(k Key, ch chan Message, err error) (Message, error) {
	select {
	case m := <-ch:
		return m, nil
	default:
	}
	delete(b.waiting, k)
	if b.fail != nil {
		err = b.fail
	}
	return Message{}, err
}

// Forget is Transport.Forget.
func (b *Inbox) Forget(step uint64, bucket uint32) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.done.add(bucketKey{step, bucket})
	for k := range b.stored {
		if k.Step == step && k.Bucket == bucket {
			b.discard(k)
		}
	}
	b.discard(Key{Step: step, Bucket: bucket, Phase: PhaseData})
	delete(b.data, bucketKey{step, bucket})
}

// wake lets blocked Delivers try again. Called with mu held.
func (b *Inbox) wake() {
	if b.blocked > 0 {
		close(b.progress)
		b.progress = make(chan struct{})
	}
}

// Fail breaks every wait, now and later, with err, and frees what is stored.
// The first error stays.
func (b *Inbox) Fail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fail != nil {
		return
	}
	b.fail = err
	close(b.failed)
	for k := range b.stored {
		b.discard(k)
	}
	for k := range b.data {
		b.discard(Key{Step: k.step, Bucket: k.bucket, Phase: PhaseData})
	}
}

// Failed returns the error given to Fail, nil before.
func (b *Inbox) Failed() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.fail
}

// End says that no more messages of a level come: what is stored can still be
// received, and waits for what the level owes fail with err.
func (b *Inbox) End(l Level, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.end[l] == nil {
		b.end[l] = err
		close(b.ended[l])
	}
}

// bucketKey names a bucket within a generation.
type bucketKey struct {
	step   uint64
	bucket uint32
}

// recentBuckets is how many finished buckets are remembered: several steps'
// worth, as a neighbour is never more than one step behind.
const recentBuckets = 4096

// recentSet remembers the last recentBuckets keys added. The zero value is empty.
type recentSet struct {
	in    map[bucketKey]struct{}
	order []bucketKey
	next  int
}

func (s *recentSet) has(k bucketKey) bool {
	_, ok := s.in[k]
	return ok
}

func (s *recentSet) add(k bucketKey) {
	if s.has(k) {
		return
	}
	if s.in == nil {
		s.in = make(map[bucketKey]struct{})
	}
	if len(s.order) < recentBuckets {
		s.order = append(s.order, k)
	} else {
		delete(s.in, s.order[s.next])
		s.order[s.next] = k
		s.next = (s.next + 1) % recentBuckets
	}
	s.in[k] = struct{}{}
}
