package coordinator

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// endKind says why a run ends.
type endKind uint8

const (
	endCompleted endKind = iota
	endLost
	endNonFinite
	endMismatch
	endInterrupted
	endStalled
	endMissing
	endRefused
)

// How sure the blame for a lost worker is. A later, surer finding replaces an earlier one.
const (
	hearsay  = iota + 1 // a neighbour's ring wait failed
	noAnswer            // it did not come out of the step when asked
	evidence            // its stream broke, its heartbeats stopped, or it says so itself
)

// ending is why the run ends and who is to blame.
type ending struct {
	kind    endKind
	worker  string
	how     string
	surety  int
	step    uint64
	workers []string
	hashes  []string
	ready   int
	refusal Refusal
	detail  bool   // endNonFinite: worker knows the replica
	unsaved string // why the newest state could not be stored
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
	case running:
		m.end(e)
	}
}

// lose takes a worker out for good.
func (m *Machine) lose(w *member, how string) {
	if !w.alive() {
		return
	}
	w.lost = how
	switch m.phase {
	case gathering:
		m.tell(true, "worker %s was lost before the start: %s", w.name, how)
		if !w.broken {
			m.emit(Stop{Worker: w.name, Failed: true, Reason: how})
		}
		m.drop(w)
		if m.cfg.FixedCrew {
			m.ending = ending{kind: endLost, worker: w.name, how: how}
			m.conclude()
		}
	case running, pausing:
		m.end(ending{kind: endLost, worker: w.name, how: how, surety: evidence})
	case saving:
		if m.save.asked == w {
			m.askNext()
		}
	}
}

// onAborted hears that a worker is out of its step: because it was asked to, or because something failed.
func (m *Machine) onAborted(w *member, a Aborted) {
	if m.phase != running && m.phase != pausing || w.aborted != nil || a.Step > m.plan.UntilStep {
		return
	}
	w.aborted = &a
	switch {
	case a.Cause == CauseNonFinite:
		m.end(ending{kind: endNonFinite, worker: w.name, how: a.Reason, step: a.Step, detail: a.Peer == w.name})
	case a.Cause == CauseRing:
		peer := m.find(a.Peer)
		if peer == nil || peer == w {
			m.end(ending{kind: endLost, worker: w.name, how: "its ring failed: " + a.Reason, surety: hearsay})
			return
		}
		m.end(ending{kind: endLost, worker: peer.name, how: fmt.Sprintf("worker %s reports: %s", w.name, a.Reason), surety: hearsay})
	case a.Cause == CausePaused && m.phase == pausing:
		m.checkPausing()
	default:
		m.end(ending{kind: endLost, worker: w.name, how: "it failed: " + a.Reason, surety: evidence})
	}
}

// end begins the ending, or learns more about one that has begun.
func (m *Machine) end(e ending) {
	if m.phase == running {
		m.ending = e
		m.enter(pausing)
		m.tell(e.kind != endInterrupted, "stopping: %s", m.cause())
		for _, w := range m.members {
			if w.alive() && w.aborted == nil {
				m.emit(Pause{w.name, m.cause()})
			}
		}
	} else if m.phase == pausing && e.outweighs(m.ending) {
		m.ending = e
	}
	if m.phase == pausing {
		m.checkPausing()
	}
}

// outweighs says whether a finding explains the end better than the one before.
func (e ending) outweighs(old ending) bool {
	switch {
	case e.kind == endLost && old.kind == endLost:
		return e.surety > old.surety
	case e.kind == endNonFinite && old.kind == endLost:
		return old.surety == hearsay
	case e.kind == endNonFinite && old.kind == endNonFinite:
		return e.detail && !old.detail || e.detail == old.detail && len(e.how) > len(old.how)
	}
	return false
}

// checkPausing goes on once all survivors are out of the step, or late.
func (m *Machine) checkPausing() {
	waited := m.now - m.since
	if m.ending.kind == endNonFinite && !m.ending.detail && waited < m.cfg.CollectNonFinite && m.survivors() > m.answered() {
		return
	}
	limit := m.pauseLimit()
	if m.survivors() > m.answered() && waited < limit {
		return
	}
	for _, w := range m.members {
		if w.alive() && w.aborted == nil {
			w.lost = fmt.Sprintf("it did not come out of the step within %v", limit)
			if e := (ending{kind: endLost, worker: w.name, how: w.lost, surety: noAnswer}); e.outweighs(m.ending) {
				m.ending = e
			}
		}
	}
	m.beginSaving()
}

// pauseLimit is how long survivors may take to come out of the step. A replica's pass cannot be interrupted, and on a deep network
// it is longer than any fixed limit that suits a small one; a worker that dies meanwhile is noticed by its heartbeats.
func (m *Machine) pauseLimit() time.Duration { return max(m.cfg.PauseTimeout, 2*m.slowest) }

func (m *Machine) survivors() int {
	n := 0
	for _, w := range m.members {
		if w.alive() {
			n++
		}
	}
	return n
}

func (m *Machine) answered() int {
	n := 0
	for _, w := range m.members {
		if w.alive() && w.aborted != nil {
			n++
		}
	}
	return n
}

// complete ends a run that has done all its steps.
func (m *Machine) complete() {
	m.ending = ending{kind: endCompleted}
	m.beginSaving()
}

// beginSaving asks the most advanced survivor for its state; among equals the first of the ring. After a non-finite gradient or
// a mismatch the states are not to be trusted, and the checkpoint before stays.
func (m *Machine) beginSaving() {
	m.enter(saving)
	m.save = save{}
	if !m.cfg.NoStore && m.ending.kind != endNonFinite && m.ending.kind != endMismatch {
		for _, w := range m.members {
			if w.alive() {
				m.save.candidates = append(m.save.candidates, w)
			}
		}
		slices.SortStableFunc(m.save.candidates, func(a, b *member) int { return cmp.Compare(b.holds(), a.holds()) })
	}
	m.askNext()
}

// holds is the number of committed steps of the state that the worker has.
func (w *member) holds() uint64 {
	if w.aborted != nil {
		return w.aborted.Step
	}
	return w.steps
}

// askNext asks the next candidate whose state is newer than what is stored; with none left, the run ends with what there is, once
// that is written.
func (m *Machine) askNext() {
	m.save.asked = nil
	m.since = m.now
	for len(m.save.candidates) > 0 {
		w := m.save.candidates[0]
		m.save.candidates = m.save.candidates[1:]
		if !w.alive() {
			continue
		}
		m.save.step = w.holds()
		if m.save.step <= m.stored || slices.Contains(m.storing, m.save.step) {
			break
		}
		m.save.asked = w
		m.emit(SendState{w.name, m.save.step})
		return
	}
	m.save.candidates = nil
	if len(m.storing) == 0 {
		m.conclude()
	}
}

// checkSaving bounds the wait for a survivor's state and for the disk.
func (m *Machine) checkSaving() {
	waited := m.now - m.since
	switch {
	case m.save.asked != nil && waited > m.cfg.SaveTimeout:
		m.ending.unsaved = fmt.Sprintf("worker %s did not send its state within %v", m.save.asked.name, m.cfg.SaveTimeout)
		m.tell(true, "%s", m.ending.unsaved)
		m.askNext()
	case m.save.asked == nil && waited > m.cfg.StoreTimeout:
		m.ending.unsaved = fmt.Sprintf("writing the checkpoint took more than %v", m.cfg.StoreTimeout)
		m.conclude()
	}
}
