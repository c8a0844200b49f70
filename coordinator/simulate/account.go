package simulate

import "time"

// account keeps where the time went. At any moment it counts for one thing.
type account struct {
	begun bool
	began time.Duration // of the first step

	current *time.Duration
	since   time.Duration

	// Where the time goes, from the first step on.
	steps     time.Duration // that were committed
	redone    time.Duration // that were broken off
	detecting time.Duration // from a death until the coordinator knows
	away      time.Duration // likewise, while there is no coordinator
	regroup   time.Duration // until the next plan has reached the workers
	linking   time.Duration // of the ring
	healing   time.Duration // copying a state that all wait for
	measuring time.Duration // the links
	changing  time.Duration // from the end of a window until the next plan is there

	committed    uint64
	sent         float64 // bytes on the ring, of all members
	copied       float64 // of states
	control      float64 // of plans
	events       uint64
	failures     int
	leaves       int
	breaks       int // steps broken off
	generations  int
	coordinators int // lost
	healed       int // members that fetched a state while all waited

	stall  stall
	stalls []time.Duration
}

// stall is a time without a step after something died.
type stall struct {
	on   bool
	from time.Duration
}

// enter counts the time from now on for something else.
func (a *account) enter(what *time.Duration, now time.Duration) {
	if a.current != nil && a.begun {
		*a.current += now - a.since
	}
	a.current, a.since = what, now
}

// training begins a step.
func (a *account) training(now time.Duration) {
	if !a.begun {
		a.begun, a.began, a.current = true, now, nil
	}
	a.enter(&a.steps, now)
	if a.stall.on {
		a.stalls = append(a.stalls, now-a.stall.from)
		a.stall.on = false
	}
}

// step ends one.
func (a *account) step(now time.Duration, s Step, members int) {
	a.enter(&a.steps, now)
	a.committed++
	a.sent += s.Bytes * float64(members)
}

// broke ends a step that is not committed.
func (a *account) broke(now time.Duration) {
	a.redone += now - a.since
	a.since = now
	a.breaks++
}

// undetected begins the wait for the coordinator to know of a death.
func (a *account) undetected(now time.Duration, coordinator bool) {
	if !a.stall.on {
		a.stall = stall{true, now}
	}
	if coordinator {
		a.enter(&a.detecting, now)
	} else {
		a.enter(&a.away, now)
	}
}

// noticed ends it.
func (a *account) noticed(now time.Duration) {
	if !a.stall.on {
		a.stall = stall{true, now}
	}
	a.enter(&a.regroup, now)
}

// coordinatorGone says that nobody answers who waits.
func (a *account) coordinatorGone(now time.Duration) {
	if a.current != nil && a.current != &a.steps {
		a.enter(&a.away, now)
	}
}
