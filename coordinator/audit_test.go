package coordinator

import "slices"

// auditor checks what must hold of every sequence of actions, whatever the events were.
type auditor struct {
	fatal    func(format string, args ...any)
	replicas int
	noStore  bool
	plans    map[[2]uint64]bool
	last     Plan
	finished int
	stopped  map[string]bool
}

func (a *auditor) check(act Action) {
	if a.finished > 0 {
		switch act.(type) {
		case Refuse, Discard:
		default:
			a.fatal("action after Finish: %s", describe(act))
		}
	}
	switch act := act.(type) {
	case Publish:
		a.plan(act.Plan)
	case Welcome:
		delete(a.stopped, act.Worker)
	case SendState:
		if a.noStore {
			a.fatal("a state was asked for without a store")
		}
	case Stop:
		if a.stopped[act.Worker] {
			a.fatal("worker %s stopped twice", act.Worker)
		}
		a.stopped[act.Worker] = true
	case Removed:
		if a.stopped[act.Worker] {
			a.fatal("worker %s removed after its last word", act.Worker)
		}
		a.stopped[act.Worker] = true
	case Finish:
		a.finished++
	}
}

func (a *auditor) plan(p Plan) {
	key := [2]uint64{p.Generation, p.Sequence}
	same := p.Generation == a.last.Generation
	switch {
	case a.plans[key]:
		a.fatal("plan %v given twice", key)
	case p.Generation < a.last.Generation:
		a.fatal("generation goes back from %d to %d", a.last.Generation, p.Generation)
	case p.Sequence <= a.last.Sequence && !(p.Sequence == a.last.Sequence && p.Epoch > a.last.Epoch):
		a.fatal("sequence goes back from %d to %d", a.last.Sequence, p.Sequence)
	case p.Epoch < a.last.Epoch:
		a.fatal("epoch goes back from %d to %d", a.last.Epoch, p.Epoch)
	case same && (p.FirstStep != a.last.UntilStep || !slices.Equal(p.Ring, a.last.Ring) || !slices.Equal(p.ReplicaHost, a.last.ReplicaHost) || p.Group != a.last.Group || p.Restore):
		a.fatal("generation %d changes from %+v to %+v", p.Generation, a.last, p)
	case same && (len(p.Behind) > 0 || !slices.Equal(p.Followers, a.last.Followers)):
		a.fatal("roles of generation %d change from %+v to %+v", p.Generation, a.last, p)
	}
	a.window(p)
	a.seats(p)
	a.plans[key], a.last = true, p
}

func (a *auditor) window(p Plan) {
	switch {
	case p.FirstStep > p.UntilStep || p.FirstStep == p.UntilStep && len(p.EvaluateAfter) == 0:
		a.fatal("window [%d,%d) asks for nothing", p.FirstStep, p.UntilStep)
	case len(p.LearningRates) == 0 || p.LearningRates[0].FirstStep != p.FirstStep:
		a.fatal("no learning rate for step %d", p.FirstStep)
	case !slices.IsSorted(p.CheckpointAfter) || !slices.IsSorted(p.EvaluateAfter):
		a.fatal("checkpoints %v and evaluations %v do not rise", p.CheckpointAfter, p.EvaluateAfter)
	}
	for _, c := range p.CheckpointAfter {
		if c <= p.FirstStep || c > p.UntilStep {
			a.fatal("checkpoint after %d is outside of (%d,%d]", c, p.FirstStep, p.UntilStep)
		}
	}
	for _, e := range p.EvaluateAfter {
		if e < p.FirstStep || e > p.UntilStep {
			a.fatal("evaluation after %d is outside of [%d,%d]", e, p.FirstStep, p.UntilStep)
		}
	}
}

func (a *auditor) seats(p Plan) {
	if g := p.Group; g < 1 || len(p.Ring)%g != 0 || g > 1 && p.Measure {
		a.fatal("a ring of %d in groups of %d, measured: %v", len(p.Ring), g, p.Measure)
	}
	if len(p.ReplicaHost) != a.replicas {
		a.fatal("%d replicas hosted, want %d", len(p.ReplicaHost), a.replicas)
	}
	for i, m := range p.Ring {
		if i > 0 && m.Worker <= p.Ring[i-1].Worker {
			a.fatal("ring %v is out of order", p.Ring)
		}
		if p.following(i) && slices.Contains(p.Behind, i) {
			a.fatal("member %d follows and is behind", i)
		}
	}
	for _, h := range p.ReplicaHost {
		if h < 0 || h >= len(p.Ring) || p.following(h) {
			a.fatal("replica hosted by nobody: %v in a ring of %d, followers %v", p.ReplicaHost, len(p.Ring), p.Followers)
		}
	}
	if len(p.Behind)+len(p.Followers) >= len(p.Ring) {
		a.fatal("nobody holds the state of step %d: ring %v, behind %v, followers %v", p.FirstStep, p.Ring, p.Behind, p.Followers)
	}
	for _, f := range p.Followers {
		if f.Base > p.FirstStep {
			a.fatal("a base of step %d is later than step %d", f.Base, p.FirstStep)
		}
	}
}
