package shard

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/metrics"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// A faultyStore is a store whose reads go through a function first, which may fail them, or hold them up until ctx ends.
type faultyStore struct {
	store
	before func(name string) error // a run of several samples has none

	mu    sync.Mutex
	reads int
	bytes int64
}

func (f *faultyStore) read(ctx context.Context, x *index, i int, buf []byte) ([]byte, error) {
	if err := f.before(x.name(i)); err != nil {
		return nil, err
	}
	f.count(int64(x.samples[i].size))
	return f.store.read(ctx, x, i, buf)
}

func (f *faultyStore) count(n int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reads, f.bytes = f.reads+1, f.bytes+n
}

// A faultyRanges can also read runs.
type faultyRanges struct{ faultyStore }

func (f *faultyRanges) readRange(ctx context.Context, file int32, off int64, p []byte) error {
	if err := f.before(""); err != nil {
		return err
	}
	f.count(int64(len(p)))
	return f.store.(rangeStore).readRange(ctx, file, off, p)
}

func (f *faultyRanges) accept(x *index, i int, b []byte) error {
	return f.store.(rangeStore).accept(x, i, b)
}

func ignore(string) error { return nil }

// photos is a tar of n images in three classes.
func photos(t testing.TB, n int) string {
	t.Helper()
	var files []file
	for i := range n {
		files = append(files, file{fmt.Sprintf("%c/%03d.jpg", 'a'+i%3, i), picture(t, i)})
	}
	return writeFile(t, "photos.tar", tarBytes(t, files))
}

func supplied(t testing.TB, ds *Dataset, plan Plan, s Supply) *Loader {
	t.Helper()
	l, err := NewLoader(LoaderConfig{Dataset: ds, Plan: plan, Transform: CIFARTransform(true), Supply: s})
	if err != nil {
		t.Fatal(err)
	}
	start(t, l.Run, l.Close)
	return l
}

// TestFetchIsPure: whatever the store can do, whatever fails of runs, and however little memory there is, batches hold the same bits.
func TestFetchIsPure(t *testing.T) {
	path := photos(t, 60)
	plain := open(t, Options{Path: path})
	plan := Plan{Seed: 5, Images: 60, GlobalBatch: 24, Replicas: 3}
	tar := func(t *testing.T) *Dataset { return open(t, Options{Path: path}) }
	shapes := map[string]func(t *testing.T) (*Dataset, Supply){
		"runs": func(t *testing.T) (*Dataset, Supply) { return tar(t), Supply{Decoders: 2} },
		"samples": func(t *testing.T) (*Dataset, Supply) {
			ds := tar(t)
			ds.store = &faultyStore{store: ds.store, before: ignore}
			return ds, Supply{Decoders: 2, Fetchers: 7}
		},
		"no memory": func(t *testing.T) (*Dataset, Supply) { return tar(t), Supply{Decoders: 3, Memory: 1} },
		"every run fails": func(t *testing.T) (*Dataset, Supply) {
			ds := tar(t)
			ds.store = &faultyRanges{faultyStore{store: ds.store, before: func(name string) error {
				if name == "" {
					return errors.New("a run that fails")
				}
				return nil
			}}}
			return ds, Supply{Decoders: 2, Depth: 1}
		},
	}
	for name, shape := range shapes {
		t.Run(name, func(t *testing.T) {
			ds, supply := shape(t)
			l := supplied(t, ds, plan, supply)
			for _, c := range []struct {
				step     uint64
				replicas []int
			}{{0, []int{0, 2}}, {1, []int{0, 2}}, {2, []int{0, 2}}, {3, []int{1}}, {4, []int{1}}, {2, []int{0, 1, 2}}, {3, []int{0, 1, 2}}} {
				b, err := l.Next(limit(t), c.step, c.replicas)
				if err != nil {
					t.Fatal(err)
				}
				for k, r := range c.replicas {
					images, labels := b.Replica(k)
					wantImages, wantLabels := replicaBatch(t, plain, plan, CIFARTransform(true), c.step, r)
					if !slices.Equal(images, wantImages) || !slices.Equal(labels, wantLabels) {
						t.Fatalf("step %d, replica %d: batch differs from the plan's", c.step, r)
					}
				}
				l.Release(b)
			}
		})
	}
}

// TestNeighboursShareReads: the images of several batches, which lie close together, come with few reads.
func TestNeighboursShareReads(t *testing.T) {
	ds := open(t, Options{Path: photos(t, 60)})
	store := &faultyRanges{faultyStore{store: ds.store, before: ignore}}
	ds.store = store
	l := supplied(t, ds, Plan{Images: 60, GlobalBatch: 20, Replicas: 1}, Supply{})
	b, err := l.Next(limit(t), 0, []int{0})
	if err != nil {
		t.Fatal(err)
	}
	l.Release(b)
	store.mu.Lock()
	defer store.mu.Unlock()
	if store.reads > 10 { // 220 images are wanted by then
		t.Errorf("%d reads of %d bytes", store.reads, store.bytes)
	}
}

func TestCoalesce(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var wants []want
		off, file := int64(0), int32(0)
		for range rapid.IntRange(0, 60).Draw(rt, "samples") {
			if rapid.IntRange(0, 9).Draw(rt, "next file") == 0 {
				off, file = 0, file+1
			}
			off += rapid.SampledFrom([]int64{0, 0, 512, maxGap - 1, maxGap, maxGap + 1}).Draw(rt, "gap")
			end := off + rapid.SampledFrom([]int64{0, 1, 100 << 10, 300 << 10, maxRead}).Draw(rt, "size")
			for range rapid.IntRange(1, 2).Draw(rt, "times") { // an image may be wanted in two epochs
				wants = append(wants, want{file: file, off: off, end: end, order: rapid.IntRange(0, 5).Draw(rt, "order")})
			}
			off = end
		}
		for _, ranges := range []bool{false, true} {
			var all []want
			for _, r := range coalesce(wants, ranges) {
				all = append(all, r.wants...)
				if len(r.wants) == 1 {
					continue
				}
				if !ranges || r.end-r.off > maxRead {
					rt.Fatalf("%d samples in a run of %d bytes", len(r.wants), r.end-r.off)
				}
				first, used, last := r.first, int64(0), int64(-1)
				for _, w := range r.wants {
					if w.file != r.wants[0].file || w.off < r.off || w.end > r.end || w.order < first {
						rt.Fatalf("a sample at %d of file %d in a run %d to %d of file %d", w.off, w.file, r.off, r.end, r.wants[0].file)
					}
					if w.end > last {
						used, last = used+w.end-w.off, w.end
					}
				}
				if r.end-r.off > 2*used {
					rt.Fatalf("a run of %d bytes for %d", r.end-r.off, used)
				}
			}
			if !slices.Equal(all, wants) {
				rt.Fatal("wants were lost or changed places")
			}
		}
	})
}

// TestFailedReadNamesItsSample: of a run that fails only the sample that cannot be read is at fault.
func TestFailedReadNamesItsSample(t *testing.T) {
	path := photos(t, 12)
	ds := open(t, Options{Path: path})
	const bad = "b/004.jpg"
	ds.store = &faultyRanges{faultyStore{store: ds.store, before: func(name string) error {
		if name == "" || name == bad {
			return errors.New("input/output error")
		}
		return nil
	}}}
	l := supplied(t, ds, Plan{Images: 12, GlobalBatch: 4, Replicas: 1}, Supply{})
	failed := 0
	for step := range uint64(3) {
		b, err := l.Next(limit(t), step, []int{0})
		if err == nil {
			l.Release(b)
			continue
		}
		failed++
		for _, part := range []string{path, bad, "from byte", "input/output error", fmt.Sprintf("step %d", step)} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("error %q does not say %q", err, part)
			}
		}
	}
	if failed != 1 {
		t.Errorf("%d of 3 batches failed, one holds the image", failed)
	}
}

// TestStall: a read that does not end is an error that names shard and sample, whether or not it can be broken off.
func TestStall(t *testing.T) {
	path := photos(t, 12)
	release := make(chan struct{})
	ds := open(t, Options{Path: path})
	ds.store = &faultyStore{store: ds.store, before: func(string) error { <-release; return nil }}
	l := supplied(t, ds, Plan{Images: 12, GlobalBatch: 4, Replicas: 1}, Supply{Stall: 20 * time.Millisecond})
	t.Cleanup(sync.OnceFunc(func() { close(release) })) // before the loader is closed
	for _, step := range []uint64{7, 20} {              // the second finds no fetcher free
		_, err := l.Next(limit(t), step, []int{0})
		var stall *StallError
		if !errors.As(err, &stall) || stall.Archive != path || stall.Size == 0 {
			t.Fatalf("error %v, want a StallError", err)
		}
		for _, part := range []string{path, stall.Member, "20ms", fmt.Sprint("step ", step), "--data-timeout"} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("error %q does not say %q", err, part)
			}
		}
	}
}

// TestMemoryBound looks, after each step, at what batches and files take.
func TestMemoryBound(t *testing.T) {
	ds := open(t, Options{Path: photos(t, 60)})
	plan := Plan{Seed: 2, Images: 60, GlobalBatch: 24, Replicas: 3}
	image := int64(4 * 8 * CIFARTransform(true).Values())
	for batches, want := range map[int64]int{1: 0, 3: 1, 4: 2, 6: 3 + fetchAhead} { // that there is room for, one of them in use
		bound := 2*batches*image + image // and some room for files
		l := supplied(t, ds, plan, Supply{Memory: bound, Depth: 3})
		ahead := 0
		for step := range uint64(20) {
			b, err := l.Next(limit(t), step, []int{0, 1})
			if err != nil {
				t.Fatal(err)
			}
			l.p.mu.Lock()
			used := l.p.fetching + int64(len(l.p.free))*2*image + 2*image // b
			for _, q := range l.p.queue {
				if q.batch != nil {
					used += 2 * image
				}
			}
			ahead = max(ahead, len(l.p.queue))
			l.p.mu.Unlock()
			if used > bound && batches > 1 {
				t.Errorf("room for %d batches: %d bytes of %d at step %d", batches, used, bound, step)
			}
			l.Release(b)
		}
		if ahead != want {
			t.Errorf("room for %d batches: %d were made ahead, want %d", batches, ahead, want)
		}
	}
}

// TestLoaderStaysSmall: over thousands of steps, in which replicas come and go, neither memory nor goroutines grow.
func TestLoaderStaysSmall(t *testing.T) {
	ds := open(t, Options{Path: photos(t, 90)})
	plan := Plan{Images: 90, GlobalBatch: 16, Replicas: 4}
	l := supplied(t, ds, plan, Supply{Decoders: 2, Fetchers: 3})
	sets := [][]int{{0, 1}, {0, 1, 2, 3}, {2}}
	ctx := limit(t) // one for all: each leaves something behind until the test's end
	run := func(from, to uint64) (heap uint64, goroutines int) {
		for step := from; step < to; step++ {
			b, err := l.Next(ctx, step, sets[step/50%3])
			if err != nil {
				t.Fatal(err)
			}
			l.Release(b)
		}
		runtime.GC()
		runtime.GC() // the first may have left what the tests before this one freed
		sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
		metrics.Read(sample)
		return sample[0].Value.Uint64(), runtime.NumGoroutine()
	}
	steps := uint64(3000)
	if testing.Short() {
		steps = 600
	}
	heap, goroutines := run(0, 300)
	heapEnd, goroutinesEnd := run(300, steps)
	// A step that kept one image of 12 KiB would come to megabytes.
	if heapEnd > heap+1<<20 || goroutinesEnd > goroutines {
		t.Errorf("from step 300 to %d: heap from %d to %d bytes, goroutines from %d to %d", steps, heap, heapEnd, goroutines, goroutinesEnd)
	}
}
