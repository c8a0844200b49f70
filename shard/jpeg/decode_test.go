package jpeg

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"hash"
	"os"
	"path/filepath"
	"testing"

	"github.com/lockstep-ml/lockstep/shard/raster"
)

// hashImage adds width, height (32 bits, little-endian) and pixels: the form in which the reference figures were taken.
func hashImage(h hash.Hash, m *raster.Image) {
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
	var img raster.Image
	for name, sum := range want {
		b, err := os.ReadFile("testdata/" + name + ".jpg")
		if err != nil {
			t.Fatal(err)
		}
		if err := dec.Decode(&img, b, Whole); err != nil {
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
	read := func(name string) *raster.Image {
		b, err := os.ReadFile("testdata/" + name + ".jpg")
		if err != nil {
			t.Fatal(err)
		}
		img := &raster.Image{}
		if err := dec.Decode(img, b, Whole); err != nil {
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

// TestDecodeBounds hands over files that claim to be enormous.
func TestDecodeBounds(t *testing.T) {
	b, err := os.ReadFile("testdata/420.jpg")
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
		if err := dec.Decode(&raster.Image{}, huge, Whole); !errors.Is(err, raster.ErrTooLarge) {
			t.Errorf("SOF %02x: %v, want ErrTooLarge", sof, err)
		}
	}
}

// TestDecodeTruncated cuts a JPEG at every byte of its image data: never a panic, and an error as long as bits are missing.
func TestDecodeTruncated(t *testing.T) {
	for _, name := range []string{"420", "restart", "gray", "progressive"} {
		b, err := os.ReadFile("testdata/" + name + ".jpg")
		if err != nil {
			t.Fatal(err)
		}
		var dec Decoder
		for n := range len(b) - 3 {
			if err := dec.Decode(&raster.Image{}, b[:n], Whole); err == nil {
				t.Errorf("%s cut to %d of %d bytes: no error", name, n, len(b))
				break
			}
		}
	}
}

func FuzzDecode(f *testing.F) {
	names, err := filepath.Glob("testdata/*.jpg")
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
		img := raster.Image{}
		// A large claimed size is legal but slow to fuzz.
		if w, h, err := dec.Size(b); err == nil && w*h > 1<<16 {
			return
		}
		if dec.Decode(&img, b, Whole) == nil && len(img.Pix) != 3*img.W*img.H {
			t.Fatalf("%d bytes for %d x %d pixels", len(img.Pix), img.W, img.H)
		}
	})
}
