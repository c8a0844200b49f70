package raster

import (
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func pattern(w, h int) *Image {
	m := &Image{W: w, H: h, Pix: make([]byte, 3*w*h)}
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range m.Pix {
		m.Pix[i] = byte(rng.Uint32())
	}
	return m
}

// all is the whole of an image at another size.
func all(m *Image, w, h int) Resizing {
	return Resizing{Box: Box(0, 0, m.W, m.H), W: w, H: h, Window: Box(0, 0, w, h)}
}

// TestResampleKnown compares with results worked out by hand for the triangle filter.
func TestResampleKnown(t *testing.T) {
	grey := func(w, h int, v ...byte) *Image {
		m := &Image{W: w, H: h}
		for _, b := range v {
			m.Pix = append(m.Pix, b, b, b)
		}
		return m
	}
	for _, c := range []struct {
		src  *Image
		w, h int
		want []byte
	}{
		{grey(4, 1, 0, 100, 200, 40), 4, 1, []byte{0, 100, 200, 40}},
		// Twice as wide: centres at -0.25 and 0.25 from the samples, weights 3/4 and 1/4; the edge has one sample.
		{grey(2, 1, 0, 100), 4, 1, []byte{0, 25, 75, 100}},
		// Half as wide: the triangle is 4 wide. First output, centre 1: weights 3/4, 3/4, 1/4 of the samples at 0.5, 1.5, 2.5.
		{grey(4, 1, 0, 70, 140, 210), 2, 1, []byte{50, 160}},
		{grey(1, 4, 0, 70, 140, 210), 1, 2, []byte{50, 160}},
	} {
		var r Resampler
		dst := &Image{}
		r.Resample(dst, c.src, all(c.src, c.w, c.h), 0, 0)
		for i, want := range c.want {
			if got := dst.Pix[3*i]; got != want {
				t.Errorf("%dx%d to %dx%d: value %d is %d, want %d", c.src.W, c.src.H, c.w, c.h, i, got, want)
			}
		}
	}
}

// TestResampleWindow: a window of the result is that part of the whole result, and what lies outside of the box has no influence.
func TestResampleWindow(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		src := pattern(rapid.IntRange(1, 60).Draw(rt, "srcW"), rapid.IntRange(1, 60).Draw(rt, "srcH"))
		part := func(n int, name string) (int, int) {
			size := rapid.IntRange(1, n).Draw(rt, name)
			return rapid.IntRange(0, n-size).Draw(rt, name+" at"), size
		}
		var box, win Rect
		box.X, box.W = part(src.W, "box w")
		box.Y, box.H = part(src.H, "box h")
		w, h := rapid.IntRange(1, 50).Draw(rt, "w"), rapid.IntRange(1, 50).Draw(rt, "h")
		win.X, win.W = part(w, "window w")
		win.Y, win.H = part(h, "window h")
		cut := &Image{W: box.W, H: box.H}
		for y := range box.H {
			start := 3 * ((box.Y+y)*src.W + box.X)
			cut.Pix = append(cut.Pix, src.Pix[start:start+3*box.W]...)
		}
		var r Resampler
		whole, got := &Image{}, &Image{}
		r.Resample(whole, cut, all(cut, w, h), 0, 0)
		r.Resample(got, src, Resizing{Box: box, W: w, H: h, Window: win}, 0, 0)
		for y := range win.H {
			start := 3 * ((win.Y+y)*w + win.X)
			if !slices.Equal(got.Pix[3*y*win.W:3*(y+1)*win.W], whole.Pix[start:start+3*win.W]) {
				rt.Fatalf("row %d of window %+v differs", y, win)
			}
		}
	})
}
