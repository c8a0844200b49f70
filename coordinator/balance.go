package coordinator

import (
	"container/heap"
	"fmt"
	"slices"
	"time"
)

// balance assigns replicas to workers by what a replica costs each of them.
//
// A cost is the measured compute time of a step over the replicas hosted, first the median of the last five steps, so that one that
// was held up does not count at all, then smoothed with a weight of a tenth: that looks back on about ten steps. Until five
// steps are there the median of what there is counts alone, since a worker's first step warms it up and says little.
//
// Rejected: the mean, which a single pause of a second moves for as long as it looks back; the least, which does not see a
// worker that others keep busy.
type balance struct {
	replicas int
	equal    bool             // speed does not count
	workers  map[string]*pace // looked up only, never ranged over
	looks    int              // in a row that found a better assignment
}

// pace is what is known of a worker.
type pace struct {
	recent []float64 // seconds a replica, of the newest steps, oldest first
	cost   float64   // seconds a replica, smoothed
	steps  int       // that were measured, as far as settled
	idle   int       // looks in a row at which it hosted nothing
}

const (
	// paceMedian is how many steps the median is of. Fewer let two odd ones through; more are slow to see a change.
	paceMedian = 5
	// paceWeight is that of the newest median.
	paceWeight = 0.1
	// settled is how many steps of every host must have been measured before another assignment is thought of.
	settled = 10
	// tolerable is how much longer than the best one a step may be so that every host has a replica: who has none is not measured.
	tolerable = 1.1
	// betterBy is the share of a step's time that another assignment must leave: a generation costs a round trip and new links, and
	// what it is decided on is a forecast.
	betterBy = 0.9
	// betterLooks is how often in a row that must be so.
	betterLooks = 3
	// idleTrial is how many looks a host that was too slow for a single replica stays without. Then it may have one, to be measured again.
	idleTrial = 1000
)

func newBalance(replicas int) *balance {
	return &balance{replicas: replicas, workers: map[string]*pace{}}
}

// observe takes a worker's compute time of one committed step, over all the replicas that it hosts, without waiting for data or ring.
func (b *balance) observe(worker string, hosted int, compute time.Duration) {
	if hosted <= 0 || compute <= 0 {
		return
	}
	p := b.workers[worker]
	if p == nil {
		p = &pace{}
		b.workers[worker] = p
	}
	if p.idle > 0 { // what was measured before it had none is long ago
		p.recent, p.idle = p.recent[:0], 0
	}
	p.steps = min(p.steps+1, settled)
	if len(p.recent) == paceMedian {
		p.recent = append(p.recent[:0], p.recent[1:]...)
	}
	p.recent = append(p.recent, compute.Seconds()/float64(hosted))
	if m := middle(p.recent); len(p.recent) < paceMedian {
		p.cost = m
	} else {
		p.cost += float64(paceWeight * (m - p.cost))
	}
}

// forget drops what was measured of a worker: who comes back under its name may be another machine.
func (b *balance) forget(worker string) { delete(b.workers, worker) }

// middle is the median; of an even number the lower one, for what disturbs a step only lengthens it.
func middle(values []float64) float64 {
	sorted := make([]float64, len(values), max(len(values), paceMedian))
	copy(sorted, values)
	slices.Sort(sorted)
	return sorted[(len(sorted)-1)/2]
}

// costs gives a replica's cost on each worker, in seconds; of one that was not measured, the median of the others. If none was, all
// are equal.
func (b *balance) costs(workers []string) []float64 {
	costs := make([]float64, len(workers))
	var measured []float64
	for i, w := range workers {
		if p := b.workers[w]; p != nil {
			costs[i] = p.cost
			measured = append(measured, p.cost)
		}
	}
	unknown := 1.0
	if b.equal {
		clear(costs)
	} else if len(measured) > 0 {
		unknown = middle(measured)
	}
	for i := range costs {
		if costs[i] == 0 {
			costs[i] = unknown
		}
	}
	return costs
}

// assign gives ReplicaHost for these hosts in ring order, each hosting a contiguous run. Equal hosts share evenly, the first have one
// more: 8 over 3 gives 3, 3, 2.
func (b *balance) assign(workers []string) []int {
	b.looks = 0
	costs := b.costs(workers)
	host := make([]int, 0, b.replicas)
	for h, n := range b.shares(workers, costs) {
		for range n {
			host = append(host, h)
		}
	}
	return host
}

// shares says how many replicas each host gets. Given one by one to whoever would finish first they make the shortest step, since they are
// equal pieces. Beyond that every host has at least one, if there are enough, unless the step were more than a tenth longer for it:
// with a host too slow for that, all would wait. So a step is never more than a tenth longer than the shortest.
func (b *balance) shares(workers []string, costs []float64) []int {
	shortest := deal(make([]int, len(costs)), costs, b.replicas)
	if b.replicas < len(costs) {
		return shortest
	}
	limit := float64(tolerable * longest(shortest, costs))
	shares := make([]int, len(costs))
	left := b.replicas
	for h, cost := range costs {
		if cost <= limit || b.onTrial(workers[h]) {
			shares[h] = 1
			left--
		}
	}
	// On a host that is beyond the limit a second replica is never the first to finish.
	return deal(shares, costs, left)
}

// onTrial says whether a host that is too slow should have a replica all the same.
func (b *balance) onTrial(worker string) bool {
	p := b.workers[worker]
	return p != nil && p.idle >= idleTrial
}

// deal gives out more replicas, one by one, each to the host that would finish first, of equals the first. It changes shares.
func deal(shares []int, costs []float64, replicas int) []int {
	q := &queue{shares: shares, costs: costs}
	for h := range costs {
		q.hosts = append(q.hosts, h)
	}
	heap.Init(q)
	for range replicas {
		shares[q.hosts[0]]++
		heap.Fix(q, 0)
	}
	return shares
}

// longest is the step's compute time: that of the host that takes longest.
func longest(shares []int, costs []float64) float64 {
	most := 0.0
	for h, n := range shares {
		most = max(most, float64(costs[h]*float64(n)))
	}
	return most
}

// queue orders hosts by when they would finish one replica more; it is a heap.
type queue struct {
	hosts  []int
	shares []int
	costs  []float64
}

func (q *queue) Len() int { return len(q.hosts) }

func (q *queue) Less(i, j int) bool {
	a, b := q.hosts[i], q.hosts[j]
	x, y := float64(q.costs[a]*float64(q.shares[a]+1)), float64(q.costs[b]*float64(q.shares[b]+1))
	return x < y || x == y && a < b
}

func (q *queue) Swap(i, j int) { q.hosts[i], q.hosts[j] = q.hosts[j], q.hosts[i] }
func (q *queue) Push(any)      { panic("coordinator: the hosts of a plan are fixed") }
func (q *queue) Pop() any      { panic("coordinator: the hosts of a plan are fixed") }

// better says whether another assignment than the current one, as assign gave it, would pay: three looks in a row. Call it
// once a step that all have reported.
func (b *balance) better(workers []string, current []int) bool {
	costs := b.costs(workers)
	shares := make([]int, len(workers))
	for _, h := range current {
		shares[h]++
	}
	for h, n := range shares {
		if p := b.workers[workers[h]]; p != nil && n == 0 {
			p.idle++
		}
	}
	if b.equal || !b.settled(workers) || !b.pays(workers, costs, shares) {
		b.looks = 0
		return false
	}
	b.looks++
	return b.looks >= betterLooks
}

// settled says whether enough steps of all these workers were measured to act on.
func (b *balance) settled(workers []string) bool {
	return !slices.ContainsFunc(workers, func(w string) bool { p := b.workers[w]; return p == nil || p.steps < settled })
}

// pays says whether other shares make the step shorter by a tenth. A host on trial counts as one that would just keep up: whether it
// does is what the trial is for.
func (b *balance) pays(workers []string, costs []float64, current []int) bool {
	now := longest(current, costs)
	trial := slices.ContainsFunc(workers, b.onTrial)
	if !trial && b.ideal(costs) > betterBy*now { // the usual case, and cheap
		return false
	}
	then := 0.0
	for h, n := range b.shares(workers, costs) {
		if n > 1 || !b.onTrial(workers[h]) {
			then = max(then, float64(costs[h]*float64(n)))
		}
	}
	return then <= betterBy*now
}

// ideal is a step's compute time if replicas could be divided: no assignment is shorter, as far as costs tell.
func (b *balance) ideal(costs []float64) float64 {
	speed := 0.0 // replicas a second, of all
	for _, c := range costs {
		speed += 1 / c
	}
	return float64(b.replicas) / speed
}

// slow names the slowest of these workers, of equals the first, and gives its cost relative to the median; 0 if none was measured.
func (b *balance) slow(workers []string) (name string, factor float64) {
	var measured []float64
	worst := 0.0
	for _, w := range workers {
		p := b.workers[w]
		if p == nil {
			continue
		}
		measured = append(measured, p.cost)
		if p.cost > worst {
			worst, name = p.cost, w
		}
	}
	if len(measured) == 0 {
		return "", 0
	}
	return name, worst / middle(measured)
}

// slowest tells for people who computes slowest, with figures; empty if none was measured.
func (b *balance) slowest(workers []string) string {
	name, factor := b.slow(workers)
	if name == "" {
		return ""
	}
	cost := time.Duration(b.workers[name].cost * float64(time.Second)).Round(time.Microsecond)
	if factor < tolerable {
		return fmt.Sprintf("all compute a replica in %v or a little less", cost)
	}
	return fmt.Sprintf("worker %s computes a replica in %v, %.1f times the middle of all", name, cost, factor)
}
