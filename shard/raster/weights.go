package raster

import (
	"math"
	"slices"
)

// resampleBits is the precision of the fixed-point weights: 8 bits of pixel and 2 of head-room are left of 32.
const resampleBits = 32 - 8 - 2

// A span is what one direction of a resize takes in, in pixels: those from 0 to in, of which out outputs cover size from start on.
// Whole boxes start at 0 and have size in; a box that was reduced when it was decoded seldom begins at a whole pixel.
type span struct {
	in, out     int
	start, size float64
}

// reduced is the span of n pixels from at on, of which k at a time have become one, and the first of those.
func reduced(at, n, k, out int) (s span, first int) {
	first = at / k
	last := (at + n + k - 1) / k
	return span{in: last - first, out: out, start: float64(at-first*k) / float64(k), size: float64(n) / float64(k)}, first
}

// A lens is where a span's outputs look: how many inputs apart, and how far to either side.
type lens struct {
	span
	scale, filter float64
}

func (s span) lens() lens {
	scale := s.size / float64(s.out)
	return lens{s, scale, max(scale, 1)}
}

// centre is the middle of the inputs that output i is made of.
func (l *lens) centre(i int) float64 { return l.start + float64((float64(i)+0.5)*l.scale) }

// window gives those inputs, lo..hi-1.
func (l *lens) window(centre float64) (lo, hi int) {
	return max(0, int(centre-l.filter+0.5)), min(l.in, int(centre+l.filter+0.5))
}

// support gives the inputs lo..hi-1 that outputs from..from+n-1 are made of.
func (s span) support(from, n int) (lo, hi int) {
	l := s.lens()
	lo, _ = l.window(l.centre(from))
	_, hi = l.window(l.centre(from + n - 1))
	return lo, hi
}

// weights holds, for each output coordinate, the first input coordinate and the weights of those that follow.
type weights struct {
	taps   int // the largest count
	size   int // weights kept for each output, a multiple of 4: those beyond its count are 0
	first  []int32
	count  []int32
	values []int32
	exact  []float64
	packed []uint32 // of pack
	at     []int32  // of pack
}

// compute fills in the outputs from..from+n-1. Inputs are counted from skip on.
func (w *weights) compute(s span, from, n, skip int) {
	l := s.lens()
	w.first, w.count = resize(w.first, n), resize(w.count, n)
	w.taps = 0
	for i := range n {
		lo, hi := l.window(l.centre(from + i))
		w.first[i], w.count[i] = int32(lo-skip), int32(hi-lo)
		w.taps = max(w.taps, hi-lo)
	}
	w.size = (w.taps + 3) &^ 3
	w.values, w.exact = resize(w.values, n*w.size), resize(w.exact, w.taps)
	narrow := 1 / l.filter
	for i := range n {
		w.weigh(w.values[i*w.size:(i+1)*w.size], w.exact[:w.count[i]], int(w.first[i])+skip, l.centre(from+i), narrow)
	}
}

// weigh makes the weights of one output, of the inputs from first on; in this order of rounding they are Pillow's.
func (w *weights) weigh(values []int32, exact []float64, first int, centre, narrow float64) {
	sum := 0.0
	for j := range exact {
		v := 1 - math.Abs(float64((float64(first+j)-centre+0.5)*narrow))
		if !(v > 0) {
			v = 0
		}
		exact[j] = v
		sum += v
	}
	norm := 1 / sum
	for j, v := range exact {
		values[j] = int32(float64(float64(v*norm)*(1<<resampleBits)) + 0.5)
	}
	clear(values[len(exact):])
}

// resize gives n elements of unknown content, in the memory of s when it is large enough.
func resize[T any](s []T, n int) []T { return slices.Grow(s[:0], n)[:n] }

// lowBits splits a weight of 23 bits into two that 16-bit multiplication can take: the upper 15, and the lower 8.
const lowBits = 8

// pack lays the weights out for vector kernels: for every two taps a word of their upper and one of their lower parts; and fills in
// where the taps of an output begin, in bytes. Outputs are added until there is a multiple of four: they weigh nothing.
func (w *weights) pack() {
	n := (len(w.first) + 3) &^ 3
	w.packed, w.at = resize(w.packed, n*w.size), resize(w.at, n)
	for i := 0; i+1 < len(w.values); i += 2 {
		a, b := uint32(w.values[i]), uint32(w.values[i+1])
		w.packed[i] = a>>lowBits | b>>lowBits<<16
		w.packed[i+1] = a&(1<<lowBits-1) | b&(1<<lowBits-1)<<16
	}
	clear(w.packed[len(w.values):])
	for i, first := range w.first {
		w.at[i] = 3 * first
	}
	for i := len(w.first); i < n; i++ {
		w.at[i] = w.at[len(w.first)-1]
	}
}
