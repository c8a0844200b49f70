package simulate

import (
	"time"

	"github.com/lockstep-ml/lockstep/coordinator"
)

// breaks is a member's death. While the results of a step's last bucket go round, some members have them already.
func (r *ring) breaks(dead *worker) {
	s := r.s
	if r.state == stepping {
		s.acc.broke(s.now)
		lap := time.Duration(hops(len(r.members), r.plan.Group)) * s.model.Hop
		if left := r.begun + r.step.Took - s.now; left < lap && s.now > r.begun+r.step.Compute {
			r.commitPartly(1 - float64(left)/float64(lap))
		}
	}
	if r.state != abandoned {
		r.broke()
	}
	// The neighbours see the connection end when the coordinator does, or else miss an answer; and all hear of it within one lap.
	notice := s.cfg.Detect + time.Duration(hops(len(r.members), r.plan.Group))*s.model.Hop
	if s.cfg.Detect >= silence {
		notice = hopTimeout
	}
	s.after(notice, func() { r.abort(nil, coordinator.CauseRing, dead.name) })
}

// broke stops everything until the members are told.
func (r *ring) broke() {
	r.turn++
	r.state = broken
	r.s.acc.undetected(r.s.now, r.s.machine != nil)
}

// commitPartly has a share of the members commit the step in flight: those that the last results have reached.
func (r *ring) commitPartly(share float64) {
	ahead := int(share * float64(len(r.members)))
	for i, w := range r.members {
		if i < ahead && w.up && w.step == r.at() {
			w.step++
		}
	}
}

// pause asks members out of their step.
func (s *sim) pause(names map[string]bool) {
	if r := s.ring; r != nil {
		r.abort(names, coordinator.CausePaused, "")
	}
}

// abort has members, nil for all, leave their step and say so. A replica's pass is never broken off.
func (r *ring) abort(names map[string]bool, cause coordinator.Cause, peer string) {
	s := r.s
	if s.ring != r {
		return
	}
	if r.state == stepping {
		s.acc.broke(s.now)
	}
	busy := r.state == stepping || r.state == broken
	r.turn++
	r.state = abandoned
	for i, w := range r.members {
		if r.aborted[i] || !w.up || w.life != r.lives[i] || names != nil && !names[w.name] {
			continue
		}
		r.aborted[i] = true
		leave := s.now
		if busy {
			leave = r.passEnds(i)
		}
		life := w.life
		s.queue.add(leave, func() { w.inLife(life, func() { r.aborts(w, cause, peer) }) })
	}
}

// passEnds is when a member's pass is over that runs now.
func (r *ring) passEnds(i int) time.Duration {
	now := r.s.now
	if done := now - r.begun; r.begun > 0 && done < r.computes[i] {
		pass := r.computes[i] / time.Duration(r.replicas[i])
		return now + pass - done%pass
	}
	return now
}

// aborts tells that a member is out of its step.
func (r *ring) aborts(w *worker, cause coordinator.Cause, peer string) {
	if r.s.ring != r {
		return
	}
	a := coordinator.Aborted{Worker: w.name, Step: w.step, Cause: cause, Reason: "the ring is broken", Generation: r.plan.Generation}
	if peer != w.name {
		a.Peer = peer
	}
	a.Behind = r.follows(w) && !w.fetch.held
	w.say(a)
}
