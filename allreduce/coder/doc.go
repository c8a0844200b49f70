// Package coder makes 16-bit block integers shorter for a slow link, and gives
// them back to the bit.
//
// Gradients on the ring's grid are bell-shaped: the low byte of a value is noise
// that nothing shortens, and the high byte is worth 2.5 to 5.5 bits. So values are
// cut into their bytes; the high ones are coded by Huffman's method, the low ones stay.
// That comes within 1 % of the values' entropy, and is far faster than a
// general compressor, which finds nothing in them.
//
// A Coder holds scratch memory and is used by one goroutine at a time. What it
// makes decodes on its own: no message refers to another.
//
//	var c coder.Coder
//	n, ok := c.Encode(buf, message.Payload) // not ok: send it as it is
//	err := c.Decode(values, [][]byte{buf[:n]})
//
// The coded form is a row of blocks, of BlockBytes bytes of values each, the last
// of what is left. How many there are follows from the length of the values, which
// is carried elsewhere. A block begins with its kind:
//
//	0  plain: the values' bytes as they are
//	1  one high byte: that byte, then the low bytes
//	2  coded: 2 bytes little-endian, the length of what follows; the high bytes
//	   as huff0 of Zstandard writes them, a table and four streams; the low bytes
package coder
