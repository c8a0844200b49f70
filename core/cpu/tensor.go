package cpu

import "unsafe"

// buffer is a piece of the arena, needed from step first to step last of the program.
type buffer struct {
	len         int // float32s, a multiple of 16
	first, last int
	off         int
	data        []float32
}

// tensor is an activation or its gradient: [image][channel block][h + 2 halo][w + 2 halo][16 channels]. The halo
// and the lanes behind the last channel hold zeros: who writes an image writes its halo.
type tensor struct {
	images       int
	c, blocks    int
	h, w         int
	halo         int
	row          int // bytes from one row to the next
	block        int // bytes of a channel block
	image        int // bytes of an image
	buf          *buffer
	firstPixel   int  // bytes from a block's start to pixel (0, 0)
	contributors int  // gradients: how many have added to it
	lent         bool // gradients: another node adds to this buffer
}

func newTensor(images, c, h, w, halo int) *tensor {
	t := &tensor{images: images, c: c, blocks: blocksOf(c), h: h, w: w, halo: halo}
	t.row = (w + 2*halo) * pixelBytes
	t.block = (h + 2*halo) * t.row
	t.image = t.blocks * t.block
	t.firstPixel = halo*t.row + halo*pixelBytes
	t.buf = &buffer{len: images * t.image / 4, first: -1}
	return t
}

func blocksOf(c int) int { return (c + lanes - 1) / lanes }

func (t *tensor) base() unsafe.Pointer { return unsafe.Pointer(unsafe.SliceData(t.buf.data)) }

// at points to pixel (0, 0) of a channel block.
func (t *tensor) at(image, block int) unsafe.Pointer {
	return unsafe.Add(t.base(), image*t.image+block*t.block+t.firstPixel)
}

// start points to a channel block's first value, halo included.
func (t *tensor) start(image, block int) unsafe.Pointer {
	return unsafe.Add(t.base(), image*t.image+block*t.block)
}

// pixel points to one pixel.
func (t *tensor) pixel(image, block, y, x int) *vector {
	return vec(t.at(image, block), y*t.row+x*pixelBytes)
}

// zeroHalo clears the border of one block.
func (t *tensor) zeroHalo(image, block int) {
	if t.halo == 0 {
		return
	}
	p := t.start(image, block)
	edge := t.halo * t.row / 4
	clear(unsafe.Slice((*float32)(p), edge))
	clear(unsafe.Slice((*float32)(unsafe.Add(p, t.block-4*edge)), edge))
	side := t.halo * pixelBytes
	for y := range t.h {
		r := unsafe.Add(p, (t.halo+y)*t.row)
		clear(unsafe.Slice((*float32)(r), side/4))
		clear(unsafe.Slice((*float32)(unsafe.Add(r, t.row-side)), side/4))
	}
}

// zero clears one block, halo included.
func (t *tensor) zero(image, block int) {
	clear(unsafe.Slice((*float32)(t.start(image, block)), t.block/4))
}
