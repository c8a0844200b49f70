package jpeg

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/lockstep-ml/lockstep/shard/raster"
)

// raceDetector tells of a run that is ten times slower, and allocates.
var raceDetector bool

// photographs are the first files of a set of full-size ImageNet images.
var photographs = sync.OnceValues(func() ([][]byte, error) {
	dir := os.Getenv("LOCKSTEP_SHARED")
	if dir == "" {
		dir = "../../../shared"
	}
	f, err := os.Open(dir + "/data/imagenet-fullres.tar")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var out [][]byte
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if err == io.EOF {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		if !strings.HasSuffix(strings.ToLower(h.Name), "jpg") && !strings.HasSuffix(h.Name, "JPEG") {
			continue
		}
		b, err := io.ReadAll(r)
		if err != nil {
			return nil, err
		}
		out = append(out, b)
	}
})

// benchmark decodes photographs, views and all, after it has seen that the pixels are libjpeg-turbo's.
func benchmark(b *testing.B, view func(w, h int) View) {
	files, err := photographs()
	if err != nil {
		b.Skip(err)
	}
	var d Decoder
	var img raster.Image
	h := sha256.New()
	for _, f := range files {
		if err := d.Decode(&img, f, Whole); err != nil {
			b.Fatal(err)
		}
		hashImage(h, &img)
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != photographsHash {
		b.Fatalf("pixels hash to %s, libjpeg-turbo's to %s", got, photographsHash)
	}
	pixels := 0
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		f := files[i%len(files)]
		w, h, err := d.Size(f)
		if err == nil {
			err = d.Decode(&img, f, view(w, h))
		}
		if err != nil {
			b.Fatal(err)
		}
		pixels += w * h
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "img/s")
	b.ReportMetric(float64(pixels)/b.Elapsed().Seconds()/1e6, "Mpix/s")
}

// photographsHash is that of all their pixels, in the order of the archive.
const photographsHash = "8391d0380c47f2363948efdab6d421fe773384f58677265a14de594034f180ac"

func BenchmarkWhole(b *testing.B) {
	benchmark(b, func(int, int) View { return Whole })
}

// BenchmarkCrop decodes the middle quarter.
func BenchmarkCrop(b *testing.B) {
	benchmark(b, func(w, h int) View { return View{Region: raster.Box(w/4, h/4, w/2, h/2)} })
}

func BenchmarkHalf(b *testing.B) {
	benchmark(b, func(int, int) View { return View{Scale: 2} })
}
