package coder

// reader gives out bytes that lie in pieces.
type reader struct {
	pieces [][]byte
	at     int // in the first of them
}

func (r *reader) reset(pieces [][]byte) { *r = reader{pieces: pieces} }

// left is how many bytes there are.
func (r *reader) left() int {
	n := -r.at
	for _, p := range r.pieces {
		n += len(p)
	}
	return n
}

// take returns the next n bytes; those of several pieces are put together in
// scratch, which has n bytes or more. It says no when there are fewer.
func (r *reader) take(n int, scratch []byte) ([]byte, bool) {
	r.skipEmpty()
	if len(r.pieces) > 0 {
		if p := r.pieces[0]; len(p)-r.at >= n {
			r.at += n
			return p[r.at-n : r.at], true
		}
	}
	b := scratch[:n]
	return b, r.copy(b)
}

// copy fills b with the next bytes; it says no when there are fewer.
func (r *reader) copy(b []byte) bool {
	for len(b) > 0 {
		r.skipEmpty()
		if len(r.pieces) == 0 {
			return false
		}
		n := copy(b, r.pieces[0][r.at:])
		r.at += n
		b = b[n:]
	}
	return true
}

func (r *reader) skipEmpty() {
	for len(r.pieces) > 0 && r.at == len(r.pieces[0]) {
		r.pieces, r.at = r.pieces[1:], 0
	}
}
