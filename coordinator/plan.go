package coordinator

import "slices"

// seat is a member's place in the ring to come.
type seat struct {
	w       *member
	follows bool
}

// begin makes the first ring: everybody who is ready, up to one worker for each replica.
func (m *Machine) begin() {
	m.settleReference()
	var seats []seat
	for _, w := range m.members {
		if w.ready != nil && len(seats) < m.cfg.Replicas {
			w.steps = m.base
			seats = append(seats, seat{w: w})
		}
	}
	m.moved = m.now
	m.meter.step = m.base
	if m.base >= m.cfg.TotalSteps && !m.owesEvaluation(m.base) {
		for _, s := range seats {
			s.w.in = true
		}
		m.complete()
		return
	}
	m.tell(false, "training begins at step %d of %d, workers: %d", m.base, m.cfg.TotalSteps, len(seats))
	m.publish(seats, m.base, true)
}

// compose says who is in the next ring, by name: the members of this one but those who leave, and spares while there are fewer
// workers than replicas. It is empty if nobody would hold the state: all who do leave, and nobody is there to take it over.
// current says whether a member holds the state that the next plan begins with.
func (m *Machine) compose(current func(*member) bool) []seat {
	stay, heirs := 0, 0
	for _, w := range m.members {
		switch {
		case w.leaving != "" || w.ready == nil:
		case current(w):
			stay++
		default:
			heirs++
		}
	}
	if stay == 0 && heirs == 0 {
		return nil
	}
	var seats []seat
	staying := 0
	for _, w := range m.members {
		if !w.in || w.leaving != "" && (stay > 0 || w.behind) {
			continue // who leaves stays until an heir has caught up
		}
		if w.leaving == "" {
			staying++
		}
		seats = append(seats, seat{w, w.behind})
	}
	for _, w := range m.members {
		if !w.in && w.ready != nil && w.leaving == "" && staying < m.cfg.Replicas {
			seats = append(seats, seat{w, true})
			staying++
		}
	}
	if !slices.ContainsFunc(seats, func(s seat) bool { return !s.follows }) {
		return nil
	}
	slices.SortFunc(seats, func(a, b seat) int { return cmpNames(a.w, b.w) })
	return seats
}

// sameSeats says whether a ring of these seats is the newest plan's.
func (m *Machine) sameSeats(seats []seat) bool {
	if len(seats) != len(m.plan.Ring) {
		return false
	}
	for i, s := range seats {
		if s.w.name != m.plan.Ring[i].Worker || s.follows != s.w.follows || !s.w.in {
			return false
		}
	}
	return true
}

// askToYield has the members end their window early, once a plan, when the ring should be another.
func (m *Machine) askToYield() {
	if m.phase != running || m.yielded || !m.unsettled || m.plan.FirstStep == m.plan.UntilStep {
		return
	}
	m.unsettled = false
	if m.sameSeats(m.compose((*member).holds)) && !m.rebalance {
		return
	}
	m.yielded = true
	for _, w := range m.ring() {
		m.emit(Yield{w.name, m.plan.Generation, m.plan.Sequence})
	}
}

// proceed decides what follows once from steps are committed and, if due, evaluated: a plan, or the end. anew asks for another
// generation even with the same members.
func (m *Machine) proceed(from uint64, anew bool) {
	m.rewind(from)
	m.newest, m.meter.step = max(m.newest, from), from
	if from >= m.cfg.TotalSteps && !m.owesEvaluation(from) {
		m.complete()
		return
	}
	seats := m.compose(func(w *member) bool { return w.holds() && w.steps == from })
	if len(seats) == 0 {
		m.lastLeave()
		return
	}
	m.publish(seats, from, anew)
}

// publish makes the next plan. The same members go on in the same generation, unless it must be anew.
func (m *Machine) publish(seats []seat, from uint64, anew bool) {
	p := Plan{Generation: m.plan.Generation, Sequence: m.plan.Sequence + 1, Epoch: m.cfg.Epoch, FirstStep: from, VerifyEvery: m.cfg.VerifyEvery}
	group := m.chooseGroup(len(seats))
	if anew || m.rebalance || !m.sameSeats(seats) || group != m.plan.Group {
		p.Generation = max(p.Generation, m.highest) + 1
		m.seat(&p, seats, group)
	} else {
		p.Ring, p.ReplicaHost, p.Group, p.Followers = m.plan.Ring, m.plan.ReplicaHost, m.plan.Group, m.plan.Followers
	}
	p.Restore = m.verify.restores
	m.setWindow(&p)
	leaving := m.install(p, seats)
	m.enter(running)
	m.recordTrained(from)
	m.record(Entry{Plan: &p})
	if p.Restore {
		m.emit(Drop{p.FirstStep})
	}
	m.emit(Publish{p})
	m.tellVerified()
	for _, w := range leaving {
		m.dismiss(w)
	}
	m.compareAll()
}

// seat gives a new generation its ring and the assignment.
func (m *Machine) seat(p *Plan, seats []seat, group int) {
	p.Group, p.Measure = group, m.measures(seats)
	var hosts []string
	var at []int
	for i, s := range seats {
		p.Ring = append(p.Ring, Member{s.w.name, s.w.ready.RingAddress, s.w.ready.GossipAddress})
		switch {
		case s.follows:
			p.Followers = append(p.Followers, Follower{Position: i, Base: m.baseOf(s.w, p.FirstStep)})
			continue
		case s.w.behind || s.w.steps != p.FirstStep:
			p.Behind = append(p.Behind, i)
		}
		hosts, at = append(hosts, s.w.name), append(at, i)
	}
	for _, h := range m.assign(hosts) {
		p.ReplicaHost = append(p.ReplicaHost, at[h])
	}
}

// assign gives replicas to hosts by what they cost there; while a dispute is to be decided evenly, since that takes two who compute.
func (m *Machine) assign(hosts []string) []int {
	if m.verify.dispute == nil {
		return m.balance.assign(hosts)
	}
	host := make([]int, m.cfg.Replicas)
	for r := range host {
		host[r] = r * len(hosts) / m.cfg.Replicas
	}
	return host
}

// source is who serves a state that followers fetch.
type source struct{ workers []string }

// baseOf is the step of the state that a follower has to fetch: still the one that it is fetching, if it has kept every step since and
// somebody is there to serve it.
func (m *Machine) baseOf(w *member, from uint64) uint64 {
	if !w.in || !w.follows || w.steps != from || m.verify.restores {
		return from
	}
	for _, name := range m.sources[w.base].workers {
		if s := m.find(name); s != nil && s.holds() && s.leaving == "" {
			return w.base
		}
	}
	return from
}

// setWindow says how far a plan reaches: to the run's end, or to where something is to be learned on the way.
func (m *Machine) setWindow(p *Plan) {
	from, until := p.FirstStep, m.cfg.TotalSteps
	if m.cfg.Evaluate && (m.cfg.Schedule.NeedsEvaluation() || m.cfg.Schedule.NeedsTraining()) { // so it learns in the order of steps
		until = min(until, m.nextEvaluation(from))
		if m.owesEvaluation(from) {
			until = from
		}
	}
	if m.cfg.Schedule.NeedsTraining() {
		until = min(until, m.cfg.Schedule.blockEnd(from))
	}
	if p.Measure {
		until = min(until, from+1) // what is measured then is of use for the rest
	}
	if d := m.verify.dispute; d != nil && !d.Audit && !d.Decided && d.Step > from {
		until = min(until, d.Step) // where hashes are told in any case
	}
	p.CheckpointAfter, until = m.checkpointsOf(from, until)
	p.EvaluateAfter, until = m.evaluationsOf(from, until)
	p.CheckpointAfter = slices.DeleteFunc(p.CheckpointAfter, func(s uint64) bool { return s > until })
	if m.cfg.CheckpointEvaluated && !m.cfg.NoStore {
		p.CheckpointAfter = m.withEvaluated(p.CheckpointAfter, p.EvaluateAfter, from)
	}
	p.UntilStep = until
	p.LearningRates = m.cfg.Schedule.Spans(from, max(until, from+1)) // an empty window has a rate too, for who looks
}

// maxListed bounds the checkpoints and the evaluations of one plan: a window that has more ends early.
const maxListed = 1000

// checkpointsOf lists the steps of (from, until] whose states are to be stored. The last step's is asked for at the end, after its
// evaluation, so that the evaluation is part of it.
func (m *Machine) checkpointsOf(from, until uint64) ([]uint64, uint64) {
	if m.cfg.NoStore || m.cfg.CheckpointEvery == 0 {
		return nil, until
	}
	var at []uint64
	every := m.cfg.CheckpointEvery
	for s := (from/every + 1) * every; s <= until && s < m.cfg.TotalSteps; s += every {
		if at = append(at, s); len(at) == maxListed {
			return at, s
		}
	}
	return at, until
}

// withEvaluated adds the steps after from that are evaluated; the last step's state is stored in any case.
func (m *Machine) withEvaluated(at, evaluated []uint64, from uint64) []uint64 {
	for _, s := range evaluated {
		if s > from && s < m.cfg.TotalSteps {
			at = append(at, s)
		}
	}
	slices.Sort(at)
	return slices.Compact(at)
}

// install makes a plan the newest. It returns the members that are not in it.
func (m *Machine) install(p Plan, seats []seat) (leaving []*member) {
	before := m.ring()
	for _, w := range before {
		w.in = false
	}
	shares := p.shares()
	for i, s := range seats {
		w := s.w
		w.hosts = shares[i]
		fresh := !w.in && !slices.Contains(before, w)
		late := p.Restore || slices.Contains(p.Behind, i)
		if !s.follows && (fresh || w.follows || late) {
			w.hostSince = p.FirstStep
		}
		w.stale = p.Restore && slices.Contains(p.Behind, i)
		w.in, w.follows, w.behind, w.generation = true, s.follows, s.follows, p.Generation
		w.steps, w.last, w.hash, w.aborted, w.traffic = p.FirstStep, p.FirstStep == p.UntilStep, "", nil, nil
		for _, f := range p.Followers {
			if f.Position == i {
				w.base = f.Base
			}
		}
	}
	for _, w := range before {
		if !w.in {
			leaving = append(leaving, w)
		}
	}
	if p.Generation != m.plan.Generation {
		m.verify.audits = nil // of each replica both would have come by now
	}
	m.adopt(p)
	m.yielded, m.rebalance, m.unsettled = false, false, true
	m.verify.begunAgain()
	m.observe()
	return leaving
}

// adopt takes note of a plan, a new one or one that the journal tells of.
func (m *Machine) adopt(p Plan) {
	sources := map[uint64]source{}
	for _, f := range p.Followers {
		if f.Base == p.FirstStep {
			sources[f.Base] = source{p.holders()}
		} else {
			sources[f.Base] = m.sources[f.Base]
		}
	}
	m.sources = sources
	if p.Measure {
		m.measured++
	}
	m.plan, m.shares, m.counted = p, nil, 0
	if p.Restore {
		m.forget(p.FirstStep)
		for _, w := range m.members {
			w.told = min(w.told, p.FirstStep)
		}
		m.verify.since, m.verify.backTo = p.Generation, p.FirstStep
	}
	m.rewind(p.FirstStep)
}

// holders names the members that hold the state of the plan's first step when it begins.
func (p *Plan) holders() []string {
	var names []string
	for i, w := range p.Ring {
		if !p.following(i) && !slices.Contains(p.Behind, i) {
			names = append(names, w.Worker)
		}
	}
	return names
}

// shares counts the replicas of each member.
func (p *Plan) shares() []int {
	shares := make([]int, len(p.Ring))
	for _, h := range p.ReplicaHost {
		shares[h]++
	}
	return shares
}

// following says whether the member at a position hosts nothing.
func (p *Plan) following(position int) bool {
	return slices.ContainsFunc(p.Followers, func(f Follower) bool { return f.Position == position })
}
