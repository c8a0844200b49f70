package raster

import (
	"fmt"

	"github.com/lockstep-ml/lockstep/internal/simd"
)

// A Resampler resizes with a triangle filter that widens with the scale when shrinking (antialiased bilinear), in two passes with
// 8-bit pixels between them and fixed-point weights: the arithmetic of Pillow's Image.resize, and so of torchvision on PIL images.
// It keeps scratch memory, so each goroutine needs its own. The zero value is ready.
type Resampler struct {
	horizontal, vertical weights
	tmp                  []byte
	edge                 [4][]byte // rows at the image's end, with what a kernel may read behind them
	family               kernelFamily
}

// kernelFamily is the family to use; its zero value is the process's choice, others are for tests.
type kernelFamily struct {
	forced bool
	simd.Family
}

func (k kernelFamily) get() simd.Family {
	if k.forced {
		return k.Family
	}
	return chosen()
}

// Resample resizes the box of src to w x h pixels and writes the given window of the result to dst. What lies outside the box does
// not reach the result. The box may reach out of src, as one of a larger image of which src is a part, if what Support says the window needs
// of it lies inside; anything else is a fault of the caller and panics.
func (r *Resampler) Resample(dst, src *Image, box Rect, w, h int, window Rect) {
	r.resample(dst, src, box.X, box.Y, whole(box.W, w), whole(box.H, h), window)
}

// resample makes a window; input (0, 0) of the spans is the pixel (x, y) of src.
func (r *Resampler) resample(dst, src *Image, x, y int, across, down span, window Rect) {
	left, right := across.support(window.X, window.W)
	top, bottom := down.support(window.Y, window.H)
	if x+left < 0 || y+top < 0 || x+right > src.W || y+bottom > src.H {
		panic(fmt.Sprintf("raster: columns %d..%d and rows %d..%d are wanted of an image of %d x %d", x+left, x+right, y+top, y+bottom, src.W, src.H))
	}
	r.horizontal.compute(across, window.X, window.W)
	r.vertical.compute(down, window.Y, window.H)
	// Input 0 is now the first that the window needs: nothing before it may be pointed at.
	for i := range r.horizontal.first {
		r.horizontal.first[i] -= int32(left)
	}
	for i := range r.vertical.first {
		r.vertical.first[i] -= int32(top)
	}
	dst.Resize(window.W, window.H)
	needed := src.from(x+left, y+top)
	if f := r.family.get(); f != simd.Generic {
		r.vector(f, dst, needed, bottom-top)
	} else {
		r.plain(dst, needed, bottom-top)
	}
}

// plain is resample in Go, of the first rows of src.
func (r *Resampler) plain(dst *Image, src view, rows int) {
	stride := 3 * dst.W
	r.tmp = resize(r.tmp, rows*stride)
	for y := range rows {
		r.horizontal.row(r.tmp[y*stride:(y+1)*stride], src.row(y))
	}
	for y := range dst.H {
		v := &r.vertical
		k := v.values[y*v.size : y*v.size+int(v.count[y])]
		column(dst.Pix[y*stride:(y+1)*stride], r.tmp[int(v.first[y])*stride:], stride, k)
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

// Clip8 is the nearest value of a byte.
func Clip8(v int32) byte { return byte(min(max(v, 0), 255)) }
