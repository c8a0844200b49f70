package shard

import (
	"context"
	"errors"
	"math"
	"testing"
)

// TestMeanOf compares with a sum in the other order.
func TestMeanOf(t *testing.T) {
	ds := open(t, Options{Path: Builtin, Split: "test"})
	m, err := MeanOf(limit(t), ds, 32)
	if err != nil {
		t.Fatal(err)
	}
	sums := make([]float64, 3*1024)
	tr := plain(KindCIFAR, false, 32)
	aug, dst := NewAugmenter(tr), make([]float32, tr.Values())
	var dec Decoder
	for i := ds.Len() - 1; i >= 0; i-- {
		if err := ds.Render(t.Context(), &dec, aug, dst, i, Draw{}); err != nil {
			t.Fatal(err)
		}
		for k, v := range dst {
			sums[k] += float64(v)
		}
	}
	for k, s := range sums {
		if want := s / float64(ds.Len()); math.Abs(float64(m.Values[k])-want) > 1e-6 {
			t.Fatalf("value %d is %v, want %v", k, m.Values[k], want)
		}
	}
	if _, err := MeanOf(limit(t), ds, 0); err == nil {
		t.Error("a resolution of 0 is taken")
	}
	ctx, cancel := context.WithCancel(limit(t))
	cancel()
	if _, err := MeanOf(ctx, ds, 32); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled, it says %v", err)
	}
}

// TestPixelMean: the mean moves with the crop and its mirror image, and padding is 0 behind it.
func TestPixelMean(t *testing.T) {
	img, mean := pattern(32, 32), &PixelMean{Resolution: 32, Values: make([]float32, 3*1024)}
	for i := range mean.Values {
		mean.Values[i] = float32(mix(uint64(i))>>40) / (1 << 24)
	}
	tr := CIFARTransform(true)
	tr.PixelMean = mean
	for n := range 100 {
		d := NewDraw(8, 8, n)
		got, c := apply(tr, img, d), tr.Crop(32, 32, 0, d)
		for i, v := range got {
			x, y, ch := i%32, i/32%32, i/1024
			if c.Flip {
				x = 31 - x
			}
			x, y = x+c.Window.X, y+c.Window.Y
			want := float32(0)
			if x >= 0 && y >= 0 && x < 32 && y < 32 {
				want = float32(float32(img.Pix[3*(y*32+x)+ch])/255-mean.Values[ch*1024+y*32+x]) / tr.Std[ch]
			}
			if v != want {
				t.Fatalf("draw %d, value %d is %v, want %v", n, i, v, want)
			}
		}
	}
}
