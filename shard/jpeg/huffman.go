package jpeg

import (
	"bytes"
	"errors"
)

// zigzag gives the natural place (8*row + column) of the k-th coefficient (T.81, figure 5). Places behind the 64th repeat it, so
// that a masked index needs no check.
var zigzag = [128]uint8{
	0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7, 14, 21, 28,
	35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
}

// lookBits: codes up to this length, nearly all of them, are decoded by one look-up in a table that stays in the first-level cache.
const lookBits = 10

// An entry says what a prefix of the bits means. Zero: it begins a longer code, or none.
type entry uint32

const (
	entryBits = 63 // mask of the bits to consume: the code's and the value's
	entryMove = 6  // from this bit on, 7 bits: how far the coefficient's number moves on
	entryMask = 16 // 15 bits: ones for the value's bits, which come last

	endOfBlock = 96 // the move of an end of block: beyond what any run of zeros reaches
)

// value is the number at the end of the bits that e consumes of acc.
func (e entry) value(acc uint64) int32 {
	mask := int32(e >> entryMask)
	v := int32(acc>>(-e&entryBits)) & mask
	if 2*v < mask {
		v -= mask // T.81, F.2.2.1
	}
	return v
}

// A huffman is one code table. define with the same bytes as before costs a comparison: the images of a set mostly share tables.
type huffman struct {
	look    [1 << lookBits]entry
	code    [1 << lookBits]uint16 // length<<8 | symbol for every code prefix; 0 where the code is longer or invalid
	max     [17]int32             // largest code of each length, -1 for none
	offset  [17]int32             // symbol's place minus code, of each length
	symbols [256]uint8
	defined bool
	source  []byte // what the table was made from
}

// define makes the table from its 16 counts and its symbols (T.81, annex C).
func (h *huffman) define(src []byte) error {
	if bytes.Equal(h.source, src) {
		h.defined = true
		return nil
	}
	h.defined, h.source = false, h.source[:0]
	h.code = [1 << lookBits]uint16{}
	copy(h.symbols[:], src[16:])
	code, place := int32(0), int32(0)
	for length := 1; length <= 16; length++ {
		count := int32(src[length-1])
		if code+count > 1<<length {
			return errors.New("JPEG Huffman table has more codes than fit")
		}
		h.offset[length] = place - code
		h.max[length] = code + count - 1
		if count == 0 {
			h.max[length] = -1
		}
		for ; count > 0; count-- {
			if length <= lookBits {
				first := code << (lookBits - length)
				for i := range int32(1) << (lookBits - length) {
					h.code[first+i] = uint16(length)<<8 | uint16(h.symbols[place])
				}
			}
			code++
			place++
		}
		code <<= 1
	}
	for i, c := range h.code {
		h.look[i] = entryOf(c)
	}
	h.source = append(h.source, src...)
	h.defined = true
	return nil
}

// entryOf works out what code c (of huffman.code) and the value behind it mean.
func entryOf(c uint16) entry {
	if c == 0 {
		return 0
	}
	length, run, size := entry(c>>8), entry(c>>4&15), entry(c&15)
	if size == 0 && run < 15 {
		return length | endOfBlock<<entryMove
	}
	return length + size | (run+1)<<entryMove | (1<<size-1)<<entryMask // sixteen zeros have a value, of no bits
}

// extend gives a number of s bits its sign (T.81, F.2.2.1).
func extend(v int32, s uint32) int32 {
	// The mask is all ones for values of the lower half: they are the negative ones.
	return v + ((v-1<<s>>1)>>31)&(1-1<<s)
}
