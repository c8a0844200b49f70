package shard

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"runtime"
	"testing"

	"github.com/lockstep-ml/lockstep/shard/source"
)

// A hollow is an archive of n images of which only the headers take memory, in the way of ImageNet's: that of 1.28 million images has 138 GB.
type hollow struct {
	heads [][]byte
	step  int64 // bytes of a member with its header
}

// newHollow makes members of 110,000 bytes in class folders of 1,300 images.
func newHollow(t testing.TB, n int) *hollow {
	const body = 110_000
	h := &hollow{step: 512 + (body+511)/512*512}
	for i := range n {
		var b bytes.Buffer
		class := fmt.Sprintf("n%08d", 1440764+7*(i/1300))
		err := tar.NewWriter(&b).WriteHeader(&tar.Header{Name: fmt.Sprintf("train/%s/%s_%d.JPEG", class, class, i%1300), Typeflag: tar.TypeReg, Size: body, Mode: 0o644})
		if err != nil {
			t.Fatal(err)
		}
		h.heads = append(h.heads, b.Bytes())
	}
	return h
}

func (h *hollow) Name() string { return "hollow.tar" }
func (h *hollow) Size() int64  { return h.step*int64(len(h.heads)) + 1024 }
func (h *hollow) Close() error { return nil }

func (h *hollow) ReadAt(_ context.Context, p []byte, off int64) error {
	clear(p)
	for i := off / h.step; i < int64(len(h.heads)) && i*h.step < off+int64(len(p)); i++ {
		at := i*h.step - off
		copy(p[max(at, 0):], h.heads[i][min(max(-at, 0), 512):])
	}
	return nil
}

// dataset indexes it.
func (h *hollow) dataset(t testing.TB) *Dataset {
	t.Helper()
	opener, err := source.NewOpener(source.Options{})
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Split: "train", opener: opener}
	members, err := scanArchive(limit(t), o, h, 0)
	if err != nil {
		t.Fatal(err)
	}
	ds, err := (&tree{what: "hollow", members: members, store: &fileStore{}}).imageFolder(o)
	if err != nil {
		t.Fatal(err)
	}
	ds.done()
	return ds
}

// heap is the memory that is in use.
func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// TestIndexIsSmall: an image takes 60 bytes at most, its name included: 1.28 million take 77 MB.
func TestIndexIsSmall(t *testing.T) {
	const n = 40_000
	h := newHollow(t, n)
	before := heap()
	ds := h.dataset(t)
	after := heap()
	if per := float64(after-before) / n; per > 60 || ds.Len() != n {
		t.Errorf("%d images take %.0f bytes each", ds.Len(), per)
	} else {
		t.Logf("%.1f bytes an image", per)
	}
	if got := ds.Name(1300); got != "train/n01440771/n01440771_0.JPEG" {
		t.Errorf("image 1300 is %s", got)
	}
	runtime.KeepAlive(h)
}

// BenchmarkIndex indexes an archive; its bytes cost nothing, so this is the cost of tar, names and sorting.
func BenchmarkIndex(b *testing.B) {
	h := newHollow(b, 100_000)
	b.ReportAllocs()
	for b.Loop() {
		h.dataset(b)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/100_000, "ns/image")
}
