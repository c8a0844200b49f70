package shard

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

// TestSynthetic: a data set like any other, whose images are those of its files, though a loader makes each only once.
func TestSynthetic(t *testing.T) {
	ds := open(t, Options{Path: "synthetic:40x36:7:100"})
	if ds.Len() != 100 || len(ds.Classes()) != 7 {
		t.Errorf("%d images of %d classes", ds.Len(), len(ds.Classes()))
	}
	if n := open(t, Options{Path: "synthetic:40x36:7:100", Split: "test"}).Len(); n != 10 {
		t.Errorf("%d test images", n)
	}
	if other := open(t, Options{Path: "synthetic:40x36:7:99"}); other.Fingerprint() == ds.Fingerprint() {
		t.Error("sets of other sizes look alike")
	}
	plan := Plan{Seed: 1, Images: 100, GlobalBatch: 50, Replicas: 2}
	l := testLoader(t, ds, plan, 2, 1)
	seen := map[int64][]float32{} // by number in the pool
	for step := range uint64(6) {
		b, err := l.Next(limit(t), step, []int{0, 1})
		if err != nil {
			t.Fatal(err)
		}
		for k, s := range b.Samples {
			img := b.Images[k*CIFARTransform(true).Values():][:CIFARTransform(true).Values()]
			number := ds.samples[s].offset % syntheticPool
			was, ok := seen[number]
			if ok && !slices.Equal(was, img) {
				t.Fatalf("image %d changed", s)
			}
			seen[number] = slices.Clone(img)
			if int(b.Labels[k]) != ds.Label(s) {
				t.Fatalf("image %d has label %d", s, b.Labels[k])
			}
		}
		l.Release(b)
	}
	if len(seen) != syntheticPool {
		t.Errorf("%d different images", len(seen))
	}
	again := open(t, Options{Path: "synthetic:40x36:7:100"})
	a, errA := ds.Read(limit(t), 3, nil)
	b, errB := again.Read(limit(t), 3, nil)
	if errA != nil || errB != nil || !slices.Equal(a, b) {
		t.Errorf("image 3 is not the same twice: %v, %v", errA, errB)
	}
}

func TestSyntheticPaths(t *testing.T) {
	for path, want := range map[string]noise{
		"synthetic": {224, 224, 1000, 10_000}, "synthetic:32x48": {32, 48, 1000, 10_000}, "synthetic:1x2:3:4": {1, 2, 3, 4},
	} {
		if n, err := parseNoise(path); err != nil || n != want || !IsSynthetic(path) {
			t.Errorf("%s is %+v, %v", path, n, err)
		}
	}
	for _, path := range []string{"synthetic:32", "synthetic:0x1", "synthetic:x", "synthetic:9999x1", "synthetic:1x1:0", "synthetic:1x1:1:1:1", "synthetic:1x1:1:", "synthetic:"} {
		if _, err := Open(limit(t), Options{Path: path}); !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: error %v", path, err)
		}
	}
	if IsSynthetic("synthetics.tar") || IsSynthetic("./synthetic") {
		t.Error("files are taken for noise")
	}
}
