package shard

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// A rangeStore holds samples as runs of bytes in files, so that neighbours can be had with one read.
type rangeStore interface {
	store
	// readRange fills p from a file of the store. It may run concurrently.
	readRange(ctx context.Context, file int32, off int64, p []byte) error
	// accept checks the bytes of sample i of x that were read so, as read does.
	accept(x *index, i int, b []byte) error
}

// A memoryStore has the bytes at hand: there is nothing to fetch.
type memoryStore interface{ inMemory() }

func (*memStore) inMemory()     {}
func (*builtinStore) inMemory() {}

func (s *fileStore) readRange(ctx context.Context, file int32, off int64, p []byte) error {
	return s.files[file].ReadAt(ctx, p, off)
}

func (s *fileStore) accept(*index, int, []byte) error { return nil }

const (
	// maxGap is how many unwanted bytes may lie between two samples of one read: a photograph of ImageNet has 110 KB, and reading so
	// much takes no longer than asking again, on a disk as over a network.
	maxGap = 128 << 10
	// maxRead bounds what is read at once, so that decoders have work early and one slow read holds few samples up.
	maxRead = 4 << 20
)

// A read is one run of bytes of one file, or one sample where the store knows no files, and the places that wait for it.
type read struct {
	wants   []want // in order of offset
	first   int    // the earliest batch among them, counted from the head of the queue when it was planned
	off     int64
	end     int64
	started time.Time
}

// A want is one place's need of a sample's bytes.
type want struct {
	q     *pending
	place int
	order int // of q among those planned together
	index int // of the sample

	file     int32
	off, end int64
}

// raw is what came of a want. slab, in which b lies, is nil where the data set has the bytes in memory.
type raw struct {
	b    []byte
	slab *slab
	err  error
}

// plan makes the reads for batches that have just joined the queue, in the order of their need, and within that of files and offsets.
// Callers hold mu.
func (p *prefetcher) plan(fresh []*pending) {
	wants := p.wants[:0]
	for order, q := range fresh {
		for place, index := range q.index {
			if p.direct || index < 0 {
				q.ready = append(q.ready, place)
				continue
			}
			s := &p.ds.samples[index]
			wants = append(wants, want{q, place, order, index, s.file, s.offset, s.offset + int64(s.size)})
		}
	}
	slices.SortFunc(wants, func(a, b want) int {
		return cmp.Or(cmp.Compare(a.file, b.file), cmp.Compare(a.off, b.off), a.index-b.index, a.order-b.order, a.place-b.place)
	})
	_, ranges := p.ds.store.(rangeStore)
	reads := coalesce(wants, ranges)
	slices.SortStableFunc(reads, func(a, b *read) int { return a.first - b.first })
	for _, r := range reads {
		p.fetching += r.end - r.off
	}
	p.reads = append(p.reads, reads...)
	clear(wants) // it must not keep batches alive
	p.wants = wants[:0]
}

// coalesce puts sorted wants together into reads. What lies between samples is at most as much as the samples.
func coalesce(wants []want, ranges bool) []*read {
	var reads []*read
	var wanted int64
	for _, w := range wants {
		if n := len(reads); ranges && n > 0 {
			r := reads[n-1]
			near := w.file == r.wants[0].file && w.off-r.end <= maxGap && w.end-r.off <= maxRead
			if near && max(w.end, r.end)-r.off <= 2*(wanted+w.end-w.off) {
				wanted += max(0, w.end-max(r.end, w.off))
				r.wants, r.first, r.end = append(r.wants, w), min(r.first, w.order), max(r.end, w.end)
				continue
			}
		}
		reads = append(reads, &read{wants: []want{w}, first: w.order, off: w.off, end: w.end})
		wanted = w.end - w.off
	}
	return reads
}

// fetch is one fetcher's goroutine.
func (p *prefetcher) fetch() {
	for {
		r, ctx, b := p.takeRead()
		if r == nil {
			return
		}
		s := &slab{b: b}
		p.deliver(r, s, p.perform(ctx, r, s))
	}
}

// takeRead hands the next read to a fetcher, and waits while there is none. It returns nil when the prefetcher has stopped.
func (p *prefetcher) takeRead() (*read, context.Context, []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for !p.stopped {
		if len(p.reads) > 0 {
			r := p.reads[0]
			p.reads = slices.Delete(p.reads, 0, 1)
			r.started = time.Now()
			p.inFlight[r] = struct{}{}
			return r, p.fetchCtx, p.slabs.take(int(r.end - r.off))
		}
		p.more.Wait() //bounded: woken for work, and by stop
	}
	return nil, nil, nil
}

// perform reads, and gives what each want came to. Where a run of several samples fails they are read one by one, so that the error
// is put down to the sample it belongs to.
func (p *prefetcher) perform(ctx context.Context, r *read, s *slab) []raw {
	out := make([]raw, len(r.wants))
	ctx, cancel := context.WithTimeoutCause(ctx, p.Stall, errStalled)
	defer cancel()
	if store, ok := p.ds.store.(rangeStore); ok && len(r.wants) > 1 {
		if err := store.readRange(ctx, r.wants[0].file, r.off, s.b); err == nil {
			for i, w := range r.wants {
				out[i].b = s.b[w.off-r.off : w.end-r.off : w.end-r.off]
				out[i].err = p.placed(store.accept(&p.ds.index, w.index, out[i].b), w)
			}
			return out
		}
	}
	var own []byte // the slab is one buffer: only a lone sample may be read into it
	if len(r.wants) == 1 {
		own = s.b
	}
	for i, w := range r.wants {
		b, err := p.ds.store.read(ctx, &p.ds.index, w.index, own)
		if err != nil && context.Cause(ctx) == errStalled {
			err = fmt.Errorf("%w: %w", errStalled, err)
		}
		out[i] = raw{b: b, err: p.placed(err, w)}
	}
	return out
}

// errStalled is the cause of a read's end after the prefetcher's bound.
var errStalled = errors.New("no answer")

// placed says which sample a read failed for, and what to do about a source that has stalled.
func (p *prefetcher) placed(err error, w want) error {
	if err == nil {
		return nil
	}
	var damaged *DamagedError
	if errors.As(err, &damaged) {
		return err // names it
	}
	if errors.Is(err, errStalled) {
		return &StallError{Archive: p.ds.path, Member: p.ds.Name(w.index), Offset: w.off, Size: w.end - w.off, Waited: p.Stall, Err: err}
	}
	return fmt.Errorf("%s: read %s (%d bytes from byte %d): %w", p.ds.path, p.ds.Name(w.index), w.end-w.off, w.off, err)
}

// A StallError tells of a sample whose bytes have not come in time.
type StallError struct {
	Archive string // the data set's path
	Member  string // the image's name inside it
	Offset  int64  // of its first byte in its file
	Size    int64
	Waited  time.Duration
	Err     error // what was going on
}

func (e *StallError) Error() string {
	return fmt.Sprintf("%s: %s (%d bytes from byte %d) was not read within %v: %v; look to the disk or the network, or give it longer with --data-timeout",
		e.Archive, e.Member, e.Size, e.Offset, e.Waited, e.Err)
}

func (e *StallError) Unwrap() error { return e.Err }

// deliver hands what was read to the decoders.
func (p *prefetcher) deliver(r *read, s *slab, out []raw) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.inFlight, r)
	s.refs = 1 // until all are told
	for i, w := range r.wants {
		if w.q.failed {
			continue
		}
		s.refs++
		out[i].slab = s
		w.q.raw[w.place] = out[i]
		w.q.ready = append(w.q.ready, w.place)
	}
	p.unref(s)
	p.wake.Broadcast()
}

// unref lets go of one place's share in a slab. Callers hold mu.
func (p *prefetcher) unref(s *slab) {
	if s == nil {
		return
	}
	if s.refs--; s.refs == 0 {
		p.fetching -= int64(len(s.b))
		p.slabs.put(s.b)
	}
}

// overdue gives the error of the batch's read that has been under way for too long, of several the oldest; without one, the time until
// there could be. Callers hold mu. A read of a local file cannot be broken off, which is why its fetcher is not waited for; when such
// reads hold all fetchers, they are what the batch waits for.
func (p *prefetcher) overdue(q *pending) (time.Duration, error) {
	worst, started := p.oldest(func(r *read) bool { return r.holds(q) })
	if worst == nil && slices.ContainsFunc(p.reads, func(r *read) bool { return r.holds(q) }) {
		worst, started = p.oldest(func(*read) bool { return true })
	}
	if worst == nil {
		return p.Stall, nil
	}
	if left := p.Stall - time.Since(started); left > 0 {
		return left, nil
	}
	return time.Millisecond, p.placed(errStalled, worst.wants[0])
}

// oldest finds the read under way that began first. Callers hold mu.
func (p *prefetcher) oldest(is func(*read) bool) (worst *read, started time.Time) {
	for r := range p.inFlight { // any order: of equals any will do
		if is(r) && (worst == nil || r.started.Before(started)) {
			worst, started = r, r.started
		}
	}
	return worst, started
}

// holds says whether one of the batch's images is part of the read.
func (r *read) holds(q *pending) bool {
	return slices.ContainsFunc(r.wants, func(w want) bool { return w.q == q })
}
