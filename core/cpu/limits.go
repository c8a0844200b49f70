package cpu

import (
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
	"unsafe"
)

// Limits is what the machine can do at the most, as measured: what an engine's times are held against.
type Limits struct {
	Threads int
	// CoreFLOPS are floating-point operations a second of one thread alone, in registers, with the kernels that an engine would use.
	CoreFLOPS float64
	// TogetherFLOPS are those of all threads at once: less than Threads times CoreFLOPS where threads share a core's units, where the clock
	// falls under load, or where something else is running.
	TogetherFLOPS float64
	// ReadBytes and CopyBytes are bytes a second to and from memory, all threads at once; a copy counts what it reads and what it writes.
	// Zero until MeasureMemory.
	ReadBytes, CopyBytes float64
}

// FLOPS is the limit of arithmetic: every thread as fast as one alone.
func (l Limits) FLOPS() float64 { return l.CoreFLOPS * float64(l.Threads) }

// Bytes is the limit of traffic with memory.
func (l Limits) Bytes() float64 { return max(l.ReadBytes, l.CopyBytes) }

const (
	// The best of several trials leaves out those that were disturbed. A trial of arithmetic is longer than threads take to wake, and shorter
	// than a scheduler's slice.
	trial        = 8 * time.Millisecond
	peakTrials   = 20
	memoryTrials = 5
	// peakRounds times 14 sums take some 10 microseconds with vectors; the generic kernels' four take longer each, but can be preempted.
	peakRounds = 2000
	// leastTraffic bounds below what the threads together read or copy: four times a large last-level cache, or of the present one if
	// that is larger, see trafficBytes.
	leastTraffic = 512 << 20
)

// MeasurePeak measures the arithmetic of so many threads, in some 0.3 s.
func MeasurePeak(threads int) (Limits, error) {
	k, err := choose()
	if err != nil {
		return Limits{}, err
	}
	l := Limits{Threads: threads}
	for range peakTrials {
		l.CoreFLOPS = max(l.CoreFLOPS, together(1, k.peakRun))
		l.TogetherFLOPS = max(l.TogetherFLOPS, together(threads, k.peakRun))
	}
	l.CoreFLOPS = max(l.CoreFLOPS, l.TogetherFLOPS/float64(threads)) // the rounds alone may have been the disturbed ones
	return l, nil
}

// peakRun runs the peak kernel for one trial and returns its operations.
func (k *kernels) peakRun(int) float64 {
	a := &peakArgs{half: 0.5, one: 1}
	begun, done, rounds := time.Now(), 0, peakRounds
	if k.name == genericKernels.name {
		rounds /= 10
	}
	for time.Since(begun) < trial {
		a.rounds = rounds
		k.peak(a)
		done += rounds
	}
	return 2 * float64(done) * float64(k.peakLanes)
}

// together runs do on so many threads at once and returns a second's share of what they say to have done.
func together(threads int, do func(thread int) float64) float64 {
	done := make([]float64, threads)
	var ready, group sync.WaitGroup
	ready.Add(threads)
	begun := time.Now()
	for i := range threads {
		group.Go(func() {
			ready.Done()
			ready.Wait() //bounded: each thread counts itself down as it begins
			done[i] = do(i)
		})
	}
	group.Wait() //bounded: the threads only measure, for a fixed time
	took, sum := time.Since(begun).Seconds(), 0.0
	for _, n := range done {
		sum += n
	}
	return sum / took
}

// MeasureMemory adds the limits of memory, in a second or two and with buffers that it takes for as long.
func (l *Limits) MeasureMemory() error {
	k, err := choose()
	if err != nil {
		return err
	}
	size, err := trafficBytes(os.DirFS("/"))
	if err != nil {
		return err
	}
	mem, free, err := allocate(size / 4)
	if err != nil {
		return err
	}
	each := len(mem) / l.Threads / lanes * lanes
	of := func(thread int) []float32 { return mem[thread*each:][:each] }
	for range memoryTrials + 1 { // the first touches the pages
		l.CopyBytes = max(l.CopyBytes, together(l.Threads, func(thread int) float64 { return copyHalf(of(thread)) }))
		l.ReadBytes = max(l.ReadBytes, together(l.Threads, func(thread int) float64 { return k.read(of(thread)) }))
	}
	return free()
}

// copyHalf copies one half of m to the other and returns the bytes moved.
func copyHalf(m []float32) float64 {
	half := len(m) / 2
	copy(m[:half], m[half:2*half])
	return 8 * float64(half)
}

// read sums m up, in rows that a vector kernel is done with in some 30 microseconds, and returns the bytes read. The generic kernels
// compute for longer than memory takes: they leave the limit to copyHalf.
func (k *kernels) read(m []float32) float64 {
	const row = 1 << 16
	if k.name == genericKernels.name {
		return 0
	}
	var res [3 * lanes]float32
	for at := 0; at < len(m); at += row {
		n := min(row, len(m)-at)
		k.stats(&ewArgs{y: unsafe.Pointer(&m[at]), res: unsafe.Pointer(&res), rows: 1, cols: n / lanes})
	}
	return 4 * float64(len(m))
}

// trafficBytes is how much memory the measurement goes through: several times the caches, if there is so much.
func trafficBytes(root fs.FS) (int, error) {
	size := int64(leastTraffic)
	names, _ := fs.Glob(root, "sys/devices/system/cpu/cpu0/cache/index*/size") // a pattern without fault
	for _, name := range names {
		b, err := fs.ReadFile(root, name)
		if err != nil {
			continue
		}
		if n, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(string(b)), "K"), 10, 64); err == nil {
			size = max(size, 4*n<<10)
		}
	}
	if have, known := availableMemory(); known && have < size {
		return 0, fmt.Errorf("%w: measuring the memory's speed takes %d MiB, this machine has %d available; end what else runs here", ErrMemory, size>>20, have>>20)
	}
	return int(size), nil
}
