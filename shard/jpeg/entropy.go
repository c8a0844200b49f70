package jpeg

import "encoding/binary"

// coefLimit bounds coefficients: a transform of 8-bit samples has none beyond 1024, and rounding to a multiple of the table's entry at
// most doubles it. More is damage, and what fits in 16 bits is transformed in 16 bits.
const coefLimit = 4096

// dc reads the difference of a first coefficient. It needs 32 bits.
func (r *bitReader) dc(h *huffman) (diff int32, ok bool) {
	s := r.symbol(h)
	if uint(s) > 15 {
		return 0, false
	}
	return extend(r.take(s), uint32(s)), true
}

// acGeneric reads the other coefficients of a block, which are zero before, and returns the place in zigzag order of the last one. This is
// where the time of decoding goes; the reader's state is in local variables for that.
func acGeneric(r *bitReader, h *huffman, coef *[64]int16) (last int, ok bool) {
	buf, at, acc, n := r.buf, r.at, r.acc, r.n
	k := 0
	for k < 63 {
		if n < 32 {
			acc |= binary.BigEndian.Uint64(buf[at:]) >> (n & 63)
			at += (63 - n) >> 3
			n |= 56
		}
		e := h.look[acc>>(64-lookBits)]
		if e == 0 {
			e = h.longEntry(acc)
		}
		v := e.value(acc)
		acc <<= e & entryBits
		n -= int(e & entryBits)
		if k += int(e >> entryMove & 127); k > 63 {
			break
		}
		coef[zigzag[k&127]&63] = int16(v)
		last = k
	}
	r.at, r.acc, r.n = at, acc, n
	return last, k <= 63 || k >= endOfBlock
}

// longEntry is the entry of a code of more than lookBits bits at the top of acc. An invalid one moves beyond the block, but not as far
// as an end does.
func (h *huffman) longEntry(acc uint64) entry {
	length, s := h.long(acc)
	if s < 0 {
		return 64 << entryMove
	}
	return entryOf(uint16(length)<<8 | uint16(s))
}
