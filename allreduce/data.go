package allreduce

import "github.com/lockstep-ml/lockstep/allreduce/fixed"

// pass is the data pass of one bucket. Each segment takes the hops of the schedule
// on its own, and is added to and sent on as it comes in, while it is in the cache: a
// chunk at a time would keep whole chunks in memory. At least one of this worker's
// segments is under way, and more where the ring's window allows it.
//
// Messages are taken in the order in which they arrive, since neighbours may
// start segments at other moments. Whatever is there can be worked on, so no
// segment waits for another, and what has come is hot. One exception: a piece of the
// outer level may come before its group's sum is held here; it is set aside.
type pass struct {
	*job
	plan
	reader
	*schedule
	seen     []uint64  // a bit for each message received, by segment and hop
	awaited  int       // messages that have not come
	owed     int       // of them, those of the outer level
	started  int       // segments
	underway int       // of them, those that have not come back
	want     Header    // of the message at hand
	sums     []held    // by segment; in a flat ring none
	early    []Message // for sums that are not here yet
}

// data sums the bucket over the ring and decodes it.
func (j *job) data() error {
	c := &j.r.cfg
	p := &pass{job: j, schedule: j.r.schedule}
	p.plan = newPlan(len(j.dst), p.sizes[Inner], c.SegmentBytes, j.wire)
	p.width = j.wire.Bytes()
	if p.sizes[Outer] > 1 {
		p.sums = make([]held, p.segments)
	}
	p.expect()
	defer p.end()
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

// end gives back what a pass that failed still has.
func (p *pass) end() {
	p.r.underway.Add(-int64(p.underway))
	for i := range p.sums {
		p.sums[i].sum.Free()
	}
	for _, m := range p.early {
		m.Free()
	}
}

// expect counts the messages to come; those of empty parts do not.
func (p *pass) expect() {
	p.seen = make([]uint64, (p.segments*len(p.hops)+63)/64)
	for s := range p.segments {
		for i := range p.hops {
			p.awaited++
			if p.hops[i].phase.Level() == Outer {
				p.owed++
			}
			if lo, hi := p.span(p.hops[i].in, s); lo == hi {
				p.mark(i, s)
			}
		}
	}
}

// mark notes the message of a segment's hop as received; it says whether it was not.
func (p *pass) mark(i, segment int) bool {
	bit := segment*len(p.hops) + i
	mask := uint64(1) << (bit % 64)
	if p.seen[bit/64]&mask != 0 {
		return false
	}
	p.seen[bit/64] |= mask
	p.awaited--
	if p.hops[i].phase.Level() == Outer {
		p.owed--
	}
	return true
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

// to returns the header of what is sent of a segment in hop i, and its values.
func (p *pass) to(i, segment int) (h Header, lo, hi int) {
	lo, hi = p.span(p.hops[i].out, segment)
	return p.header(p.hops[i].phase, p.hops[i].n, segment, lo, (hi-lo)*p.width), lo, hi
}

// from returns the header of what is received of a segment in hop i.
func (p *pass) from(i, segment int) Header {
	lo, hi := p.span(p.hops[i].in, segment)
	h := p.header(p.hops[i].phase, p.hops[i].n, segment, lo, (hi-lo)*p.width)
	h.From = uint16(p.left(h.Phase))
	return h
}

// start sends a segment into its first hop: this worker begins the sum.
func (p *pass) start(segment int) error {
	h, lo, hi := p.to(0, segment)
	if lo == hi {
		p.back() // both neighbours know that it is empty
		return nil
	}
	return p.emit(&h, func(out []byte, lo, hi int) { p.fixed.Sum(out, nil, lo, hi) }, lo, hi)
}

// emit sends a message that no received one is behind: fill writes its values lo..hi.
func (p *pass) emit(h *Header, fill func(out []byte, lo, hi int), lo, hi int) error {
	m, err := p.buffer(h)
	if err != nil {
		return err
	}
	out := m.Payload[0]
	for l := lo; l < hi; l += stride / p.width {
		end := min(hi, l+stride/p.width)
		part := out[(l-lo)*p.width : (end-lo)*p.width]
		fill(part, l, end)
		m.add(part)
	}
	return p.send(h, m)
}

// turn receives a message and does what it is for.
func (p *pass) turn() error {
	m, i, err := p.next()
	if err != nil {
		return err
	}
	segment := int(p.want.Segment)
	if !p.mark(i, segment) {
		m.Free() // came twice
		return nil
	}
	if p.hops[i].phase.Level() == Outer && !p.holds(segment) {
		p.setAside(m)
		return nil
	}
	return p.take(i, segment, m)
}

// next waits for a message of the data pass and returns the hop that it belongs
// to. The header that it should have is then in want.
func (p *pass) next() (m Message, i int, err error) {
	h := p.header(PhaseData, 0, 0, 0, 0)
	if p.owed > 0 {
		h.Phase = PhaseBothData
	}
	if m, err = p.await(h.Key); err != nil {
		h = p.missing()
		return m, 0, p.hopError("receive", &h, err)
	}
	k := &m.Header.Key
	if i = p.find(k.Phase, int(k.Hop)); i >= 0 && int64(k.Segment) < int64(p.segments) {
		p.want = p.from(i, int(k.Segment))
	} else {
		p.want = p.missing() // from which it differs
	}
	if err = p.compare(&p.want, &m); err != nil {
		m.Free()
	}
	return m, i, err
}

// missing returns the header of the first message that has not come.
func (p *pass) missing() Header {
	for bit := range p.segments * len(p.hops) {
		if p.seen[bit/64]&(1<<(bit%64)) == 0 {
			return p.from(bit%len(p.hops), bit/len(p.hops))
		}
	}
	panic("allreduce: waited for a message where none was to come")
}

// take does what the message of a segment's hop is for. It owns m.
func (p *pass) take(i, segment int, m Message) error {
	h := &p.hops[i]
	p.want = p.from(i, segment)
	out, err := p.work(h, segment, m)
	if err != nil {
		return err
	}
	if i == len(p.hops)-1 {
		p.back()
	}
	if h.pass {
		next, _, _ := p.to(i+1, segment)
		if err := p.send(&next, out); err != nil {
			return err
		}
	}
	switch {
	case !h.held:
		return nil
	case h.adds == replicas:
		return p.hold(segment, out)
	}
	return p.complete(segment)
}

// work does a hop's arithmetic on in, which it owns. What it returns is to be
// passed on or held; nothing, if the hop does neither.
func (p *pass) work(h *hop, segment int, in Message) (out Message, err error) {
	forward := h.adds == nothing && !in.Bound // the payload goes on as it is
	switch {
	case h.held && h.adds == replicas:
		out = heldMemory(int(p.want.Length))
	case h.pass && !forward:
		if out, err = p.buffer(&p.want); err != nil {
			in.Free()
			return out, err
		}
	}
	base := int(p.want.Offset)
	in.sum = p.runs(&in, base, func(b []byte, lo, hi int) {
		var part []byte
		if out.Payload != nil {
			part = out.Payload[0][(lo-base)*p.width : (hi-base)*p.width]
		}
		p.apply(h, segment, part, b, lo, hi)
		out.add(part)
	})
	if err = p.verify(&p.want, &in); err != nil {
		in.Free()
		out.Free()
		return Message{}, err
	}
	if forward && h.pass {
		return in, nil
	}
	in.Free()
	return out, nil
}

// apply does a hop's arithmetic on the values lo..hi, which came as the bytes in
// and leave as out. Nil where nothing leaves.
func (p *pass) apply(h *hop, segment int, out, in []byte, lo, hi int) {
	switch {
	case h.adds == replicas && h.whole:
		p.fixed.SumDecode(out, in, lo, hi)
		return
	case h.adds == replicas:
		p.fixed.Sum(out, in, lo, hi)
		return
	case h.adds == heldSum:
		fixed.Add(out, in, p.sums[segment].part(lo, hi, p.width), p.wire)
		if in = out; h.whole {
			p.fixed.Decode(in, lo, hi)
		}
	case out != nil:
		p.fixed.DecodeCopy(out, in, lo, hi)
	default:
		p.fixed.Decode(in, lo, hi)
	}
	if h.held {
		copy(p.sums[segment].part(lo, hi, p.width), in)
	}
}
