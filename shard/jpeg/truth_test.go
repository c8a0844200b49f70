package jpeg

import (
	"archive/zip"
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"slices"
	"testing"

	"github.com/lockstep-ml/lockstep/shard/raster"
)

// truthVariable names the environment variable that gives a larger archive than the repository's: see testdata/truth.py.
const truthVariable = "LOCKSTEP_JPEG_TRUTH"

// A truth is a file, and what libjpeg-turbo or Pillow makes of it at one scale.
type truth struct {
	name        string
	file        []byte
	scale, w, h int
	hash        string
}

// truths reads the archive.
func truths(t testing.TB) []truth {
	t.Helper()
	path := os.Getenv(truthVariable)
	if path == "" {
		path = "testdata/truth.zip"
	}
	z, err := zip.OpenReader(path)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	index, err := z.Open("index.txt")
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	var out []truth
	for s := bufio.NewScanner(index); s.Scan(); {
		var c truth
		if _, err := fmt.Sscan(s.Text(), &c.name, &c.scale, &c.w, &c.h, &c.hash); err != nil {
			t.Fatal(err)
		}
		if files[c.name] == nil {
			f, err := z.Open(c.name)
			if err != nil {
				t.Fatal(err)
			}
			if files[c.name], err = io.ReadAll(f); err != nil {
				t.Fatal(err)
			}
		}
		c.file = files[c.name]
		out = append(out, c)
	}
	if len(out) < 100 {
		t.Fatalf("%s has %d lines", path, len(out))
	}
	return out
}

// TestTruth compares with libjpeg-turbo's pixels, and Pillow's of inks, to the bit: samplings, qualities, sizes, restarts, progressions, scales;
// with all kernels.
func TestTruth(t *testing.T) {
	for _, k := range slices.Compact(families()) {
		t.Run(k.name, func(t *testing.T) {
			dec := Decoder{k: k} // one for all: what an image leaves behind must not reach the next
			var img raster.Image
			wrong := 0
			for _, c := range truths(t) {
				if err := dec.Decode(&img, c.file, View{Scale: c.scale}); err != nil {
					t.Fatalf("%s at 1/%d: %v", c.name, c.scale, err)
				}
				sum := sha256.Sum256(img.Pix)
				if got := hex.EncodeToString(sum[:]); img.W != c.w || img.H != c.h || got != c.hash {
					if wrong++; wrong < 40 {
						t.Errorf("%s at 1/%d: %d x %d pixels hash to %s, libjpeg-turbo's %d x %d to %s", c.name, c.scale, img.W, img.H, got[:8], c.w, c.h, c.hash[:8])
					}
				}
			}
			if wrong > 0 {
				t.Errorf("%d differ", wrong)
			}
		})
	}
}
