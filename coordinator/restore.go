package coordinator

import "slices"

// open takes the first event: this coordinator's part of the journal begins.
func (m *Machine) open() {
	m.opened = true
	c := m.checkpoint()
	m.record(Entry{Epoch: &EpochEntry{Epoch: m.cfg.Epoch, Run: m.cfg.Run, FirstStep: c.Step, Version: m.cfg.Version, Path: c.Path, Schedule: m.scheduleState(c.Step)}})
}

// comesBack gives a worker of the newest plan its place back.
func (m *Machine) comesBack(w *member, h Hello) bool {
	if !m.wasHere(h) || h.Attached.Generation == 0 {
		return false
	}
	at := slices.IndexFunc(m.plan.Ring, func(p Member) bool { return p.Worker == w.name })
	if at < 0 {
		return false
	}
	return true
}

func (m *Machine) checkReattaching() {}

// Restore takes what earlier coordinators of the run have recorded. Call it before the first Step, and only once.
func (m *Machine) Restore(entries []Entry) error { return nil }
