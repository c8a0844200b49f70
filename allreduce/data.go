package allreduce

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
	window   int // segments under way at a time, 1..segments
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

// pass is the data pass of one bucket. Each segment goes round the ring on its
// own, 2*(Size-1) hops, and window of them are under way at a time: what came in
// is added to and sent on at once, while it is in the cache. Hop-major order, all
// segments of a chunk before the next hop, keeps whole chunks in memory instead.
//
// Every worker takes the hops in the same order, so a message is on its way
// whenever it is waited for.
type pass struct {
	*job
	plan
	reader
}

// data sums the bucket over the ring and decodes it.
func (j *job) data() error {
	p := &pass{job: j, plan: newPlan(len(j.dst), &j.r.cfg, j.grid.wire)}
	p.width = j.grid.wire.Bytes()
	for s := range p.window {
		if err := p.start(s); err != nil {
			return err
		}
	}
	for first := 0; first < p.segments; first += p.window {
		for hop := range 2 * (p.size - 1) {
			for s := first; s < min(first+p.window, p.segments); s++ {
				if err := p.turn(hop, s); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// place returns where hop i stands and the chunk this rank sends then; the
// chunk it receives is the one before.
//
// In hop h of reduce-scatter rank r sends chunk r-h, so that after Size-1 hops
// it holds the whole sum of chunk r+1, which it sends first in all-gather.
func (p *pass) place(i int) (phase Phase, hop, chunk int) {
	rank := p.r.cfg.Rank
	if i >= p.size-1 {
		hop = i - (p.size - 1)
		return PhaseAllGather, hop, (rank + 1 - hop + p.size) % p.size
	}
	return PhaseReduceScatter, i, (rank - i + p.size) % p.size
}

// at returns the header of what is sent of a segment in hop i, and its values.
func (p *pass) at(i, segment int) (h Header, lo, hi int) {
	phase, hop, chunk := p.place(i)
	lo, hi = p.span(chunk, segment)
	return p.header(phase, hop, segment, lo, (hi-lo)*p.width), lo, hi
}

// start sends a segment into its first hop: this worker begins the sum.
func (p *pass) start(segment int) error {
	h, lo, hi := p.at(0, segment)
	if lo == hi {
		return nil // both neighbours know that it is empty
	}
	m, err := p.buffer(&h)
	if err != nil {
		return err
	}
	out := m.Payload[0]
	for l := lo; l < hi; l += stride / p.width {
		end := min(hi, l+stride/p.width)
		part := out[(l-lo)*p.width : (end-lo)*p.width]
		p.accumulate(part, nil, l, end)
		m.add(part)
	}
	return p.send(&h, m)
}

// turn receives a segment in hop i and sends it on, or begins another one in its
// place after the last hop.
func (p *pass) turn(i, segment int) error {
	last := 2*(p.size-1) - 1
	m, lo, hi, err := p.receive(i, segment)
	if err != nil {
		return err
	}
	if i == last {
		m.Free()
		if segment += p.window; segment < p.segments {
			return p.start(segment)
		}
		return nil
	}
	if lo == hi {
		return nil
	}
	h, _, _ := p.at(i+1, segment)
	return p.send(&h, m)
}

// receive takes a segment in and does this worker's part: it returns the sums
// that go on, for the values lo..hi, with nothing for an empty segment.
func (p *pass) receive(i, segment int) (m Message, lo, hi int, err error) {
	phase, hop, chunk := p.place(i)
	lo, hi = p.span((chunk-1+p.size)%p.size, segment)
	if lo == hi {
		return Message{}, lo, hi, nil
	}
	want := p.header(phase, hop, segment, lo, (hi-lo)*p.width)
	if m, err = p.recv(&want); err != nil {
		return m, lo, hi, err
	}
	switch {
	case i < p.size-1:
		m, err = p.add(&want, m, i == p.size-2)
	case i < 2*(p.size-1)-1 && m.Bound:
		m, err = p.copyOut(&want, m)
	default:
		m.sum = p.runs(&m, lo, p.decode)
		if err = p.verify(&want, &m); err != nil {
			m.Free()
		}
	}
	return m, lo, hi, err
}

// add returns in with this worker's replicas added, in memory of its own, and
// frees in. Where the sum is whole with that, it is decoded too.
func (p *pass) add(want *Header, in Message, whole bool) (Message, error) {
	defer in.Free()
	out, err := p.buffer(want)
	if err != nil {
		return out, err
	}
	base := int(want.Offset)
	in.sum = p.runs(&in, base, func(b []byte, lo, hi int) {
		part := out.Payload[0][(lo-base)*p.width : (hi-base)*p.width]
		p.accumulate(part, b, lo, hi)
		if whole {
			p.decode(part, lo, hi)
		}
		out.add(part)
	})
	return p.passOn(want, &in, out)
}

// copyOut decodes in and returns a copy of it that can be sent on.
func (p *pass) copyOut(want *Header, in Message) (Message, error) {
	defer in.Free()
	out, err := p.buffer(want)
	if err != nil {
		return out, err
	}
	base := int(want.Offset)
	in.sum = p.runs(&in, base, func(b []byte, lo, hi int) {
		part := out.Payload[0][(lo-base)*p.width : (hi-base)*p.width]
		copy(part, b)
		p.decode(part, lo, hi)
		out.add(part)
	})
	return p.passOn(want, &in, out)
}

// passOn returns out, made from in, if in proves to be as it was sent.
func (p *pass) passOn(want *Header, in *Message, out Message) (Message, error) {
	if err := p.verify(want, in); err != nil {
		out.Free()
		return Message{}, err
	}
	return out, nil
}

// accumulate sets out to in, or zero when it is nil, plus this worker's
// replicas, for the values lo..hi.
func (p *pass) accumulate(out, in []byte, lo, hi int) {
	w := p.grid.wire
	p.eachBlock(lo, hi, func(l, h int, code byte) {
		sums := p.sums[:h-l]
		from, to := (l-lo)*w.Bytes(), (h-lo)*w.Bytes()
		if in == nil {
			clear(sums)
		} else {
			w.load(sums, in[from:to])
		}
		p.addLocal(sums, l, h, code)
		w.store(out[from:to], sums)
	})
}

// decode turns the whole sums of the values lo..hi into the result.
func (p *pass) decode(in []byte, lo, hi int) {
	w := p.grid.wire
	p.eachBlock(lo, hi, func(l, h int, code byte) {
		sums := p.sums[:h-l]
		w.load(sums, in[(l-lo)*w.Bytes():(h-lo)*w.Bytes()])
		p.grid.decode(p.dst[l:h], sums, code)
	})
}
