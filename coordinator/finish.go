package coordinator

import (
	"fmt"
	"slices"
)

// onStateArrived has a state stored that is new, whoever sent it and when.
func (m *Machine) onStateArrived(w *member, s StateArrived) {
	known := m.plan.Sequence > 0 && s.Step > m.cfg.FirstStep && s.Step <= m.plan.UntilStep
	if m.hash != "" && s.Step == m.hashStep && s.Hash != m.hash {
		m.emit(Discard{Worker: w.name, Step: s.Step})
		m.stateFailed(w, fmt.Sprintf("the state that worker %s sent has another hash than it reported", w.name))
		return
	}
	if !known || m.cfg.NoStore || s.Step <= m.stored || slices.Contains(m.storing, s.Step) {
		path := ""
		if s.Step == m.stored {
			path = m.path
		}
		m.emit(Discard{Worker: w.name, Step: s.Step, Path: path})
		return
	}
	m.storing = append(m.storing, s.Step)
	if s.Step >= m.hashStep {
		m.hash, m.hashStep = s.Hash, s.Step
	}
	if m.phase == saving && m.save.asked == w && s.Step == m.save.step {
		m.save.asked, m.since = nil, m.now
	}
	m.emit(Store{Worker: w.name, Step: s.Step, Hash: s.Hash, Schedule: m.scheduleState(s.Step)})
}

// onStateLost hears that a state did not arrive whole.
func (m *Machine) onStateLost(w *member, s StateLost) {
	m.stateFailed(w, fmt.Sprintf("the state of step %d from worker %s did not arrive: %s", s.Step, w.name, s.Reason))
}

func (m *Machine) stateFailed(w *member, reason string) {
	m.tell(true, "%s", reason)
	if m.phase == saving && m.save.asked == w {
		m.ending.unsaved = reason
		m.askNext()
	}
}

// onStored takes note of the newest checkpoint.
func (m *Machine) onStored(s Stored) {
	if !slices.Contains(m.storing, s.Step) {
		return
	}
	m.storing = slices.DeleteFunc(m.storing, func(step uint64) bool { return step == s.Step })
	if s.Step > m.stored || m.path == "" {
		m.stored, m.path = s.Step, s.Path
	}
	m.prune()
	m.tell(false, "checkpoint of step %d written: %s", s.Step, s.Path)
	if m.phase == saving && m.save.asked == nil && len(m.storing) == 0 {
		if s.Step >= m.save.step {
			m.ending.unsaved = ""
		}
		m.conclude()
	}
}

// onStoreFailed warns; training goes on and the older checkpoint stays.
func (m *Machine) onStoreFailed(s StoreFailed) {
	if !slices.Contains(m.storing, s.Step) {
		return
	}
	m.storing = slices.DeleteFunc(m.storing, func(step uint64) bool { return step == s.Step })
	m.tell(true, "the checkpoint of step %d was not written: %s; %s", s.Step, s.Reason, m.olderStays())
	if m.phase == saving && m.save.asked == nil && len(m.storing) == 0 {
		m.ending.unsaved = s.Reason
		m.conclude()
	}
}

func (m *Machine) olderStays() string {
	if m.path == "" {
		return "there is no older one"
	}
	return fmt.Sprintf("the one of step %d stays (%s)", m.stored, m.path)
}

// prune forgets schedule states that no checkpoint can need any more.
func (m *Machine) prune() {
	for len(m.history) > 1 && m.history[1].step <= m.stored {
		m.history = m.history[1:]
	}
}

// conclude stops everyone and gives the result. It is the only way to over.
func (m *Machine) conclude() {
	if m.phase == over {
		return
	}
	err := m.verdict()
	failed := err != nil && m.ending.kind != endInterrupted
	reason := "all steps are done"
	if err != nil {
		reason = err.Error()
	}
	for _, w := range m.members {
		if !w.broken {
			m.emit(Stop{Worker: w.name, Failed: failed, Reason: reason})
		}
	}
	m.enter(over)
	m.emit(Finish{Result: m.result(), Err: err})
}

// result is what the run came to.
func (m *Machine) result() Result {
	r := Result{Step: m.stored, Loss: m.meter.loss, ImagesPerSecond: m.meter.average(), Tail: m.meter.averageTail(), Evaluation: m.eval, Path: m.path}
	if m.cfg.NoStore || m.ending.kind == endCompleted {
		r.Step = max(m.stored, m.meter.step)
	}
	if r.Step == m.hashStep {
		r.Hash = m.hash
	}
	return r
}

// cause says in a few words why the run is ending, before it is known what can be saved.
func (m *Machine) cause() string {
	e := m.ending
	switch e.kind {
	case endLost:
		return fmt.Sprintf("worker %s was lost: %s", e.worker, e.how)
	case endNonFinite:
		return fmt.Sprintf("training blew up after %d steps: %s", e.step, e.how)
	case endMismatch:
		return fmt.Sprintf("workers hold different states after step %d", e.step)
	case endStalled:
		return fmt.Sprintf("no progress for %v", m.cfg.StallTimeout)
	}
	return e.how
}

// verdict is the run's error, nil if it did all its steps and kept them.
func (m *Machine) verdict() error {
	e := m.ending
	s := Saved{Run: m.cfg.Run, Step: m.stored, Path: m.path, Unsaved: e.unsaved}
	at := max(m.meter.step, m.cfg.FirstStep)
	switch e.kind {
	case endLost:
		return &WorkerLostError{Saved: s, Worker: e.worker, How: e.how, AtStep: at}
	case endNonFinite:
		return &NonFiniteError{Saved: s, Worker: e.worker, AtStep: e.step, Reason: e.how}
	case endMismatch:
		return &HashMismatchError{Saved: s, AtStep: e.step, Workers: e.workers, Hashes: e.hashes, Odd: outvoted(e.workers, e.hashes)}
	case endInterrupted:
		return &InterruptedError{Saved: s, AtStep: max(at, m.stored), Reason: e.how}
	case endStalled:
		return &StalledError{Saved: s, AtStep: at, Waited: m.cfg.StallTimeout.String(), Workers: e.workers}
	case endMissing:
		return &MissingWorkersError{Run: m.cfg.Run, Ready: e.ready, Want: m.cfg.MinWorkers, Waited: m.cfg.JoinTimeout.String(), NotReady: e.workers}
	case endRefused:
		return &RefusedError{Run: m.cfg.Run, Worker: e.worker, Kind: e.refusal, Reason: e.how}
	}
	if !m.cfg.NoStore && m.stored < m.cfg.TotalSteps {
		if s.Unsaved == "" {
			s.Unsaved = "no worker was left to send it"
		}
		return &UnsavedError{Saved: s, AtStep: m.cfg.TotalSteps}
	}
	return nil
}

// outvoted names the workers whose hash is not the one that more than half have.
func outvoted(workers, hashes []string) []string {
	for _, h := range hashes {
		n := 0
		var odd []string
		for i, other := range hashes {
			if other == h {
				n++
			} else {
				odd = append(odd, workers[i])
			}
		}
		if 2*n > len(hashes) {
			return odd
		}
	}
	return nil
}
