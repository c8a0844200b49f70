package cpu

import "unsafe"

// buffer is a piece of the arena, needed from step first to step last of the program.
type buffer struct {
	len         int // float32s, a multiple of 16
	first, last int
	off         int
	data        []float32
}

// tensor is an activation or its gradient, of float32 or bf16: [image][channel block][h + 2 halo][w + 2 halo][16 channels]. The halo
// and the lanes behind the last channel hold zeros: who writes an image writes its halo.
type tensor struct {
	images       int
	c, blocks    int
	h, w         int
	halo         int
	px           int // bytes of a pixel: pixelBytes, or bfPixelBytes
	row          int // bytes from one row to the next
	block        int // bytes of a channel block
	image        int // bytes of an image
	buf          *buffer
	firstPixel   int  // bytes from a block's start to pixel (0, 0)
	contributors int  // gradients: how many have added to it
	lent         bool // gradients: another node adds to this buffer
	fleeting     bool // lives within one step: places are for the images in work, see slots
}

// slots says where the images in work have their place in tensors that live within one step only.
type slots struct {
	from   []int // by image: the first image of its group
	group  int   // images of the largest group
	number int   // places in all; 0 if nothing can be fleeting
}

// newSlots lays out places for every thread's group, and for as many images as a step may treat part by part; see step.run.
func newSlots(groups []span, batch, threads int) slots {
	var s slots
	for _, g := range groups {
		s.group = max(s.group, g.n)
	}
	if byGroup(batch, batch, len(groups), threads) {
		s.number = groupsPerThread * threads * s.group
	}
	return s
}

// allocate makes what grows with the batch: it is no part of the plan.
func (s *slots) allocate(groups []span, batch int) {
	s.from = make([]int, batch)
	for _, g := range groups {
		for i := range g.n {
			s.from[g.from+i] = g.from
		}
	}
}

// slot is where thread finds an image of a tensor.
func (e *Engine) slot(t *tensor, image, thread int) int {
	if !t.fleeting || !e.byGroup {
		return image
	}
	return thread*e.slots.group + image - e.slots.from[image]
}

func newTensor(images, c, h, w, halo, px int) *tensor {
	t := &tensor{images: images, c: c, blocks: blocksOf(c), h: h, w: w, halo: halo, px: px}
	t.row = (w + 2*halo) * px
	t.block = (h + 2*halo) * t.row
	t.image = t.blocks * t.block
	t.firstPixel = halo*t.row + halo*px
	t.buf = &buffer{len: (images*t.image/4 + arenaAlign - 1) / arenaAlign * arenaAlign, first: -1}
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

// zeroHalo clears the border of one block. It does so vector by vector at the sides: calls of clear for 64 bytes add up to a tenth of
// a small image's convolution.
func (t *tensor) zeroHalo(image, block int) {
	if t.halo == 0 {
		return
	}
	p := t.start(image, block)
	edge := t.halo*t.row + t.halo*t.px // the rows above, and the first row's left side
	clear(unsafe.Slice((*float32)(p), edge/4))
	clear(unsafe.Slice((*float32)(unsafe.Add(p, t.block-edge)), edge/4))
	r := unsafe.Add(p, edge+t.w*t.px)
	for range t.h - 1 { // a row's right side and the next one's left side are neighbours
		for at := 0; at < 2*t.halo*t.px; at += pixelBytes { // whole vectors at either precision
			*vec(r, at) = vector{}
		}
		r = unsafe.Add(r, t.row)
	}
}

// zero clears one block, halo included.
func (t *tensor) zero(image, block int) {
	clear(unsafe.Slice((*float32)(t.start(image, block)), t.block/4))
}
