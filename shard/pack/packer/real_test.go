package packer

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/lockstep-ml/lockstep/shard"
	"github.com/lockstep-ml/lockstep/shard/raster"
)

// sharedFile finds a large file that is not part of the repository; where it is missing the test is skipped.
func sharedFile(t *testing.T, name string) string {
	t.Helper()
	if testing.Short() {
		t.Skip("packs a large file")
	}
	dir := os.Getenv("LOCKSTEP_SHARED")
	if dir == "" {
		dir = filepath.Join("..", "..", "..", "..", "shared")
	}
	path := filepath.Join(dir, filepath.FromSlash(name))
	if _, err := os.Stat(path); err != nil {
		t.Skipf("%s is not here: %v", name, err)
	}
	return path
}

// samePixels compares images i of two data sets, decoded.
func samePixels(t *testing.T, a, b *shard.Dataset, i int) {
	t.Helper()
	var dec shard.Decoder
	var x, y raster.Image
	if err := errors.Join(a.Load(t.Context(), &dec, &x, i), b.Load(t.Context(), &dec, &y, i)); err != nil {
		t.Fatal(err)
	}
	if x.W != y.W || x.H != y.H || !bytes.Equal(x.Pix, y.Pix) || a.Label(i) != b.Label(i) || a.Name(i) != b.Name(i) {
		t.Fatalf("image %d, %s of class %d, is not %s of class %d", i, b.Name(i), b.Label(i), a.Name(i), a.Label(i))
	}
}

// TestCIFAR packs raw records, as PNG: every pixel stays.
func TestCIFAR(t *testing.T) {
	dir := t.TempDir()
	record := make([]byte, 3073)
	for n, name := range []string{"data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin", "test_batch.bin"} {
		var file []byte
		for r := range 7 {
			record[0] = byte((n + r) % 3)
			for i := range 3072 {
				record[1+i] = byte(i*i/7 + 13*n + 31*r)
			}
			file = append(file, record...)
		}
		if err := os.WriteFile(filepath.Join(dir, name), file, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "batches.meta.txt"), []byte("ant\nbee\ncat\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	packedLikeSource(t, dir, 1)
}

func TestRealCIFAR(t *testing.T) { packedLikeSource(t, sharedFile(t, "data/cifar10.tar.gz"), 499) }

func TestRealImagenette(t *testing.T) { packedLikeSource(t, sharedFile(t, "data/imagenette.tar"), 49) }

// packedLikeSource packs a data set, checks every byte, and compares every so-manieth image.
func packedLikeSource(t *testing.T, src string, every int) {
	t.Helper()
	c := config(t, src)
	c.ShardBytes = 16 << 20
	mustPack(t, c)
	verified(t, c.Out)
	for k, split := range []string{"train", "val"} {
		got := dataset(t, c.Out, split)
		if got.Len() != c.Splits[k].Data.Len() {
			t.Fatalf("%s has %d images, want %d", split, got.Len(), c.Splits[k].Data.Len())
		}
		for i := 0; i < got.Len(); i += every {
			samePixels(t, c.Splits[k].Data, got, i)
		}
	}
}
