package jpeg

import (
	"bytes"
	"encoding/binary"
	"slices"
)

// slack is how many zeros follow the data: a block takes at most 64 codes and values, of 31 bits each, and the reader loads 8 bytes.
const slack = 64*4 + 32

// A bitReader reads the entropy-coded bytes of one interval, copied without the stuffed zeros, so that it can load 8 at a time
// without looking at them. Behind the end there are zeros, enough for a block: overrun tells afterwards that they were used.
type bitReader struct {
	buf []byte // the data and slack
	end int    // bytes of data
	at  int
	acc uint64 // the next bits, from the top
	n   int    // how many of them are counted as read; more may be there
}

// unstuff copies the entropy-coded bytes at the start of b into r, up to the next marker, and returns how many there were.
func (r *bitReader) unstuff(b []byte) int {
	r.buf = slices.Grow(r.buf[:0], len(b)+slack)
	at := 0
	for {
		n := bytes.IndexByte(b[at:], 0xff)
		if n < 0 {
			r.buf = append(r.buf, b[at:]...)
			at = len(b)
			break
		}
		r.buf = append(r.buf, b[at:at+n]...)
		at += n
		if at+1 >= len(b) || b[at+1] != 0 {
			break
		}
		r.buf = append(r.buf, 0xff)
		at += 2
	}
	r.end, r.at, r.acc, r.n = len(r.buf), 0, 0, 0
	r.buf = r.buf[:r.end+slack]
	clear(r.buf[r.end:])
	return at
}

// fill brings the bits in acc to 56 or more.
func (r *bitReader) fill() {
	r.acc |= binary.BigEndian.Uint64(r.buf[r.at:]) >> (r.n & 63)
	r.at += (63 - r.n) >> 3
	r.n |= 56
}

// overrun tells whether bits behind the end have been used.
func (r *bitReader) overrun() bool { return 8*r.at-r.n > 8*r.end }

// unread tells whether whole bytes are left.
func (r *bitReader) unread() bool { return 8*r.end-(8*r.at-r.n) >= 8 }

// symbol decodes the next symbol, -1 for an invalid code. It needs 16 bits.
func (r *bitReader) symbol(h *huffman) int {
	if e := h.code[r.acc>>(64-lookBits)]; e != 0 {
		l := int(e >> 8)
		r.acc <<= l & 63
		r.n -= l
		return int(e & 0xff)
	}
	l, s := h.long(r.acc)
	r.acc <<= l & 63
	r.n -= l
	return s
}

// long finds a code of more than lookBits bits at the top of acc: its length, and the symbol, -1 if there is none.
func (h *huffman) long(acc uint64) (length, symbol int) {
	for l := lookBits + 1; l <= 16; l++ {
		code := int32(acc >> (64 - l))
		if code <= h.max[l] {
			return l, int(h.symbols[(h.offset[l]+code)&0xff])
		}
	}
	return 0, -1
}

// take reads s bits, at most 16.
func (r *bitReader) take(s int) int32 {
	v := int32(r.acc >> 32 >> (32 - s))
	r.acc <<= s & 63
	r.n -= s
	return v
}
