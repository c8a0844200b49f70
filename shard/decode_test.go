package shard

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"hash"
	"image"
	"image/color"
	"image/png"
	"testing"

	"github.com/lockstep-ml/lockstep/shard/raster"
)

// raceDetector tells of a run that is ten times slower.
var raceDetector bool

// hashImage adds width, height (32 bits, little-endian) and pixels: the form in which the reference figures were taken.
func hashImage(h hash.Hash, m *raster.Image) {
	var b [8]byte
	binary.LittleEndian.PutUint32(b[:], uint32(m.W))
	binary.LittleEndian.PutUint32(b[4:], uint32(m.H))
	h.Write(b[:])
	h.Write(m.Pix)
}

// wholeSet decodes a split and compares the hash of all its pixels with libjpeg-turbo's.
func wholeSet(t *testing.T, want string, opts ...Options) {
	t.Helper()
	h := sha256.New()
	var dec Decoder
	var img raster.Image
	for _, o := range opts {
		ds := open(t, o)
		for i := range ds.Len() {
			if err := ds.Load(limit(t), &dec, &img, i); err != nil {
				t.Fatal(err)
			}
			hashImage(h, &img)
		}
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != want {
		t.Errorf("pixels hash to %s, libjpeg-turbo's to %s", got, want)
	}
}

func TestBuiltinPixels(t *testing.T) {
	wholeSet(t, "4881fa9b0779061fdd2fe6a594d4954ea6f6e9567d4a3654520eb5782aafd51f", Options{Path: Builtin}, Options{Path: Builtin, Split: "test"})
}

func TestSharedPixels(t *testing.T) {
	for _, c := range []struct{ file, split, want string }{
		{"cifar10.tar.gz", "test", "04f506ad6d7bf9b2d21025080b57665abb267137b9ebc338134f9a86d9b57f3c"},
		{"imagenet-fullres.tar", "all", "8391d0380c47f2363948efdab6d421fe773384f58677265a14de594034f180ac"},
	} {
		t.Run(c.file, func(t *testing.T) {
			if testing.Short() {
				t.Skip("short: decodes whole sets")
			}
			wholeSet(t, c.want, Options{Path: sharedFile(t, "data/"+c.file), Split: c.split})
		})
	}
}

func TestDecodePNG(t *testing.T) {
	src := image.NewNRGBA(image.Rect(0, 0, 5, 3))
	for y := range 3 {
		for x := range 5 {
			src.Set(x, y, color.NRGBA{uint8(40 * x), uint8(70 * y), 9, uint8(255 - 50*x)})
		}
	}
	var b bytes.Buffer
	if err := png.Encode(&b, src); err != nil {
		t.Fatal(err)
	}
	var dec Decoder
	var img raster.Image
	if err := dec.Decode(&img, b.Bytes(), EncodedFile); err != nil {
		t.Fatal(err)
	}
	p := img.Pix[3*(2*5+4):]
	if img.W != 5 || img.H != 3 || p[0] != 160 || p[1] != 140 || p[2] != 9 {
		t.Errorf("%dx%d, last pixel %v", img.W, img.H, p)
	}
}

// TestDecodeNoticesDamage overwrites 16 bytes of image data of the built-in sample. Damage can leave a valid JPEG, so not all can
// be noticed; with this seed 64 % are, and libjpeg, which only warns of the rest, would stop at a third of those.
func TestDecodeNoticesDamage(t *testing.T) {
	ds := open(t, Options{Path: Builtin})
	d := NewDraw(1, 0, 0)
	var dec Decoder
	noticed := 0
	const trials = 500
	for range trials {
		b, err := ds.Read(limit(t), d.IntN(ds.Len()), nil)
		if err != nil {
			t.Fatal(err)
		}
		at := 623 + d.IntN(len(b)-623-18)
		for k := range 16 {
			b[at+k] ^= byte(1 + d.IntN(255))
		}
		if dec.Decode(&raster.Image{}, b, EncodedFile) != nil {
			noticed++
		}
	}
	t.Logf("%d of %d noticed", noticed, trials)
	if noticed < trials*6/10 {
		t.Errorf("%d of %d damaged images were noticed, want 60 %%", noticed, trials)
	}
}

func FuzzDecodeRecord(f *testing.F) {
	f.Add(make([]byte, cifarPixels))
	f.Fuzz(func(t *testing.T, b []byte) {
		var dec Decoder
		img := raster.Image{}
		if dec.Decode(&img, b, RawPlanar32) == nil && len(b) != cifarPixels {
			t.Fatalf("a record of %d bytes was accepted", len(b))
		}
	})
}
