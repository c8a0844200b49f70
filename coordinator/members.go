package coordinator

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// member is an attached worker.
type member struct {
	name    string
	stream  uint64
	seen    time.Duration // on the machine's clock
	suspect bool          // gossip says dead, and nothing was heard since
	gone    bool          // dropped from the machine's members
	ready   *Ready
	leaving string // why it wants to leave; empty if it stays

	// What follows is of members of the newest plan's ring.
	in         bool
	generation uint64 // of the plan that it works on or last had: what it tells of another is old
	follows    bool   // hosts nothing in that plan
	hosts      int    // replicas in that plan
	behind     bool   // does not hold the state of steps
	stale      bool   // as far as is known its state is one that all others have gone back from
	base       uint64 // of a follower: step of the state that it fetches
	hostSince  uint64 // first step of the plans that it hosts replicas in, without a break
	steps      uint64 // newest committed step reported; of a follower that is behind, kept
	last       bool   // the window ended for it after steps
	hash       string // of the state then
	told       uint64 // newest verified step that it was told of: then it may forget those before
	traffic    *Traffic
	aborted    *Aborted
	attached   *Attachment // as it came back after a restart
}

// holds says whether the member has the state of its own steps.
func (w *member) holds() bool { return w.in && !w.behind }

// standing says for people what a worker is.
func (w *member) standing() string {
	switch {
	case w.leaving != "":
		return "leaving"
	case w.ready == nil:
		return "loading"
	case !w.in:
		return "spare"
	case w.behind:
		return "follower"
	case w.follows:
		return "follower caught up"
	}
	return "hosting"
}

func (m *Machine) find(name string) *member {
	i, ok := m.search(name)
	if !ok {
		return nil
	}
	return m.members[i]
}

func (m *Machine) search(name string) (int, bool) {
	return slices.BinarySearchFunc(m.members, name, func(w *member, name string) int { return strings.Compare(w.name, name) })
}

// ring lists the attached members of the newest plan's ring, by name.
func (m *Machine) ring() []*member {
	var ring []*member
	for _, w := range m.members {
		if w.in {
			ring = append(ring, w)
		}
	}
	return ring
}

// drop forgets a worker.
func (m *Machine) drop(w *member) {
	i, ok := m.search(w.name)
	if !ok || m.members[i] != w {
		panic(fmt.Sprintf("coordinator: worker %s is dropped, but was not attached", w.name))
	}
	m.members = slices.Delete(m.members, i, i+1)
	w.gone, m.unsettled = true, true
	m.balance.forget(w.name)
}

// lose takes a worker out that may be there still: it is told, and may attach anew.
func (m *Machine) lose(w *member, how string) {
	m.emit(Removed{Worker: w.name, Reason: how})
	m.leftAlone(w, how)
}

// leftAlone goes on without a worker.
func (m *Machine) leftAlone(w *member, how string) {
	m.drop(w)
	switch m.phase {
	case gathering:
		m.tell(true, "worker %s was lost before the start: %s", w.name, how)
		if m.cfg.FixedCrew && (m.plan.Sequence == 0 || len(m.members) == 0) {
			m.ending = ending{kind: endLost, worker: w.name, how: how}
			m.conclude()
		}
	case running, pausing:
		if w.in {
			m.end(ending{kind: endRegroup, worker: w.name, how: how, surety: evidence})
		} else {
			m.tell(true, "worker %s was lost: %s", w.name, how)
		}
	case saving:
		if m.save.asked == w {
			m.askNext()
		}
	}
}

// onLeaving lets a worker go: one outside of the ring at once, a member with the next plan.
func (m *Machine) onLeaving(w *member, ev Leaving) {
	if w.leaving != "" {
		return
	}
	w.leaving, m.unsettled = "it wants to leave", true
	if ev.Reason != "" {
		w.leaving += ": " + ev.Reason
	}
	m.tell(false, "worker %s: %s", w.name, w.leaving)
	if w.in {
		return
	}
	if m.phase == gathering && m.cfg.FixedCrew {
		m.emit(Stop{Worker: w.name, Reason: w.leaving})
		m.leftAlone(w, w.leaving)
		return
	}
	m.dismiss(w)
}

// dismiss tells a worker that it may go.
func (m *Machine) dismiss(w *member) {
	m.emit(Stop{Worker: w.name, Reason: "the run goes on without this worker"})
	m.drop(w)
}

// onCaughtUp hears that a follower holds the state now; the next plan may give it replicas.
func (m *Machine) onCaughtUp(w *member, c CaughtUp) {
	if c.Generation != w.generation || !w.follows || w.aborted != nil {
		return
	}
	if w.behind {
		w.behind, m.unsettled = false, true
		m.tell(false, "worker %s has caught up", w.name)
	}
}
