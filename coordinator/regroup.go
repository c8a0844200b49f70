package coordinator

import (
	"fmt"
	"slices"
)

// blame counts how many generations running, without a committed step in between, a neighbour has complained of a worker.
type blame struct {
	worker string
	times  int
}

const (
	// maxBlames is how often a ring is made anew with a neighbour that others complain of: one complaint may be the link's, or the other's.
	maxBlames = 3
	// maxRetries is how many gatherings from one checkpoint may fail without a step committed: who starts workers again and again
	// should hear that it is of no use.
	maxRetries = 3
)

// A finding is an image that a worker could not decode.
type finding struct{ sample, worker string }

// maxFindings bounds what is remembered; a data set with more damage ends the run earlier.
const maxFindings = 64

// onAborted hears that a member is out of its step: because it was asked to, or because something failed.
func (m *Machine) onAborted(w *member, a Aborted) {
	if !m.listening() || w.aborted != nil || a.Generation != w.generation || a.Step > m.cfg.TotalSteps {
		return
	}
	w.aborted = &a
	m.explain(w, a)
}

// explain looks at why a member has left its step. While others have yet to come back to a new coordinator, most of it can wait.
func (m *Machine) explain(w *member, a Aborted) {
	switch a.Cause {
	case CauseNonFinite:
		m.end(ending{kind: endNonFinite, worker: w.name, how: a.Reason, step: a.Step, detail: a.Peer == w.name})
	case CauseLocal:
		m.lose(w, "it failed: "+a.Reason)
	case CauseDamaged:
		m.onDamaged(w, a)
	case CausePaused:
		m.end(ending{kind: endRegroup, how: fmt.Sprintf("worker %s has left its step", w.name)})
	default:
		e := ending{kind: endRegroup, surety: hearsay, how: fmt.Sprintf("the ring failed, as worker %s reports: %s", w.name, a.Reason)}
		if peer := m.find(a.Peer); peer != nil && peer.in && peer != w {
			e.worker = peer.name
		}
		m.end(e)
	}
}

// onDamaged goes on without a worker whose copy of an image is damaged, as the others' may be good. Where another one has found the same, or
// none is left to look, it is the data set that is damaged: then trying again is of no use.
func (m *Machine) onDamaged(w *member, a Aborted) {
	elsewhere := slices.ContainsFunc(m.damage, func(f finding) bool { return f.sample == a.Sample && f.worker != w.name })
	others := slices.ContainsFunc(m.ring(), func(o *member) bool { return o != w && o.holds() && !o.stale })
	if elsewhere || !others || len(m.damage) >= maxFindings {
		m.end(ending{kind: endDamaged, worker: w.name, how: a.Reason})
		return
	}
	m.damage = append(m.damage, finding{a.Sample, w.name})
	m.lose(w, "it failed: "+a.Reason)
}

// regroup makes a new generation of those who have answered. It begins at the newest step that one of them holds.
func (m *Machine) regroup() {
	for _, w := range m.ring() {
		w.steps, w.behind = w.aborted.Step, w.aborted.Behind
	}
	m.judgeBlames()
	if m.ending.kind == endDispute {
		m.rollBack(m.ending.step)
		return
	}
	from, held := m.newestHeld()
	if !held && slices.ContainsFunc(m.ring(), func(w *member) bool { return w.stale }) {
		m.rollBack(m.verify.backTo) // none of those who had gone back is left
		return
	}
	if !held {
		m.allLost()
		return
	}
	for _, w := range m.ring() {
		w.behind = w.behind || w.stale
	}
	if !m.sameHashes(from) {
		return
	}
	m.tell(true, "generation %d is over: %s; going on from step %d", m.plan.Generation, m.cause(), from)
	m.proceed(from, true)
}

// newestHeld is the newest committed step whose state a member holds.
func (m *Machine) newestHeld() (step uint64, held bool) {
	for _, w := range m.ring() {
		if w.holds() && !w.stale {
			step, held = max(step, w.steps), true
		}
	}
	return step, held
}

// judgeBlames removes a worker that others have complained of too often. Where somebody was lost the complaints are explained.
func (m *Machine) judgeBlames() {
	if m.ending.kind != endRegroup || m.ending.surety > hearsay {
		return
	}
	var blamed []string
	note := func(name string) {
		if w := m.find(name); w != nil && w.in && !slices.Contains(blamed, name) {
			blamed = append(blamed, name)
		}
	}
	note(m.ending.worker)
	for _, w := range m.ring() {
		if w.aborted.Cause == CauseRing && w.aborted.Peer != w.name {
			note(w.aborted.Peer)
		}
	}
	var now []blame
	for _, name := range blamed {
		b := blame{name, 1}
		if i := slices.IndexFunc(m.blames, func(b blame) bool { return b.worker == name }); i >= 0 {
			b.times += m.blames[i].times
		}
		now = append(now, b)
	}
	m.blames = now
	m.removeBlamed()
}

// removeBlamed removes the one who was blamed most often, of equals the first, if the others can go on.
func (m *Machine) removeBlamed() {
	worst := blame{}
	for _, b := range m.blames {
		if b.times > worst.times {
			worst = b
		}
	}
	if worst.times < maxBlames {
		return
	}
	w := m.find(worst.worker)
	if !slices.ContainsFunc(m.ring(), func(o *member) bool { return o != w && o.holds() }) {
		return
	}
	m.blames = nil
	why := fmt.Sprintf("its neighbours could not work with it in %d generations running", worst.times)
	m.emit(Removed{Worker: w.name, Reason: why})
	m.drop(w)
	m.tell(true, "worker %s was removed: %s", w.name, why)
}

// allLost goes back to gathering once what is being written is on disk; a fixed crew of which nobody is left is at its end.
func (m *Machine) allLost() {
	e := m.ending
	e.kind = endGather
	if m.retries++; m.cfg.FixedCrew && len(m.members) == 0 || m.retries > maxRetries {
		e.kind = endLost
	}
	m.ending = e
	m.beginSaving()
}

// lastLeave saves the state that the last members are about to take with them.
func (m *Machine) lastLeave() {
	m.ending = ending{kind: endGather, how: "it left"}
	for _, w := range m.ring() {
		if w.holds() {
			m.ending.worker, m.ending.how = w.name, w.leaving
			break
		}
	}
	stays := func(w *member) bool { return w.leaving == "" }
	if m.cfg.FixedCrew && !slices.ContainsFunc(m.members, stays) {
		m.ending.kind = endLost
	}
	m.beginSaving()
}

// gather begins again, with whoever comes, from the newest checkpoint. Those who are there have another state or none, so they come anew.
func (m *Machine) gather() {
	for _, w := range slices.Clone(m.members) {
		if w.leaving != "" {
			m.dismiss(w)
			continue
		}
		m.emit(Removed{Worker: w.name, Reason: "nobody holds the newest state any more: attach again to begin from the newest checkpoint"})
		m.drop(w)
	}
	c := m.checkpoints[len(m.checkpoints)-1]
	m.plan = Plan{Generation: m.plan.Generation, Sequence: m.plan.Sequence}
	m.sources, m.shares, m.counted = nil, nil, 0
	m.yielded, m.rebalance, m.blames, m.storing = false, false, nil, nil
	m.base = c.Step
	m.forget(c.Step)
	m.rewind(c.Step)
	m.newest, m.meter.step = c.Step, c.Step
	m.verify.begunAgain()
	m.verify.since, m.verify.backTo = m.plan.Generation+1, c.Step
	if m.verify.newest().Step != c.Step {
		m.verify.add(VerifiedEntry{Step: c.Step})
	}
	m.enter(gathering)
	m.emit(Load(c))
	m.tell(true, "no worker is left that holds the newest state: waiting for workers, to go on from step %d", c.Step)
}
