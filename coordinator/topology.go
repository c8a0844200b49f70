package coordinator

import (
	"slices"
	"time"
)

// Traffic is what the ring of a run has to carry in a step, and over which links. Workers measure the links when a plan asks for it.
type Traffic struct {
	Hop            time.Duration // of a message without weight to the neighbour, handling at both ends included
	BytesPerSecond float64       // that a worker sends while all send
	StepBytes      uint64        // of a replica's gradient, on the wire
	Buckets        int
}

const (
	// RingSegment and RingWindow are those of allreduce.DefaultConfig. Only the choice depends on them, no bits.
	RingSegment = 256 << 10
	RingWindow  = 16
	// perMessage is what a worker's processor spends on one more message, over gRPC.
	perMessage = 20 * time.Microsecond
	// worthwhile is the share of a step's communication that two levels must save: they have twice the links to keep and one more
	// copy, and the model is no better than that.
	worthwhile = 0.1
	// flatUpTo is the largest ring that is always flat. Four or five workers save at most two hops of a pass.
	flatUpTo = 5
	// slowestHop bounds what is believed of a measurement.
	slowestHop = time.Minute
)

func (t Traffic) plausible() bool {
	return t.Hop > 0 && t.Hop <= slowestHop && t.BytesPerSecond > 0 && t.StepBytes > 0 && t.StepBytes < 1<<48 && t.Buckets > 0 && t.Buckets < 1<<20
}

// ChooseGroup gives how many workers a group of the ring should have, 1 for a flat ring. docs/design/0002-exact-ring.md has the model.
func ChooseGroup(workers int, t Traffic) int {
	if !t.plausible() || !dividesIntoGroups(workers) {
		return 1
	}
	best, flat := 1, t.Estimate(workers, 1)
	least := time.Duration(float64(flat) * (1 - worthwhile))
	for g := workers / 2; g > 1; g-- { // of equals the largest, which sends the smallest messages
		if workers%g != 0 {
			continue
		}
		if d := t.Estimate(workers, g); d < least {
			best, least = g, d
		}
	}
	return best
}

// dividesIntoGroups says whether there is a choice at all.
func dividesIntoGroups(workers int) bool {
	if workers <= flatUpTo {
		return false
	}
	for g := 2; g*g <= workers; g++ {
		if workers%g == 0 {
			return true
		}
	}
	return false
}

// Estimate is how long a step's communication takes with so many workers in a group, all buckets in flight at once.
func (t Traffic) Estimate(workers, group int) time.Duration {
	if group <= 1 {
		group = workers
	}
	n, buckets := float64(workers), uint64(t.Buckets)
	hops := float64(group - 1 + workers/group - 1)
	chunk := max(1, t.StepBytes/buckets/uint64(group))
	segments := float64((chunk + RingSegment - 1) / RingSegment * buckets)
	underway := float64(max(RingWindow, t.Buckets))
	latency := 3 * hops * t.Hop.Seconds()
	links := 2 * (n - 1) / n * float64(t.StepBytes) / t.BytesPerSecond
	laps := 2 * hops * t.Hop.Seconds() * max(0, segments/underway-1)
	messages := hops * (float64(t.Buckets) + 2*segments) * perMessage.Seconds()
	return time.Duration((latency + max(links, laps) + messages) * float64(time.Second))
}

// maxMeasured is how many plans ask for a measurement that does not come: another would only keep training back.
const maxMeasured = 3

// measures says whether a plan should have the links measured: once, and not while somebody fetches a state over them.
func (m *Machine) measures(seats []seat) bool {
	if m.cfg.Group != 0 || m.measured >= maxMeasured || m.traffic.plausible() || !dividesIntoGroups(len(seats)) {
		return false
	}
	return !slices.ContainsFunc(seats, func(s seat) bool { return s.follows })
}

// chooseGroup gives the topology of a ring of so many, with what was measured of the links so far.
func (m *Machine) chooseGroup(workers int) int {
	if m.cfg.Group == 0 {
		return ChooseGroup(workers, m.traffic)
	}
	if workers%m.cfg.Group != 0 {
		return 1
	}
	return m.cfg.Group
}

// onMeasured keeps what a worker found of its links. The middle of what all found counts: one that was held up says little of the links.
func (m *Machine) onMeasured(w *member, e Measured) {
	if !m.plan.Measure || !e.Traffic.plausible() {
		return
	}
	w.traffic = &e.Traffic
	var hops []time.Duration
	var rates []float64
	t := e.Traffic
	for _, w := range m.ring() {
		if w.traffic == nil {
			return
		}
		hops, rates = append(hops, w.traffic.Hop), append(rates, w.traffic.BytesPerSecond)
	}
	slices.Sort(hops)
	slices.Sort(rates)
	t.Hop, t.BytesPerSecond = hops[len(hops)/2], rates[len(rates)/2]
	m.traffic = t
	if group := m.chooseGroup(len(hops)); group != m.plan.Group {
		m.tell(false, "ring of two levels, groups of %d: %v a hop and %.0f MB/s were measured", group, t.Hop, t.BytesPerSecond/1e6)
	}
}
