package coordinator

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// endKind says what a generation or the run ends for.
type endKind uint8

const (
	endCompleted endKind = iota
	endRegroup           // this generation, not the run: a new one follows
	endDispute           // likewise, from the newest verified state
	endGather            // this membership: nobody holds the newest state any more
	endLost
	endNonFinite
	endDamaged
	endMismatch
	endInterrupted
	endStalled
	endMissing
	endRefused
)

// How sure the blame for a failure is. A later, surer finding replaces an earlier one.
const (
	hearsay  = iota + 1 // a neighbour's ring wait failed
	noAnswer            // it did not come out of the step when asked
	evidence            // its stream broke, its heartbeats stopped, or it says so itself
)

// ending is why a generation or the run ends and who is to blame.
type ending struct {
	kind     endKind
	worker   string
	how      string
	surety   int
	step     uint64
	workers  []string
	hashes   []string
	what     string // endDispute, endMismatch: the evidence
	ready    int
	want     int
	refusal  Refusal
	detail   bool   // endNonFinite: worker knows the replica
	distrust bool   // the states may be wrong
	unsaved  string // why the newest state could not be stored
}

// save is the fetching of the newest state at the end.
type save struct {
	step       uint64
	candidates []*member // still to be asked
	asked      *member   // nil once its state has arrived, or when nobody was asked
}

// onInterrupt ends the run in good order.
func (m *Machine) onInterrupt(ev Interrupt) {
	reason := ev.Reason
	if reason == "" {
		reason = "interrupted"
	}
	e := ending{kind: endInterrupted, how: reason}
	switch m.phase {
	case gathering:
		m.ending = e
		m.conclude()
	case reattaching:
		m.ending = e
		if len(m.ring()) == 0 {
			m.conclude()
			return
		}
		m.pause()
	case running:
		m.end(e)
	case pausing:
		m.end(e)
	case saving:
		if m.ending.kind == endGather {
			e.unsaved = m.ending.unsaved
			m.ending = e
		}
	}
}

// end begins the end of a generation or of the run, or learns more about one that has begun.
func (m *Machine) end(e ending) {
	switch {
	case m.phase == running:
		m.ending = e
		m.pause()
		return
	case m.phase != pausing:
		return
	case e.outweighs(m.ending):
		if m.ending.distrust {
			e.distrust, e.step = true, m.ending.step
		}
		m.ending = e
	}
	m.checkPausing()
}

// pause asks the members out of their step.
func (m *Machine) pause() {
	m.enter(pausing)
	m.tell(m.ending.kind != endInterrupted, "stopping: %s", m.cause())
	m.askOut()
	m.checkPausing()
}

// askOut asks the members that are in a step to leave it.
func (m *Machine) askOut() {
	for _, w := range m.ring() {
		if w.aborted == nil {
			m.emit(Pause{w.name, m.cause()})
		}
	}
}

// outweighs says whether a finding explains the end better than the one before, or asks for more.
func (e ending) outweighs(old ending) bool {
	if e.kind == old.kind {
		if e.kind == endNonFinite {
			return e.detail && !old.detail || e.detail == old.detail && len(e.how) > len(old.how)
		}
		return e.surety > old.surety
	}
	return e.weight() > old.weight()
}

// weight ranks the ends that are possible while a plan is out.
func (e ending) weight() int {
	switch e.kind {
	case endRegroup:
		return 0
	case endNonFinite:
		return 1
	case endDispute: // wrong bits may well be no finite ones
		return 2
	}
	return 3
}

// checkPausing goes on once all members are out of the step, or late.
func (m *Machine) checkPausing() {
	if m.phase != pausing {
		return
	}
	waited := m.now - m.since
	pending := m.unanswered()
	if m.ending.kind == endNonFinite && !m.ending.detail && waited < m.cfg.CollectNonFinite && len(pending) > 0 {
		return
	}
	limit := m.pauseLimit()
	if len(pending) > 0 && waited < limit {
		return
	}
	for _, w := range pending {
		m.silent(w, fmt.Sprintf("it did not come out of the step within %v", limit))
	}
	switch m.ending.kind {
	case endRegroup:
		m.regroup()
	case endDispute:
		if len(m.storing) == 0 || waited > m.cfg.StoreTimeout { // what is written now is to be dropped
			m.storing = nil
			m.regroup()
		}
	default:
		m.beginSaving()
	}
}

// silent loses a member that gave no answer. One that only had too little time to tell of a bad gradient is no worse for it.
func (m *Machine) silent(w *member, how string) {
	m.emit(Removed{Worker: w.name, Reason: how})
	m.drop(w)
	m.tell(true, "worker %s was lost: %s", w.name, how)
	if e := (ending{kind: endRegroup, worker: w.name, how: how, surety: noAnswer}); e.outweighs(m.ending) {
		m.ending = e
	}
}

// pauseLimit is how long members may take to come out of the step. A replica's pass cannot be interrupted, and on a deep network
// it is longer than any fixed limit that suits a small one; a worker that dies meanwhile is noticed by its heartbeats.
func (m *Machine) pauseLimit() time.Duration { return max(m.cfg.PauseTimeout, 2*m.slowest) }

// unanswered lists the members that are still in their step, as far as is known.
func (m *Machine) unanswered() []*member {
	return slices.DeleteFunc(m.ring(), func(w *member) bool { return w.aborted != nil })
}

// complete ends a run that has done all its steps.
func (m *Machine) complete() {
	m.ending = ending{kind: endCompleted}
	m.beginSaving()
}

// beginSaving asks the most advanced member for its state; among equals the first of the ring. After a non-finite gradient or
// a mismatch the states are not to be trusted, and the checkpoint before stays.
func (m *Machine) beginSaving() {
	m.enter(saving)
	m.save = save{}
	if !m.cfg.NoStore && m.ending.kind != endNonFinite && m.ending.kind != endMismatch && !m.ending.distrust && m.verify.dispute == nil {
		m.save.candidates = slices.DeleteFunc(m.ring(), func(w *member) bool { return !w.has() })
		slices.SortStableFunc(m.save.candidates, func(a, b *member) int { return cmp.Compare(b.committed(), a.committed()) })
	}
	m.askNext()
}

// has says whether the member has a whole state, as far as it has told.
func (w *member) has() bool {
	if w.stale {
		return false
	}
	if w.aborted != nil {
		return !w.aborted.Behind
	}
	return w.holds()
}

// committed is the number of committed steps of the state that the member has.
func (w *member) committed() uint64 {
	if w.aborted != nil {
		return w.aborted.Step
	}
	return w.steps
}

// askNext asks the next candidate whose state is newer than what is stored; with none left, the saving is over with what there is,
// once that is written.
func (m *Machine) askNext() {
	m.save.asked = nil
	m.since = m.now
	for len(m.save.candidates) > 0 {
		w := m.save.candidates[0]
		m.save.candidates = m.save.candidates[1:]
		if w.gone {
			continue
		}
		m.save.step = w.committed()
		if m.save.step <= m.stored() || slices.Contains(m.storing, m.save.step) {
			break
		}
		m.save.asked = w
		m.emit(SendState{w.name, m.save.step})
		return
	}
	m.save.candidates = nil
	if len(m.storing) == 0 {
		m.saved()
	}
}

// saved goes on when nothing is left to be written: with other workers, or not at all.
func (m *Machine) saved() {
	if m.ending.kind == endGather {
		m.gather()
		return
	}
	if m.ending.distrust && m.cfg.VerifyEvery > 0 {
		m.dropUntrusted(m.ending.step)
	}
	m.conclude()
}

// checkSaving bounds the wait for a member's state and for the disk.
func (m *Machine) checkSaving() {
	waited := m.now - m.since
	switch {
	case m.save.asked != nil && waited > m.cfg.SaveTimeout:
		m.ending.unsaved = fmt.Sprintf("worker %s did not send its state within %v", m.save.asked.name, m.cfg.SaveTimeout)
		m.tell(true, "%s", m.ending.unsaved)
		m.askNext()
	case m.save.asked == nil && waited > m.cfg.StoreTimeout:
		m.ending.unsaved = fmt.Sprintf("writing the checkpoint took more than %v", m.cfg.StoreTimeout)
		m.saved()
	}
}
