package shard

import (
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// plain is a Transform whose output is the pixel value itself over 255.
func plain(k Kind, train bool, resolution int) Transform {
	return Transform{Kind: k, Train: train, Resolution: resolution, Pad: 4, Std: [3]float32{1, 1, 1}}
}

func pattern(w, h int) *Image {
	m := &Image{W: w, H: h, Pix: make([]byte, 3*w*h)}
	for i := range m.Pix {
		m.Pix[i] = byte(mix(uint64(i)))
	}
	return m
}

func apply(t Transform, img *Image, d Draw) []float32 {
	dst := make([]float32, t.Values())
	for i := range dst {
		dst[i] = float32(math.NaN()) // every value must be written
	}
	NewAugmenter(t).Apply(dst, img, d)
	return dst
}

func TestNormalisation(t *testing.T) {
	tr := CIFARTransform(false)
	got := apply(tr, pattern(32, 32), Draw{})
	img := pattern(32, 32)
	for y := range 32 {
		for x := range 32 {
			for c := range 3 {
				// PyTorch: value.float().div(255).sub(mean).div(std), each step rounded to float32.
				v := float32(img.Pix[3*(32*y+x)+c]) / 255
				v = v - tr.Mean[c]
				if want := v / tr.Std[c]; got[c*1024+y*32+x] != want {
					t.Fatalf("(%d,%d) channel %d is %v, want %v", x, y, c, got[c*1024+y*32+x], want)
				}
			}
		}
	}
}

// TestCIFARCrop finds, for each draw, the one shift and flip that explains the output, with black outside, and counts them.
func TestCIFARCrop(t *testing.T) {
	tr := plain(KindCIFAR, true, 32)
	img := pattern(32, 32)
	at := func(x, y, c int) float32 {
		if x < 0 || y < 0 || x >= 32 || y >= 32 {
			return 0
		}
		return float32(img.Pix[3*(32*y+x)+c]) / 255
	}
	seen := map[[2]int]int{}
	flips := 0
	const draws = 2000
	for n := range draws {
		got := apply(tr, img, NewDraw(1, 0, n))
		d := NewDraw(1, 0, n)
		dy, dx := d.IntN(9)-4, d.IntN(9)-4
		flip := d.Uint64()>>63 == 1
		for y := range 32 {
			for x := range 32 {
				sx := x
				if flip {
					sx = 31 - x
				}
				for c := range 3 {
					if got[c*1024+y*32+x] != at(sx+dx, y+dy, c) {
						t.Fatalf("draw %d, shift (%d,%d), flip %v: (%d,%d) is %v", n, dx, dy, flip, x, y, got[c*1024+y*32+x])
					}
				}
			}
		}
		seen[[2]int{dx, dy}]++
		if flip {
			flips++
		}
	}
	if len(seen) != 81 || math.Abs(float64(flips)-draws/2) > 5*math.Sqrt(draws/4) {
		t.Errorf("%d of 81 shifts, %d of %d flips", len(seen), flips, draws)
	}
}

// TestSizes puts images of every awkward shape through every kind: all values are written and finite.
func TestSizes(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w, h := rapid.IntRange(1, 90).Draw(rt, "w"), rapid.IntRange(1, 90).Draw(rt, "h")
		tr := plain(Kind(rapid.IntRange(0, 2).Draw(rt, "kind")), rapid.Bool().Draw(rt, "train"), rapid.IntRange(1, 40).Draw(rt, "resolution"))
		for _, v := range apply(tr, pattern(w, h), NewDraw(rapid.Uint64().Draw(rt, "seed"), 0, 0)) {
			if !(v >= 0 && v <= 1) {
				rt.Fatalf("value %v", v)
			}
		}
	})
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
		var r resampler
		dst := &Image{}
		r.resample(dst, c.src, rect{0, 0, c.src.W, c.src.H}, c.w, c.h, rect{0, 0, c.w, c.h})
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
		var box, win rect
		box.x, box.w = part(src.W, "box w")
		box.y, box.h = part(src.H, "box h")
		w, h := rapid.IntRange(1, 50).Draw(rt, "w"), rapid.IntRange(1, 50).Draw(rt, "h")
		win.x, win.w = part(w, "window w")
		win.y, win.h = part(h, "window h")
		cut := &Image{W: box.w, H: box.h}
		for y := range box.h {
			start := 3 * ((box.y+y)*src.W + box.x)
			cut.Pix = append(cut.Pix, src.Pix[start:start+3*box.w]...)
		}
		var r resampler
		whole, got := &Image{}, &Image{}
		r.resample(whole, cut, rect{0, 0, box.w, box.h}, w, h, rect{0, 0, w, h})
		r.resample(got, src, box, w, h, win)
		for y := range win.h {
			start := 3 * ((win.y+y)*w + win.x)
			if !slices.Equal(got.Pix[3*y*win.w:3*(y+1)*win.w], whole.Pix[start:start+3*win.w]) {
				rt.Fatalf("row %d of window %+v differs", y, win)
			}
		}
	})
}

// TestConstantImage: whatever is done to a picture of one colour, inside it stays that colour.
func TestConstantImage(t *testing.T) {
	img := &Image{W: 301, H: 207, Pix: slices.Repeat([]byte{10, 200, 255}, 301*207)}
	for _, kind := range []Kind{KindScale, KindResizedCrop} {
		for _, train := range []bool{false, true} {
			tr := plain(kind, train, 224)
			for n := range 5 {
				got := apply(tr, img, NewDraw(1, 1, n))
				for i, v := range got {
					if want := float32([]byte{10, 200, 255}[i/(224*224)]) / 255; v != want {
						t.Fatalf("%v, train %v: value %d is %v, want %v", kind, train, i, v, want)
					}
				}
			}
		}
	}
}

func TestExpSmall(t *testing.T) {
	for x := -0.3; x <= 0.3; x += 0.001 {
		if got, want := expSmall(x), math.Exp(x); math.Abs(got-want) > 4e-16 {
			t.Errorf("exp(%v) = %v, want %v", x, got, want)
		}
	}
}

// TestResizedCropVaries: different images are cropped differently.
func TestResizedCropVaries(t *testing.T) {
	img := pattern(64, 48)
	distinct := map[float32]bool{}
	tr := plain(KindResizedCrop, true, 8)
	for n := range 200 {
		distinct[apply(tr, img, NewDraw(1, 0, n))[0]] = true
	}
	if len(distinct) < 50 {
		t.Errorf("200 crops have only %d different corners", len(distinct))
	}
}
