package shard

import (
	"os"
	"testing"

	"github.com/lockstep-ml/lockstep/shard/raster"
)

// BenchmarkCIFARImage is one training image from JPEG bytes to normalised floats, as a decoder goroutine does it.
func BenchmarkCIFARImage(b *testing.B) {
	ds := open(b, Options{Path: Builtin})
	tr := CIFARTransform(true)
	dst := make([]float32, tr.Values())
	aug := NewAugmenter(tr)
	var dec Decoder
	var img raster.Image
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		k := i % ds.Len()
		if err := ds.Load(limit(b), &dec, &img, k); err != nil {
			b.Fatal(err)
		}
		aug.Apply(dst, &img, NewDraw(1, 0, k))
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "img/s")
}

// BenchmarkImageNetImage is the same for full-size photographs, RandomResizedCrop to 224.
func BenchmarkImageNetImage(b *testing.B) {
	ds := open(b, Options{Path: sharedFile(b, "data/imagenet-fullres.tar")})
	tr := ImageNetTransform(true)
	dst := make([]float32, tr.Values())
	aug := NewAugmenter(tr)
	var dec Decoder
	var img raster.Image
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		k := i % ds.Len()
		if err := ds.Load(limit(b), &dec, &img, k); err != nil {
			b.Fatal(err)
		}
		aug.Apply(dst, &img, NewDraw(1, 0, k))
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "img/s")
}

func BenchmarkPlanSample(b *testing.B) {
	p := Plan{Seed: 1, Images: 50000, GlobalBatch: 256, Replicas: 8}
	for i := 0; b.Loop(); i++ {
		p.Sample(uint64(i), i%8, i%32)
	}
}

func BenchmarkOpenCIFARTarGz(b *testing.B) {
	path := sharedFile(b, "data/cifar10.tar.gz")
	for b.Loop() {
		ds, err := Open(limit(b), Options{Path: path})
		if err != nil {
			b.Fatal(err)
		}
		if err := ds.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// sharedFile finds a large test file that is not part of the repository: in the folder LOCKSTEP_SHARED, else in ../shared beside
// the repository. Where it is missing, the test is skipped.
func sharedFile(t testing.TB, name string) string {
	t.Helper()
	if raceDetector {
		t.Skip("reads a large file on one goroutine: not under the race detector")
	}
	dir := os.Getenv("LOCKSTEP_SHARED")
	if dir == "" {
		dir = repoRoot(t) + "/../shared"
	}
	p := dir + "/" + name
	if _, err := os.Stat(p); err != nil {
		t.Skipf("%s is not here: %v", name, err)
	}
	return p
}

func repoRoot(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for range 8 {
		if _, err := os.Stat(dir + "/go.mod"); err == nil {
			return dir
		}
		dir += "/.."
	}
	t.Fatal("no go.mod above the test")
	return ""
}
