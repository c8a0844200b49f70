package shard

import (
	"math"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// TestDrawKnown pins the generator. The first stream is SplitMix64's published check for the seed 1234567; the second was computed
// from the formulas in Python.
func TestDrawKnown(t *testing.T) {
	published := Draw{1234567}
	for i, want := range []uint64{6457827717110365317, 3203168211198807973, 9817491932198370423} {
		if got := published.Uint64(); got != want {
			t.Errorf("number %d is %d, want %d", i, got, want)
		}
	}
	keyed := NewDraw(1, 2, 3)
	for i, want := range []uint64{0x12588d809dce88a7, 0xdd034ea7d44e8739, 0x5b70c9b40c7440b6, 0x814662edbdef0c19} {
		if got := keyed.Uint64(); got != want {
			t.Errorf("keyed number %d is %#x, want %#x", i, got, want)
		}
	}
	if NewDraw(1, 2, 3) == NewDraw(2, 1, 3) || NewDraw(1, 2, 3) == NewDraw(1, 3, 2) {
		t.Error("keys commute")
	}
}

func TestPermutationKnown(t *testing.T) {
	p := NewPermutation(1, 0, 50000)
	for i, want := range []int{37814, 1748, 4285, 23887, 12961, 14886, 5839, 5889} {
		if got := p.At(i); got != want {
			t.Errorf("place %d holds %d, want %d", i, got, want)
		}
	}
	p = NewPermutation(1, 5, 10)
	for i, want := range []int{9, 3, 6, 0, 2, 7, 5, 1, 4, 8} {
		if got := p.At(i); got != want {
			t.Errorf("place %d of 10 holds %d, want %d", i, got, want)
		}
	}
}

func TestPermutationIsBijective(t *testing.T) {
	sizes := []int{1000, 1023, 1024, 1025, 4096, 5000, 50000, 65537}
	for n := 1; n <= 130; n++ {
		sizes = append(sizes, n)
	}
	for _, n := range sizes {
		for epoch := range uint64(3) {
			p := NewPermutation(9, epoch, n)
			seen := make([]bool, n)
			for i := range n {
				v := p.At(i)
				if v < 0 || v >= n || seen[v] {
					t.Fatalf("n=%d, epoch %d: place %d holds %d", n, epoch, i, v)
				}
				seen[v] = true
			}
		}
	}
}

// TestPermutationIsUniform counts which element lands at a place over many epochs; chi-square, with a bound that chance passes once
// in about 10^6 keys, and the keys are fixed.
func TestPermutationIsUniform(t *testing.T) {
	for _, n := range []int{5, 10, 100} {
		for _, place := range []int{0, 1, n - 1} {
			count := make([]int, n)
			pairs := 0
			trials := 400 * n
			for epoch := range uint64(trials) {
				p := NewPermutation(3, epoch, n)
				v := p.At(place)
				count[v]++
				if w := p.At((place + 1) % n); w == (v+1)%n {
					pairs++
				}
			}
			chi := 0.0
			for _, c := range count {
				d := float64(c) - 400
				chi += d * d / 400
			}
			k := float64(n - 1)
			if limit := k + 5*math.Sqrt(2*k) + 15; chi > limit {
				t.Errorf("n=%d, place %d: chi-square %.1f over %.1f: %v", n, place, chi, limit, count)
			}
			// Neighbours in the order are neighbours in the data set with chance 1/(n-1).
			mean := float64(trials) / k
			if math.Abs(float64(pairs)-mean) > 5*math.Sqrt(mean) {
				t.Errorf("n=%d, place %d: %d neighbours stay together, expected %.0f", n, place, pairs, mean)
			}
		}
	}
}

// TestEpochUsesEveryImageOnce walks whole steps, and counts by the epoch that each place says it belongs to.
func TestEpochUsesEveryImageOnce(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		replicas := rapid.IntRange(1, 9).Draw(rt, "replicas")
		p := Plan{Seed: rapid.Uint64().Draw(rt, "seed"), Images: rapid.IntRange(1, 300).Draw(rt, "images"),
			Replicas: replicas, GlobalBatch: replicas * rapid.IntRange(1, 40).Draw(rt, "replicaBatch")}
		if err := p.Validate(); err != nil {
			rt.Fatal(err)
		}
		const epochs = 3
		used := [epochs][]int{}
		for e := range used {
			used[e] = make([]int, p.Images)
		}
		last := p.StepOfEpochEnd(epochs - 1)
		for step := range last {
			for r := range p.Replicas {
				for i := range p.ReplicaBatch() {
					if epoch, index := p.Sample(step, r, i); epoch < epochs {
						used[epoch][index]++
					}
				}
			}
		}
		for e := range used {
			if slices.ContainsFunc(used[e], func(n int) bool { return n != 1 }) {
				rt.Fatalf("%+v, epoch %d: uses %v", p, e, used[e])
			}
			end := p.StepOfEpochEnd(uint64(e))
			if p.EpochOf(end) <= uint64(e) || p.EpochOf(end-1) > uint64(e) {
				rt.Fatalf("%+v: epoch %d ends with step %d, but steps %d and %d begin in epochs %d and %d", p, e, end, end-1, end, p.EpochOf(end-1), p.EpochOf(end))
			}
		}
	})
}

func TestPlanFarAhead(t *testing.T) {
	p := Plan{Seed: 1, Images: 1281167, GlobalBatch: 256, Replicas: 8}
	if got := p.EpochOf(math.MaxUint64); got != 3685988230160193 {
		t.Errorf("the last step begins in epoch %d", got)
	}
	if got := p.StepOfEpochEnd(0); got != 5005 {
		t.Errorf("the first epoch of ImageNet takes %d steps, want 5005", got)
	}
	if got := p.StepsPerEpoch(); math.Abs(got-5004.55859375) > 1e-9 {
		t.Errorf("%v steps an epoch", got)
	}
}

func TestValidateReportsAll(t *testing.T) {
	_, err := NewLoader(LoaderConfig{Plan: Plan{Images: 0, GlobalBatch: 10, Replicas: 3}, Transform: Transform{Kind: 9}, Supply: Supply{Decoders: -1}})
	if err == nil {
		t.Fatal("no error")
	}
	for _, part := range []string{"images is 0", "10 does not divide into 3", "Kind(9)", "resolution 0", "std[2]", "no data set", "-1 decoders"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q is not in: %v", part, err)
		}
	}
	if err := (Options{Split: "dev", MaxMemory: -1}).Validate(); err == nil || strings.Count(err.Error(), "\n") != 2 {
		t.Errorf("options: %v, want three faults", err)
	}
	if err := (EvalConfig{Transform: CIFARTransform(false), Worker: 2, Workers: 2}).Validate(); err == nil || !strings.Contains(err.Error(), "worker 2 of 2") {
		t.Errorf("evaluation: %v", err)
	}
}
