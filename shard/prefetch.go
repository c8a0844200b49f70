package shard

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// A locator is the pure function from a place to an image; index -1 leaves the place empty.
type locator func(step uint64, replica, i int) (epoch uint64, index int)

// chunk is how many images a decoder takes at once: few enough that decoders end a batch together, enough that the lock is rare.
const chunk = 8

// A prefetcher makes batches ahead of their use, in two stages with goroutines of their own: fetchers read the bytes of files, decoders
// make images of them. Invariants, under mu: queue holds the batches being made or ready, in the order they will be asked for; only the
// first depth+1 of them have memory for images, while bytes are fetched for all; reads are handed out in the order of their need, so the
// batch needed first is finished first; a batch's memory is touched by decoders only while its busy count is above zero.
//
// What is in the queue may be fetched and decoded without further asking: the bound on memory is applied where a batch joins the queue.
// Were it applied to each read, bytes of later batches could fill it up while the first one's wait.
//
// A channel of batches with a fixed order would be simpler, but the set of replicas changes when a worker joins or dies, and then
// what was made ahead must be thrown away at once rather than drained.
type prefetcher struct {
	Supply
	ds        *Dataset
	seed      uint64
	transform Transform
	places    int // of one replica
	locate    locator
	stride    uint64 // the step expected after s is s+stride
	end       uint64 // no speculation at or beyond
	dropEmpty bool   // a damaged image leaves its place empty instead of being replaced
	direct    bool   // the data set has its bytes in memory: nothing is fetched
	pool      *pool  // of a synthetic data set, else nil

	mu      sync.Mutex
	wake    *sync.Cond // decoders wait for work
	more    *sync.Cond // fetchers likewise
	queue   []*pending
	free    []*Batch
	running bool
	stopped bool
	cancel  context.CancelFunc
	ended   chan struct{} // closed when Run has returned, or Close came before Run
	stuck   error         // what run could not wait for

	reads       []*read // in the order of their need
	inFlight    map[*read]struct{}
	wants       []want // scratch
	slabs       slabs
	fetching    int64 // bytes of reads planned and slabs not yet given back
	runCtx      context.Context
	fetchCtx    context.Context // of reads for the queue as it is; ends when that is thrown away
	cancelFetch context.CancelFunc
}

// A pending is a batch in the making.
type pending struct {
	step     uint64
	replicas []int
	batch    *Batch   // nil until it may be decoded
	epoch    []uint64 // by place, like the next two
	index    []int
	raw      []raw
	ready    []int // places whose bytes are here, not yet handed to a decoder
	left     int   // places not finished
	busy     int   // places in the hands of decoders
	err      error
	failed   bool // by err or because it was dropped: nothing more is begun
	dropped  bool
	done     chan struct{} // closed when all places are finished, or it has failed and no decoder is in it
}

func (p *prefetcher) init() {
	p.wake, p.more = sync.NewCond(&p.mu), sync.NewCond(&p.mu)
	p.ended = make(chan struct{})
	p.inFlight = map[*read]struct{}{}
	p.Supply.fill(p.ds.path)
	_, p.direct = p.ds.store.(memoryStore)
	p.pool = newPool(p.ds, p.transform, p.seed)
	p.cancelFetch = func() {}
}

// breakOff ends the reads under way. Callers hold mu.
func (p *prefetcher) breakOff() {
	p.cancelFetch()
	if p.running { // else run will
		p.fetchCtx, p.cancelFetch = context.WithCancel(p.runCtx)
	}
}

// run fetches and decodes until ctx is done or close is called. It returns ctx's error, or nil after close.
func (p *prefetcher) run(parent context.Context) error {
	ctx, cancel := context.WithCancel(parent)
	defer cancel()
	p.mu.Lock()
	if p.running || p.stopped {
		p.mu.Unlock()
		return fmt.Errorf("loader: Run: %w or running already", ErrClosed)
	}
	p.running, p.cancel, p.runCtx = true, cancel, ctx
	p.breakOff()
	p.mu.Unlock()
	defer close(p.ended)
	stopWake := context.AfterFunc(ctx, p.stop)
	defer stopWake()
	var decoders, fetchers sync.WaitGroup
	for range p.Decoders {
		decoders.Go(func() { p.decode(ctx) })
	}
	if !p.direct {
		for range p.Fetchers {
			fetchers.Go(p.fetch)
		}
	}
	decoders.Wait() //bounded: decoders end after the image in hand once stop is called, by ctx or close
	return errors.Join(parent.Err(), p.await(&fetchers))
}

// await waits for the fetchers, whose reads have been broken off; one that sits in a read of a dead disk is left behind.
func (p *prefetcher) await(fetchers *sync.WaitGroup) error {
	gone := make(chan struct{})
	go func() {
		fetchers.Wait() //bounded: by closePatience, below
		close(gone)
	}()
	timer := time.NewTimer(closePatience)
	defer timer.Stop()
	select {
	case <-gone:
		return nil
	case <-timer.C:
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for r := range p.inFlight { // any order: one example will do
		p.stuck = fmt.Errorf("loader: a read could not be broken off: %w", p.placed(errStalled, r.wants[0]))
	}
	return p.stuck
}

// stop makes fetchers and decoders return and waiters give up.
func (p *prefetcher) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stopped = true
	for _, q := range p.queue {
		p.fail(q, ErrClosed)
	}
	p.queue, p.reads = nil, nil
	p.cancelFetch()
	p.wake.Broadcast()
	p.more.Broadcast()
}

// close stops and waits for run to return. It may be called twice.
func (p *prefetcher) close() error {
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
	<-p.ended //bounded: run is cancelled, and waits for the images in hand and for reads up to closePatience
	return p.stuck
}

// fail ends a pending batch. Callers hold mu.
func (p *prefetcher) fail(q *pending, err error) {
	if q.err == nil {
		q.err = err
	}
	q.failed = true
	for _, place := range q.ready {
		p.unref(q.raw[place].slab)
	}
	q.ready = q.ready[:0]
	p.settle(q)
}

// settle closes done, or recycles a dropped batch, once no decoder is in it and no place is left. Callers hold mu.
func (p *prefetcher) settle(q *pending) {
	if q.busy > 0 || q.left > 0 && !q.failed {
		return
	}
	select {
	case <-q.done:
		return
	default:
		close(q.done)
	}
	if q.dropped {
		p.recycle(q.batch)
	}
}

// recycle keeps a batch's memory for another. Callers hold mu.
func (p *prefetcher) recycle(b *Batch) {
	if b != nil && len(p.free) <= p.Depth+1 {
		p.free = append(p.free, b)
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
	if err := p.wait(ctx, q); err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.queue) > 0 && p.queue[0] == q {
		p.queue = slices.Delete(p.queue, 0, 1)
	}
	if q.err != nil {
		p.recycle(q.batch)
		return nil, fmt.Errorf("loader: step %d: %w", step, q.err)
	}
	q.batch.Skipped = q.skipped()
	q.batch.Wait = time.Since(start)
	q.batch.held = true
	return q.batch, nil
}

// wait blocks until the batch is finished or has failed, as it does when one of its reads is overdue.
func (p *prefetcher) wait(ctx context.Context, q *pending) error {
	timer := time.NewTimer(p.Stall)
	defer timer.Stop()
	for {
		select {
		case <-q.done:
			return nil
		case <-ctx.Done():
			return fmt.Errorf("loader: wait for the images of step %d: %w", q.step, context.Cause(ctx))
		case <-timer.C:
		}
		p.mu.Lock()
		left, err := p.overdue(q)
		if err != nil {
			p.fail(q, err)
		}
		p.mu.Unlock()
		timer.Reset(left) // also after an error: done may wait for a decoder
	}
}

// skipped lists what was passed over, each image once.
func (q *pending) skipped() []Skip {
	var out []Skip
	for place, index := range q.index {
		s := Skip{Sample: index, By: q.batch.Samples[place]}
		if s.By != s.Sample && !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
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
	p.extend(step, replicas)
	for _, q := range p.queue[:min(len(p.queue), p.Depth+1)] {
		if q.batch == nil {
			q.batch = p.memory(q)
		}
	}
	p.wake.Broadcast()
	return p.queue[0], nil
}

func (q *pending) is(step uint64, replicas []int) bool {
	return q.step == step && slices.Equal(q.replicas, replicas)
}

// extend lengthens the queue to its full length once half of what lies beyond the decoded part is used up: batches that join together
// have their reads planned together, and so more neighbours among them. Callers hold mu.
func (p *prefetcher) extend(step uint64, replicas []int) {
	full, least := p.Depth+1, p.Depth+1
	if !p.direct {
		full, least = p.Depth+1+fetchAhead, p.Depth+1+fetchAhead/2
	}
	if len(p.queue) >= least {
		return
	}
	var fresh []*pending
	taken := p.fetching
	for len(p.queue) < full {
		n := uint64(len(p.queue))
		s := step + n*p.stride
		if n > 0 && (s >= p.end || s < step) {
			break
		}
		q := p.start(s, replicas)
		taken += p.fileBytes(q)
		if n > 0 && taken+p.imageBytes(replicas)*int64(min(int(n), p.Depth)+2) > p.Memory { // the one in use counts too
			break
		}
		p.queue, fresh = append(p.queue, q), append(fresh, q)
	}
	p.plan(fresh)
	for _, q := range fresh {
		p.settle(q) // a worker that hosts no replica asks for nothing
	}
	p.more.Broadcast()
}

// imageBytes is the memory of a batch of these replicas.
func (p *prefetcher) imageBytes(replicas []int) int64 {
	return 4 * int64(len(replicas)) * int64(p.places) * int64(p.transform.Values())
}

// fileBytes bounds what is read for a batch. Callers hold mu.
func (p *prefetcher) fileBytes(q *pending) int64 {
	if p.direct {
		return 0
	}
	var n int64
	for _, index := range q.index {
		if index >= 0 {
			n += int64(p.ds.samples[index].size)
		}
	}
	if _, ranges := p.ds.store.(rangeStore); ranges {
		n *= 2 // see coalesce
	}
	return n
}

// drop throws away what was made ahead. Callers hold mu.
func (p *prefetcher) drop() {
	for _, q := range p.queue {
		q.dropped = true
		select {
		case <-q.done:
			p.recycle(q.batch)
		default:
			p.fail(q, ErrClosed)
		}
	}
	p.queue = p.queue[:0]
	for _, r := range p.reads {
		p.fetching -= r.end - r.off
	}
	p.reads = nil
	p.breakOff()
}

// start makes a pending batch.
func (p *prefetcher) start(step uint64, replicas []int) *pending {
	n := len(replicas) * p.places
	q := &pending{step: step, replicas: slices.Clone(replicas), epoch: make([]uint64, n), index: make([]int, n), raw: make([]raw, n),
		left: n, done: make(chan struct{})}
	for k := range n {
		q.epoch[k], q.index[k] = p.locate(step, replicas[k/p.places], k%p.places)
	}
	return q
}

// memory gives a pending batch memory, recycled when there is some of that size. Callers hold mu.
func (p *prefetcher) memory(q *pending) *Batch {
	n := len(q.index)
	values := n * p.transform.Values()
	var b *Batch
	for len(p.free) > 0 && b == nil {
		b, p.free = p.free[len(p.free)-1], p.free[:len(p.free)-1]
		if cap(b.Images) < values || cap(b.Images) > 2*values || cap(b.Labels) < n {
			b = nil // of another set of replicas: let it go
		}
	}
	if b == nil {
		b = &Batch{Images: make([]float32, values), Labels: make([]int32, n), Samples: make([]int, n)}
	}
	b.Step, b.ReplicaBatch = q.step, p.places
	b.Replicas = append(b.Replicas[:0], q.replicas...)
	b.Images, b.Labels, b.Samples = b.Images[:values], b.Labels[:n], b.Samples[:n]
	return b
}

// release takes a batch back.
func (p *prefetcher) release(b *Batch) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !b.held {
		panic("shard: batch released twice, or not one of Next's")
	}
	b.held = false
	p.recycle(b)
}

// take hands the next places to a decoder, and waits while there are none. It returns nil when the prefetcher has stopped.
func (p *prefetcher) take(places []int) (*pending, []int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for !p.stopped {
		for _, q := range p.queue {
			if q.batch != nil && len(q.ready) > 0 {
				n := min(chunk, len(q.ready))
				places = append(places[:0], q.ready[:n]...)
				q.ready = slices.Delete(q.ready, 0, n)
				q.busy += n
				return q, places
			}
		}
		p.wake.Wait() //bounded: woken for work, and by stop
	}
	return nil, nil
}

func (p *prefetcher) finish(q *pending, places []int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	q.busy -= len(places)
	q.left -= len(places)
	for _, place := range places {
		p.unref(q.raw[place].slab)
		q.raw[place] = raw{}
	}
	if err != nil {
		p.fail(q, err)
		return
	}
	p.settle(q)
}

// decode is one decoder's goroutine.
func (p *prefetcher) decode(ctx context.Context) {
	w := &decodeWorker{p: p, ctx: ctx, aug: NewAugmenter(p.transform)}
	var places []int
	for {
		var q *pending
		if q, places = p.take(places); q == nil {
			return
		}
		p.finish(q, places, w.fill(q, places))
	}
}
