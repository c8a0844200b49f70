package coordinator

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func named(n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("w%d", i)
	}
	return names
}

// sharesOf counts an assignment's replicas and fails unless runs are contiguous and in ring order.
func sharesOf(t interface{ Fatalf(string, ...any) }, host []int, workers int) []int {
	if !slices.IsSorted(host) {
		t.Fatalf("assignment %v has no contiguous runs in ring order", host)
	}
	shares := make([]int, workers)
	for _, h := range host {
		shares[h]++
	}
	return shares
}

// shortestStep tries every way to share replicas, each host having at least so many.
func shortestStep(costs []float64, replicas, least int) float64 {
	if len(costs) == 1 {
		return costs[0] * float64(replicas)
	}
	best := -1.0
	for n := least; n <= replicas-least*(len(costs)-1); n++ {
		rest := shortestStep(costs[1:], replicas-n, least)
		if step := max(costs[0]*float64(n), rest); best < 0 || step < best {
			best = step
		}
	}
	return best
}

// Against all possible assignments: never more than a tenth longer than the shortest; the shortest of those that use every host where
// all are used; a host without replicas is one that a single replica would make the step's last by more than a tenth.
func TestAssignmentIsOptimal(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		workers := named(rapid.IntRange(1, 4).Draw(t, "workers"))
		replicas := rapid.IntRange(1, 9).Draw(t, "replicas")
		b := newBalance(replicas)
		costs := make([]float64, len(workers))
		for i, w := range workers {
			cost := time.Duration(rapid.SampledFrom([]int{1, 2, 3, 10, 11, 12, 13, 25, 200}).Draw(t, "cost")) * time.Millisecond
			costs[i] = cost.Seconds()
			b.observe(w, 2, 2*cost)
		}
		shares := sharesOf(t, b.assign(workers), len(workers))
		step, best := longest(shares, costs), shortestStep(costs, replicas, 0)
		if total(shares) != replicas || step > best*1.1+1e-9 {
			t.Fatalf("shares %v of %d replicas at costs %v take %v, the shortest step %v", shares, replicas, costs, step, best)
		}
		if replicas < len(workers) {
			return
		}
		for h, n := range shares {
			if n == 0 && costs[h] <= 1.1*best-1e-9 {
				t.Fatalf("shares %v at costs %v: w%d has none, and the shortest step is %v", shares, costs, h, best)
			}
		}
		if least := shortestStep(costs, replicas, 1); !slices.Contains(shares, 0) && step > least+1e-9 {
			t.Fatalf("shares %v at costs %v take %v; with one for each at least it can be %v", shares, costs, step, least)
		}
	})
}

func total(shares []int) int {
	n := 0
	for _, s := range shares {
		n += s
	}
	return n
}

func TestEqualWorkersShareEvenly(t *testing.T) {
	for _, c := range []struct {
		replicas, workers int
		want              []int
	}{{8, 3, []int{3, 3, 2}}, {8, 5, []int{2, 2, 2, 1, 1}}, {8, 8, []int{1, 1, 1, 1, 1, 1, 1, 1}}, {2, 3, []int{1, 1, 0}}, {8, 1, []int{8}}} {
		workers := named(c.workers)
		unknown, measured := newBalance(c.replicas), newBalance(c.replicas)
		for _, w := range workers {
			measured.observe(w, 1, 40*time.Millisecond)
		}
		for name, b := range map[string]*balance{"nothing known": unknown, "all measured": measured} {
			if got := sharesOf(t, b.assign(workers), c.workers); !slices.Equal(got, c.want) {
				t.Errorf("%d replicas on %d workers, %s: %v, want %v", c.replicas, c.workers, name, got, c.want)
			}
		}
	}
}

// A newcomer counts as the median of the others.
func TestUnmeasuredWorkerIsTakenForAverage(t *testing.T) {
	b := newBalance(12)
	b.observe("w0", 1, 10*time.Millisecond)
	b.observe("w1", 1, 20*time.Millisecond)
	b.observe("w2", 1, 60*time.Millisecond)
	if got, want := sharesOf(t, b.assign([]string{"w0", "w1", "w2", "w3"}), 4), []int{6, 3, 1, 2}; !slices.Equal(got, want) {
		t.Errorf("shares %v, want %v", got, want)
	}
	b.forget("w0") // now 20 is taken for it
	if got, want := sharesOf(t, b.assign([]string{"w0", "w1", "w2"}), 3), []int{6, 5, 1}; !slices.Equal(got, want) {
		t.Errorf("shares after forgetting w0: %v, want %v", got, want)
	}
}

// crew trains: costs are what a replica takes on each worker, and assignments are followed at once.
type crew struct {
	b       *balance
	workers []string
	host    []int
	flips   int
}

func newCrew(replicas, workers int) *crew {
	c := &crew{b: newBalance(replicas), workers: named(workers)}
	c.host = c.b.assign(c.workers)
	return c
}

func (c *crew) step(t *testing.T, cost func(worker int) time.Duration) {
	t.Helper()
	for h, n := range sharesOf(t, c.host, len(c.workers)) {
		c.b.observe(c.workers[h], n, time.Duration(n)*cost(h))
	}
	if c.b.better(c.workers, c.host) {
		c.host = c.b.assign(c.workers)
		c.flips++
	}
}

func TestNoisyEqualsNeverFlip(t *testing.T) {
	for _, c := range []struct {
		replicas, workers int
		noise             float64 // of a step, relative
	}{{8, 2, 0.1}, {64, 2, 0.1}, {8, 3, 0.05}, {8, 8, 0.05}, {256, 4, 0.05}} {
		for seed := range uint64(20) {
			r := rand.New(rand.NewPCG(seed, 1))
			crew := newCrew(c.replicas, c.workers)
			for step := range 1000 {
				crew.step(t, func(worker int) time.Duration {
					cost := 40 * (1 + c.noise*r.NormFloat64())
					if (step+worker)%4 == 0 && r.IntN(10) == 0 {
						cost *= 10 // held up by something else, in two steps of five at most
					}
					return time.Duration(max(cost, 1) * float64(time.Millisecond))
				})
			}
			if crew.flips > 0 {
				t.Fatalf("%d replicas on %d equal workers, seed %d: %d new assignments, now %v", c.replicas, c.workers, seed, crew.flips, crew.host)
			}
		}
	}
}

func TestSlowedWorkerHostsFewer(t *testing.T) {
	crew := newCrew(8, 2)
	slow := time.Duration(1)
	cost := func(h int) time.Duration {
		if h == 1 {
			return slow * 20 * time.Millisecond
		}
		return 20 * time.Millisecond
	}
	run := func(steps int, want ...int) {
		t.Helper()
		for range steps {
			crew.step(t, cost)
		}
		if got := sharesOf(t, crew.host, 2); !slices.Equal(got, want) {
			t.Fatalf("shares %v, want %v", got, want)
		}
	}
	run(20, 4, 4)
	slow = 2
	run(3, 4, 4) // three odd steps of five make the median
	run(15, 5, 3)
	run(200, 5, 3)
	if name, factor := crew.b.slow(crew.workers); name != "w1" || factor < 1.99 || factor > 2.01 {
		t.Errorf("slowest is %s, %v times the median; want w1, twice", name, factor)
	}
	if got, want := crew.b.slowest(crew.workers), "worker w1 computes a replica in 40ms, 2.0 times the middle of all"; got != want {
		t.Errorf("people read %q, want %q", got, want)
	}
	slow = 1
	run(40, 4, 4)
	if crew.flips != 2 {
		t.Errorf("%d new assignments, want 2", crew.flips)
	}
}

// A worker that cannot do a single replica in time has none; once in a while it is tried, and comes back when it has recovered.
func TestHopelessWorkerIsTriedAgain(t *testing.T) {
	crew := newCrew(8, 2)
	slow := 1
	costs := func(h int) time.Duration {
		if h == 1 {
			return time.Duration(slow) * time.Millisecond
		}
		return time.Millisecond
	}
	loop := func(steps int) (without int) {
		for range steps {
			crew.step(t, costs)
			if shares := sharesOf(t, crew.host, 2); shares[1] == 0 {
				without++
			}
		}
		return without
	}
	loop(20)
	slow = 20
	if loop(40) == 0 {
		t.Fatal("a worker twenty times slower keeps its replicas")
	}
	without := loop(5000)
	if without < 4900 || without == 5000 {
		t.Fatalf("it had no replica in %d of 5000 steps, want a few trials", without)
	}
	slow = 1
	loop(1100)
	if got := sharesOf(t, crew.host, 2); !slices.Equal(got, []int{4, 4}) {
		t.Errorf("shares %v after it recovered, want 4 and 4", got)
	}
}

func TestBalanceOfNothing(t *testing.T) {
	b := newBalance(8)
	b.observe("w0", 0, time.Second)
	b.observe("w0", 4, 0)
	b.observe("w0", 4, -time.Second)
	if name, factor := b.slow([]string{"w0"}); name != "" || factor != 0 || b.slowest([]string{"w0"}) != "" {
		t.Errorf("slowest of nothing measured is %q, %v", name, factor)
	}
	for range 10 {
		if b.better([]string{"w0", "w1"}, []int{0, 0, 0, 0, 0, 0, 0, 1}) {
			t.Fatal("another assignment pays, and nothing was measured")
		}
	}
}

func BenchmarkBalanceOf1024(b *testing.B) {
	workers := named(1024)
	bal := newBalance(1024)
	for i, w := range workers {
		bal.observe(w, 1, time.Duration(100+i%7)*time.Millisecond)
	}
	host := bal.assign(workers)
	b.Run("better", func(b *testing.B) {
		for b.Loop() {
			bal.better(workers, host)
		}
	})
	b.Run("assign", func(b *testing.B) {
		for b.Loop() {
			bal.assign(workers)
		}
	})
}

// Equal shares stay equal, whatever was measured.
func TestEqualShares(t *testing.T) {
	b := newBalance(9)
	b.equal = true
	workers := named(2)
	for range 5 * settled {
		b.observe("w0", 5, 5*time.Second)
		b.observe("w1", 4, 40*time.Second)
		if host := b.assign(workers); !slices.Equal(sharesOf(t, host, 2), []int{5, 4}) {
			t.Fatalf("assigned %v", host)
		}
		if b.better(workers, b.assign(workers)) {
			t.Fatal("another assignment is said to pay")
		}
	}
}
