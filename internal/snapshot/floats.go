package snapshot

import (
	"encoding/binary"
	"fmt"
	"hash"
	"math"
	"unsafe"
)

// littleEndian says that this machine's floats already lie in memory as they go on the wire. It is a variable so that a test can
// drive the portable path too.
var littleEndian = binary.NativeEndian.Uint16([]byte{1, 0}) == 1

// scratchBytes is the portable path's buffer: small enough for a first-level cache.
const scratchBytes = 16 << 10

// view gives the memory of x as bytes, without a copy. It is meaningful on little-endian machines only.
func view(x []float32) []byte {
	if len(x) == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(x))), 4*len(x))
}

// LittleEndian gives the little-endian bytes of x, as they lie in a file or on the wire. On a little-endian machine it is x's own
// memory: read it, do not write to it, and be done before x changes.
func LittleEndian(x []float32) []byte {
	if littleEndian {
		return view(x)
	}
	b := make([]byte, 4*len(x))
	encode(b, x)
	return b
}

// FromLittleEndian fills dst from its little-endian bytes. It panics unless src holds exactly 4 bytes for each element of dst.
func FromLittleEndian(dst []float32, src []byte) {
	if len(src) != 4*len(dst) {
		panic(fmt.Sprintf("snapshot: %d bytes for %d floats, want %d", len(src), len(dst), 4*len(dst)))
	}
	decode(dst, src)
}

// encode writes x as little-endian bytes into dst, which is 4*len(x) long.
func encode(dst []byte, x []float32) {
	for i, v := range x {
		binary.LittleEndian.PutUint32(dst[4*i:], math.Float32bits(v))
	}
}

// decode fills dst from its little-endian bytes in src, which is 4*len(dst) long.
func decode(dst []float32, src []byte) {
	if littleEndian {
		copy(view(dst), src)
		return
	}
	for i := range dst {
		dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(src[4*i:]))
	}
}

// writeFloats feeds x to h as little-endian bytes.
func writeFloats(h hash.Hash, x []float32) {
	if littleEndian {
		h.Write(view(x))
		return
	}
	var scratch [scratchBytes]byte
	for len(x) > 0 {
		n := min(len(x), scratchBytes/4)
		encode(scratch[:4*n], x[:n])
		h.Write(scratch[:4*n])
		x = x[n:]
	}
}
