package main

import (
	"math"
	"path/filepath"
	"testing"

	"golang.org/x/sys/cpu"
)

// Means of pixels and colours are part of what is trained: the bits are others than without, and the same on any cluster and with any kernels.
func TestAugmentationSameBits(t *testing.T) {
	for _, c := range []struct {
		name string
		like []string
	}{
		{"pixel mean", []string{"--pixel-mean"}},
		{"lighting", []string{"--colour", "lighting"}},
		{"scale with lighting", []string{"--augment", "scale", "--colour", "lighting"}},
		{"resized crop", []string{"--augment", "resized-crop"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			want := uninterrupted(t, 2, c.like...)
			if want == uninterrupted(t, 2) {
				t.Error("the same bits as without")
			}
			settings := []string{}
			if cpu.X86.HasAVX2 {
				settings = append(settings, "LOCKSTEP_SIMD=avx2")
			}
			got := begin(t, settings, train(2, append([]string{"--workers", "2"}, c.like...)...)...).wait(0).report()
			if got.Hash != want {
				t.Errorf("two workers with narrower kernels have hash %s, one %s", got.Hash, want)
			}
		})
	}
}

func TestAugmentationRefusals(t *testing.T) {
	t.Parallel()
	lockstep(t, 1, train(1, "--colour", "sepia")...).says("--colour sepia", "lighting")
	lockstep(t, 1, train(1, "--pixel-mean", "--augment", "scale")...).says("--pixel-mean", "--augment cifar", "scale")
}

// A run's mean of pixels is found again when it is resumed and evaluated, and cannot be left out.
func TestPixelMeanStays(t *testing.T) {
	t.Parallel()
	out := filepath.Join(t.TempDir(), "run")
	r := lockstep(t, 0, train(2, "--pixel-mean", "--out", out)...).report()
	var with, without evalResult
	lockstep(t, 0, "eval", "--json", "--weights", out, "--data", shared.images()).lastLine(&with)
	if math.Abs(with.Loss-*r.TestLoss) > 1e-7 { // the run's went round the ring as float32
		t.Errorf("evaluated by the run %v, by eval %v", *r.TestLoss, with.Loss)
	}
	lockstep(t, 0, "eval", "--json", "--weights", out, "--data", shared.images(), "--pixel-mean=false").lastLine(&without)
	if without.Loss == with.Loss {
		t.Errorf("with and without the mean of pixels the loss is %v", with.Loss)
	}
	lockstep(t, 1, train(4, "--pixel-mean=false", "--out", out, "--resume")...).says("--pixel-mean")
}

// Ten crops are evaluated in batches of any size alike, and not like one.
func TestTenCrops(t *testing.T) {
	t.Parallel()
	out := filepath.Join(t.TempDir(), "run")
	lockstep(t, 0, train(2, "--augment", "scale", "--out", out)...)
	eval := func(more ...string) (r evalResult) {
		t.Helper()
		lockstep(t, 0, append([]string{"eval", "--json", "--weights", out, "--data", shared.images()}, more...)...).lastLine(&r)
		return r
	}
	one, ten := eval(), eval("--crops", "10")
	again := eval("--crops", "10", "--eval-batch", "37")
	if ten.Images != one.Images || ten.Loss == one.Loss || math.Abs(ten.Loss-one.Loss) > 0.5 {
		t.Errorf("one crop %+v, ten %+v", one, ten)
	}
	if again.ImagesPerSecond = ten.ImagesPerSecond; again != ten {
		t.Errorf("in batches of 37 %+v, of 100 %+v", again, ten)
	}
	lockstep(t, 1, "eval", "--weights", out, "--data", shared.images(), "--crops", "5").says("--crops 5", "1 or 10")
	lockstep(t, 1, "eval", "--weights", out, "--data", shared.images(), "--augment", "cifar", "--crops", "10").says("--crops 10", "--augment")
}

func TestAverage(t *testing.T) {
	// Softmax of (0, log 3) is 1/4 and 3/4, of (log 9 + 100, 100) 9/10 and 1/10.
	mean := average(make([]float32, 2), []float32{0, float32(math.Log(3)), float32(math.Log(9)) + 100, 100})
	for i, want := range []float64{(0.25 + 0.9) / 2, (0.75 + 0.1) / 2} {
		if got := math.Exp(float64(mean[i])); math.Abs(got-want) > 1e-5 {
			t.Errorf("class %d has probability %v, want %v", i, got, want)
		}
	}
	one := []float32{3, -2, 700}
	if got := average(make([]float32, 3), one); &got[0] != &one[0] {
		t.Error("a single view is changed")
	}
	if got := average(make([]float32, 1), []float32{1, float32(math.NaN())}); !math.IsNaN(float64(got[0])) {
		t.Errorf("the mean with something that is not a number is %v", got)
	}
}
