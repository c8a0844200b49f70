package coordinator

import (
	"encoding/json"
	"fmt"
	"slices"
)

// scheduleAt is the schedule's state from an evaluation on.
type scheduleAt struct {
	step  uint64
	state json.RawMessage
}

func (m *Machine) scale() Scale { return Scale{m.cfg.StepsPerEpoch, m.cfg.TotalSteps} }

// owesEvaluation says whether the evaluation after that many steps is due and was never counted: it was cut short.
func (m *Machine) owesEvaluation(step uint64) bool {
	if !m.cfg.Evaluate || step == 0 || m.cfg.Schedule.Evaluated(step) {
		return false
	}
	return step == m.cfg.TotalSteps || !m.cfg.EvalEvery.IsZero() && m.cfg.EvalEvery.next(step-1, m.scale()) == step
}

// nextEvaluation is the first one after that many steps; the last step's is one in any case.
func (m *Machine) nextEvaluation(step uint64) uint64 {
	next := m.cfg.TotalSteps
	if !m.cfg.EvalEvery.IsZero() {
		next = min(next, m.cfg.EvalEvery.next(step, m.scale()))
	}
	return next
}

// evaluationsOf lists the steps of [from, until] after which to evaluate, and how far a window may reach with them.
func (m *Machine) evaluationsOf(from, until uint64) ([]uint64, uint64) {
	if !m.cfg.Evaluate {
		return nil, until
	}
	var at []uint64
	if m.owesEvaluation(from) {
		at = append(at, from)
	}
	for s := from; s < until; {
		if s = m.nextEvaluation(s); s > until {
			break
		}
		if at = append(at, s); len(at) == maxListed {
			return at, s
		}
	}
	return at, until
}

// onEvalReport takes a worker's share of an evaluation, once.
func (m *Machine) onEvalReport(w *member, r EvalReport) {
	if m.phase != running && m.phase != reattaching || w.follows || w.generation != m.plan.Generation || !slices.Contains(m.pendingEvaluations(), r.Step) || m.share(w.name, r.Step) != nil {
		return
	}
	m.shares, m.moved = append(m.shares, r), m.now
	m.countEvaluations()
	m.advance()
}

// pendingEvaluations lists the plan's evaluations that were not counted yet.
func (m *Machine) pendingEvaluations() []uint64 { return m.plan.EvaluateAfter[m.counted:] }

func (m *Machine) share(worker string, step uint64) *EvalReport {
	for i := range m.shares {
		if s := &m.shares[i]; s.Worker == worker && s.Step == step {
			return s
		}
	}
	return nil
}

// countEvaluations counts, in the order of steps, the evaluations whose shares are all there. One whose state everybody has left
// behind without sending a share (to a coordinator that died meanwhile, as it were) is given up: none that a schedule learns from,
// since there the window ends with it.
func (m *Machine) countEvaluations() {
	if m.phase != running { // somebody whose share is missing may be gone
		return
	}
	for _, at := range m.pendingEvaluations() {
		complete, passed := true, true
		for _, w := range m.ring() {
			if !w.follows {
				complete = complete && m.share(w.name, at) != nil
				passed = passed && w.steps > at
			}
		}
		switch {
		case complete:
			m.count(at)
		case passed:
			m.tell(true, "the evaluation after step %d is left out: not all shares of it have arrived", at)
		default:
			return
		}
		m.counted++
		m.shares = slices.DeleteFunc(m.shares, func(r EvalReport) bool { return r.Step == at })
	}
}

// count sums an evaluation's shares and tells the schedule.
func (m *Machine) count(step uint64) {
	e := &Evaluation{Step: step}
	var loss int64
	for _, s := range m.shares {
		if s.Step != step {
			continue
		}
		e.Images += s.Images
		e.Correct1 += s.Correct1
		e.Correct5 += s.Correct5
		loss += s.LossSum
	}
	if e.Images > 0 {
		e.Loss = float64(loss) / (1 << 32) / float64(e.Images)
	}
	m.record(Entry{Evaluation: e})
	dropped := m.learn(e)
	m.emit(Report{Progress: m.progress(), Evaluation: e})
	if dropped {
		m.tell(false, "validation error has stopped falling: learning rate divided, now %v", m.cfg.Schedule.LR(e.Step))
	}
}

// learn tells the schedule of an evaluation and keeps what became of it. It says whether the rate drops.
func (m *Machine) learn(e *Evaluation) bool {
	m.eval = e
	if m.cfg.Schedule.Evaluated(e.Step) {
		return false
	}
	dropped := m.cfg.Schedule.Observe(e.Step, 1-e.Top1())
	m.history = append(m.history, scheduleAt{e.Step, m.cfg.Schedule.MarshalState()})
	return dropped
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

// startFrom forgets everything that was learned, and begins a line of steps from a state.
func (m *Machine) startFrom(step uint64, path string, schedule json.RawMessage) {
	m.base, m.newest, m.meter.step = step, step, step
	m.hash, m.hashStep = "", step
	m.history = []scheduleAt{{step, schedule}}
	m.checkpoints = []Stored{{step, path}}
	m.verify = verification{verified: []VerifiedEntry{{Step: step}}}
}

// rewind makes that many committed steps the newest: what was learned from later ones is unlearned. They will be done again.
func (m *Machine) rewind(to uint64) {
	n := len(m.history)
	for n > 1 && m.history[n-1].step > to {
		n--
	}
	if n < len(m.history) {
		m.history = m.history[:n]
		if err := m.cfg.Schedule.Restore(m.history[n-1].state); err != nil {
			panic(fmt.Sprintf("coordinator: a schedule's own state does not restore: %v", err))
		}
	}
	m.spans = slices.DeleteFunc(m.spans, func(s StepDone) bool { return s.Step > to })
	if m.hashStep > to {
		m.hash, m.hashStep = "", to
	}
	m.newest = min(m.newest, to)
	m.meter.step = min(m.meter.step, to)
}
