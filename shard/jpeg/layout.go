package jpeg

import (
	"fmt"
	"math/bits"
	"slices"

	"github.com/lockstep-ml/lockstep/shard/raster"
)

// geometry is what of the image is wanted, in pixels of the scaled image.
type geometry struct {
	outW, outH int         // of the whole scaled image
	region     raster.Rect // of it
	nextRow    int         // of it, to be written
	smallest   int         // samples that a block of the finest component has on a side: 8, 4, 2 or 1
	mcuRows    int         // pixel rows of an MCU
	lag        int         // rows at its end that need samples of the next row of MCUs
}

// A layer is what decoding keeps of a component: the samples of two rows of MCUs, and which of all are wanted.
type layer struct {
	size           int // samples of a block's side after the inverse transform
	queue          int // the queue for that size
	hs, vs         int // pixels that a sample covers
	cols, rows     int // samples of the whole component
	method         upsampling
	x0, x1, y0, y1 int // samples that are wanted
	stride, ring   int // of the strip: sample row y lies in row y % ring
	pix            []byte
}

func (l *layer) row(y int) []byte {
	y %= l.ring
	return l.pix[y*l.stride : (y+1)*l.stride]
}

// wants tells whether anything of block row by is.
func (l *layer) wants(by int) bool { return by*l.size < l.y1 && (by+1)*l.size > l.y0 }

// An upsampling is how a component is brought to full size.
type upsampling uint8

const (
	none      upsampling = iota
	fancyH               // halved width: 3/4 the nearer and 1/4 the further sample
	fancyV               // halved height, likewise
	fancyHV              // both
	replicate            // anything else
)

// plan lays out what view v needs.
func (d *Decoder) plan(v View) error {
	scale := max(v.Scale, 1)
	if scale > 8 || scale&(scale-1) != 0 {
		return fmt.Errorf("JPEG cannot be decoded at 1/%d of its size, only at 1/2, 1/4 and 1/8", scale)
	}
	d.smallest, d.lag = 8/scale, 0
	d.outW, d.outH = ceil(d.w, scale), ceil(d.h, scale)
	d.mcuRows = d.maxV * d.smallest
	d.region = v.Region
	if d.region == (raster.Rect{}) {
		d.region = raster.Box(0, 0, d.outW, d.outH)
	}
	if r := d.region; r.X < 0 || r.Y < 0 || r.W < 1 || r.H < 1 || r.W > d.outW-r.X || r.H > d.outH-r.Y {
		return fmt.Errorf("region of %d x %d pixels at (%d, %d) is not inside the image of %d x %d", r.W, r.H, r.X, r.Y, d.outW, d.outH)
	}
	d.nextRow = d.region.Y
	for i := range d.n {
		if err := d.planLayer(&d.comp[i]); err != nil {
			return err
		}
		c := &d.comp[i]
		n := c.stride * c.ring
		d.strips[i] = slices.Grow(d.strips[i][:0], n)[:n]
		c.pix = d.strips[i]
	}
	return nil
}

// planLayer chooses transform and upsampling as libjpeg does by default: a subsampled component is transformed to more samples a
// block, as far as that goes for both directions, and the rest is upsampled.
func (d *Decoder) planLayer(c *component) error {
	h, v := d.maxH*d.smallest, d.maxV*d.smallest // samples of an MCU at full size
	for c.size = d.smallest; c.size < 8 && h%(2*c.h*c.size) == 0 && v%(2*c.v*c.size) == 0; {
		c.size *= 2
	}
	c.queue = min(bits.LeadingZeros8(uint8(c.size))-4, queue2)
	if h%(c.h*c.size) != 0 || v%(c.v*c.size) != 0 {
		return oddSampling
	}
	c.hs, c.vs = h/(c.h*c.size), v/(c.v*c.size)
	c.cols, c.rows = ceil(d.w*c.h*c.size, 8*d.maxH), ceil(d.h*c.v*c.size, 8*d.maxV)
	c.method = replicate
	switch {
	case c.hs == 1 && c.vs == 1:
		c.method = none
	case d.smallest == 1:
	case c.hs == 2 && c.vs == 1 && c.cols > 2:
		c.method = fancyH
	case c.hs == 1 && c.vs == 2:
		c.method = fancyV
	case c.hs == 2 && c.vs == 2 && c.cols > 2:
		c.method = fancyHV
	}
	c.stride, c.ring = c.rowBlocks*c.size, 2*c.v*c.size
	r := d.region
	c.x0, c.x1 = r.X/c.hs, (r.X+r.W-1)/c.hs+1
	c.y0, c.y1 = r.Y/c.vs, (r.Y+r.H-1)/c.vs+1
	if c.method == fancyH || c.method == fancyHV {
		c.x0, c.x1 = max(c.x0-1, 0), min(c.x1+1, c.cols)
	}
	if c.method == fancyV || c.method == fancyHV {
		c.y0, c.y1 = max(c.y0-1, 0), min(c.y1+1, c.rows)
		d.lag = 1
	}
	return nil
}
