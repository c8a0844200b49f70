package cpu

import (
	"math"
	"os"
	"sync/atomic"
	"testing"
	"testing/fstest"
)

// TestLimits asks for figures that are figures: how large they are is the machine's affair.
func TestLimits(t *testing.T) {
	for _, k := range families() {
		t.Setenv(simdVariable, k.name)
		l, err := MeasurePeak(2)
		if err != nil {
			t.Fatal(err)
		}
		if !(l.CoreFLOPS > 0 && l.TogetherFLOPS > 0) || l.FLOPS() != 2*l.CoreFLOPS || l.Bytes() != 0 {
			t.Errorf("%s: %+v", k.name, l)
		}
	}
	t.Setenv(simdVariable, "mmx")
	if _, err := MeasurePeak(1); err == nil {
		t.Error("measured the peak of mmx")
	}
}

func TestMeasureMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("goes through some hundred MiB several times")
	}
	l := Limits{Threads: 2}
	if err := l.MeasureMemory(); err != nil {
		t.Fatal(err)
	}
	if !(l.CopyBytes > 0) || l.Bytes() != max(l.CopyBytes, l.ReadBytes) || (len(families()) > 1 && os.Getenv(simdVariable) != "generic" && !(l.ReadBytes > 0)) {
		t.Errorf("%+v", l)
	}
}

// TestPeakKernels: every family counts the rounds it is given, and its sums stay ordinary numbers. What the vector kernels leave in
// registers cannot be seen, so the recurrence itself is followed here.
func TestPeakKernels(t *testing.T) {
	for _, k := range families() {
		if k.peak == nil || k.peakLanes < 1 {
			t.Fatalf("%s has no peak kernel", k.name)
		}
		k.peak(&peakArgs{rounds: 1, half: 0.5, one: 1})
	}
	peakGeneric(&peakArgs{rounds: 100, half: 0.5, one: 1})
	if got := math.Float32frombits(peakSink.Load()); got != 8 {
		t.Errorf("four sums that tend to 2 are %v together", got)
	}
}

func TestTogether(t *testing.T) {
	var seen [3]atomic.Int32
	if rate := together(3, func(thread int) float64 { seen[thread].Add(1); return 5 }); !(rate > 0) {
		t.Errorf("a rate of %v", rate)
	}
	for i := range seen {
		if n := seen[i].Load(); n != 1 {
			t.Errorf("thread %d ran %d times", i, n)
		}
	}
}

func TestTrafficBytes(t *testing.T) {
	cache := func(size string) fstest.MapFS {
		return fstest.MapFS{"sys/devices/system/cpu/cpu0/cache/index2/size": {Data: []byte("2048K\n")},
			"sys/devices/system/cpu/cpu0/cache/index3/size": {Data: []byte(size)}}
	}
	for size, want := range map[string]int{"32768K\n": leastTraffic, "262144K\n": 1 << 30, "a lot": leastTraffic} {
		if got, err := trafficBytes(cache(size)); err != nil || got != want {
			t.Errorf("for a cache of %q: %d bytes, %v; want %d", size, got, err, want)
		}
	}
}
