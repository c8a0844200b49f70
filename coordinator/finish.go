package coordinator

import (
	"fmt"
	"slices"
)

// onStateArrived has a state stored that is new, whoever sent it and when.
func (m *Machine) onStateArrived(w *member, s StateArrived) {
	// The report of the step may still be on its way. What is further ahead was given up when all went back to a verified state.
	known := w.in && s.Step <= m.newest+1 && s.Began >= m.verify.since
	if want := m.hashOf(s.Step); known && want != "" && s.Hash != want {
		m.emit(Discard{Worker: w.name, Step: s.Step})
		m.stateFailed(w, fmt.Sprintf("the state that worker %s sent has another hash than it reported", w.name))
		return
	}
	if known && m.untold(s.Step) {
		m.tell(false, "the checkpoint of step %d is left out: the step's report has not arrived yet", s.Step)
		known = false
	}
	disputed := m.phase == pausing && m.ending.kind == endDispute
	if !known || m.cfg.NoStore || disputed || s.Step <= m.stored() || slices.Contains(m.storing, s.Step) {
		path := ""
		if newest := m.checkpoint(); s.Step == newest.Step {
			path = newest.Path
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

// hashOf is the hash of the state after that many steps, empty if it is not known.
func (m *Machine) hashOf(step uint64) string {
	if m.hash != "" && step == m.hashStep {
		return m.hash
	}
	for _, v := range m.verify.verified {
		if v.Step == step {
			return v.Hash
		}
	}
	return ""
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
	m.recordTrained(s.Step)
	m.record(Entry{Stored: &s})
	m.keep(s)
	m.tell(false, "checkpoint of step %d written: %s", s.Step, s.Path)
	if m.phase == saving && m.save.asked == nil && len(m.storing) == 0 {
		if s.Step >= m.save.step {
			m.ending.unsaved = ""
		}
		m.saved()
	}
	m.checkPausing()
}

// keep takes note of a checkpoint.
func (m *Machine) keep(s Stored) {
	if s.Step > m.stored() || m.checkpoint().Path == "" {
		m.checkpoints = append(m.checkpoints, s)
	}
	m.prune()
}

// checkpoint is the newest one.
func (m *Machine) checkpoint() Stored { return m.checkpoints[len(m.checkpoints)-1] }

// stored is the step of the newest checkpoint, or of the run's very beginning.
func (m *Machine) stored() uint64 { return m.checkpoint().Step }

// onStoreFailed warns; training goes on and the older checkpoint stays.
func (m *Machine) onStoreFailed(s StoreFailed) {
	if !slices.Contains(m.storing, s.Step) {
		return
	}
	m.storing = slices.DeleteFunc(m.storing, func(step uint64) bool { return step == s.Step })
	m.tell(true, "the checkpoint of step %d was not written: %s; %s", s.Step, s.Reason, m.olderStays())
	if m.phase == saving && m.save.asked == nil && len(m.storing) == 0 {
		m.ending.unsaved = s.Reason
		m.saved()
	}
	m.checkPausing()
}

func (m *Machine) olderStays() string {
	c := m.checkpoint()
	if c.Path == "" {
		return "there is no older one"
	}
	return fmt.Sprintf("the one of step %d stays (%s)", c.Step, c.Path)
}

// prune forgets checkpoints that will not be gone back to, and schedule states that none can need any more: one checkpoint stays that
// is no later than the newest verified state.
func (m *Machine) prune() {
	sure := m.newest
	if m.cfg.VerifyEvery > 0 {
		sure = m.verify.newest().Step
	}
	for len(m.checkpoints) > 1 && m.checkpoints[1].Step <= sure {
		m.checkpoints = m.checkpoints[1:]
	}
	for len(m.history) > 1 && m.history[1].step <= m.checkpoints[0].Step {
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
	closing := OverEntry{Step: m.result().Step}
	if err != nil {
		closing.Error = err.Error()
	}
	m.record(Entry{Over: &closing})
	for _, w := range m.members {
		m.emit(Stop{Worker: w.name, Failed: failed, Reason: reason})
	}
	m.enter(over)
	m.emit(Finish{Result: m.result(), Err: err})
}

// result is what the run came to.
func (m *Machine) result() Result {
	c := m.checkpoint()
	r := Result{Step: c.Step, Loss: m.meter.loss, ImagesPerSecond: m.meter.average(), Tail: m.meter.averageTail(), DataWait: m.meter.waits, DataShare: m.meter.dataShare(), Evaluation: m.eval, Path: c.Path}
	if m.cfg.NoStore || m.ending.kind == endCompleted {
		r.Step = max(c.Step, m.meter.step)
	}
	r.Hash = m.hashOf(r.Step)
	return r
}

// cause says in a few words why the run is ending, before it is known what can be saved.
func (m *Machine) cause() string {
	e := m.ending
	switch e.kind {
	case endLost, endRegroup, endGather:
		if e.surety > hearsay || e.kind == endLost {
			return fmt.Sprintf("worker %s was lost: %s", e.worker, e.how)
		}
	case endNonFinite:
		return fmt.Sprintf("training blew up after %d steps: %s", e.step, e.how)
	case endMismatch, endDispute:
		return e.what
	case endStalled:
		return fmt.Sprintf("no progress for %v", m.cfg.StallTimeout)
	}
	return e.how
}

// verdict is the run's error, nil if it did all its steps and kept them.
func (m *Machine) verdict() error {
	e := m.ending
	c := m.checkpoint()
	s := Saved{Run: m.cfg.Run, Step: c.Step, Path: c.Path, Unsaved: e.unsaved}
	at := max(m.meter.step, m.cfg.FirstStep)
	switch e.kind {
	case endLost, endRegroup, endGather, endDispute:
		return &WorkerLostError{Saved: s, Worker: e.worker, How: e.how, AtStep: at}
	case endNonFinite:
		return &NonFiniteError{Saved: s, Worker: e.worker, AtStep: e.step, Reason: e.how}
	case endDamaged:
		return &DamagedDataError{Saved: s, Worker: e.worker, AtStep: at, Reason: e.how}
	case endMismatch:
		return &HashMismatchError{Saved: s, AtStep: e.step, What: e.what, Workers: e.workers, Hashes: e.hashes, Odd: outvoted(e.workers, e.hashes)}
	case endInterrupted:
		return &InterruptedError{Saved: s, AtStep: max(at, c.Step), Reason: e.how}
	case endStalled:
		return &StalledError{Saved: s, AtStep: at, Waited: m.cfg.StallTimeout.String(), Workers: e.workers}
	case endMissing:
		return &MissingWorkersError{Run: m.cfg.Run, Ready: e.ready, Want: e.want, Waited: m.cfg.JoinTimeout.String(), NotReady: e.workers}
	case endRefused:
		return &RefusedError{Run: m.cfg.Run, Worker: e.worker, Kind: e.refusal, Reason: e.how}
	}
	if !m.cfg.NoStore && c.Step < m.cfg.TotalSteps {
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
