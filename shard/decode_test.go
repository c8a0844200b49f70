package shard

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"hash"
	"image"
	"image/color"
	"image/png"
	"os"
	"path/filepath"
	"testing"
)

// raceDetector tells of a run that is ten times slower.
var raceDetector bool

// hashImage adds width, height (32 bits, little-endian) and pixels: the form in which the reference figures were taken.
func hashImage(h hash.Hash, m *Image) {
	var b [8]byte
	binary.LittleEndian.PutUint32(b[:], uint32(m.W))
	binary.LittleEndian.PutUint32(b[4:], uint32(m.H))
	h.Write(b[:])
	h.Write(m.Pix)
}

// TestDecodeLikeLibjpeg compares with the pixels of libjpeg-turbo 2.1.5 (default settings: islow, fancy upsampling), to the bit.
func TestDecodeLikeLibjpeg(t *testing.T) {
	want := map[string]string{
		"410": "6fef871d8e1ba671", "411": "a08fc16f184dce33", "420": "e517015460c62ffe", "422": "a10588dc44b2ae7d",
		"440": "9f28c7fe5bd6fba8", "444": "398680e342c7c78c", "five": "e1d4fdbc45dcc98f", "gray": "7b0cbbdc5eccd520",
		"grayrestart": "7b0cbbdc5eccd520", "one": "c5138c8d79a7bf13", "q100": "9e9ab2cd9b7b1fd3", "q2": "014af81391efb03f",
		"restart": "58f558db95465b91", "tiny420": "e9b8cee8526dc494", "tiny422": "3f3245a293542b87",
	}
	var dec Decoder // one for all: what an image leaves behind must not reach the next
	var img Image
	for name, sum := range want {
		b, err := os.ReadFile("testdata/jpeg/" + name + ".jpg")
		if err != nil {
			t.Fatal(err)
		}
		if err := dec.Decode(&img, b, EncodedFile); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		h := sha256.New()
		hashImage(h, &img)
		if got := hex.EncodeToString(h.Sum(nil))[:16]; got != sum {
			t.Errorf("%s: pixels hash to %s, libjpeg-turbo's to %s", name, got, sum)
		}
	}
}

// TestDecodeOthers: what goes through the standard library is near the same picture, if not the same bits.
func TestDecodeOthers(t *testing.T) {
	var dec Decoder
	read := func(name string) *Image {
		b, err := os.ReadFile("testdata/jpeg/" + name + ".jpg")
		if err != nil {
			t.Fatal(err)
		}
		img := &Image{}
		if err := dec.Decode(img, b, EncodedFile); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return img
	}
	for _, pair := range [][2]string{{"progressive", "420"}, {"rgb", "444"}} {
		got, want := read(pair[0]), read(pair[1])
		if got.W != want.W || got.H != want.H {
			t.Fatalf("%s is %dx%d", pair[0], got.W, got.H)
		}
		sum := 0
		for i := range got.Pix {
			sum += max(int(got.Pix[i])-int(want.Pix[i]), int(want.Pix[i])-int(got.Pix[i]))
		}
		if mean := float64(sum) / float64(len(got.Pix)); mean > 8 {
			t.Errorf("%s differs from %s by %.1f a value", pair[0], pair[1], mean)
		}
	}
	if img := read("cmyk"); img.W != 16 || img.H != 16 {
		t.Errorf("cmyk is %dx%d", img.W, img.H)
	}
}

// wholeSet decodes a split and compares the hash of all its pixels with libjpeg-turbo's.
func wholeSet(t *testing.T, want string, opts ...Options) {
	t.Helper()
	h := sha256.New()
	var dec Decoder
	var img Image
	for _, o := range opts {
		ds := open(t, o)
		for i := range ds.Len() {
			if err := ds.Load(&dec, &img, i); err != nil {
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
	var img Image
	if err := dec.Decode(&img, b.Bytes(), EncodedFile); err != nil {
		t.Fatal(err)
	}
	p := img.Pix[3*(2*5+4):]
	if img.W != 5 || img.H != 3 || p[0] != 160 || p[1] != 140 || p[2] != 9 {
		t.Errorf("%dx%d, last pixel %v", img.W, img.H, p)
	}
}

// TestDecodeBounds hands over files that claim to be enormous.
func TestDecodeBounds(t *testing.T) {
	b, err := os.ReadFile("testdata/jpeg/420.jpg")
	if err != nil {
		t.Fatal(err)
	}
	for _, sof := range []byte{0xc0, 0xc2} { // our decoder, the standard library's
		huge := bytes.Clone(b)
		at := bytes.Index(huge, []byte{0xff, 0xc0})
		huge[at+1] = sof
		binary.BigEndian.PutUint16(huge[at+5:], 65500)
		binary.BigEndian.PutUint16(huge[at+7:], 65500)
		var dec Decoder
		if err := dec.Decode(&Image{}, huge, EncodedFile); !errors.Is(err, ErrTooLarge) {
			t.Errorf("SOF %02x: %v, want ErrTooLarge", sof, err)
		}
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
		b, err := ds.Read(d.IntN(ds.Len()), nil)
		if err != nil {
			t.Fatal(err)
		}
		at := 623 + d.IntN(len(b)-623-18)
		for k := range 16 {
			b[at+k] ^= byte(1 + d.IntN(255))
		}
		if dec.Decode(&Image{}, b, EncodedFile) != nil {
			noticed++
		}
	}
	t.Logf("%d of %d noticed", noticed, trials)
	if noticed < trials*6/10 {
		t.Errorf("%d of %d damaged images were noticed, want 60 %%", noticed, trials)
	}
}

// TestDecodeTruncated cuts a JPEG at every byte of its image data: never a panic, and an error as long as bits are missing.
func TestDecodeTruncated(t *testing.T) {
	for _, name := range []string{"420", "restart", "gray", "progressive"} {
		b, err := os.ReadFile("testdata/jpeg/" + name + ".jpg")
		if err != nil {
			t.Fatal(err)
		}
		var dec Decoder
		for n := range len(b) - 3 {
			if err := dec.Decode(&Image{}, b[:n], EncodedFile); err == nil {
				t.Errorf("%s cut to %d of %d bytes: no error", name, n, len(b))
				break
			}
		}
	}
}

func FuzzDecode(f *testing.F) {
	names, err := filepath.Glob("testdata/jpeg/*.jpg")
	if err != nil || len(names) == 0 {
		f.Fatal("no seeds", err)
	}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var dec Decoder
		img := Image{}
		// A large claimed size is legal but slow to fuzz.
		if at := bytes.Index(b, []byte{0xff, 0xc0}); at >= 0 && at+9 <= len(b) && (b[at+5] > 0 || b[at+7] > 0) {
			return
		}
		if dec.Decode(&img, b, EncodedFile) == nil && len(img.Pix) != 3*img.W*img.H {
			t.Fatalf("%d bytes for %d x %d pixels", len(img.Pix), img.W, img.H)
		}
		if dec.Decode(&img, b, RawPlanar32) == nil && len(b) != cifarPixels {
			t.Fatalf("a record of %d bytes was accepted", len(b))
		}
	})
}
