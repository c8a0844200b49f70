package coordinator

import (
	"encoding/json"
	"slices"
	"time"
)

// proceed decides what follows once from steps are committed and, if due, evaluated: a plan, or the end.
func (m *Machine) proceed(from uint64) {
	if m.owesEvaluation(from) {
		m.publish(from, from, true)
		return
	}
	if from >= m.cfg.TotalSteps {
		m.complete()
		return
	}
	until, evaluate := m.cfg.TotalSteps, m.cfg.Evaluate
	if m.cfg.Evaluate && !m.cfg.EvalEvery.IsZero() {
		until = min(until, m.cfg.EvalEvery.next(from, m.scale()))
	}
	if m.plan.Generation == 0 && m.measures() && until > from+1 {
		until, evaluate = from+1, false // what is measured then is of use for the rest
	}
	m.publish(from, until, evaluate)
}

// owesEvaluation says whether the evaluation after that many steps is due and was never counted: it was cut short by the end of
// the run that wrote the checkpoint.
func (m *Machine) owesEvaluation(step uint64) bool {
	if !m.cfg.Evaluate || step == 0 || m.cfg.Schedule.Evaluated(step) {
		return false
	}
	return step == m.cfg.TotalSteps || !m.cfg.EvalEvery.IsZero() && m.cfg.EvalEvery.next(step-1, m.scale()) == step
}

func (m *Machine) scale() Scale { return Scale{m.cfg.StepsPerEpoch, m.cfg.TotalSteps} }

// publish makes the next plan. The first one also makes the generation; so does one with another topology.
func (m *Machine) publish(from, until uint64, evaluate bool) {
	p := Plan{Generation: m.plan.Generation, Sequence: m.plan.Sequence + 1, Ring: m.plan.Ring, ReplicaHost: m.plan.ReplicaHost, Group: m.plan.Group}
	if p.Generation == 0 {
		p.Generation, p.Group, p.Measure = 1, max(1, m.cfg.Group), m.measures()
		for _, w := range m.members {
			p.Ring = append(p.Ring, Member{w.name, w.ready.RingAddress, w.ready.GossipAddress})
			w.steps = from
		}
		p.ReplicaHost = assign(m.cfg.Replicas, len(p.Ring))
		m.tell(false, "training begins at step %d of %d, workers: %d", from, m.cfg.TotalSteps, len(p.Ring))
	} else if m.regroup(&p) {
		p.Generation++
	}
	p.FirstStep, p.UntilStep, p.Evaluate = from, until, evaluate
	p.LearningRates = m.cfg.Schedule.Spans(from, max(until, from+1)) // an empty window has a rate too, for who looks
	p.CheckpointAfter = m.checkpoints(from, until)
	for _, w := range m.members {
		w.hash, w.eval = "", nil
	}
	m.plan, m.moved = p, m.now
	m.enter(running)
	m.emit(Publish{p})
}

// checkpoints lists the steps of (from, until] whose states are to be stored. The last step's is asked for at the end, after its
// evaluation, so that the evaluation is part of it.
func (m *Machine) checkpoints(from, until uint64) []uint64 {
	if m.cfg.NoStore || m.cfg.CheckpointEvery == 0 {
		return nil
	}
	var at []uint64
	every := m.cfg.CheckpointEvery
	for s := (from/every + 1) * every; s <= until && s < m.cfg.TotalSteps; s += every {
		at = append(at, s)
	}
	return at
}

// assign spreads replicas over hosts as evenly as possible, in contiguous runs: 8 over 3 gives 3, 3, 2.
func assign(replicas, hosts int) []int {
	host := make([]int, 0, replicas)
	for h := range hosts {
		n := replicas / hosts
		if h < replicas%hosts {
			n++
		}
		for range n {
			host = append(host, h)
		}
	}
	return host
}

// onStepReport counts a committed step. Repeated and late reports are ignored.
func (m *Machine) onStepReport(w *member, r StepReport) {
	if m.phase != running && m.phase != pausing || r.Step <= w.steps || r.Step > m.plan.UntilStep {
		return
	}
	w.steps, m.moved = r.Step, m.now
	m.slowest = max(m.slowest, r.End.Sub(r.Start))
	if r.Step == m.plan.UntilStep {
		w.hash = r.StateHash
	}
	m.count(r)
	if w == m.members[0] {
		m.meter.add(r, r.Step == m.plan.FirstStep+1)
		m.emit(Report{Progress: m.progress()})
	}
	m.observe()
	m.advance()
}

// count stretches the step's span by a worker's report.
func (m *Machine) count(r StepReport) {
	i, found := slices.BinarySearchFunc(m.spans, r.Step, func(s StepDone, step uint64) int {
		switch {
		case s.Step < step:
			return -1
		case s.Step > step:
			return 1
		}
		return 0
	})
	if !found {
		m.spans = slices.Insert(m.spans, i, StepDone{Step: r.Step, Start: r.Start, End: r.End, Tail: r.Tail})
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
}

// observe hands out the steps that every worker has committed.
func (m *Machine) observe() {
	for len(m.spans) > 0 {
		for _, w := range m.members {
			if w.steps < m.spans[0].Step {
				return
			}
		}
		m.meter.observe(m.spans[0])
		m.emit(m.spans[0])
		m.spans = m.spans[1:]
	}
}

// onEvalReport takes a worker's share of an evaluation, once.
func (m *Machine) onEvalReport(w *member, r EvalReport) {
	if m.phase != running || !m.plan.Evaluate || r.Step != m.plan.UntilStep || w.eval != nil {
		return
	}
	w.eval, m.moved = &r, m.now
	m.advance()
}

// advance goes on once everything that the plan asks for has been reported.
func (m *Machine) advance() {
	if m.phase != running {
		return
	}
	for _, w := range m.members {
		if w.steps < m.plan.UntilStep {
			return
		}
	}
	if !m.sameHashes() {
		return
	}
	if m.plan.Evaluate && !m.evaluated() {
		return
	}
	m.proceed(m.plan.UntilStep)
}

// sameHashes compares the states at the window's end; it ends the run if they differ.
func (m *Machine) sameHashes() bool {
	same := true
	for _, w := range m.members {
		same = same && w.hash == m.members[0].hash
	}
	if same {
		if m.members[0].hash != "" {
			m.hash, m.hashStep = m.members[0].hash, m.plan.UntilStep
		}
		return true
	}
	e := ending{kind: endMismatch, step: m.plan.UntilStep}
	for _, w := range m.members {
		e.workers, e.hashes = append(e.workers, w.name), append(e.hashes, w.hash)
	}
	m.end(e)
	return false
}

// evaluated sums the shares once all are there, and tells the schedule.
func (m *Machine) evaluated() bool {
	e := &Evaluation{Step: m.plan.UntilStep}
	var loss int64
	for _, w := range m.members {
		if w.eval == nil {
			return false
		}
		e.Images += w.eval.Images
		e.Correct1 += w.eval.Correct1
		e.Correct5 += w.eval.Correct5
		loss += w.eval.LossSum
	}
	if e.Images > 0 {
		e.Loss = float64(loss) / (1 << 32) / float64(e.Images)
	}
	m.eval = e
	dropped := m.cfg.Schedule.Observe(e.Step, 1-e.Top1())
	m.history = append(m.history, scheduleAt{e.Step, m.cfg.Schedule.MarshalState()})
	p := m.progress()
	m.emit(Report{Progress: p, Evaluation: e})
	if dropped {
		m.tell(false, "validation error has stopped falling: learning rate divided, now %v", m.cfg.Schedule.LR(e.Step))
	}
	return true
}

// scheduleState is the schedule's state as it was after that many committed steps: evaluations after them are not in it.
func (m *Machine) scheduleState(step uint64) json.RawMessage {
	state := m.history[0].state
	for _, h := range m.history {
		if h.step <= step {
			state = h.state
		}
	}
	return state
}

// laggards names the workers that the plan is waiting for.
func (m *Machine) laggards() []string {
	var names []string
	least := m.plan.UntilStep
	for _, w := range m.members {
		least = min(least, w.steps)
	}
	for _, w := range m.members {
		if w.steps == least && (least < m.plan.UntilStep || m.plan.Evaluate && w.eval == nil) {
			names = append(names, w.name)
		}
	}
	return names
}

// progress is where the run stands, without an event.
func (m *Machine) progress() Progress {
	p := Progress{
		Epoch: float64(m.meter.step) / m.cfg.StepsPerEpoch, Step: m.meter.step, Total: m.cfg.TotalSteps,
		Loss: m.meter.loss, Top1: m.meter.top1, LR: m.meter.lr, ImagesPerSecond: m.meter.current(m.cfg.GlobalBatch), Tail: m.meter.tail,
	}
	if p.Step < p.Total {
		p.Remaining = time.Duration(float64(p.Total-p.Step) * float64(m.meter.smooth))
	}
	return p
}
