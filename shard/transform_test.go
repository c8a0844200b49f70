package shard

import (
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/lockstep-ml/lockstep/shard/raster"
)

// plain is a Transform whose output is the pixel value itself over 255.
func plain(k Kind, train bool, resolution int) Transform {
	return Transform{Kind: k, Train: train, Resolution: resolution, Pad: 4, Std: [3]float32{1, 1, 1}}
}

func pattern(w, h int) *raster.Image {
	m := &raster.Image{W: w, H: h, Pix: make([]byte, 3*w*h)}
	for i := range m.Pix {
		m.Pix[i] = byte(mix(uint64(i)))
	}
	return m
}

func apply(t Transform, img *raster.Image, d Draw) []float32 {
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

// TestConstantImage: whatever is done to a picture of one colour, inside it stays that colour.
func TestConstantImage(t *testing.T) {
	img := &raster.Image{W: 301, H: 207, Pix: slices.Repeat([]byte{10, 200, 255}, 301*207)}
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
