package shard

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/lockstep-ml/lockstep/shard/raster"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// limit gives a test a context that ends long before the test binary would be killed.
func limit(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func open(t testing.TB, o Options) *Dataset {
	t.Helper()
	ds, err := Open(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ds.Close(); err != nil {
			t.Error(err)
		}
	})
	return ds
}

// start runs a loader for the length of the test.
func start(t testing.TB, run func(context.Context) error, stop func() error) {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- run(context.Background()) }()
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
		// A Close that came before Run makes Run fail; both are proper ends.
		if err := <-done; err != nil && !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
	})
}

func testLoader(t testing.TB, ds *Dataset, plan Plan, decoders, depth int) *Loader {
	t.Helper()
	l, err := NewLoader(LoaderConfig{Dataset: ds, Plan: plan, Transform: CIFARTransform(true), Supply: Supply{Decoders: decoders, Depth: depth}})
	if err != nil {
		t.Fatal(err)
	}
	start(t, l.Run, l.Close)
	return l
}

// replicaBatch is one replica's images and labels, computed plainly: the truth for every loader.
func replicaBatch(t testing.TB, ds *Dataset, plan Plan, tr Transform, step uint64, replica int) ([]float32, []int32) {
	t.Helper()
	var images []float32
	var labels []int32
	var dec Decoder
	var img raster.Image
	aug := NewAugmenter(tr)
	for i := range plan.ReplicaBatch() {
		epoch, index := plan.Sample(step, replica, i)
		if err := ds.Load(limit(t), &dec, &img, index); err != nil {
			t.Fatal(err)
		}
		dst := make([]float32, tr.Values())
		aug.Apply(dst, &img, NewDraw(plan.Seed, epoch, index))
		images = append(images, dst...)
		labels = append(labels, int32(ds.Label(index)))
	}
	return images, labels
}

// TestLoaderIsPure asks loaders of different shapes for steps in different orders and hostings, and wants the same bits from all.
func TestLoaderIsPure(t *testing.T) {
	ds := open(t, Options{Path: Builtin})
	plan := Plan{Seed: 7, Images: ds.Len(), GlobalBatch: 48, Replicas: 6}
	hostings := [][][]int{
		{{0, 1, 2, 3, 4, 5}},
		{{5, 0, 3}, {4}, {1, 2}},
		{{0}, {1}, {2}, {3}, {}, {4, 5}},
	}
	steps := [][]uint64{{0, 1, 2, 103, 104, 105}, {105, 104, 103, 2, 1, 0}, {2, 2, 0, 105, 104, 1, 103}}
	for k, hosting := range hostings {
		for _, replicas := range hosting {
			l := testLoader(t, ds, plan, 1+k, 1+k)
			for _, step := range steps[k] {
				b, err := l.Next(limit(t), step, replicas)
				if err != nil {
					t.Fatal(err)
				}
				for j, r := range replicas {
					images, labels := b.Replica(j)
					wantImages, wantLabels := replicaBatch(t, ds, plan, CIFARTransform(true), step, r)
					if !slices.Equal(images, wantImages) || !slices.Equal(labels, wantLabels) {
						t.Fatalf("step %d, replica %d hosted in %v: batch differs from the plan's", step, r, replicas)
					}
				}
				l.Release(b)
			}
		}
	}
}

// damagedSet is a tar of 12 images where the scans of the given ones are broken, and the whole set with their places.
func damagedSet(t testing.TB, bad ...int) (path string, files []file) {
	t.Helper()
	for i := range 12 {
		files = append(files, file{fmt.Sprintf("%c/%02d.jpg", 'a'+i/6, i), picture(t, i)})
	}
	b := tarBytes(t, files)
	for _, i := range bad {
		// In the archive, not before it: the tar's own checksums cover headers only.
		at := bytes.Index(b, files[i].data)
		scan := at + bytes.Index(files[i].data, []byte{0xff, 0xda}) + 20
		b[scan], b[scan+1] = 0xff, 0xd9
	}
	return writeFile(t, "damaged.tar", b), files
}

func TestDamagedImageStopsTheRun(t *testing.T) {
	path, files := damagedSet(t, 4)
	ds := open(t, Options{Path: path})
	l := testLoader(t, ds, Plan{Images: 12, GlobalBatch: 12, Replicas: 1}, 2, 1)
	_, err := l.Next(limit(t), 5, []int{0})
	var damaged *DamagedError
	if !errors.As(err, &damaged) || damaged.Archive != path || damaged.Member != files[4].name {
		t.Fatalf("error %v, want a DamagedError of %s", err, files[4].name)
	}
	for _, part := range []string{path, files[4].name, "--skip-damaged", "step 5"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q does not say %q", err, part)
		}
	}
	if len(ds.Damaged()) != 0 {
		t.Error("counted as skipped")
	}
}

// TestSkipDamaged: each damaged image is replaced by the next good one, 5 by 6 and 10, 11 by 0, and listed once.
func TestSkipDamaged(t *testing.T) {
	path, files := damagedSet(t, 5, 10, 11)
	ds := open(t, Options{Path: path, SkipDamaged: true})
	plan := Plan{Seed: 3, Images: 12, GlobalBatch: 12, Replicas: 2}
	tr := CIFARTransform(true)
	l := testLoader(t, ds, plan, 2, 2)
	var dec Decoder
	var img raster.Image
	aug := NewAugmenter(tr)
	for step := range uint64(4) {
		b, err := l.Next(limit(t), step, []int{1, 0})
		if err != nil {
			t.Fatal(err)
		}
		for k, r := range b.Replicas {
			images, labels := b.Replica(k)
			for i := range plan.ReplicaBatch() {
				epoch, index := plan.Sample(step, r, i)
				stand := index
				if to, ok := map[int]int{5: 6, 10: 0, 11: 0}[index]; ok {
					stand = to
				}
				if err := ds.Load(limit(t), &dec, &img, stand); err != nil {
					t.Fatal(err)
				}
				want := make([]float32, tr.Values())
				aug.Apply(want, &img, NewDraw(plan.Seed, epoch, index))
				if labels[i] != int32(ds.Label(stand)) || !slices.Equal(images[i*len(want):(i+1)*len(want)], want) {
					t.Fatalf("step %d, image %d: not image %d", step, index, stand)
				}
			}
		}
		l.Release(b)
	}
	if want := []string{files[5].name, files[10].name, files[11].name}; !slices.Equal(ds.Damaged(), want) {
		t.Errorf("damaged %v, want %v", ds.Damaged(), want)
	}
}

func TestAllDamaged(t *testing.T) {
	path, _ := damagedSet(t, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11)
	ds := open(t, Options{Path: path, SkipDamaged: true})
	l := testLoader(t, ds, Plan{Images: 12, GlobalBatch: 4, Replicas: 1}, 1, 1)
	if _, err := l.Next(limit(t), 0, []int{0}); !errors.Is(err, ErrNoImages) {
		t.Errorf("error %v, want ErrNoImages", err)
	}
}

// evalAll runs every worker's share and gathers the batches by number.
func evalAll(t *testing.T, ds *Dataset, batch, workers int) (images [][]float32, labels [][]int32) {
	t.Helper()
	for w := range workers {
		e, err := NewEval(EvalConfig{Dataset: ds, Transform: CIFARTransform(false), Batch: batch, Worker: w, Workers: workers, Supply: Supply{Decoders: 2}})
		if err != nil {
			t.Fatal(err)
		}
		if images == nil {
			images, labels = make([][]float32, e.Batches()), make([][]int32, e.Batches())
		}
		start(t, e.Run, e.Close)
		for {
			b, err := e.Next(limit(t))
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if labels[b.Step] != nil || int(b.Step)%workers != w {
				t.Fatalf("worker %d of %d got batch %d", w, workers, b.Step)
			}
			images[b.Step], labels[b.Step] = slices.Clone(b.Images), slices.Clone(b.Labels)
			e.Release(b)
		}
	}
	return images, labels
}

func TestEvalSharding(t *testing.T) {
	ds := open(t, Options{Path: Builtin, Split: "test"})
	images, labels := evalAll(t, ds, 96, 1)
	n := 0
	for _, batch := range labels {
		for _, l := range batch {
			if l >= 0 {
				if int(l) != ds.Label(n) {
					t.Fatalf("image %d has label %d", n, l)
				}
				n++
			}
		}
	}
	if n != 1000 || len(labels) != 11 {
		t.Errorf("%d images in %d batches, want 1000 in 11", n, len(labels))
	}
	for _, workers := range []int{2, 3, 13} {
		otherImages, otherLabels := evalAll(t, ds, 96, workers)
		if !slices.EqualFunc(images, otherImages, slices.Equal) || !slices.EqualFunc(labels, otherLabels, slices.Equal) {
			t.Errorf("%d workers see other batches", workers)
		}
	}
}

// TestEvalSkipsDamaged: no image counts twice in an evaluation, so a damaged one leaves its place empty.
func TestEvalSkipsDamaged(t *testing.T) {
	path, _ := damagedSet(t, 3)
	_, labels := evalAll(t, open(t, Options{Path: path, SkipDamaged: true}), 8, 1)
	if want := [][]int32{{0, 0, 0, -1, 0, 0, 1, 1}, {1, 1, 1, 1, -1, -1, -1, -1}}; !slices.EqualFunc(labels, want, slices.Equal) {
		t.Errorf("labels %v, want %v", labels, want)
	}
}

// TestLoaderLifecycle: waits end with their context or with the loader, in whatever order things happen.
func TestLoaderLifecycle(t *testing.T) {
	ds := open(t, Options{Path: Builtin})
	config := LoaderConfig{Dataset: ds, Plan: Plan{Images: ds.Len(), GlobalBatch: 8, Replicas: 2}, Transform: CIFARTransform(true)}
	newLoader := func() *Loader {
		l, err := NewLoader(config)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	t.Run("a wait ends with its context", func(t *testing.T) {
		l := newLoader() // never runs
		ctx, cancel := context.WithCancel(limit(t))
		cancel()
		if _, err := l.Next(ctx, 0, []int{0}); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "step 0") {
			t.Errorf("Next: %v", err)
		}
		if err := errors.Join(l.Close(), l.Close()); err != nil {
			t.Error(err)
		}
		if err := l.Run(limit(t)); !errors.Is(err, ErrClosed) {
			t.Errorf("Run after Close: %v", err)
		}
	})
	t.Run("a wait ends with Close", func(t *testing.T) {
		l := newLoader()
		done := make(chan error, 1)
		go func() {
			_, err := l.Next(limit(t), 0, []int{0})
			done <- err
		}()
		if err := l.Close(); err != nil { // before, while or after Next begins to wait
			t.Error(err)
		}
		if err := <-done; !errors.Is(err, ErrClosed) {
			t.Errorf("Next: %v", err)
		}
	})
	t.Run("Run ends with its context", func(t *testing.T) {
		l := newLoader()
		ctx, cancel := context.WithCancel(limit(t))
		done := make(chan error, 1)
		go func() { done <- l.Run(ctx) }()
		if _, err := l.Next(limit(t), 0, []int{0, 1}); err != nil {
			t.Fatal(err)
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v", err)
		}
		if _, err := l.Next(limit(t), 9, []int{0}); !errors.Is(err, ErrClosed) {
			t.Errorf("Next after Run: %v", err)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Run("wrong replica", func(t *testing.T) {
		if _, err := newLoader().Next(limit(t), 0, []int{2}); err == nil || !strings.Contains(err.Error(), "replica 2, want 0..1") {
			t.Errorf("Next: %v", err)
		}
	})
	t.Run("released twice", func(t *testing.T) {
		l := testLoader(t, ds, config.Plan, 1, 1)
		b, err := l.Next(limit(t), 0, []int{0})
		if err != nil {
			t.Fatal(err)
		}
		l.Release(b)
		defer func() {
			if recover() == nil {
				t.Error("no panic")
			}
		}()
		l.Release(b)
	})
}

// TestLoaderRecycles holds several batches at once while sets change, and checks that a held one is not written to.
func TestLoaderRecycles(t *testing.T) {
	ds := open(t, Options{Path: Builtin})
	plan := Plan{Seed: 1, Images: ds.Len(), GlobalBatch: 32, Replicas: 4}
	l := testLoader(t, ds, plan, 2, 3)
	var held []*Batch
	sets := [][]int{{0, 1}, {0, 1}, {2}, {0, 1, 2, 3}, {0, 1, 2, 3}, {3}}
	for step := range uint64(60) {
		b, err := l.Next(limit(t), step, sets[step%6])
		if err != nil {
			t.Fatal(err)
		}
		if held = append(held, b); len(held) < 4 {
			continue
		}
		old := held[0]
		held = held[1:]
		for k, r := range old.Replicas {
			images, labels := old.Replica(k)
			wantImages, wantLabels := replicaBatch(t, ds, plan, CIFARTransform(true), old.Step, r)
			if !slices.Equal(images, wantImages) || !slices.Equal(labels, wantLabels) {
				t.Fatalf("step %d, replica %d changed while held", old.Step, r)
			}
		}
		l.Release(old)
	}
}
