package allreduce

import "context"

// chunkAlign is what the borders of chunks and segments are multiples of, in
// values: one cache line of 32-bit integers, so that vector code meets no odd ends
// but the bucket's own.
const chunkAlign = 16

// plan cuts a bucket of n values into Size chunks and each chunk into the same
// number of segments. It depends on shape and configuration alone, so all
// workers have the same.
type plan struct {
	n, size  int
	segment  int // values of a full segment
	segments int // per chunk; the last ones of a chunk may be short or empty
	window   int // segments sent ahead of what is received, 1..segments
}

func newPlan(n int, c *Config, w Wire) plan {
	p := plan{n: n, size: c.Size, segment: c.SegmentBytes / w.Bytes()}
	longest := 0
	for i := range c.Size {
		lo, hi := p.chunk(i)
		longest = max(longest, hi-lo)
	}
	p.segments = max(1, (longest+p.segment-1)/p.segment)
	p.window = min(c.Window, p.segments)
	return p
}

// chunk returns the borders of chunk i.
func (p *plan) chunk(i int) (lo, hi int) {
	units := (p.n + chunkAlign - 1) / chunkAlign
	border := func(i int) int { return min(p.n, units*i/p.size*chunkAlign) }
	return border(i), border(i + 1)
}

// span returns the borders of segment s of chunk i.
func (p *plan) span(i, s int) (lo, hi int) {
	lo, hi = p.chunk(i)
	return min(hi, lo+s*p.segment), min(hi, lo+(s+1)*p.segment)
}

// pass is the data pass of one bucket: 2*(Size-1) hops of plan.segments
// segments each. Operation i is segment i%segments of hop i/segments; what is
// sent as operation i was received as operation i-segments.
type pass struct {
	*job
	plan
	held []Message // by segment: received, to be sent on in the next hop
}

// data sums the bucket over the ring and decodes it. Sending runs up to a
// window ahead of receiving, in one goroutine: the window bounds what a
// neighbour must store, and it is never longer than a chunk, so what is to be
// sent has always been received.
func (j *job) data(ctx context.Context) error {
	p := &pass{job: j, plan: newPlan(len(j.dst), &j.r.cfg, j.wire)}
	p.held = make([]Message, p.segments)
	defer p.release()
	ops := 2 * (p.size - 1) * p.segments
	for i := range ops + p.window - 1 {
		if i < ops {
			if err := p.sendOp(ctx, i); err != nil {
				return err
			}
		}
		if done := i - (p.window - 1); done >= 0 {
			if err := p.recvOp(ctx, done); err != nil {
				return err
			}
		}
	}
	return nil
}

// release frees what an error left behind.
func (p *pass) release() {
	for s := range p.held {
		p.held[s].Free()
		p.held[s] = Message{}
	}
}

// place returns where operation i stands and the chunk this rank sends then;
// the chunk it receives is the one before.
//
// In hop h of reduce-scatter rank r sends chunk r-h, so that after Size-1 hops
// it holds the whole sum of chunk r+1, which it sends first in all-gather.
func (p *pass) place(i int) (phase Phase, hop, segment, chunk int) {
	hop, segment = i/p.segments, i%p.segments
	phase = PhaseReduceScatter
	rank := p.r.cfg.Rank
	if hop >= p.size-1 {
		phase, hop = PhaseAllGather, hop-(p.size-1)
		return phase, hop, segment, (rank + 1 - hop + p.size) % p.size
	}
	return phase, hop, segment, (rank - hop + p.size) % p.size
}

func (p *pass) sendOp(ctx context.Context, i int) error {
	phase, hop, segment, chunk := p.place(i)
	lo, hi := p.span(chunk, segment)
	if lo == hi {
		return nil // both neighbours know that it is empty
	}
	h := p.header(phase, hop, segment, lo, (hi-lo)*p.wire.Bytes())
	if i < p.segments { // nothing received yet: this worker begins the sum
		b := newBuffer(int(h.Length))
		p.fixed.Sum(b.data, nil, lo, hi)
		return p.send(ctx, h, b.data, b)
	}
	m := p.held[segment]
	p.held[segment] = Message{}
	return p.send(ctx, h, m.Payload, m)
}

func (p *pass) recvOp(ctx context.Context, i int) error {
	phase, hop, segment, chunk := p.place(i)
	lo, hi := p.span((chunk-1+p.size)%p.size, segment)
	if lo == hi {
		return nil
	}
	m, err := p.recv(ctx, p.header(phase, hop, segment, lo, (hi-lo)*p.wire.Bytes()))
	if err != nil {
		return err
	}
	last := hop == p.size-2
	if phase == PhaseReduceScatter {
		b := newBuffer(len(m.Payload))
		if last { // the sum is whole
			p.fixed.SumDecode(b.data, m.Payload, lo, hi)
		} else {
			p.fixed.Sum(b.data, m.Payload, lo, hi)
		}
		m.Free()
		m = NewMessage(Header{}, b.data, b)
	} else {
		p.fixed.Decode(m.Payload, lo, hi)
	}
	if phase == PhaseAllGather && last {
		m.Free()
		return nil
	}
	p.held[segment] = m
	return nil
}
