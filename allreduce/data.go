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
}

func newPlan(n int, c *Config, w Wire) plan {
	p := plan{n: n, size: c.Size, segment: c.SegmentBytes / w.Bytes()}
	longest := 0
	for i := range c.Size {
		lo, hi := p.chunk(i)
		longest = max(longest, hi-lo)
	}
	p.segments = max(1, (longest+p.segment-1)/p.segment)
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
// own, 2*(Size-1) hops, and is added to and sent on as it comes in, while it is in
// the cache: a chunk at a time would keep whole chunks in memory. At least one of
// this worker's segments is under way, and more where the ring's window allows it.
//
// Messages are taken in the order in which they arrive, since neighbours may
// start segments at other moments. Whatever is there can be worked on, so no
// segment waits for another, and what has come is hot.
type pass struct {
	*job
	plan
	reader
	seen     []uint64 // a bit for each message received, by segment and hop
	awaited  int      // messages that have not come
	started  int      // segments
	underway int      // of them, those that have not come back
	want     Header   // of the message at hand
}

// data sums the bucket over the ring and decodes it.
func (j *job) data() error {
	p := &pass{job: j, plan: newPlan(len(j.dst), &j.r.cfg, j.wire)}
	p.width = j.wire.Bytes()
	p.expect()
	defer func() { p.r.underway.Add(-int64(p.underway)) }()
	for {
		for p.started < p.segments && p.mayStart() {
			if err := p.start(p.started); err != nil {
				return err
			}
			p.started++
		}
		if p.awaited == 0 && p.started == p.segments {
			return nil
		}
		if err := p.turn(); err != nil {
			return err
		}
	}
}

// hops is how many hops a segment takes.
func (p *pass) hops() int { return 2 * (p.size - 1) }

// expect counts the messages to come; those of empty segments do not.
func (p *pass) expect() {
	p.seen = make([]uint64, (p.segments*p.hops()+63)/64)
	for s := range p.segments {
		for i := range p.hops() {
			if _, lo, hi := p.from(i, s); lo < hi {
				p.awaited++
			} else {
				p.mark(i, s)
			}
		}
	}
}

// mark notes the message of a segment's hop as received; it says whether it was not.
func (p *pass) mark(i, segment int) bool {
	bit := segment*p.hops() + i
	mask := uint64(1) << (bit % 64)
	fresh := p.seen[bit/64]&mask == 0
	p.seen[bit/64] |= mask
	return fresh
}

// mayStart says whether one more segment may be put under way, and counts it.
func (p *pass) mayStart() bool {
	if p.r.underway.Add(1) <= int64(p.r.cfg.Window) || p.underway == 0 {
		p.underway++
		return true
	}
	p.r.underway.Add(-1)
	return false
}

// back notes that a segment has come back to where it was put under way.
func (p *pass) back() {
	p.underway--
	p.r.underway.Add(-1)
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

// to returns the header of what is sent of a segment in hop i, and its values.
func (p *pass) to(i, segment int) (h Header, lo, hi int) {
	phase, hop, chunk := p.place(i)
	lo, hi = p.span(chunk, segment)
	return p.header(phase, hop, segment, lo, (hi-lo)*p.width), lo, hi
}

// from returns the header of what is received of a segment in hop i, and its values.
func (p *pass) from(i, segment int) (h Header, lo, hi int) {
	phase, hop, chunk := p.place(i)
	lo, hi = p.span((chunk-1+p.size)%p.size, segment)
	h = p.header(phase, hop, segment, lo, (hi-lo)*p.width)
	h.From = uint16(p.r.cfg.left())
	return h, lo, hi
}

// start sends a segment into its first hop: this worker begins the sum.
func (p *pass) start(segment int) error {
	h, lo, hi := p.to(0, segment)
	if lo == hi {
		p.back() // both neighbours know that it is empty
		return nil
	}
	m, err := p.buffer(&h)
	if err != nil {
		return err
	}
	out := m.Payload[0]
	for l := lo; l < hi; l += stride / p.width {
		end := min(hi, l+stride/p.width)
		part := out[(l-lo)*p.width : (end-lo)*p.width]
		p.fixed.Sum(part, nil, l, end)
		m.add(part)
	}
	return p.send(&h, m)
}

// turn receives a message and sends on what becomes of it.
func (p *pass) turn() error {
	m, i, want, err := p.next()
	if err != nil {
		return err
	}
	segment := int(want.Segment)
	if !p.mark(i, segment) {
		m.Free() // came twice
		return nil
	}
	p.awaited--
	last := i == p.hops()-1
	switch {
	case i < p.size-1:
		m, err = p.add(want, m, i == p.size-2)
	case m.Bound && !last:
		m, err = p.copyOut(want, m)
	default:
		m.sum = p.runs(&m, int(want.Offset), p.fixed.Decode)
		if err = p.verify(want, &m); err != nil {
			m.Free()
		}
	}
	if err != nil {
		return err
	}
	if last {
		m.Free()
		p.back()
		return nil
	}
	h, _, _ := p.to(i+1, segment)
	return p.send(&h, m)
}

// next waits for a message of the data pass. It returns the hop that it belongs
// to, and the header that it should have.
func (p *pass) next() (m Message, i int, want *Header, err error) {
	any := p.header(PhaseData, 0, 0, 0, 0)
	if m, err = p.await(any.Key); err != nil {
		h := p.missing()
		return m, 0, nil, p.hopError("receive", &h, err)
	}
	k := &m.Header.Key
	if i = int(k.Hop); k.Phase == PhaseAllGather {
		i += p.size - 1
	}
	if int(k.Hop) < p.size-1 && int64(k.Segment) < int64(p.segments) {
		p.want, _, _ = p.from(i, int(k.Segment))
	} else {
		p.want = p.missing() // from which it differs
	}
	if err = p.compare(&p.want, &m); err != nil {
		m.Free()
	}
	return m, i, &p.want, err
}

// missing returns the header of the first message that has not come.
func (p *pass) missing() Header {
	for bit := range p.segments * p.hops() {
		if p.seen[bit/64]&(1<<(bit%64)) == 0 {
			h, _, _ := p.from(bit%p.hops(), bit/p.hops())
			return h
		}
	}
	panic("allreduce: waited for a message where none was to come")
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
		if whole {
			p.fixed.SumDecode(part, b, lo, hi)
		} else {
			p.fixed.Sum(part, b, lo, hi)
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
		p.fixed.DecodeCopy(part, b, lo, hi)
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
