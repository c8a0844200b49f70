package shard

import (
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/lockstep-ml/lockstep/shard/raster"
)

// transforms draws a valid Transform.
func transforms(rt *rapid.T) Transform {
	tr := plain(Kind(rapid.IntRange(0, 2).Draw(rt, "kind")), rapid.Bool().Draw(rt, "train"), rapid.IntRange(1, 40).Draw(rt, "resolution"))
	tr.Colour = Colour(rapid.IntRange(0, 1).Draw(rt, "colour"))
	tr.Reduce = rapid.Bool().Draw(rt, "reduce")
	if !tr.Train && tr.Kind != KindCIFAR && rapid.Bool().Draw(rt, "ten") {
		tr.Views = tenViews
	}
	return tr
}

// TestCropsAreInside: boxes lie in the image, windows in the resized box (but for padding), needs in the image or its reduction.
func TestCropsAreInside(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		tr := transforms(rt)
		w, h := rapid.IntRange(1, 900).Draw(rt, "w"), rapid.IntRange(1, 900).Draw(rt, "h")
		for view := range tr.ViewCount() {
			d := NewDraw(rapid.Uint64().Draw(rt, "seed"), 0, 0)
			c := tr.Crop(w, h, view, d)
			if again := tr.Crop(w, h, view, d); again != c {
				rt.Fatalf("%+v, then %+v", c, again)
			}
			if !inside(c.Box, w, h) || (tr.Kind != KindCIFAR && c.inside() != c.Window) || c.Values()*tr.ViewCount() != tr.Values() {
				rt.Fatalf("%+v of %d x %d", c, w, h)
			}
			k := c.Reduction
			if need := c.Needs(); need != (raster.Rect{}) && !inside(need, (w+k-1)/k, (h+k-1)/k) {
				rt.Fatalf("%+v of %d x %d needs %+v", c, w, h, need)
			}
			if k > 1 && (c.Box.W < reduceTo*k*c.W || c.Box.H < reduceTo*k*c.H || !tr.Reduce) {
				rt.Fatalf("%+v is reduced by %d", c, k)
			}
		}
	})
}

func inside(r raster.Rect, w, h int) bool {
	return r.X >= 0 && r.Y >= 0 && r.W > 0 && r.H > 0 && r.X+r.W <= w && r.Y+r.H <= h
}

// TestPartOfAnImage: rendering the part that a crop needs is rendering the crop of the whole image.
func TestPartOfAnImage(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		tr := transforms(rt)
		tr.Reduce = false
		img := pattern(rapid.IntRange(1, 90).Draw(rt, "w"), rapid.IntRange(1, 90).Draw(rt, "h"))
		a, d := NewAugmenter(tr), NewDraw(rapid.Uint64().Draw(rt, "seed"), 0, 0)
		for view := range tr.ViewCount() {
			c := tr.Crop(img.W, img.H, view, d)
			want, got := make([]float32, c.Values()), make([]float32, c.Values())
			a.Crop(want, img, c)
			need := c.Needs()
			part := &raster.Image{W: img.W, H: img.H, Pix: slices.Clone(img.Pix)}
			if need != (raster.Rect{}) {
				part.Crop(need)
			}
			a.render(got, part, need.X, need.Y, c)
			if !slices.Equal(got, want) {
				rt.Fatalf("%+v of %d x %d: the part gives other values", c, img.W, img.H)
			}
		}
	})
}

// TestTenViews compares with the definition: corners and centre of the resized image and of its mirror image.
func TestTenViews(t *testing.T) {
	img := pattern(90, 70)
	one := plain(KindScale, false, 32)
	ten := one
	ten.Views = 10
	got := apply(ten, img, Draw{})
	centre, n := apply(one, img, Draw{}), 3*32*32
	if !slices.Equal(got[4*n:5*n], centre) {
		t.Error("the fifth view is not the single one")
	}
	whole, err := Whole(90, 70, 37) // 256 for 224
	if err != nil {
		t.Fatal(err)
	}
	if whole.W != 47 || whole.H != 37 {
		t.Fatalf("resized to %d x %d", whole.W, whole.H)
	}
	resized := make([]float32, whole.Values())
	NewAugmenter(one).Crop(resized, img, whole)
	at := func(x, y, c int, mirror bool) float32 {
		if mirror {
			x = whole.W - 1 - x
		}
		return resized[c*whole.W*whole.H+y*whole.W+x]
	}
	right, bottom := whole.W-32, whole.H-32
	for view := range 10 {
		x0, y0 := []int{0, right, 0, right, 8}[view%5], []int{0, 0, bottom, bottom, 2}[view%5] // round(15/2), round(5/2), half to even
		for i, v := range got[view*n : (view+1)*n] {
			if want := at(x0+i%32, y0+i/32%32, i/1024, view >= 5); v != want {
				t.Fatalf("view %d, value %d is %v, want %v", view, i, v, want)
			}
		}
	}
}

func TestWholeRefusesSizes(t *testing.T) {
	for _, s := range []int{0, -1, maxResolution + 1} {
		if _, err := Whole(100, 100, s); err == nil {
			t.Errorf("a shorter side of %d is taken", s)
		}
	}
	if _, err := Whole(1, 65500, maxResolution); err == nil {
		t.Error("4096 x 268,288,000 pixels are taken")
	}
}

func TestTransformFaults(t *testing.T) {
	for name, change := range map[string]func(*Transform){
		"kind":                      func(t *Transform) { t.Kind = 9 },
		"colour":                    func(t *Transform) { t.Colour = 9 },
		"resolution":                func(t *Transform) { t.Resolution = 0 },
		"two views":                 func(t *Transform) { t.Views, t.Train = 2, false },
		"ten views in training":     func(t *Transform) { t.Views = 10 },
		"ten views of CIFAR":        func(t *Transform) { t.Views, t.Train, t.Kind = 10, false, KindCIFAR },
		"mean of pixels elsewhere":  func(t *Transform) { t.PixelMean = &PixelMean{Resolution: 224} },
		"mean of another size":      func(t *Transform) { t.Kind, t.PixelMean = KindCIFAR, &PixelMean{Resolution: 32} },
		"standard deviation":        func(t *Transform) { t.Std[1] = 0 },
		"mean that is not a number": func(t *Transform) { t.Mean[2] = float32(math.NaN()) },
	} {
		tr := ImageNetTransform(true)
		if err := tr.Validate(); err != nil {
			t.Fatal(err)
		}
		change(&tr)
		if tr.Validate() == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// TestColourNeverMovesACrop: with and without colours a run crops alike.
func TestColourNeverMovesACrop(t *testing.T) {
	for _, kind := range []Kind{KindCIFAR, KindScale, KindResizedCrop} {
		tr := ImageNetTransform(true)
		tr.Kind, tr.Pad = kind, 4
		coloured := tr
		coloured.Colour = ColourLighting
		for n := range 50 {
			a, b := tr.Crop(500, 375, 0, NewDraw(1, 2, n)), coloured.Crop(500, 375, 0, NewDraw(1, 2, n))
			if b.Shift == a.Shift {
				t.Fatalf("%v: colours stay", kind)
			}
			if b.Shift = a.Shift; a != b {
				t.Fatalf("%v: %+v without colours, %+v with", kind, a, b)
			}
		}
	}
}

// TestLighting: the values are (v/255 + shift - mean) / std, in every channel.
func TestLighting(t *testing.T) {
	tr := CIFARTransform(true)
	tr.Pad, tr.Colour = 0, ColourLighting
	img, d := pattern(32, 32), NewDraw(3, 1, 4)
	got, c := apply(tr, img, d), tr.Crop(32, 32, 0, d)
	for i, v := range got {
		x := i % 32
		if c.Flip {
			x = 31 - x
		}
		ch := i / 1024
		want := float32(float32(float32(img.Pix[3*(i/32%32*32+x)+ch])/255+c.Shift[ch])-tr.Mean[ch]) / tr.Std[ch]
		if math.Float32bits(v) != math.Float32bits(want) {
			t.Fatalf("value %d is %v, want %v", i, v, want)
		}
	}
}

// TestLightingStatistics: mean 0, and the covariance that eigenvalues and eigenvectors say.
func TestLightingStatistics(t *testing.T) {
	const draws = 200_000
	var sum [3]float64
	var product [3][3]float64
	for n := range draws {
		d := NewDraw(5, 6, n)
		s := lighting(&d)
		for a := range 3 {
			sum[a] += float64(s[a])
			for b := range 3 {
				product[a][b] += float64(s[a]) * float64(s[b])
			}
		}
	}
	for a := range 3 {
		for b := range 3 {
			want := 0.0
			for k, value := range lightingValues {
				want += lightingVectors[a][k] * lightingVectors[b][k] * value * value * lightingStd * lightingStd
			}
			got := product[a][b]/draws - sum[a]*sum[b]/draws/draws
			if math.Abs(got-want) > 0.02*math.Abs(want) {
				t.Errorf("covariance of channels %d and %d is %v, want %v", a, b, got, want)
			}
		}
		if mean := sum[a] / draws; math.Abs(mean) > 5*lightingStd*0.13/math.Sqrt(draws) {
			t.Errorf("channel %d is shifted by %v on average", a, mean)
		}
	}
}
