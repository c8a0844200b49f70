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

// seeds adds the small files of testdata.
func seeds(f *testing.F, add func(b []byte)) {
	f.Helper()
	names, err := filepath.Glob("testdata/*.jpg")
	if err != nil || len(names) == 0 {
		f.Fatal("no seeds", err)
	}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		add(b)
	}
}

// tooSlow tells of a file that claims a large size: legal, but slow to fuzz.
func tooSlow(b []byte) bool {
	var dec Decoder
	w, h, err := dec.Size(b)
	return err == nil && w*h > 1<<16
}

// FuzzDecode decodes with the generic kernels and the best ones: the same pixels, or an error from both.
func FuzzDecode(f *testing.F) {
	seeds(f, func(b []byte) { f.Add(b) })
	f.Fuzz(func(t *testing.T, b []byte) {
		if tooSlow(b) {
			return
		}
		plain, best := Decoder{k: genericKernels}, Decoder{}
		var want, got raster.Image
		wantErr, err := plain.Decode(&want, b, Whole), best.Decode(&got, b, Whole)
		if (err == nil) != (wantErr == nil) {
			t.Fatalf("generic: %v, best: %v", wantErr, err)
		}
		if err == nil && (len(got.Pix) != 3*got.W*got.H || !bytes.Equal(got.Pix, want.Pix)) {
			t.Fatalf("%d bytes for %d x %d pixels, or others than the generic kernels'", len(got.Pix), got.W, got.H)
		}
	})
}

// FuzzView decodes a region: where the whole image decodes, it has the same pixels there. The decoder was used for something else before.
func FuzzView(f *testing.F) {
	seeds(f, func(b []byte) { f.Add(b, uint8(1), uint16(1), uint16(2), uint16(3), uint16(4)) })
	dirt, err := os.ReadFile("testdata/progressive.jpg")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte, scale uint8, x, y, w, h uint16) {
		if tooSlow(b) {
			return
		}
		var dec, used Decoder
		var whole, part raster.Image
		if err := used.Decode(&part, dirt, Whole); err != nil {
			t.Fatal(err)
		}
		v := View{Scale: int(scale), Region: raster.Box(int(x), int(y), int(w), int(h))}
		wholeErr := dec.Decode(&whole, b, View{Scale: v.Scale})
		err := used.Decode(&part, b, v)
		if v.Region == (raster.Rect{}) {
			v.Region = raster.Box(0, 0, whole.W, whole.H)
		}
		r := v.Region
		if wholeErr != nil {
			return // the damage may lie behind the region
		}
		if inside := r.W > 0 && r.H > 0 && r.X+r.W <= whole.W && r.Y+r.H <= whole.H; inside != (err == nil) {
			t.Fatalf("region %v of %d x %d pixels: %v", r, whole.W, whole.H, err)
		}
		if err == nil {
			if whole.Crop(r); !bytes.Equal(whole.Pix, part.Pix) {
				t.Fatalf("region %v at 1/%d differs from the whole image's pixels", r, v.Scale)
			}
		}
	})
}
