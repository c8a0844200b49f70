package coordinator

import (
	"errors"
	"fmt"
	"slices"
)

// open takes the first event: this coordinator's part of the journal begins. The machine records its own epoch, so that nothing can be
// decided before it stands there.
func (m *Machine) open() {
	m.opened = true
	c := m.checkpoint()
	m.record(Entry{Epoch: &EpochEntry{Epoch: m.cfg.Epoch, Run: m.cfg.Run, FirstStep: c.Step, Version: m.cfg.Version, Path: c.Path, Schedule: m.scheduleState(c.Step)}})
	if m.redrop != nil {
		m.emit(*m.redrop) // it may not have come to that
	}
}

// Restore takes what earlier coordinators of the run have recorded. Call it before the first Step, and only once; after an error
// the machine is of no use. If a plan is out, its workers are then waited for; else the run begins with Config's state.
func (m *Machine) Restore(entries []Entry) error {
	if m.opened {
		return errors.New("coordinator: a journal was given to a machine that is running")
	}
	begun := m.scheduleState(m.base)
	for i, e := range entries {
		if err := m.replay(e); err != nil {
			return fmt.Errorf("coordinator: journal of run %s, entry %d: %w", m.cfg.Run, i+1, err)
		}
	}
	m.measured = 0 // what was measured is not in the journal
	if len(m.plan.Ring) > 0 {
		m.enter(reattaching)
		return nil
	}
	if err := m.cfg.Schedule.Restore(begun); err != nil {
		return fmt.Errorf("coordinator: %w", err)
	}
	m.startFrom(m.cfg.FirstStep, m.cfg.Resumed, begun)
	return nil
}

// replay takes one entry of the journal.
func (m *Machine) replay(e Entry) error {
	switch {
	case e.Epoch != nil:
		return m.replayEpoch(e.Epoch)
	case e.Plan != nil:
		return m.replayPlan(*e.Plan)
	case e.Evaluation != nil:
		m.learn(e.Evaluation)
		m.newest = max(m.newest, e.Evaluation.Step)
		if i := slices.Index(m.plan.EvaluateAfter, e.Evaluation.Step); i >= m.counted {
			m.counted = i + 1
		}
	case e.Trained != nil:
		return m.replayTrained(e.Trained)
	case e.Stored != nil:
		m.newest = max(m.newest, e.Stored.Step)
		m.redrop = nil
		m.keep(*e.Stored)
	case e.Removal != nil:
		m.removed[e.Removal.Worker] = e.Removal.Reason
		if !m.verify.pending { // so a dispute was settled, and only that could not be said any more
			m.verify.dispute = nil
		}
	case e.Verified != nil:
		m.newest = max(m.newest, e.Verified.Step)
		m.verify.add(*e.Verified)
	case e.Reference != nil:
		m.ref = *e.Reference
	case e.Dispute != nil:
		m.verify.take(*e.Dispute)
	case e.Over != nil:
		m.plan = Plan{Generation: m.plan.Generation, Sequence: m.plan.Sequence}
	case e.Drop != nil:
		m.forget(e.Drop.Step)
		m.verify.since, m.verify.backTo = m.plan.Generation+1, e.Drop.Step
		m.redrop = e.Drop
	}
	return nil
}

func (m *Machine) replayEpoch(e *EpochEntry) error {
	if e.Run != m.cfg.Run {
		return fmt.Errorf("it is of run %q", e.Run)
	}
	if e.Epoch >= m.cfg.Epoch {
		return fmt.Errorf("coordinator %d has written it, this one is coordinator %d", e.Epoch, m.cfg.Epoch)
	}
	if len(m.plan.Ring) > 0 {
		return nil
	}
	if err := m.cfg.Schedule.Restore(e.Schedule); err != nil {
		return err
	}
	m.startFrom(e.FirstStep, e.Path, m.cfg.Schedule.MarshalState())
	return nil
}

func (m *Machine) replayPlan(p Plan) error {
	if p.Generation < m.plan.Generation || p.Sequence <= m.plan.Sequence || len(p.Ring) == 0 || len(p.ReplicaHost) != m.cfg.Replicas {
		return fmt.Errorf("plan %d.%d of %d workers and %d replicas cannot follow plan %d.%d", p.Generation, p.Sequence, len(p.Ring), len(p.ReplicaHost), m.plan.Generation, m.plan.Sequence)
	}
	m.adopt(p)
	m.newest, m.meter.step = p.FirstStep, p.FirstStep
	if p.Restore {
		m.redrop = &Drop{p.FirstStep}
	}
	m.verify.begunAgain()
	return nil
}

// comesBack gives a worker of the newest plan its place back.
func (m *Machine) comesBack(w *member, h Hello) bool {
	a := h.Attached
	at := slices.IndexFunc(m.plan.Ring, func(p Member) bool { return p.Worker == w.name })
	if !m.wasHere(h) || a.Generation == 0 || at < 0 {
		return false
	}
	ready := a.Ready
	ready.Worker = w.name
	if _, reason := m.judgeReady(ready); reason != "" {
		return false // it will be told so when it says that it is ready
	}
	w.ready, w.in, w.attached = &ready, true, a
	w.generation, w.steps, w.behind = a.Generation, a.Step, a.Behind
	w.follows, w.last, w.hostSince = m.plan.following(at), a.Step == m.plan.UntilStep, m.plan.FirstStep
	w.hosts = m.plan.shares()[at]
	for _, f := range m.plan.Followers {
		if f.Position == at {
			w.base = f.Base
		}
	}
	w.stale = a.Generation < m.verify.since || m.plan.Restore && slices.Contains(m.plan.Behind, at)
	if !a.Behind && !w.stale {
		m.newest = max(m.newest, a.Step)
	}
	if !m.returned {
		m.returned, m.since = true, m.now
	}
	m.tell(false, "worker %s is back, at step %d", w.name, a.Step)
	return true
}

// awaited counts the members of the plan that may still come back. Where another process has come under a member's name, that one will not.
func (m *Machine) awaited() int {
	n := 0
	for _, p := range m.plan.Ring {
		if m.find(p.Worker) == nil {
			n++
		}
	}
	return n
}

// checkReattaching goes on when all members of the plan are back, replaced, or late.
func (m *Machine) checkReattaching() {
	if m.phase != reattaching {
		return
	}
	ring := m.ring()
	limit := m.cfg.ReattachTimeout
	if !m.returned {
		limit = m.cfg.ReattachFirst
	}
	if m.awaited() > 0 && m.now-m.since <= limit {
		return
	}
	m.moved = m.now
	if len(ring) == len(m.plan.Ring) && !m.verify.pending && m.allRunning(ring) {
		m.enter(running)
		m.unsettled = true
		m.tell(false, "all workers are back, and training goes on")
		m.countEvaluations()
		m.compareAll()
		m.advance()
		return
	}
	e := ending{kind: endRegroup, how: "a coordinator that was started again found its workers waiting"}
	for _, p := range m.plan.Ring {
		if w := m.find(p.Worker); w == nil || !w.in {
			e.worker, e.surety, e.how = p.Worker, evidence, fmt.Sprintf("it did not come back to the new coordinator within %v", limit)
			if w != nil {
				e.how = "it ended while the coordinator was away, for a new process has come under its name"
			}
			m.tell(true, "worker %s was lost: %s", e.worker, e.how)
		}
	}
	if d := m.verify.dispute; m.verify.pending {
		e.kind, e.step, e.what, e.distrust = endDispute, d.before(), d.String(), true
	}
	m.ending = e
	m.pause()
	for _, w := range ring {
		if w.aborted != nil && !w.gone {
			m.explain(w, *w.aborted)
		}
	}
}

// allRunning says whether the members still work on the newest plan, and it is not one of a run that was to be longer.
func (m *Machine) allRunning(ring []*member) bool {
	return m.plan.UntilStep <= m.cfg.TotalSteps && !slices.ContainsFunc(ring, func(w *member) bool {
		return !w.attached.Running || w.aborted != nil || w.attached.Generation != m.plan.Generation || w.attached.Sequence != m.plan.Sequence
	})
}
