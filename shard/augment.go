package shard

import (
	"fmt"

	"github.com/lockstep-ml/lockstep/shard/raster"
)

// An Augmenter makes what a Crop says out of decoded pixels. It keeps scratch memory, so each goroutine needs its own.
type Augmenter struct {
	t         Transform
	shift     [3]float32 // that normalise is set for
	normalise raster.Normaliser
	resize    raster.Resampler
	resized   raster.Image
}

// NewAugmenter panics when t is not valid; Validate first what comes from outside.
func NewAugmenter(t Transform) *Augmenter {
	if err := t.Validate(); err != nil {
		panic("shard: " + err.Error())
	}
	a := &Augmenter{t: t}
	a.normalise.Set(t.Mean, t.Std, a.shift)
	return a
}

// Apply writes the transformed image into dst: Values() floats, view after view, planes red, green, blue, each Resolution rows of
// Resolution.
func (a *Augmenter) Apply(dst []float32, img *raster.Image, d Draw) {
	a.check(dst)
	for view := range a.t.ViewCount() {
		c := a.t.Crop(img.W, img.H, view, d)
		c.Reduction = 1
		a.render(a.view(dst, view), img, 0, 0, c)
	}
}

// Crop writes a crop of img into dst: c.Values() floats, planes red, green, blue, each Window.H rows of Window.W. Box must lie inside the
// image, and Reduction be 1.
func (a *Augmenter) Crop(dst []float32, img *raster.Image, c Crop) {
	if len(dst) != c.Values() || c.Reduction > 1 {
		panic(fmt.Sprintf("shard: destination of %d floats, want %d of an image at 1/1, not 1/%d", len(dst), c.Values(), c.Reduction))
	}
	a.render(dst, img, 0, 0, c)
}

func (a *Augmenter) check(dst []float32) {
	if len(dst) != a.t.Values() {
		panic(fmt.Sprintf("shard: destination of %d floats, want %d", len(dst), a.t.Values()))
	}
}

// view is one view's part of dst.
func (a *Augmenter) view(dst []float32, view int) []float32 {
	n := len(dst) / a.t.ViewCount()
	return dst[view*n : (view+1)*n]
}

// render writes a crop: three planes of Window.W x Window.H floats. Pixel (0, 0) of img is (x, y) of the image, or of its reduction.
func (a *Augmenter) render(dst []float32, img *raster.Image, x, y int, c Crop) {
	a.setShift(c.Shift)
	if z, some := c.resizing(); some {
		in := z.Window
		if c.Reduction > 1 || c.Box.W != c.W || c.Box.H != c.H {
			a.resize.Resample(&a.resized, img, z, x, y)
			a.emit(dst, &a.resized, in.X, in.Y, c)
		} else {
			a.emit(dst, img, x-c.Box.X, y-c.Box.Y, c)
		}
		return
	}
	a.emit(dst, &raster.Image{}, 0, 0, c)
}

// setShift leaves a table that is right already as it is.
func (a *Augmenter) setShift(shift [3]float32) {
	if shift != a.shift {
		a.shift = shift
		a.normalise.Set(a.t.Mean, a.t.Std, shift)
	}
}

// emit normalises the window. Pixel (0, 0) of img is (x, y) of the resized box.
func (a *Augmenter) emit(dst []float32, img *raster.Image, x, y int, c Crop) {
	in, w := c.inside(), c.Window.W
	plane := w * c.Window.H
	left := in.X - c.Window.X // black columns on either side
	right := w - left - in.W
	if c.Flip {
		left, right = right, left
	}
	for row := range c.Window.H {
		r, g, b := dst[row*w:(row+1)*w], dst[plane+row*w:plane+(row+1)*w], dst[2*plane+row*w:2*plane+(row+1)*w]
		sy := row + c.Window.Y
		if sy < in.Y || sy >= in.Y+in.H {
			a.black(r, g, b)
			continue
		}
		at := 3 * ((sy-y)*img.W + in.X - x)
		src := img.Pix[at : at+3*in.W]
		if left > 0 {
			a.black(r[:left], g[:left], b[:left])
		}
		if right > 0 {
			a.black(r[w-right:], g[w-right:], b[w-right:])
		}
		r, g, b = r[left:w-right], g[left:w-right], b[left:w-right]
		if m := a.t.PixelMean; m != nil {
			m.row(r, g, b, src, in.X, sy, c, a.t.Std)
		} else {
			a.normalise.Row(r, g, b, src, c.Flip)
		}
	}
}

// black is what padding comes to: value 0 before normalisation, as torchvision pads; with a mean of every pixel 0 behind it, as the
// paper does.
func (a *Augmenter) black(r, g, b []float32) {
	for c, v := range [3][]float32{r, g, b} {
		value := float32(0)
		if a.t.PixelMean == nil {
			value = a.normalise.Value(c, 0)
		}
		for i := range v {
			v[i] = value
		}
	}
}
