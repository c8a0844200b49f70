package jpeg

import (
	"bytes"
	"encoding/binary"
	"errors"
)

// zigzag gives the natural place (8*row + column) of the k-th coefficient (T.81, figure 5).
var zigzag = [64]uint8{
	0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7, 14, 21, 28,
	35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
}

// lookBits: codes up to this length, nearly all of them, are decoded by one look-up in a table that stays in the first-level cache.
const lookBits = 9

// A huffman is one code table. define with the same bytes as before costs a comparison: the images of a set mostly share tables.
type huffman struct {
	defined bool
	source  []byte                // what the table was made from
	look    [1 << lookBits]uint16 // length<<8 | symbol for every code prefix; 0 where the code is longer or invalid
	max     [17]int32             // largest code of each length, -1 for none
	offset  [17]int32             // symbol's place minus code, of each length
	symbols [256]uint8
}

// define makes the table from its 16 counts and its symbols (T.81, annex C).
func (h *huffman) define(src []byte) error {
	if bytes.Equal(h.source, src) {
		h.defined = true
		return nil
	}
	h.defined, h.source = false, h.source[:0]
	h.look = [1 << lookBits]uint16{}
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
					h.look[first+i] = uint16(length)<<8 | uint16(h.symbols[place])
				}
			}
			code++
			place++
		}
		code <<= 1
	}
	h.source = append(h.source, src...)
	h.defined = true
	return nil
}

// A bitReader reads the entropy-coded bytes of a scan, without the stuffed zeros, up to the next marker. Behind that it reads
// zeros and counts them, so that decoding needs no check at every bit: overrun tells afterwards.
type bitReader struct {
	b      []byte
	at     int
	acc    uint64 // the next bits, from the top; below the n valid ones lie bits of the bytes that follow, or zeros
	n      int
	padded int // zeros put behind the end
}

// fill brings the valid bits to 56 or more.
func (r *bitReader) fill() {
	if r.at+8 <= len(r.b) {
		v := binary.BigEndian.Uint64(r.b[r.at:])
		const ones, tops = 0x0101010101010101, 0x8080808080808080
		if x := ^v; (x-ones)&^x&tops == 0 { // no byte is 0xff
			r.acc |= v >> r.n
			r.at += (63 - r.n) >> 3
			r.n |= 56
			return
		}
	}
	for r.n < 56 {
		var c byte
		switch {
		case r.at < len(r.b) && r.b[r.at] != 0xff:
			c = r.b[r.at]
			r.at++
		case r.at+1 < len(r.b) && r.b[r.at+1] == 0:
			c = 0xff
			r.at += 2
		default:
			r.padded += 8
		}
		r.acc |= uint64(c) << (56 - r.n)
		r.n += 8
	}
}

// overrun tells whether bits behind the end have been used.
func (r *bitReader) overrun() bool { return r.padded > r.n }

// symbol decodes the next symbol, -1 for an invalid code. It needs 16 bits.
func (r *bitReader) symbol(h *huffman) int {
	if e := h.look[r.acc>>(64-lookBits)]; e != 0 {
		l := int(e >> 8)
		r.acc <<= l
		r.n -= l
		return int(e & 0xff)
	}
	for l := lookBits + 1; l <= 16; l++ {
		code := int32(r.acc >> (64 - l))
		if code <= h.max[l] {
			r.acc <<= l
			r.n -= l
			return int(h.symbols[(h.offset[l]+code)&0xff])
		}
	}
	return -1
}

// extend reads an s-bit number in the sign convention of T.81, F.2.2.1. It needs s bits, at most 15.
func (r *bitReader) extend(s uint) int32 {
	v := int32(r.acc >> 32 >> (32 - s))
	r.acc <<= s
	r.n -= int(s)
	if v < 1<<s>>1 {
		v -= 1<<s - 1
	}
	return v
}
