package shard

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/lockstep-ml/lockstep/shard/raster"
)

// TestRenderIsLoadAndApply: what is decoded in part is what is decoded as a whole.
func TestRenderIsLoadAndApply(t *testing.T) {
	t.Run("builtin", func(t *testing.T) { renderLikeApply(t, Options{Path: Builtin}, 97) })
	t.Run("photographs", func(t *testing.T) { renderLikeApply(t, Options{Path: sharedFile(t, "data/imagenet-fullres.tar")}, 7) })
}

func renderLikeApply(t *testing.T, o Options, step int) {
	ds := open(t, o)
	for _, tr := range []Transform{
		{Kind: KindCIFAR, Train: true, Pad: 4}, {Kind: KindScale, Train: true, Colour: ColourLighting}, {Kind: KindScale},
		{Kind: KindScale, Views: 10}, {Kind: KindResizedCrop, Train: true},
	} {
		tr.Resolution, tr.Mean, tr.Std = 64, ImageNetMean, ImageNetStd
		aug := NewAugmenter(tr)
		var dec Decoder
		var img raster.Image
		got, want := make([]float32, tr.Values()), make([]float32, tr.Values())
		for i := 0; i < ds.Len(); i += step {
			d := NewDraw(1, 2, i)
			if err := ds.Load(t.Context(), &dec, &img, i); err != nil {
				t.Fatal(err)
			}
			aug.Apply(want, &img, d)
			if err := ds.Render(t.Context(), &dec, aug, got, i, d); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(got, want) {
				t.Fatalf("%+v: image %d differs", tr, i)
			}
		}
	}
}

func TestRenderRefusesDamage(t *testing.T) {
	tr := ImageNetTransform(true)
	aug, dst := NewAugmenter(tr), make([]float32, tr.Values())
	var dec Decoder
	for _, b := range []string{"", "\xff\xd8", "\xff\xd8\xff\xc0\x00", "\x89PNG\r\n\x1a\n", "GIF89a"} {
		if err := dec.Render(dst, []byte(b), EncodedFile, aug, Draw{}); err == nil {
			t.Errorf("%q is taken for an image", b)
		}
	}
	if err := dec.Render(dst, make([]byte, 7), RawPlanar32, aug, Draw{}); err == nil {
		t.Error("7 bytes are taken for a raw image")
	}
	ds := open(t, Options{Path: Builtin})
	err := ds.render(&dec, aug, dst, []byte("no image"), 5, Draw{})
	var damaged *DamagedError
	if !errors.As(err, &damaged) || damaged.Member != ds.Name(5) {
		t.Errorf("the error is %v", err)
	}
}

// TestRenderAllocatesNothing: of transforms with and without colours, and of CIFAR's raw images with everything; a JPEG file's
// decoding is its own package's matter.
func TestRenderAllocatesNothing(t *testing.T) {
	img := pattern(500, 375)
	for _, tr := range []Transform{
		{Kind: KindResizedCrop, Train: true}, {Kind: KindScale, Train: true, Colour: ColourLighting}, {Kind: KindScale, Views: 10}, {Kind: KindCIFAR, Train: true, Pad: 4},
	} {
		tr.Resolution, tr.Mean, tr.Std = 224, ImageNetMean, ImageNetStd
		aug, dst, k := NewAugmenter(tr), make([]float32, tr.Values()), 0
		run := func() {
			k = (k + 1) % 16
			aug.Apply(dst, img, NewDraw(1, 2, k))
		}
		for range 16 {
			run()
		}
		if n := testing.AllocsPerRun(32, run); n > 0 {
			t.Errorf("%+v: %v allocations an image", tr, n)
		}
	}
	raw := make([]byte, 3*32*32)
	tr := CIFARTransform(true)
	aug, dst := NewAugmenter(tr), make([]float32, tr.Values())
	var dec Decoder
	if n := testing.AllocsPerRun(32, func() {
		if err := dec.Render(dst, raw, RawPlanar32, aug, NewDraw(1, 2, 3)); err != nil {
			t.Fatal(err)
		}
	}); n > 0 {
		t.Errorf("raw images: %v allocations each", n)
	}
}

// halved stands in for a decoder's reduction by k: the means of squares, which is what an inverse transform of fewer coefficients is close to.
func halved(m *raster.Image, k int) *raster.Image {
	out := &raster.Image{}
	out.Resize((m.W+k-1)/k, (m.H+k-1)/k)
	for y := range out.H {
		for x := range out.W {
			var sum [3]int
			n := 0
			for v := k * y; v < min(k*y+k, m.H); v++ {
				for u := k * x; u < min(k*x+k, m.W); u++ {
					for c := range sum {
						sum[c] += int(m.Pix[3*(v*m.W+u)+c])
					}
					n++
				}
			}
			out.Set(x, y, byte((sum[0]+n/2)/n), byte((sum[1]+n/2)/n), byte((sum[2]+n/2)/n))
		}
	}
	return out
}

// TestReductionDeviates by no more than the rule is meant to allow, in levels of 255: photographs that are decoded at a part of their
// size, by a plain mean and by the decoder.
func TestReductionDeviates(t *testing.T) {
	ds := open(t, Options{Path: sharedFile(t, "data/imagenet-fullres.tar")})
	plainly := Transform{Kind: KindResizedCrop, Train: true, Resolution: 48, Std: [3]float32{1, 1, 1}}
	reducing := plainly
	reducing.Reduce = true
	a, off := NewAugmenter(plainly), deviations{}
	var dec Decoder
	var img raster.Image
	want, got := make([]float32, plainly.Values()), make([]float32, plainly.Values())
	for i := 0; i < ds.Len(); i += 2 {
		if err := ds.Load(t.Context(), &dec, &img, i); err != nil {
			t.Fatal(err)
		}
		d := NewDraw(1, 1, i)
		a.Apply(want, &img, d)
		c := reducing.Crop(img.W, img.H, 0, d)
		if c.Reduction > 1 {
			a.render(got, halved(&img, c.Reduction), 0, 0, c)
			off.add(fmt.Sprintf("means of squares, 1/%d", c.Reduction), got, want)
			if err := ds.Render(t.Context(), &dec, NewAugmenter(reducing), got, i, d); err != nil {
				t.Fatal(err)
			}
			off.add(fmt.Sprintf("decoder, 1/%d", c.Reduction), got, want)
		}
	}
	off.check(t)
}

// deviations are the mean ones of images, by how they were made.
type deviations map[string][]float64

func (d deviations) add(how string, got, want []float32) {
	sum := 0.0
	for j := range want {
		sum += math.Abs(float64(got[j]-want[j])) * 255
	}
	d[how] = append(d[how], sum/float64(len(want)))
}

func (d deviations) check(t *testing.T) {
	t.Helper()
	for how, images := range d {
		sum := 0.0
		for _, v := range images {
			sum += v
		}
		mean, worst := sum/float64(len(images)), slices.Max(images)
		t.Logf("%s: %d images, %.2f levels off on average, %.2f the worst", how, len(images), mean, worst)
		if mean > 1 || worst > 3 || mean == 0 {
			t.Errorf("%s: %.2f levels off on average, %.2f the worst", how, mean, worst)
		}
	}
	if len(d) < 2 {
		t.Errorf("too little was reduced: %v", d)
	}
}
