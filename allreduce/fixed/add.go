package fixed

import (
	"encoding/binary"
	"fmt"
)

// Add sets out to a plus b: integers of w bits each, in as many bytes. Out may be a or b, but not overlap them otherwise.
//
// Integers are added eight bytes at a time. The highest bit of each is left out of the addition, so that no carry reaches the
// next integer, and put back by exclusive or.
func Add(out, a, b []byte, w Wire) {
	n := len(out)
	if len(a) != n || len(b) != n || n%w.Bytes() != 0 {
		panic(fmt.Sprintf("fixed: sums of %v bits in %d bytes were expected, not of %d and %d bytes", w, n, len(a), len(b)))
	}
	high := uint64(1<<63 | 1<<31)
	if w == Wire16 {
		high |= 1<<47 | 1<<15
	}
	le := binary.LittleEndian
	for len(out) >= 32 {
		o, p, q := out[:32:32], a[:32:32], b[:32:32]
		le.PutUint64(o[0:], addLanes(le.Uint64(p[0:]), le.Uint64(q[0:]), high))
		le.PutUint64(o[8:], addLanes(le.Uint64(p[8:]), le.Uint64(q[8:]), high))
		le.PutUint64(o[16:], addLanes(le.Uint64(p[16:]), le.Uint64(q[16:]), high))
		le.PutUint64(o[24:], addLanes(le.Uint64(p[24:]), le.Uint64(q[24:]), high))
		out, a, b = out[32:], a[32:], b[32:]
	}
	var x, y [32]byte
	copy(x[:], a)
	copy(y[:], b)
	for i := 0; i < len(out); i += 8 {
		le.PutUint64(x[i:], addLanes(le.Uint64(x[i:]), le.Uint64(y[i:]), high))
	}
	copy(out, x[:])
}

// addLanes adds the integers of x and y whose highest bits are in high.
func addLanes(x, y, high uint64) uint64 { return (x&^high + y&^high) ^ (x^y)&high }
