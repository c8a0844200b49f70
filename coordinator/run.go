package coordinator

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

func cmpNames(a, b *member) int { return strings.Compare(a.name, b.name) }

// onStepReport takes note of a committed step. Repeated reports and those of another generation are ignored.
func (m *Machine) onStepReport(w *member, r StepReport) {
	if !m.listening() || r.Generation != w.generation || w.generation != m.plan.Generation || w.aborted != nil || r.Step > m.plan.UntilStep {
		return
	}
	w.stale = false
	m.trained(r)
	if r.Step < w.steps {
		return
	}
	if w.follows && !r.Behind && w.behind {
		m.onCaughtUp(w, CaughtUp{Worker: w.name, Generation: r.Generation, Step: r.Step})
	}
	if r.Last || r.Step == m.plan.UntilStep {
		w.last, w.hash = true, r.StateHash
	}
	if r.Step > w.steps {
		m.stepDone(w, r)
	}
	if r.StateHash != "" && !r.Behind {
		m.onStateHash(w, StateHash{Worker: w.name, Step: r.Step, Hash: r.StateHash})
	}
	m.countEvaluations()
	m.advance()
}

// listening says whether members' reports of the newest plan count: also while some have yet to come back to a new coordinator.
func (m *Machine) listening() bool {
	return m.phase == running || m.phase == pausing || m.phase == reattaching
}

// stepDone counts a step that a member has committed.
func (m *Machine) stepDone(w *member, r StepReport) {
	w.steps, m.moved = r.Step, m.now
	if r.Step > m.newest {
		m.newest, m.blames, m.retries = r.Step, nil, 0
	}
	m.slowest = max(m.slowest, r.End.Sub(r.Start))
	m.balance.observe(w.name, w.hosts, r.Compute)
	m.stretch(r)
	if w == m.lead() {
		opens := r.Step == m.plan.FirstStep+1 || slices.Contains(m.plan.EvaluateAfter, r.Step-1)
		m.meter.add(r, opens)
		m.emit(Report{Progress: m.progress()})
	}
	m.observe()
}

// lead is the first member that does not follow: the one whose figures are shown.
func (m *Machine) lead() *member {
	for _, w := range m.members {
		if w.in && !w.follows {
			return w
		}
	}
	return nil
}

// stretch makes the step's span cover a worker's report.
func (m *Machine) stretch(r StepReport) {
	i, found := slices.BinarySearchFunc(m.spans, r.Step, func(s StepDone, step uint64) int { return cmp.Compare(s.Step, step) })
	if !found {
		m.spans = slices.Insert(m.spans, i, StepDone{Step: r.Step, Start: r.Start, End: r.End, Tail: r.Tail, DataWait: r.DataWait})
		return
	}
	s := &m.spans[i]
	if r.Start.Before(s.Start) {
		s.Start = r.Start
	}
	if r.End.After(s.End) {
		s.End = r.End
	}
	s.Tail = min(s.Tail, r.Tail)
	s.DataWait = max(s.DataWait, r.DataWait)
}

// observe hands out the steps that every member has committed.
func (m *Machine) observe() {
	for len(m.spans) > 0 {
		for _, w := range m.members {
			if w.in && w.steps < m.spans[0].Step {
				return
			}
		}
		m.meter.observe(m.spans[0])
		m.emit(m.spans[0])
		m.spans = m.spans[1:]
		m.weigh()
	}
}

// weigh asks, once a step, whether another assignment would pay.
func (m *Machine) weigh() {
	if m.phase != running || m.rebalance || m.verify.dispute != nil {
		return
	}
	var hosts []string
	index := map[int]int{} // of a host among the hosts, by position in the ring
	for i, w := range m.plan.Ring {
		if !m.plan.following(i) {
			index[i] = len(hosts)
			hosts = append(hosts, w.Worker)
		}
	}
	current := make([]int, len(m.plan.ReplicaHost))
	for r, h := range m.plan.ReplicaHost {
		current[r] = index[h]
	}
	if m.balance.better(hosts, current) {
		m.rebalance, m.unsettled = true, true
		m.tell(false, "replicas will be assigned anew: %s", m.balance.slowest(hosts))
	}
}

// advance goes on once every member has stopped at one step, and everything that the plan asks for by then has been reported.
func (m *Machine) advance() {
	if m.phase != running {
		return
	}
	for _, w := range m.members { // before anything is allocated: almost always the first says no
		if w.in && !w.last {
			return
		}
	}
	ring := m.ring()
	at := ring[0].steps
	for _, w := range ring {
		if w.steps != at {
			m.end(ending{kind: endRegroup, how: fmt.Sprintf("worker %s has stopped at step %d, worker %s at step %d", ring[0].name, at, w.name, w.steps)})
			return
		}
	}
	if !m.sameHashes(at) || m.doubted(at) {
		return
	}
	if pending := m.pendingEvaluations(); len(pending) > 0 && pending[0] <= at {
		return
	}
	m.proceed(at, at < m.plan.UntilStep)
}

// laggards names the workers that the plan is waiting for.
func (m *Machine) laggards() []string {
	var names []string
	least := m.plan.UntilStep
	for _, w := range m.ring() {
		least = min(least, w.steps)
	}
	for _, w := range m.ring() {
		owes := func(at uint64) bool { return at <= w.steps && m.share(w.name, at) == nil }
		if w.steps == least && (!w.last || !w.follows && slices.ContainsFunc(m.pendingEvaluations(), owes)) {
			names = append(names, w.name)
		}
	}
	return names
}

// progress is where the run stands, without an event.
func (m *Machine) progress() Progress {
	p := Progress{
		Epoch: float64(m.meter.step) / m.cfg.StepsPerEpoch, Step: m.meter.step, Total: m.cfg.TotalSteps,
		Loss: m.meter.loss, Top1: m.meter.top1, LR: m.meter.lr, ImagesPerSecond: m.meter.current(m.cfg.GlobalBatch), Tail: m.meter.tail, DataWait: m.meter.dataWait,
	}
	if p.Step < p.Total {
		p.Remaining = time.Duration(float64(p.Total-p.Step) * float64(m.meter.smooth))
	}
	return p
}
