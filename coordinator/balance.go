package coordinator

import "time"

// balance assigns replicas to workers.
type balance struct {
	replicas int
}

func newBalance(replicas int) *balance { return &balance{replicas: replicas} }

// observe takes a worker's compute time of one step, over all the replicas that it hosts.
func (b *balance) observe(string, int, time.Duration) {}

// forget drops what was measured of a worker: who comes back under its name may be another machine.
func (b *balance) forget(string) {}

// assign gives ReplicaHost for these hosts in ring order, in contiguous runs: 8 over 3 gives 3, 3, 2.
func (b *balance) assign(workers []string) []int {
	hosts := len(workers)
	host := make([]int, 0, b.replicas)
	for h := range hosts {
		n := b.replicas / hosts
		if h < b.replicas%hosts {
			n++
		}
		for range n {
			host = append(host, h)
		}
	}
	return host
}

// better says whether another assignment would pay. Call it once a step that all have reported.
func (b *balance) better([]string, []int) bool { return false }

// slowest tells for people who computes slowest, with figures; empty if nobody stands out.
func (b *balance) slowest([]string) string { return "" }
