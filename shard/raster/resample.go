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

// A Resizing asks for a window of what a box of an image becomes at another size. What lies outside the box does not reach it.
type Resizing struct {
	Box    Rect // in pixels of the image
	W, H   int  // what the box becomes
	Window Rect // the part of that which is wanted
	// Reduction says that the pixels at hand are those of the image at 1/Reduction of its size, rounded up: one for each square of
	// Reduction x Reduction; a power of two. 0 means 1.
	Reduction int
}

// spans are the two directions, of which input 0 is pixel (x, y) of the image, or of its reduction.
func (z Resizing) spans() (across, down span, x, y int) {
	k := max(1, z.Reduction)
	across, x = reduced(z.Box.X, z.Box.W, k, z.W)
	down, y = reduced(z.Box.Y, z.Box.H, k, z.H)
	return across, down, x, y
}

// Needs is the part of the image, or of its reduction, that the window is made of.
func (z Resizing) Needs() Rect {
	across, down, x, y := z.spans()
	left, right := across.support(z.Window.X, z.Window.W)
	top, bottom := down.support(z.Window.Y, z.Window.H)
	return Box(x+left, y+top, right-left, bottom-top)
}

// Resample writes the window that z asks for to dst. Pixel (0, 0) of src is (x, y) of the image, or of its reduction; what z needs must
// lie inside, else the caller is at fault and it panics.
func (r *Resampler) Resample(dst, src *Image, z Resizing, x, y int) {
	n := z.Needs()
	if n.X < x || n.Y < y || n.X+n.W > x+src.W || n.Y+n.H > y+src.H {
		panic(fmt.Sprintf("raster: %d x %d pixels at (%d, %d) are wanted, and %d x %d at (%d, %d) are here", n.W, n.H, n.X, n.Y, src.W, src.H, x, y))
	}
	across, down, x0, y0 := z.spans()
	r.horizontal.compute(across, z.Window.X, z.Window.W, n.X-x0)
	r.vertical.compute(down, z.Window.Y, z.Window.H, n.Y-y0)
	dst.Resize(z.Window.W, z.Window.H)
	from := src.from(n.X-x, n.Y-y)
	if f := r.family.get(); f != simd.Generic {
		r.vector(f, dst, from, n.H)
	} else {
		r.plain(dst, from, n.H)
	}
}

// plain is Resample in Go, of the first rows of src.
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
