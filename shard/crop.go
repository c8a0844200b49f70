package shard

import (
	"fmt"
	"math"

	"github.com/lockstep-ml/lockstep/shard/raster"
)

// A Crop is what becomes of an image: the part Box is resized to W x H, and Window is cut out of that; what of Window lies outside of it
// is black. It is a pure function of Transform, the image's size, the view and the Draw, so that only what it needs has to be decoded.
type Crop struct {
	Box       raster.Rect
	W, H      int
	Window    raster.Rect
	Flip      bool       // mirror Window, left to right
	Shift     [3]float32 // added to red, green, blue, of values in 0..1
	Reduction int        // decode at 1/Reduction: 1, 2, 4 or 8
}

// Crop says what becomes of an image of w x h pixels. The numbers are drawn from d in an order that depends on Transform and size alone.
// view is 0..ViewCount()-1.
func (t Transform) Crop(w, h, view int, d Draw) Crop {
	var c Crop
	switch {
	case t.Kind == KindCIFAR:
		c = t.cifar(w, h, &d)
	case !t.Train:
		c = t.evaluation(w, h, view)
	case t.Kind == KindScale:
		c = t.scale(w, h, &d)
	default:
		c = t.resizedCrop(w, h, &d)
	}
	if t.Train && t.Colour == ColourLighting {
		c.Shift = lighting(&d)
	}
	c.Reduction = 1
	if t.Reduce {
		c.Reduction = c.reduction()
	}
	return c
}

// flipped is drawn with probability 1/2.
func flipped(d *Draw) bool { return d.Uint64()>>63 == 1 }

func (t Transform) cifar(w, h int, d *Draw) Crop {
	n := t.Resolution
	c := Crop{Box: raster.Box(0, 0, w, h), W: n, H: n, Window: raster.Box(0, 0, n, n)}
	if t.Train {
		c.Window.Y = d.IntN(2*t.Pad+1) - t.Pad
		c.Window.X = d.IntN(2*t.Pad+1) - t.Pad
		c.Flip = flipped(d)
	}
	return c
}

// side scales a length that the paper states for resolution 224, rounding to nearest.
func (t Transform) side(at224 int) int { return (at224*t.Resolution + 112) / 224 }

// scale resizes the shorter side to a random length and crops at random.
func (t Transform) scale(w, h int, d *Draw) Crop {
	n, lo, hi := t.Resolution, t.side(256), t.side(480)
	c := Crop{Box: raster.Box(0, 0, w, h)}
	c.W, c.H = shorterTo(w, h, lo+d.IntN(hi-lo+1))
	y := d.IntN(c.H - n + 1)
	x := d.IntN(c.W - n + 1)
	c.Window, c.Flip = raster.Box(x, y, n, n), flipped(d)
	return c
}

// evaluation is torchvision's Resize(256) and CenterCrop(224), or a view of TenCrop(224): the corners from the upper left to the lower
// right, the centre, then those of the mirror image.
func (t Transform) evaluation(w, h, view int) Crop {
	n := t.Resolution
	c := Crop{Box: raster.Box(0, 0, w, h), Flip: view >= tenViews/2}
	c.W, c.H = shorterTo(w, h, t.side(256))
	right, bottom := c.W-n, c.H-n
	// torchvision rounds half to even here: int(round((h - n) / 2.0)).
	x, y := int(math.RoundToEven(float64(right)/2)), int(math.RoundToEven(float64(bottom)/2))
	if corner := view % (tenViews / 2); t.ViewCount() == tenViews && corner < 4 {
		x, y = corner%2*right, corner/2*bottom
	}
	if c.Flip {
		x = right - x
	}
	c.Window = raster.Box(x, y, n, n)
	return c
}

// Whole is the view of fully convolutional evaluation (the paper's section 4.1 takes 224, 256, 384, 480 and 640): all of an image of w x h
// pixels, the shorter side resized to s. Its result is as large as its Window.
func Whole(w, h, s int) (Crop, error) {
	if s < 1 || s > maxResolution {
		return Crop{}, fmt.Errorf("whole view: shorter side %d, want 1..%d", s, maxResolution)
	}
	c := Crop{Box: raster.Box(0, 0, w, h), Reduction: 1}
	c.W, c.H = shorterTo(w, h, s)
	c.Window = raster.Box(0, 0, c.W, c.H)
	return c, raster.CheckPixels(c.W, c.H)
}

// Values is the number of floats of the crop: 3 * Window.H * Window.W.
func (c Crop) Values() int { return 3 * c.Window.H * c.Window.W }

// shorterTo scales w x h so that the shorter side is s and the other is cut to whole pixels, as torchvision's Resize does.
func shorterTo(w, h, s int) (int, int) {
	if w <= h {
		return s, s * h / w
	}
	return s * w / h, s
}

// resizedCrop draws area and ratio up to ten times until the box fits, as torchvision does, and else falls back to the centre.
func (t Transform) resizedCrop(w, h int, d *Draw) Crop {
	box := centreBox(w, h)
	for range 10 {
		area := float64(w) * float64(h) * (0.08 + float64(0.92*d.Float64()))
		ratio := expSmall(float64((2*d.Float64() - 1) * logFourThirds))
		bw, bh := int(math.RoundToEven(math.Sqrt(area*ratio))), int(math.RoundToEven(math.Sqrt(area/ratio)))
		if bw > 0 && bh > 0 && bw <= w && bh <= h {
			y := d.IntN(h - bh + 1)
			x := d.IntN(w - bw + 1)
			box = raster.Box(x, y, bw, bh)
			break
		}
	}
	n := t.Resolution
	return Crop{Box: box, W: n, H: n, Window: raster.Box(0, 0, n, n), Flip: flipped(d)}
}

// centreBox is the largest centred box with a ratio in 3/4..4/3.
func centreBox(w, h int) raster.Rect {
	bw, bh := w, h
	if 3*w > 4*h {
		bw = max(1, (4*h+1)/3)
	} else if 4*w < 3*h {
		bh = max(1, (4*w+1)/3)
	}
	return raster.Box((w-bw)/2, (h-bh)/2, bw, bh)
}

// reduceTo is how much larger than its result, at least, a reduced box is to be.
const reduceTo = 2

// reduction is the largest of 8, 4 and 2 that leaves the box reduceTo times as large as its result, or 1.
func (c Crop) reduction() int {
	for k := 8; k > 1; k /= 2 {
		if c.Box.W >= reduceTo*k*c.W && c.Box.H >= reduceTo*k*c.H {
			return k
		}
	}
	return 1
}

// inside is the part of the window that is not black.
func (c Crop) inside() raster.Rect {
	x, y := max(0, c.Window.X), max(0, c.Window.Y)
	w, h := min(c.W, c.Window.X+c.Window.W)-x, min(c.H, c.Window.Y+c.Window.H)-y
	if w <= 0 || h <= 0 {
		return raster.Rect{}
	}
	return raster.Box(x, y, w, h)
}

// resizing is what is asked of a Resampler; false where all is black.
func (c Crop) resizing() (raster.Resizing, bool) {
	in := c.inside()
	return raster.Resizing{Box: c.Box, W: c.W, H: c.H, Window: in, Reduction: c.Reduction}, in != raster.Rect{}
}

// Needs is the part of the image, or of its reduction, that has to be decoded; the zero Rect where none is.
func (c Crop) Needs() raster.Rect {
	z, some := c.resizing()
	if !some {
		return raster.Rect{}
	}
	return z.Needs()
}
