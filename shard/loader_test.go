package shard

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"
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
	l, err := NewLoader(LoaderConfig{Dataset: ds, Plan: plan, Transform: CIFARTransform(true), Decoders: decoders, Depth: depth})
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
	var img Image
	aug := NewAugmenter(tr)
	for i := range plan.ReplicaBatch() {
		epoch, index := plan.Sample(step, replica, i)
		if err := ds.Load(&dec, &img, index); err != nil {
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
