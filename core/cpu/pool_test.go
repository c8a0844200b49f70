package cpu

import (
	"runtime"
	"testing"
)

// With more threads than cores, helpers are late in every way there is; a job that has returned has done every item all the same.
func TestPoolWaitsForLateHelpers(t *testing.T) {
	threads := 4 * runtime.NumCPU()
	p := newPool(threads)
	defer p.close()
	jobs := 200
	if testing.Short() {
		jobs = 100
	}
	done := make([]int, threads)
	for j := range jobs {
		p.run(threads, func(item, _ int) {
			for range item % 3 {
				runtime.Gosched()
			}
			done[item]++ // plain, so that the race detector sees a helper that is not waited for
		})
		for i, n := range done {
			if n != j+1 {
				t.Fatalf("job %d returned before item %d of %d was done", j, i, threads)
			}
		}
	}
}

// TestPoolIdleWake wakes a helper that has nothing new to do, as a caller does that was held up while it woke the helpers of a job:
// the helper must not count itself as having ended a job.
func TestPoolIdleWake(t *testing.T) {
	p := newPool(2)
	defer p.close()
	ran := 0
	p.run(2, func(int, int) {})
	parked := func() {
		for !p.parked[0].Load() {
			runtime.Gosched()
		}
	}
	for range 3 {
		parked()
		if !p.parked[0].CompareAndSwap(true, false) {
			t.Fatal("the helper was woken by nobody")
		}
		p.wake[0] <- struct{}{}
	}
	parked()
	if n := p.busy.Load(); n != 0 {
		t.Fatalf("%d helpers are busy, want none", n)
	}
	p.run(2, func(item, _ int) {
		if item == 0 {
			ran++
		}
	})
	if ran != 1 {
		t.Errorf("the job ran %d times", ran)
	}
}
