package main

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
)

func TestBenchInput(t *testing.T) {
	t.Parallel()
	args := []string{"bench", "input", "--data", shared.images(), "--threads", "2", "--rounds", "1", "--images", "40", "--resolution", "32"}
	var r inputReport
	lockstep(t, 0, append(args, "--json")...).lastLine(&r)
	if !(r.ImagesPerSecond > 0 && r.MBPerSecond > 0 && r.DecodeImagesPerSecond > 0 && r.DecodeMBPerSecond > 0 && r.CPU > 0 && r.DecodeCPU > 0) || r.Images != 40 || r.Threads != 2 || r.Fallbacks == nil {
		t.Errorf("bench input: %+v", r)
	}
	if !(r.DecodeShare > 0 && r.DecodeShare < 1) || math.Abs(r.MBPerSecond/r.ImagesPerSecond/(r.DecodeMBPerSecond/r.DecodeImagesPerSecond)-1) > 1e-6 {
		t.Errorf("the shares of %+v", r)
	}
	var only inputReport
	lockstep(t, 0, append(args, "--json", "--decode-only")...).lastLine(&only)
	if only.ImagesPerSecond != only.DecodeImagesPerSecond || only.DecodeShare != 0 || only.Sum == r.Sum || len(only.Sum) != 64 {
		t.Errorf("bench input --decode-only: %+v, sum %s with augmentation", only, r.Sum)
	}
	for _, transform := range []string{"scale", "centre", "cifar"} {
		p := lockstep(t, 0, append(args, "--transform", transform)...)
		for _, want := range []string{transform + " to 32x32, 2 threads", "% of it decoding", "whole images decoded", "none", "every family of kernels"} {
			if !strings.Contains(p.stdout.String(), want) {
				t.Errorf("bench input --transform %s does not say %q:\n%s", transform, want, p.stdout.String())
			}
		}
	}
	lockstep(t, 1, append(args, "--transform", "sideways")...).says("--transform sideways", "resized-crop")
	lockstep(t, 1, append(args, "--images", "0")...).says("--images 0")
	lockstep(t, 1, append(args, "--resolution", "0")...).says("resolution 0")
	lockstep(t, 1, "bench", "input", "--data", t.TempDir()+"/none").says("none")
	lockstep(t, 1, "bench", "input").says("data")
}

// TestBenchInputChecks: whoever makes other bits, or none, is named.
func TestBenchInputChecks(t *testing.T) {
	says := func(sum string, err error) func() (string, error) { return func() (string, error) { return sum, err } }
	makers := []maker{{"one", says("aa", nil)}, {"two", says("aa", nil)}, {"three", says("aa", nil)}}
	if sum, err := agree(makers); sum != "aa" || err != nil {
		t.Errorf("of the same sums it says %q, %v", sum, err)
	}
	for i := range makers[1:] {
		changed := slices.Clone(makers)
		changed[i+1].sum = says("ab", nil)
		if _, err := agree(changed); err == nil || !strings.Contains(err.Error(), makers[i+1].how) {
			t.Errorf("of another sum it says %v", err)
		}
		changed[i+1].sum = says("aa", errors.New("broken"))
		if _, err := agree(changed); err == nil || !strings.Contains(err.Error(), "broken") {
			t.Errorf("of an error it says %v", err)
		}
	}
}
