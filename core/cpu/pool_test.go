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
