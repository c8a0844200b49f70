package shard

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"
)

// Batch is one step's images for the replicas that were asked for. It belongs to the caller until it is released.
type Batch struct {
	Step         uint64
	Replicas     []int         // in the order asked for
	ReplicaBatch int           // images of each
	Images       []float32     // len(Replicas)*ReplicaBatch images of 3*H*W, planes of one image together (NCHW)
	Labels       []int32       // one for each image; -1 marks an empty place (evaluation only), whose image is zero
	Samples      []int         // one for each image: its index in the data set, -1 for an empty place
	Wait         time.Duration // how long Next had to wait for it

	held bool // by the caller
}

// Replica gives the images and labels of the k-th of b.Replicas.
func (b *Batch) Replica(k int) ([]float32, []int32) {
	n := b.ReplicaBatch
	v := len(b.Images) / len(b.Labels)
	return b.Images[k*n*v : (k+1)*n*v], b.Labels[k*n : (k+1)*n]
}

// Sums adds up the SampleHash of the k-th replica's images.
func (b *Batch) Sums(k int) (sums [HashSums]uint32) {
	for _, index := range b.Samples[k*b.ReplicaBatch : (k+1)*b.ReplicaBatch] {
		for i, h := range SampleHash(index) {
			sums[i] += h
		}
	}
	return sums
}

// Valid is the number of places that hold an image.
func (b *Batch) Valid() int {
	n := 0
	for _, l := range b.Labels {
		if l >= 0 {
			n++
		}
	}
	return n
}

// A locator is the pure function from a place to an image; index -1 leaves the place empty.
type locator func(step uint64, replica, i int) (epoch uint64, index int)

// chunk is how many images a decoder takes at once: few enough that decoders end a batch together, enough that the lock is rare.
const chunk = 8

// DefaultDecoders leaves half of the processors to the engine.
func DefaultDecoders() int { return max(1, runtime.GOMAXPROCS(0)/2) }

// DefaultDepth is how many batches are made ahead: one hides an even supply, a second hides a slow read. More only costs memory
// (a batch of 256 at 224x224 is 147 MiB).
const DefaultDepth = 2

// A prefetcher makes batches ahead of their use. Invariants, under mu: queue holds the batches being made or ready, in the order
// they will be asked for; a batch in the queue has all its places handed to decoders in order, so the batch needed first is
// finished first; a batch's memory is touched by decoders only while its busy count is above zero.
//
// A channel of batches with a fixed order would be simpler, but the set of replicas changes when a worker joins or dies, and then
// what was made ahead must be thrown away at once rather than drained.
type prefetcher struct {
	ds        *Dataset
	seed      uint64
	transform Transform
	places    int // of one replica
	locate    locator
	stride    uint64 // the step expected after s is s+stride
	end       uint64 // no speculation at or beyond
	decoders  int
	depth     int
	dropEmpty bool // a damaged image leaves its place empty instead of being replaced

	mu      sync.Mutex
	wake    *sync.Cond // decoders wait for work
	queue   []*pending
	free    []*Batch
	running bool
	stopped bool
	cancel  context.CancelFunc
	ended   chan struct{} // closed when Run has returned, or Close came before Run
}

// A pending is a batch in the making.
type pending struct {
	batch   *Batch
	next    int // first place not yet handed out
	busy    int // places handed out and not finished
	err     error
	dropped bool
	done    chan struct{} // closed when all places are finished
}

func (p *prefetcher) init() {
	p.wake = sync.NewCond(&p.mu)
	p.ended = make(chan struct{})
	if p.decoders == 0 {
		p.decoders = DefaultDecoders()
	}
	if p.depth == 0 {
		p.depth = DefaultDepth
	}
}

// run decodes until ctx is done or close is called. It returns ctx's error, or nil after close.
func (p *prefetcher) run(parent context.Context) error {
	ctx, cancel := context.WithCancel(parent)
	defer cancel()
	p.mu.Lock()
	if p.running || p.stopped {
		p.mu.Unlock()
		return fmt.Errorf("loader: Run: %w or running already", ErrClosed)
	}
	p.running, p.cancel = true, cancel
	p.mu.Unlock()
	defer close(p.ended)
	stopWake := context.AfterFunc(ctx, p.stop)
	defer stopWake()
	var wg sync.WaitGroup
	for range p.decoders {
		wg.Go(func() { p.decode(ctx) })
	}
	wg.Wait() //bounded: decoders end after the image in hand once stop is called, by ctx or close
	return parent.Err()
}

// stop makes decoders return and waiters give up.
func (p *prefetcher) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stopped = true
	for _, q := range p.queue {
		p.fail(q, ErrClosed)
	}
	p.queue = nil
	p.wake.Broadcast()
}

// close stops and waits for run to return. It may be called twice.
func (p *prefetcher) close() {
	p.mu.Lock()
	if !p.running && !p.stopped {
		close(p.ended)
	}
	p.stopped = true
	cancel := p.cancel
	p.mu.Unlock()
	if cancel != nil {
		cancel()
	}
	p.stop()
	<-p.ended //bounded: run is cancelled, and waits for the images in hand
}

// fail ends a pending batch. Callers hold mu.
func (p *prefetcher) fail(q *pending, err error) {
	if q.err == nil {
		q.err = err
	}
	q.next = len(q.batch.Labels)
	p.settle(q)
}

// settle closes done, or recycles a dropped batch, once no decoder is in it and no place is left. Callers hold mu.
func (p *prefetcher) settle(q *pending) {
	if q.busy > 0 || q.next < len(q.batch.Labels) {
		return
	}
	select {
	case <-q.done:
		return
	default:
		close(q.done)
	}
	if q.dropped {
		p.free = append(p.free, q.batch)
	}
}

// get returns the batch of (step, replicas), which it may have to make, and starts those expected next. A wait that ctx ends leaves
// the batch in the queue for a later call.
func (p *prefetcher) get(ctx context.Context, step uint64, replicas []int) (*Batch, error) {
	start := time.Now()
	q, err := p.want(step, replicas)
	if err != nil {
		return nil, err
	}
	select {
	case <-q.done:
	case <-ctx.Done():
		return nil, fmt.Errorf("loader: wait for the images of step %d: %w", step, context.Cause(ctx))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.queue) > 0 && p.queue[0] == q {
		p.queue = slices.Delete(p.queue, 0, 1)
	}
	if q.err != nil {
		p.free = append(p.free, q.batch)
		return nil, fmt.Errorf("loader: step %d: %w", step, q.err)
	}
	q.batch.Wait = time.Since(start)
	q.batch.held = true
	return q.batch, nil
}

// want puts the batch at the head of the queue and fills up the queue behind it.
func (p *prefetcher) want(step uint64, replicas []int) (*pending, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped {
		return nil, fmt.Errorf("loader: %w", ErrClosed)
	}
	if len(p.queue) > 0 && !p.queue[0].is(step, replicas) {
		p.drop()
	}
	for len(p.queue) <= p.depth {
		s := step + uint64(len(p.queue))*p.stride
		if len(p.queue) > 0 && (s >= p.end || s < step) {
			break
		}
		p.queue = append(p.queue, p.start(s, replicas))
	}
	p.wake.Broadcast()
	return p.queue[0], nil
}

func (q *pending) is(step uint64, replicas []int) bool {
	return q.batch.Step == step && slices.Equal(q.batch.Replicas, replicas)
}

// drop throws away what was made ahead. Callers hold mu.
func (p *prefetcher) drop() {
	for _, q := range p.queue {
		q.dropped = true
		select {
		case <-q.done:
			p.free = append(p.free, q.batch)
		default:
			p.fail(q, ErrClosed)
		}
	}
	p.queue = p.queue[:0]
}

// start makes an empty batch, in recycled memory when there is some of that size. Callers hold mu.
func (p *prefetcher) start(step uint64, replicas []int) *pending {
	n := len(replicas) * p.places
	values := n * p.transform.Values()
	var b *Batch
	if k := len(p.free); k > 0 {
		b, p.free = p.free[k-1], p.free[:k-1]
	}
	if b == nil || cap(b.Images) < values || cap(b.Labels) < n {
		b = &Batch{Images: make([]float32, values), Labels: make([]int32, n), Samples: make([]int, n)}
	}
	b.Step, b.ReplicaBatch = step, p.places
	b.Replicas = append(b.Replicas[:0], replicas...)
	b.Images, b.Labels, b.Samples = b.Images[:values], b.Labels[:n], b.Samples[:n]
	q := &pending{batch: b, done: make(chan struct{})}
	p.settle(q) // a worker that hosts no replica asks for nothing
	return q
}

// release takes a batch back.
func (p *prefetcher) release(b *Batch) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !b.held {
		panic("shard: batch released twice, or not one of Next's")
	}
	b.held = false
	if len(p.free) <= p.depth+1 {
		p.free = append(p.free, b)
	}
}

// take hands the next places to a decoder, and waits while there are none. It returns nil when the prefetcher has stopped.
func (p *prefetcher) take() (q *pending, from, to int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for !p.stopped {
		for _, q := range p.queue {
			if n := len(q.batch.Labels); q.next < n {
				from, to = q.next, min(q.next+chunk, n)
				q.next = to
				q.busy += to - from
				return q, from, to
			}
		}
		p.wake.Wait() //bounded: woken for work, and by stop
	}
	return nil, 0, 0
}

func (p *prefetcher) finish(q *pending, n int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	q.busy -= n
	if err != nil {
		p.fail(q, err)
		return
	}
	p.settle(q)
}

// decode is one decoder's goroutine.
func (p *prefetcher) decode(ctx context.Context) {
	w := &decodeWorker{p: p, aug: NewAugmenter(p.transform)}
	for {
		q, from, to := p.take()
		if q == nil {
			return
		}
		p.finish(q, to-from, w.fill(ctx, q.batch, from, to))
	}
}
