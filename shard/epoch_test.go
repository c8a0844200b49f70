package shard

import (
	"fmt"
	"hash/maphash"
	"io"
	"math/bits"
	"runtime"
	"testing"

	"pgregory.net/rapid"
)

// imageNet is the number of training images of ILSVRC2012.
const imageNet = 1_281_167

// TestImageNetEpoch: at full size an epoch's order is a bijection, another one each epoch, and keeps nothing.
func TestImageNetEpoch(t *testing.T) {
	seen := make([]uint64, (imageNet+63)/64)
	stay := 0
	for epoch := range uint64(2) {
		clear(seen)
		p, next := NewPermutation(1, epoch, imageNet), NewPermutation(1, epoch+1, imageNet)
		for i := range imageNet {
			v := p.At(i)
			if v < 0 || v >= imageNet || seen[v/64]>>(v%64)&1 != 0 {
				t.Fatalf("epoch %d: place %d holds %d", epoch, i, v)
			}
			seen[v/64] |= 1 << (v % 64)
			if next.At(i) == v {
				stay++
			}
		}
		count := 0
		for _, w := range seen {
			count += bits.OnesCount64(w)
		}
		if count != imageNet {
			t.Errorf("epoch %d uses %d images", epoch, count)
		}
	}
	if stay > 20 { // two are expected, one for each pair of epochs
		t.Errorf("%d images keep their place from one epoch to the next", stay)
	}
	if n := testing.AllocsPerRun(100, func() {
		p := NewPermutation(1, 7, imageNet)
		runtime.KeepAlive(p.At(imageNet / 2))
	}); n != 0 {
		t.Errorf("%v allocations to look up a place", n)
	}
}

// TestResumeAnywhere: a loader that begins at any step, as after a kill, gives what the undisturbed one gave there; sizes are such that
// epochs end within batches.
func TestResumeAnywhere(t *testing.T) {
	ds := open(t, Options{Path: photos(t, 22)})
	plan := Plan{Seed: 4, Images: 22, GlobalBatch: 6, Replicas: 3}
	last := plan.StepOfEpochEnd(1)
	seed := maphash.MakeSeed()
	batch := func(l *Loader, step uint64) uint64 {
		b, err := l.Next(limit(t), step, []int{0, 1, 2})
		if err != nil {
			t.Fatal(err)
		}
		var h maphash.Hash
		h.SetSeed(seed)
		fmt.Fprint(&h, b.Images, b.Labels, b.Samples)
		l.Release(b)
		return h.Sum64()
	}
	undisturbed := testLoader(t, ds, plan, 2, 2)
	var want []uint64
	for step := range last {
		want = append(want, batch(undisturbed, step))
	}
	for begin := range last {
		l := testLoader(t, ds, plan, 1, 1)
		for step := begin; step < min(begin+3, last); step++ {
			if batch(l, step) != want[step] {
				t.Fatalf("begun at step %d: step %d has other bits", begin, step)
			}
		}
	}
}

// TestEvalCountsOnce: whatever the sizes, together the workers see every image once, and nothing else.
func TestEvalCountsOnce(t *testing.T) {
	sets := map[int]*Dataset{}
	rapid.Check(t, func(rt *rapid.T) {
		n := rapid.SampledFrom([]int{1, 2, 7, 24, 25}).Draw(rt, "images")
		if sets[n] == nil {
			sets[n] = open(t, Options{Path: photos(t, n)})
		}
		workers := rapid.IntRange(1, 4).Draw(rt, "workers")
		batch := rapid.IntRange(1, 30).Draw(rt, "batch")
		seen, valid := make([]int, n), 0
		for w := range workers {
			e, err := NewEval(EvalConfig{Dataset: sets[n], Transform: CIFARTransform(false), Batch: batch, Worker: w, Workers: workers})
			if err != nil {
				rt.Fatal(err)
			}
			stop := make(chan error, 1)
			go func() { stop <- e.Run(limit(t)) }()
			for {
				b, err := e.Next(limit(t))
				if err == io.EOF {
					break
				}
				if err != nil {
					rt.Fatal(err)
				}
				valid += b.Valid()
				for k, s := range b.Samples {
					if (s < 0) != (b.Labels[k] < 0) {
						rt.Fatalf("place %d has label %d and image %d", k, b.Labels[k], s)
					}
					if s >= 0 {
						seen[s]++
					}
				}
				e.Release(b)
			}
			if err := e.Close(); err != nil {
				rt.Fatal(err)
			}
			<-stop
		}
		for s, times := range seen {
			if times != 1 {
				rt.Fatalf("image %d of %d counts %d times", s, n, times)
			}
		}
		if valid != n {
			rt.Fatalf("%d images count, the set has %d", valid, n)
		}
	})
}

func BenchmarkPlanSampleImageNet(b *testing.B) {
	p := Plan{Seed: 1, Images: imageNet, GlobalBatch: 256, Replicas: 8}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		p.Sample(uint64(i), i%8, i%32)
	}
}
