package raster

import (
	"math"
	"slices"
)

// resampleBits is the precision of the fixed-point weights: 8 bits of pixel and 2 of head-room are left of 32.
const resampleBits = 32 - 8 - 2

// A Resampler resizes with a triangle filter that widens with the scale when shrinking (antialiased bilinear), in two passes with
// 8-bit pixels between them and fixed-point weights: the arithmetic of Pillow's Image.resize, and so of torchvision on PIL images.
type Resampler struct {
	horizontal, vertical weights
	tmp                  []byte
}

// weights holds, for each output coordinate, the first input coordinate and the weights of those that follow.
type weights struct {
	size   int // weights kept for each output
	first  []int32
	count  []int32
	values []int32
	exact  []float64
}

// compute fills in the outputs from..from+n-1 of in inputs resized to out outputs.
func (w *weights) compute(in, out, from, n int) {
	scale := float64(in) / float64(out)
	filter := max(scale, 1)
	narrow := 1 / filter
	w.size = int(math.Ceil(filter))*2 + 1
	w.first = slices.Grow(w.first[:0], n)[:n]
	w.count = slices.Grow(w.count[:0], n)[:n]
	w.values = slices.Grow(w.values[:0], n*w.size)[:n*w.size]
	w.exact = slices.Grow(w.exact[:0], w.size)[:w.size]
	for i := range n {
		centre := float64((float64(from+i) + 0.5) * scale)
		lo := max(0, int(centre-filter+0.5))
		hi := min(in, int(centre+filter+0.5))
		sum := 0.0
		for j := lo; j < hi; j++ {
			v := max(0, 1-math.Abs(float64((float64(j)-centre+0.5)*narrow)))
			w.exact[j-lo] = v
			sum += v
		}
		norm := 1 / sum
		for j := range hi - lo {
			w.values[i*w.size+j] = int32(float64(float64(w.exact[j]*norm)*(1<<resampleBits)) + 0.5)
		}
		w.first[i], w.count[i] = int32(lo), int32(hi-lo)
	}
}

// Resample resizes the box of src to w x h pixels and writes the given window of the result to dst. What lies outside the box does
// not reach the result.
func (r *Resampler) Resample(dst, src *Image, box Rect, w, h int, window Rect) {
	r.horizontal.compute(box.W, w, window.X, window.W)
	r.vertical.compute(box.H, h, window.Y, window.H)
	// Rows of the box that the window needs.
	lo := int(r.vertical.first[0])
	last := window.H - 1
	hi := int(r.vertical.first[last] + r.vertical.count[last])
	stride := 3 * window.W
	r.tmp = slices.Grow(r.tmp[:0], (hi-lo)*stride)[:(hi-lo)*stride]
	for y := lo; y < hi; y++ {
		start := 3 * ((box.Y+y)*src.W + box.X)
		r.horizontal.row(r.tmp[(y-lo)*stride:(y-lo+1)*stride], src.Pix[start:start+3*box.W])
	}
	dst.Resize(window.W, window.H)
	for y := range window.H {
		v := &r.vertical
		k := v.values[y*v.size : y*v.size+int(v.count[y])]
		column(dst.Pix[y*stride:(y+1)*stride], r.tmp[(int(v.first[y])-lo)*stride:], stride, k)
	}
}

// row resizes one row of RGB pixels.
func (w *weights) row(dst, src []byte) {
	for i := range w.first {
		k := w.values[i*w.size : i*w.size+int(w.count[i])]
		p := src[3*int(w.first[i]):]
		p = p[:3*len(k)]
		var r, g, b int32 = 1 << (resampleBits - 1), 1 << (resampleBits - 1), 1 << (resampleBits - 1)
		for j, v := range k {
			q := p[3*j : 3*j+3 : 3*j+3]
			r += v * int32(q[0])
			g += v * int32(q[1])
			b += v * int32(q[2])
		}
		o := dst[3*i : 3*i+3 : 3*i+3]
		o[0], o[1], o[2] = Clip8(r>>resampleBits), Clip8(g>>resampleBits), Clip8(b>>resampleBits)
	}
}

// column forms one output row as the weighted sum of len(k) input rows.
func column(dst, src []byte, stride int, k []int32) {
	for x := range dst {
		sum := int32(1 << (resampleBits - 1))
		at := x
		for _, v := range k {
			sum += v * int32(src[at])
			at += stride
		}
		dst[x] = Clip8(sum >> resampleBits)
	}
}

func Clip8(v int32) byte { return byte(min(max(v, 0), 255)) }
