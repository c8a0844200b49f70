package jpeg

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/lockstep-ml/lockstep/shard/raster"
)

// TestRegion: any region at any scale has the pixels that the whole image has there.
func TestRegion(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	var dec Decoder
	var whole, part raster.Image
	for _, c := range truths(t) {
		if err := dec.Decode(&whole, c.file, View{Scale: c.scale}); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		for trial := range 12 {
			w, h := 1+r.IntN(whole.W), 1+r.IntN(whole.H)
			box := raster.Box(r.IntN(whole.W-w+1), r.IntN(whole.H-h+1), w, h)
			if trial < 4 { // the corners
				box.X, box.Y = (whole.W-w)*(trial%2), (whole.H-h)*(trial/2)
			}
			if err := dec.Decode(&part, c.file, View{Scale: c.scale, Region: box}); err != nil {
				t.Fatalf("%s at 1/%d, %v: %v", c.name, c.scale, box, err)
			}
			if part.W != w || part.H != h || len(part.Pix) != 3*w*h {
				t.Fatalf("%s at 1/%d, %v: got %d x %d", c.name, c.scale, box, part.W, part.H)
			}
			for y := range h {
				from := 3 * ((box.Y+y)*whole.W + box.X)
				if !bytes.Equal(part.Pix[3*y*w:3*(y+1)*w], whole.Pix[from:from+3*w]) {
					t.Fatalf("%s at 1/%d, %v: row %d differs from the whole image's", c.name, c.scale, box, y)
				}
			}
		}
	}
}

// TestRegionOutside: views that do not exist are errors.
func TestRegionOutside(t *testing.T) {
	b := read(t, "420")
	var dec Decoder
	w, h, err := dec.Size(b)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []View{
		{Region: raster.Box(0, 0, w+1, h)}, {Region: raster.Box(0, 1, w, h)}, {Region: raster.Box(-1, 0, 1, 1)}, {Region: raster.Box(0, 0, 0, 1)},
		{Region: raster.Box(1, 1, int(^uint(0)>>1), 1)}, {Scale: 2, Region: raster.Box(0, 0, w, h)}, {Scale: 3}, {Scale: 16}, {Scale: 6},
	} {
		if err := dec.Decode(&raster.Image{}, b, v); err == nil {
			t.Errorf("%v of %d x %d pixels was decoded", v, w, h)
		}
	}
}

// TestRegionStopsEarly: what a region does not need is not read, so damage below it goes by.
func TestRegionStopsEarly(t *testing.T) {
	b := read(t, "restart")
	var dec Decoder
	var img raster.Image
	w, h, err := dec.Size(b)
	if err != nil {
		t.Fatal(err)
	}
	cut := b[:len(b)-len(b)/4]
	if dec.Decode(&img, cut, Whole) == nil {
		t.Error("a file that is cut short was decoded whole")
	}
	if err := dec.Decode(&img, cut, View{Region: raster.Box(0, 0, w, h/4)}); err != nil {
		t.Errorf("its upper quarter: %v", err)
	}
}

// TestAllocations: once a decoder has seen an image, another like it takes no memory.
func TestAllocations(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector allocates")
	}
	for _, name := range []string{"420", "444", "422", "440", "restart", "gray", "progressive", "cmyk", "rgb"} {
		b := read(t, name)
		var dec Decoder
		var img raster.Image
		for _, v := range []View{Whole, {Scale: 2}, {Region: raster.Box(3, 2, 9, 8)}} {
			once := func() {
				if _, _, err := dec.Size(b); err != nil {
					t.Fatal(err)
				}
				if err := dec.Decode(&img, b, v); err != nil {
					t.Fatal(name, err)
				}
			}
			once()
			if n := testing.AllocsPerRun(20, once); n != 0 {
				t.Errorf("%s, %v: %v allocations an image", name, v, n)
			}
		}
	}
}

// TestSize compares with what decoding gives, and holds it to the headers: no byte of image data is needed.
func TestSize(t *testing.T) {
	var dec Decoder
	for _, c := range truths(t) {
		if c.scale != 1 {
			continue
		}
		scan := bytes.Index(c.file, []byte{0xff, mScan})
		if w, h, err := dec.Size(c.file[:scan]); err != nil || w != c.w || h != c.h {
			t.Errorf("%s: %d x %d, %v, want %d x %d", c.name, w, h, err, c.w, c.h)
		}
	}
	for _, b := range [][]byte{nil, {0xff}, []byte("\x89PNG\r\n\x1a\n"), {0xff, 0xd8}, {0xff, 0xd8, 0xff, 0xd9}, {0xff, 0xd8, 0xff, 0xc0, 0, 8}} {
		if w, h, err := dec.Size(b); err == nil {
			t.Errorf("% x is %d x %d", b, w, h)
		}
	}
}

// TestFallbacks: what is left to the standard library is counted by its kind, and an error where that does not know it either.
func TestFallbacks(t *testing.T) {
	var dec Decoder
	for i, c := range []struct {
		marker, bits byte
		kind         otherKind
	}{{0xc9, 8, arithmetic}, {0xca, 8, arithmetic}, {0xc3, 8, lossless}, {0xc5, 8, hierarchical}, {0xc1, 12, twelveBits}} {
		b := read(t, "420")
		at := bytes.Index(b, []byte{0xff, 0xc0})
		b[at+1], b[at+4] = c.marker, c.bits
		err := dec.Decode(&raster.Image{}, b, Whole)
		if !errors.Is(err, c.kind) || !strings.Contains(err.Error(), kindNames[c.kind]) {
			t.Errorf("marker %02x, %d bits: %v", c.marker, c.bits, err)
		}
		if w, h, err := dec.Size(b); err != nil || w < 1 || h < 1 {
			t.Errorf("marker %02x: size %d x %d, %v", c.marker, w, h, err)
		}
		sum := 0
		for _, n := range dec.Fallbacks() {
			sum += n
		}
		if sum != i+1 || dec.Fallbacks()[kindNames[c.kind]] == 0 {
			t.Errorf("after %d files: %v", i+1, dec.Fallbacks())
		}
	}
}

// TestTooSmallToBeTrue: a file cannot hold more blocks than it has bits, so no memory is taken for them.
func TestTooSmallToBeTrue(t *testing.T) {
	for _, name := range []string{"420", "progressive"} {
		b := read(t, name)
		at := max(bytes.Index(b, []byte{0xff, 0xc0}), bytes.Index(b, []byte{0xff, 0xc2}))
		binary.BigEndian.PutUint16(b[at+5:], 8000)
		binary.BigEndian.PutUint16(b[at+7:], 8000)
		var dec Decoder
		var img raster.Image
		if err := dec.Decode(&img, b, Whole); !errors.Is(err, errEarly) {
			t.Errorf("%s: %v", name, err)
		}
		if cap(img.Pix) > 0 || cap(dec.blocks[0]) > 0 || cap(dec.strips[0]) > 0 {
			t.Errorf("%s: took memory for %d pixels' bytes, %d blocks, strips of %d", name, cap(img.Pix), cap(dec.blocks[0]), cap(dec.strips[0]))
		}
	}
}

func read(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name + ".jpg")
	if err != nil {
		t.Fatal(err)
	}
	return b
}
