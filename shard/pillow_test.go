package shard

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"hash"
	"os"
	"testing"

	"github.com/lockstep-ml/lockstep/shard/raster"
)

// TestResizeLikePillow: testdata/README.md tells how Pillow's sums were made.
func TestResizeLikePillow(t *testing.T) {
	path := sharedFile(t, "data/imagenet-fullres.tar")
	text, err := os.ReadFile("testdata/pillow.json")
	if err != nil {
		t.Fatal(err)
	}
	var want struct{ Images [][2]string }
	if err := json.Unmarshal(text, &want); err != nil {
		t.Fatal(err)
	}
	ds := open(t, Options{Path: path})
	if ds.Len() != len(want.Images) {
		t.Fatalf("%d images, and sums of %d", ds.Len(), len(want.Images))
	}
	var dec Decoder
	var img, out raster.Image
	var r raster.Resampler
	resized := func(h hash.Hash, box raster.Rect, w, hh int) {
		r.Resample(&out, &img, raster.Resizing{Box: box, W: w, H: hh, Window: raster.Box(0, 0, w, hh)}, 0, 0)
		h.Write(out.Pix)
	}
	for i, sums := range want.Images {
		if err := ds.Load(t.Context(), &dec, &img, i); err != nil {
			t.Fatal(err)
		}
		part, whole := sha256.New(), sha256.New()
		resized(part, pillowBox(i, img.W, img.H), 224, 224)
		for _, s := range []int{224, 256, 384, 480, 640} {
			w, h := shorterTo(img.W, img.H, s)
			resized(whole, raster.Box(0, 0, img.W, img.H), w, h)
		}
		if got := [2]string{hex.EncodeToString(part.Sum(nil)), hex.EncodeToString(whole.Sum(nil))}; got != sums {
			t.Errorf("%s: part and whole have sums %v, Pillow's %v", ds.Name(i), got, sums)
		}
	}
}

// pillowBox is what pillow.py calls box.
func pillowBox(i, w, h int) raster.Rect {
	bw, bh := max(1, w*(10+7*i%91)/100), max(1, h*(10+11*i%91)/100)
	return raster.Box((w-bw)*(i%5)/4, (h-bh)*(i%3)/2, bw, bh)
}
