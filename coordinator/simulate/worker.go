package simulate

import (
	"fmt"
	"time"

	"github.com/lockstep-ml/lockstep/coordinator"
)

// runName is the simulated run's.
const runName = "simulated"

// worker is a machine's worker process; when it dies another takes its place under its name.
type worker struct {
	s     *sim
	name  string
	index int
	pace  float64 // its time for a pass, relative to the model's

	up       bool
	life     int  // counts its processes: what happens to an earlier one is void
	attached bool // as the worker sees it
	loaded   bool // data open, engine compiled
	heard    time.Duration
	seeks    int // counts its tries to attach: only the newest is good
	rank     int // in the newest ring that it was in

	step  uint64 // committed, as far as it holds a state or has kept gradients
	fetch fetch
}

// fetch is the copying of a state to a follower while training goes on.
type fetch struct {
	on   bool
	base uint64
	done time.Duration
	held bool // copied, and what was kept since is applied
}

// hire makes the workers, and has them start at once.
func (s *sim) hire() {
	for i := range s.cfg.Workers + s.cfg.Spares {
		w := &worker{s: s, name: fmt.Sprintf("w%04d", i+1), index: i, pace: 1}
		if s.cfg.Spread > 0 {
			w.pace = max(0.2, 1+s.cfg.Spread*s.rng.NormFloat64())
		}
		s.workers = append(s.workers, w)
		s.byName[w.name] = w
		w.boot()
	}
}

// alone is what so many replicas take on this worker.
func (w *worker) alone(replicas int) time.Duration {
	return time.Duration(w.pace * float64(replicas) * float64(w.s.model.Compute))
}

// boot starts a process, and draws when it will die.
func (w *worker) boot() {
	w.up, w.attached, w.loaded, w.fetch, w.heard = true, false, false, fetch{}, w.s.now
	w.life++
	life := w.life
	if w.s.cfg.MTBF > 0 {
		w.s.after(w.s.chance(w.s.cfg.MTBF), func() { w.inLife(life, w.die) })
	}
	if w.s.cfg.LeaveEvery > 0 {
		w.s.after(w.s.chance(w.s.cfg.LeaveEvery), func() { w.inLife(life, w.leave) })
	}
	w.seek(0)
}

// seek tries to attach after a while, and gives up what it has tried before.
func (w *worker) seek(after time.Duration) {
	w.seeks++
	life, try := w.life, w.seeks
	w.s.after(after, func() {
		if w.up && w.life == life && w.seeks == try {
			w.hello()
		}
	})
}

func (w *worker) inLife(life int, do func()) {
	if w.up && w.life == life {
		do()
	}
}

// say sends an event; it arrives if the coordinator is there then.
func (w *worker) say(ev coordinator.Event) {
	w.heard = w.s.now
	w.s.after(w.s.model.Hop, func() { w.s.feed(ev) })
}

// hello asks for a place. Where nobody answers it waits; a coordinator that comes is found by all.
func (w *worker) hello() {
	w.s.streams++
	h := coordinator.Hello{Stream: w.s.streams, Worker: w.name, Version: runName}
	if w.loaded {
		h.Attached = w.attachment()
	}
	w.say(h)
}

// attachment is what a process that has been in the run is in the middle of.
func (w *worker) attachment() *coordinator.Attachment {
	a := &coordinator.Attachment{Run: runName, Epoch: w.s.epoch - 1, Ready: w.readiness()}
	if r := w.s.ring; r != nil && r.has(w) {
		a.Generation, a.Sequence, a.Step = r.plan.Generation, r.plan.Sequence, w.step
		a.Running, a.Behind = r.state == stepping, r.follows(w) && !w.fetch.held
	}
	return a
}

func (w *worker) readiness() coordinator.Ready {
	return coordinator.Ready{Worker: w.name, RingAddress: fmt.Sprintf("10.0.%d.%d:7000", w.index/256, w.index%256), DataFingerprint: "d", Numerics: "n"}
}

// welcomed fetches what the coordinator says and gets ready. All first states come out of the coordinator's one link.
func (w *worker) welcomed(a coordinator.Welcome) {
	w.attached = true
	if a.Reattached {
		if r := w.s.ring; r != nil && r.has(w) {
			r.aborted[w.rank] = false // the one who was told is gone
		}
		return
	}
	life := w.life
	ready := func() {
		w.inLife(life, func() {
			w.loaded = true
			w.say(w.readiness())
		})
	}
	load := w.s.cfg.Load
	if w.loaded {
		load = 0
	}
	if a.PullState {
		w.s.wire = max(w.s.wire, w.s.now) + w.s.model.copying()
		w.s.acc.copied += w.s.model.stateBytes()
		load = max(load, w.s.wire-w.s.now)
	}
	w.s.after(load, ready)
}

// refused tries again: its earlier connection may not have been missed yet.
func (w *worker) refused() {
	w.attached = false
	w.seek(retryEvery)
}

// removed attaches anew, as a newcomer.
func (w *worker) removed() {
	w.refused()
	w.fetch = fetch{}
}

// leave asks to be left out.
func (w *worker) leave() {
	if w.attached {
		w.s.acc.leaves++
		w.say(coordinator.Leaving{Worker: w.name, Reason: "its machine is wanted back"})
	}
}

// dismissed ends the process. Another machine comes some time later.
func (w *worker) dismissed() {
	w.up, w.attached = false, false
	w.s.after(w.s.cfg.Replace, w.boot)
}

// die ends the process in the middle of whatever it does.
func (w *worker) die() {
	s := w.s
	w.up, w.attached = false, false
	s.acc.failures++
	life := w.life
	if s.cfg.Detect < silence {
		s.after(s.cfg.Detect, func() { s.feed(coordinator.StreamBroken{Worker: w.name, Reason: "connection reset by peer"}) })
	}
	if r := s.ring; r != nil && r.has(w) {
		r.breaks(w)
	}
	s.after(max(s.cfg.Replace, s.cfg.Detect+time.Millisecond), func() {
		if w.life == life {
			w.boot()
		}
	})
}
