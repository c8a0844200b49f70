package allreduce

// letter is a stored message. Letters are used again and again: they, and not the
// map's values, which would be allocated one by one at their size, hold messages.
type letter struct {
	m    Message
	next *letter
}

// mail is what is stored of a bucket's data pass.
type mail struct{ first, last *letter }

// wanted is the key by which a message of key k is asked for.
func wanted(k Key) Key {
	switch k.Phase {
	case PhaseReduceScatter, PhaseAllGather, PhaseOuterReduceScatter, PhaseOuterAllGather, PhaseBothData:
		return Key{Step: k.Step, Bucket: k.Bucket, Phase: PhaseData}
	}
	return k
}

// store keeps m. Called with mu held.
func (b *Inbox) store(m Message) {
	l := b.unused
	if l == nil {
		l = new(letter)
	}
	b.unused = l.next
	*l = letter{m: m}
	b.bytes += m.Len()
	k := wanted(m.Header.Key)
	if k.Phase != PhaseData {
		b.stored[k] = l
		return
	}
	box := b.data[bucketKey{k.Step, k.Bucket}]
	switch {
	case box == nil:
		b.data[bucketKey{k.Step, k.Bucket}] = &mail{l, l}
	case box.first == nil:
		box.first, box.last = l, l
	default:
		box.last.next, box.last = l, l
	}
}

// take gives out a stored message that is asked for by k. Called with mu held.
func (b *Inbox) take(k Key) (Message, bool) {
	var l *letter
	if k.Phase == PhaseData {
		box := b.data[bucketKey{k.Step, k.Bucket}]
		if box == nil || box.first == nil {
			return Message{}, false
		}
		l, box.first = box.first, box.first.next
	} else {
		if l = b.stored[k]; l == nil {
			return Message{}, false
		}
		delete(b.stored, k)
	}
	m := l.m
	*l = letter{next: b.unused}
	b.unused = l
	b.bytes -= m.Len()
	b.wake()
	return m, true
}

// discard frees what is stored for k. Called with mu held.
func (b *Inbox) discard(k Key) {
	for m, ok := b.take(k); ok; m, ok = b.take(k) {
		m.Free()
	}
}
