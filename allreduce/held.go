package allreduce

// held is a segment of the chunk of which this worker has its group's sum, from the
// end of the inner reduce-scatter to the beginning of the inner all-gather. Between
// the two its pieces become, one after another, the sums of all groups.
//
// Its memory is not the transport's: that may have little, and neighbours that wait
// for it while they hold what others wait for could wait for ever.
type held struct {
	sum  Message // of the group; without payload before it is there and after
	base int     // index of its first value
	owed int     // pieces that are not the sums of all groups yet
}

// heldMemory returns memory for a sum. It never travels, so it needs no checksum.
func heldMemory(n int) Message {
	m := NewBuffer(n).Message()
	m.Unsummed = true
	return m
}

// part returns the memory of the values lo..hi.
func (h *held) part(lo, hi, width int) []byte {
	return h.sum.Payload[0][(lo-h.base)*width : (hi-h.base)*width]
}

// holds says whether the group's sum of a segment is here.
func (p *pass) holds(segment int) bool { return p.sums[segment].sum.Payload != nil }

// setAside keeps a message until the group's sum is here. One that is bound to the
// transport's memory is copied, so that the neighbour gets that back.
func (p *pass) setAside(m Message) {
	if m.Bound {
		c := NewBuffer(m.Len()).Message()
		c.Header, c.Unsummed, c.Bound = m.Header, m.Unsummed, true
		at := c.Payload[0]
		for _, piece := range m.Payload {
			at = at[copy(at, piece):]
		}
		m.Free()
		m = c
	}
	p.early = append(p.early, m)
}

// hold keeps the group's sum of a segment, sends its first piece to the next group,
// and takes what came early.
func (p *pass) hold(segment int, sum Message) error {
	first := p.first[PhaseOuterReduceScatter]
	s := &p.sums[segment]
	s.sum = sum
	s.base, _ = p.span(p.hops[first-1].in, segment)
	for _, h := range p.hops[first:] {
		if lo, hi := p.span(h.in, segment); h.held && lo < hi {
			s.owed++
		}
	}
	if err := p.emitHeld(first, segment); err != nil {
		return err
	}
	rest := p.early[:0]
	var err error
	for _, m := range p.early {
		if k := &m.Header.Key; err == nil && int(k.Segment) == segment {
			err = p.take(p.find(k.Phase, int(k.Hop)), segment, m)
		} else {
			rest = append(rest, m)
		}
	}
	clear(p.early[len(rest):])
	p.early = rest
	return err
}

// complete counts a piece that has become whole; with the last one the inner
// all-gather begins.
func (p *pass) complete(segment int) error {
	s := &p.sums[segment]
	if s.owed--; s.owed > 0 {
		return nil
	}
	if err := p.emitHeld(p.first[PhaseAllGather], segment); err != nil {
		return err
	}
	s.sum.Free()
	*s = held{}
	return nil
}

// emitHeld sends what hop i sends of a held sum.
func (p *pass) emitHeld(i, segment int) error {
	h, lo, hi := p.to(i, segment)
	if lo == hi {
		return nil
	}
	s := &p.sums[segment]
	return p.emit(&h, func(out []byte, lo, hi int) { copy(out, s.part(lo, hi, p.width)) }, lo, hi)
}
