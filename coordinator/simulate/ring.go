package simulate

import (
	"slices"
	"time"

	"github.com/lockstep-ml/lockstep/coordinator"
)

// state is what a ring is doing.
type state uint8

const (
	linking   state = iota // until all members are connected, the links measured and who is behind has the state
	stepping               // step after step
	stopped                // the window is over
	broken                 // a member is dead
	abandoned              // the members were asked out of their step
)

// ring is a plan at work: its members do everything together, as the ring lets none go ahead.
type ring struct {
	s       *sim
	plan    coordinator.Plan
	members []*worker
	lives   []int // of the members' processes
	aborted []bool
	state   state
	turn    int // counts what the ring has begun: what was to come of something that was broken off is void
	yields  bool

	replicas []int           // by member
	computes []time.Duration // likewise
	step     Step
	begun    time.Duration // of the step in flight
	quiet    time.Duration // when the members have last reported
	fresh    int           // steps of this plan
}

// begin has a plan arrive at its members.
func (s *sim) begin(p coordinator.Plan) {
	r := &ring{s: s, plan: p, aborted: make([]bool, len(p.Ring)), replicas: make([]int, len(p.Ring)), quiet: s.now}
	for _, h := range p.ReplicaHost {
		r.replicas[h]++
	}
	old := s.ring
	s.ring = r
	whole := true
	seats := map[*worker]bool{} // of the ring before, for who goes on with a fetch
	for i, m := range p.Ring {
		w := s.byName[m.Worker]
		seats[w] = old != nil && old.has(w)
		w.rank = i
		r.members, r.lives = append(r.members, w), append(r.lives, w.life)
		whole = whole && w.up && w.attached
	}
	if old != nil && p.FirstStep > old.at() { // some had committed what the others have not
		s.acc.committed += p.FirstStep - old.at()
		s.acc.breaks--
	}
	s.acc.enter(&s.acc.linking, s.now)
	r.weigh()
	r.follow(seats)
	for i, w := range r.members {
		if !slices.Contains(p.Behind, i) {
			w.step = p.FirstStep
		}
	}
	if !whole {
		r.broke()
		return
	}
	if old != nil && old.plan.Generation == p.Generation {
		r.heal()
		return
	}
	s.acc.generations++
	// Connections are made by all at once: TCP and TLS, then the ring's handshake.
	r.later(s.cfg.Link+8*s.model.Hop, r.heal)
}

// later has the ring go on, unless something comes between.
func (r *ring) later(d time.Duration, do func()) {
	r.turn++
	turn := r.turn
	r.s.after(d, func() {
		if r.s.ring == r && r.turn == turn {
			do()
		}
	})
}

// has says whether a process is a member.
func (r *ring) has(w *worker) bool {
	return w.rank < len(r.members) && r.members[w.rank] == w && r.lives[w.rank] == w.life
}

// follows says whether a member hosts nothing in this plan.
func (r *ring) follows(w *worker) bool {
	return slices.ContainsFunc(r.plan.Followers, func(f coordinator.Follower) bool { return f.Position == w.rank })
}

// weigh computes what a step of this ring takes.
func (r *ring) weigh() {
	alone := make([]time.Duration, len(r.members))
	for i, w := range r.members {
		alone[i] = w.alone(r.replicas[i])
	}
	r.step, r.computes = r.s.model.of(r.plan.Group, alone, r.replicas)
}

// follow has newcomers fetch the state while the others train. A fetch that is under way goes on if its base is still good.
func (r *ring) follow(before map[*worker]bool) {
	for _, f := range r.plan.Followers {
		w := r.members[f.Position]
		if w.fetch.on && w.fetch.base == f.Base && before[w] {
			continue
		}
		// The link carries the ring's bytes too.
		w.fetch = fetch{on: true, base: f.Base, done: r.s.now + 2*r.s.model.copying()}
		r.s.acc.copied += r.s.model.stateBytes()
	}
}

// heal has those fetch the state who are behind, from the others, and then the links measured.
func (r *ring) heal() {
	wait := time.Duration(0)
	if behind := len(r.plan.Behind); behind > 0 {
		r.s.acc.enter(&r.s.acc.healing, r.s.now)
		sources := max(1, len(r.members)-behind-len(r.plan.Followers))
		wait = time.Duration((behind+sources-1)/sources) * r.s.model.copying()
		r.s.acc.copied += float64(behind) * r.s.model.stateBytes()
		r.s.acc.healed += behind
	}
	r.later(wait, func() {
		for _, i := range r.plan.Behind {
			r.members[i].step = r.plan.FirstStep
		}
		if !r.plan.Measure {
			r.next()
			return
		}
		r.s.acc.enter(&r.s.acc.measuring, r.s.now)
		r.later(r.s.model.measuring(len(r.members), r.plan.Group), func() {
			for _, w := range r.members {
				w.say(coordinator.Measured{Worker: w.name, Traffic: r.s.model.Traffic()})
			}
			r.next()
		})
	})
}

// next begins a step, or ends the window.
func (r *ring) next() {
	if r.at() >= r.plan.UntilStep {
		r.stop()
		return
	}
	r.state, r.begun = stepping, r.s.now
	r.s.acc.training(r.s.now)
	r.later(r.step.Took, r.commit)
}

// at is how many steps the ring has committed.
func (r *ring) at() uint64 { return r.plan.FirstStep + uint64(r.fresh) }

func (r *ring) stop() {
	r.state = stopped
	r.s.acc.enter(&r.s.acc.changing, r.s.now)
}

// commit ends a step on all members. Who has heard of a yield by the end of its computing has told the others.
func (r *ring) commit() {
	r.fresh++
	r.s.acc.step(r.s.now, r.step, len(r.members))
	last := r.yields || r.at() == r.plan.UntilStep
	caught := r.advance()
	if last || caught || r.fresh <= settling || r.s.now-r.quiet >= r.s.cfg.ReportEvery {
		r.report(last)
	}
	if last {
		r.stop()
		return
	}
	r.next()
}

// settling is how many steps of a plan are reported in any case.
const settling = 2

// advance has followers apply what they have kept once they have the state; it says whether one has caught up.
func (r *ring) advance() (caught bool) {
	for _, w := range r.members {
		w.step = r.at()
	}
	for _, f := range r.plan.Followers {
		w := r.members[f.Position]
		kept := time.Duration(r.at() - f.Base)
		if !w.fetch.held && r.s.now >= w.fetch.done+kept*r.s.model.Update {
			w.fetch.held, caught = true, true
		}
	}
	return caught
}

// report has all members tell of the newest step.
func (r *ring) report(last bool) {
	s := r.s
	r.quiet = s.now
	start, end, step := epochStart.Add(r.begun), epochStart.Add(s.now), r.at()
	events := make([]coordinator.StepReport, 0, len(r.members))
	for i, w := range r.members {
		w.heard = s.now
		e := coordinator.StepReport{
			Worker: w.name, Step: step, Loss: 1, Images: uint64(s.cfg.Batch), LR: 0.1, Start: start, End: end, Tail: r.step.Tail,
			Generation: r.plan.Generation, Sequence: r.plan.Sequence, Last: last, Compute: r.computes[i],
		}
		if len(r.plan.Followers) > 0 && r.follows(w) {
			e.Behind = !w.fetch.held
		}
		events = append(events, e)
	}
	s.after(s.model.Hop, func() {
		for _, e := range events {
			s.feed(e)
		}
	})
}

// yield asks for the end of the window. The flag goes with the step's statistics, which are made when the computing is over.
func (s *sim) yield(y coordinator.Yield) {
	r := s.ring
	if r == nil || r.plan.Generation != y.Generation || r.plan.Sequence != y.Sequence {
		return
	}
	if r.state != stepping || s.now <= r.begun+r.step.Compute {
		r.yields = true
		return
	}
	s.queue.add(r.begun+r.step.Took, func() { r.yields = true }) // behind the step's end: the next one carries it
}
