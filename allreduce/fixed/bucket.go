package fixed

import (
	"fmt"
	"unsafe"
)

// Bucket is a bucket as one worker holds it once its exponents are agreed. Methods only read
// the Bucket, so they may run at the same time on different values.
type Bucket struct {
	Grid Grid
	// Codes has one byte for each block: the maxima over all replicas of the run, none 255.
	Codes []byte
	// Replicas are the values of the hosted ones, in any order; none is allowed.
	Replicas [][]float32
	// Dst takes what is decoded. It has the bucket's length and may be one of the Replicas.
	Dst []float32
}

// Sum sets out to in plus the hosted replicas' integers of the values lo..hi, which may be of any number of blocks. Both hold hi-lo
// integers of the grid's width and may be the same memory, but not overlap otherwise. A nil in stands for zeros.
func (b *Bucket) Sum(out, in []byte, lo, hi int) { b.run(out, in, false, lo, hi) }

// SumDecode is Sum and then Decode of the sums. A nil out leaves them out: only Dst is written.
func (b *Bucket) SumDecode(out, in []byte, lo, hi int) { b.run(out, in, true, lo, hi) }

// Decode sets Dst[lo:hi] to what in, hi-lo integers of the grid's width, is worth: float32(in * 2^-k), divided by the number of
// replicas before rounding if the grid is of means.
func (b *Bucket) Decode(in []byte, lo, hi int) {
	none := Bucket{Grid: b.Grid, Codes: b.Codes, Dst: b.Dst}
	none.run(nil, in, true, lo, hi)
}

// DecodeCopy is Decode that also sets out to in, in one pass.
func (b *Bucket) DecodeCopy(out, in []byte, lo, hi int) {
	none := Bucket{Grid: b.Grid, Codes: b.Codes, Dst: b.Dst}
	none.run(out, in, true, lo, hi)
}

// run cuts lo..hi at the blocks' borders.
func (b *Bucket) run(out, in []byte, decode bool, lo, hi int) {
	b.check(out, in, lo, hi)
	w, most, stream := b.Grid.wire.Bytes(), b.perCall(), decode && b.streams()
	// Filled in field by field: a copy of it made at once would be read back in wider words than it was written in, and wait
	// for all that the block before wrote to memory.
	p := piece{replicas: b.Replicas}
	for first := lo; lo < hi; {
		end := min(hi, lo+most, (lo/BlockSize+1)*BlockSize)
		whole := lo%streamAlign == 0
		if stream && !whole {
			end = min(end, lo+streamAlign-lo%streamAlign)
		}
		from, to := (lo-first)*w, (end-first)*w
		p.n, p.at, p.stream = end-lo, lo, stream && whole
		p.out, p.in = cut(out, from, to), cut(in, from, to)
		if decode {
			p.dst = b.Dst[lo:end]
		}
		b.Grid.reduce(&p, b.Codes[lo/BlockSize])
		lo = end
	}
	if stream {
		fence()
	}
}

const (
	// streamAlign is the alignment, in values, of what is written past the caches: the widest vector.
	streamAlign = 16
	// streamFrom is the length of a bucket, in values, from which Dst is written past the caches. That saves reading the lines that are
	// about to be overwritten, half as much again as the result; but who reads a result that the second-level cache could hold has to
	// fetch it from memory then.
	streamFrom = 1 << 19
)

// streams says whether Dst is written past the caches.
func (b *Bucket) streams() bool {
	return len(b.Dst) >= b.Grid.streamFrom && uintptr(unsafe.Pointer(unsafe.SliceData(b.Dst)))%(4*streamAlign) == 0
}

// perCall is how many values a kernel takes at once: fewer than a block where many replicas are hosted, since the scheduler
// cannot have the core before a call into assembly ends. 2^16 values take some 50 microseconds from memory.
func (b *Bucket) perCall() int {
	return min(BlockSize, max(64, (1<<16)/max(1, len(b.Replicas))&^63))
}

// cut returns the part from..to of s, nil of nil.
func cut(s []byte, from, to int) []byte {
	if s == nil {
		return nil
	}
	return s[from:to:to]
}

// check finds what would have a kernel reach outside its memory.
func (b *Bucket) check(out, in []byte, lo, hi int) {
	n := hi - lo
	for _, s := range [][]byte{out, in} {
		if s != nil && len(s) != n*b.Grid.wire.Bytes() {
			panic(fmt.Sprintf("fixed: %d values of %v bits were expected, not %d bytes", n, b.Grid.wire, len(s)))
		}
	}
	for _, v := range b.Replicas {
		_ = v[lo:hi]
	}
}

// reduce treats one piece of a block with the given code.
func (g *Grid) reduce(p *piece, code byte) {
	if code != codeZero {
		p.scale.set(g, code)
		reduce(g.family, p)
		return
	}
	if p.in == nil {
		clear(p.out)
	} else {
		copy(p.out, p.in)
	}
	clear(p.dst)
}
