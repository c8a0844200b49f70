package coordinator

import (
	"fmt"
	"slices"
	"strings"
)

// verification compares what workers have computed.
type verification struct {
	verified []VerifiedEntry // rising; the first may be where the line of steps began
	hashes   []StateHash     // of states that not all have told of yet
	audits   []Audit         // that nobody has confirmed yet
	doubts   []Dispute       // audits that differ, of steps from states that are not verified yet: those may differ themselves
	dispute  *Dispute        // the newest that was not settled
	pending  bool            // the dispute is newer than the newest plan
	since    uint64          // generation of the newest plan that went back: states of earlier ones are not trusted,
	backTo   uint64          // if they are of later steps than this
	restores bool            // the plan to come goes back to a verified state
}

const (
	// keepVerified is how many verified states are remembered: workers keep the newest, and may not have heard of it yet.
	keepVerified = 8
	// keepClaims bounds what is kept of workers' words that the others do not complete.
	keepClaims = 4 * maxWorkers
)

// newest is the newest verified state.
func (v *verification) newest() VerifiedEntry {
	if len(v.verified) == 0 {
		return VerifiedEntry{}
	}
	return v.verified[len(v.verified)-1]
}

func (v *verification) add(e VerifiedEntry) {
	v.verified = append(v.verified, e)
	if len(v.verified) > keepVerified {
		v.verified = v.verified[1:]
	}
}

// Dispute is a difference in what workers have computed: the evidence. All go back to a verified state then; unless a majority has
// decided it, what they compute the second time does.
type Dispute struct {
	Step    uint64  `json:"step"`              // of the state; for an audit the number of the step, as in a plan
	Audit   bool    `json:"audit,omitempty"`   // a replica's gradient differs, else a state's hash
	Replica int     `json:"replica,omitempty"` // of an audit
	Claims  []Claim `json:"claims,omitempty"`  // in ring order; none if the dispute is settled
	Decided bool    `json:"decided,omitempty"` // by a majority
}

// Claim is what a worker computed.
type Claim struct {
	Worker string `json:"worker"`
	Value  string `json:"value"`
}

// String is the evidence, for people.
func (d *Dispute) String() string {
	text := fmt.Sprintf("states differ after step %d:", d.Step)
	if d.Audit {
		text = fmt.Sprintf("gradients of replica %d differ in step %d:", d.Replica, d.Step+1)
	}
	for _, c := range d.Claims {
		text += fmt.Sprintf(" %s %s", c.Worker, shortHash(c.Value))
	}
	return text
}

// before is the newest step whose state the dispute leaves alone.
func (d *Dispute) before() uint64 {
	if d.Audit || d.Step == 0 {
		return d.Step
	}
	return d.Step - 1
}

func (d *Dispute) split() (workers, values []string) {
	for _, c := range d.Claims {
		workers, values = append(workers, c.Worker), append(values, c.Value)
	}
	return workers, values
}

// take notes a dispute, or its settlement, that the journal tells of.
func (v *verification) take(d Dispute) {
	v.dispute, v.pending = nil, false
	if len(d.Claims) > 0 {
		v.dispute, v.pending = &d, true
	}
}

// onStateHash takes what a worker says its state is. What tells of a step further ahead was said before all went back; the step's own report
// may be just behind, which can be told from that only if not every step is compared.
func (m *Machine) onStateHash(w *member, h StateHash) {
	every, until := m.cfg.VerifyEvery, w.steps
	if every > 1 {
		until++
	}
	if every == 0 || m.disputing() || w.stale || h.Step > until || h.Step%every != 0 || h.Step <= m.verify.newest().Step {
		return
	}
	told := func(o StateHash) bool { return o.Worker == h.Worker && o.Step == h.Step }
	if slices.ContainsFunc(m.verify.hashes, told) || len(m.verify.hashes) >= keepClaims {
		return
	}
	m.verify.hashes = append(m.verify.hashes, h)
	if m.phase != reattaching {
		m.compareHashes(h.Step)
	}
}

// disputing says whether what is told now may be of states that are to be given up.
func (m *Machine) disputing() bool {
	return !m.listening() || m.verify.pending || m.phase == pausing && m.ending.distrust
}

// compareAll compares what could not be compared before: somebody who was waited for has gone or come.
func (m *Machine) compareAll() {
	var steps []uint64
	for _, h := range m.verify.hashes {
		steps = append(steps, h.Step)
	}
	slices.Sort(steps)
	for _, step := range slices.Compact(steps) {
		if m.phase == running {
			m.compareHashes(step)
		}
	}
}

// compareHashes compares the states after a step, once all members that were hosts then have told. The word of one that has gone since
// counts too.
func (m *Machine) compareHashes(step uint64) {
	d := m.claims(step)
	for _, w := range m.ring() {
		told := slices.ContainsFunc(d.Claims, func(c Claim) bool { return c.Worker == w.name })
		if !told && !w.follows && w.hostSince < step {
			return
		}
	}
	if len(d.Claims) == 0 {
		return
	}
	for _, h := range m.verify.hashes { // of some step before not all may have told, but some have
		if before := m.claims(h.Step); h.Step < d.Step && !before.agreed() {
			d = before
		}
	}
	if !d.agreed() {
		m.differ(d)
		return
	}
	if m.doubted(step) {
		return
	}
	v := VerifiedEntry{step, d.Claims[0].Value}
	m.record(Entry{Verified: &v})
	m.verify.add(v)
	m.verify.hashes = slices.DeleteFunc(m.verify.hashes, func(h StateHash) bool { return h.Step <= step })
	m.tellVerified()
	m.prune()
	m.settle(d)
	m.doubted(step + 1)
}

// tellVerified tells the members which state to keep; those who have left their step have said what they have, and hear of it with the
// next generation.
func (m *Machine) tellVerified() {
	step := m.verify.newest().Step
	if m.cfg.VerifyEvery == 0 {
		return
	}
	for _, w := range m.ring() {
		if w.aborted == nil && !w.behind && step > w.told {
			w.told = step
			m.emit(Verified{w.name, step})
		}
	}
}

// claims collects what was told of the state after a step.
func (m *Machine) claims(step uint64) Dispute {
	d := Dispute{Step: step}
	for _, h := range m.verify.hashes {
		if h.Step == step {
			d.Claims = append(d.Claims, Claim{h.Worker, h.Hash})
		}
	}
	slices.SortFunc(d.Claims, func(a, b Claim) int { return strings.Compare(a.Worker, b.Worker) })
	return d
}

// doubted takes up an audit of an earlier step than the given one that has waited for its state's hashes. It says whether there was one.
func (m *Machine) doubted(before uint64) bool {
	if len(m.verify.doubts) == 0 || m.verify.doubts[0].Step >= before {
		return false
	}
	d := m.verify.doubts[0]
	m.verify.doubts = m.verify.doubts[1:]
	m.differ(d)
	return true
}

func (d *Dispute) agreed() bool {
	return !slices.ContainsFunc(d.Claims, func(c Claim) bool { return c.Value != d.Claims[0].Value })
}

// onAudit compares the digests of two workers that have computed the same replica of the same step.
func (m *Machine) onAudit(w *member, a Audit) {
	every := m.cfg.VerifyEvery
	if every == 0 || m.disputing() || w.follows || a.Generation != w.generation || a.Generation != m.plan.Generation ||
		a.Step%every != 0 || a.Replica != int(a.Step/every%uint64(m.cfg.Replicas)) || len(m.verify.audits) >= keepClaims {
		return
	}
	d := Dispute{Step: a.Step, Audit: true, Replica: a.Replica, Claims: []Claim{{a.Worker, a.Digest}}}
	i := slices.IndexFunc(m.verify.audits, func(o Audit) bool { return o.Step == a.Step })
	if i < 0 {
		m.verify.audits = append(m.verify.audits, a)
		if hosts := slices.Compact(slices.Sorted(slices.Values(m.plan.ReplicaHost))); len(hosts) == 1 {
			m.settle(d) // nobody else will compute it
		}
		return
	}
	first := m.verify.audits[i]
	if first.Worker == a.Worker {
		return
	}
	m.verify.audits = slices.Delete(m.verify.audits, i, i+1)
	d.Claims = append([]Claim{{first.Worker, first.Digest}}, d.Claims...)
	slices.SortFunc(d.Claims, func(a, b Claim) int { return strings.Compare(a.Worker, b.Worker) })
	switch {
	case d.agreed():
		m.settle(d)
	case d.Step <= m.verify.newest().Step:
		m.differ(d)
	default:
		m.verify.doubts = append(m.verify.doubts, d)
	}
}

// differ deals with different bits. A majority tells at once who is wrong. Otherwise the steps are done again, and if the second try
// differs too, the run ends.
func (m *Machine) differ(d Dispute) {
	workers, values := d.split()
	e := ending{kind: endDispute, step: d.before(), workers: workers, hashes: values, what: d.String(), distrust: true}
	odd := outvoted(workers, values)
	if m.cfg.VerifyEvery == 0 || len(odd) == 0 && m.verify.dispute != nil {
		e.kind, e.step = endMismatch, d.Step
		m.end(e)
		return
	}
	d.Decided = len(odd) > 0
	m.tell(true, "%s", d.String())
	m.record(Entry{Dispute: &d})
	m.verify.take(d)
	for _, name := range odd {
		m.condemn(name, fmt.Sprintf("outvoted, %s; check that machine's memory and processor", d.String()))
	}
	m.goBack(e, odd)
}

// goBack asks all out of their step, on the way to a verified state; who was outvoted does not come along.
func (m *Machine) goBack(e ending, odd []string) {
	fresh := m.phase == running
	if !fresh && !e.outweighs(m.ending) {
		return
	}
	m.ending = e
	if fresh {
		m.enter(pausing)
		m.tell(true, "stopping: %s", m.cause())
	}
	for _, name := range odd {
		m.expel(name)
	}
	if fresh && m.phase == pausing {
		m.askOut()
	}
	m.checkPausing()
}

// condemn journals that a worker may not come back.
func (m *Machine) condemn(name, why string) {
	m.record(Entry{Removal: &RemovalEntry{Worker: name, Reason: why}})
	m.removed[name] = why
	m.tell(true, "worker %s is removed for good: %s", name, why)
}

// expel sends a condemned worker away, if it is there.
func (m *Machine) expel(name string) {
	if w := m.find(name); w != nil && m.phase != over {
		m.emit(Removed{Worker: name, Reason: m.removed[name], ForGood: true})
		m.leftAlone(w, m.removed[name])
	}
}

// settle decides a dispute by what all have now: who had something else before was wrong.
func (m *Machine) settle(now Dispute) {
	d := m.verify.dispute
	if d == nil || m.verify.pending {
		return
	}
	if same := d.Audit == now.Audit && d.Step == now.Step; !same || len(now.Claims) < 2 { // one alone may be the one who was wrong
		if same || !now.Audit && now.Step > d.Step {
			m.closeDispute()
			m.tell(true, "it could not be decided who was wrong: %s", d.String())
		}
		return
	}
	var wrong []string
	for _, c := range d.Claims {
		if _, known := m.removed[c.Worker]; c.Value != now.Claims[0].Value && !known {
			wrong = append(wrong, c.Worker)
		}
	}
	if len(wrong) == len(d.Claims) {
		m.closeDispute()
		m.tell(true, "done again, the steps gave what nobody had before, so nobody is named: %s", d.String())
		return
	}
	for _, name := range wrong {
		m.condemn(name, fmt.Sprintf("it computed something else than the steps gave when they were done again, %s; check that machine's memory and processor", d.String()))
	}
	m.closeDispute()
	for _, name := range wrong {
		m.expel(name)
	}
}

// begunAgain notes that a plan has begun after the dispute. One that was decided is over then: what all had may have come of the one
// worker's bits, and done again it may be something else.
func (v *verification) begunAgain() {
	v.pending, v.restores = false, false
	if v.dispute != nil && v.dispute.Decided {
		v.dispute = nil
	}
}

func (m *Machine) closeDispute() {
	m.record(Entry{Dispute: &Dispute{Step: m.verify.dispute.Step}})
	m.verify.dispute, m.verify.pending = nil, false
}

// rollBack goes back to the newest verified state that a member has kept, once all are out of their step. Without one, everybody
// begins again from a checkpoint that is no newer than a verified state.
func (m *Machine) rollBack(disputed uint64) {
	var back *VerifiedEntry
	for i, v := range m.verify.verified {
		if v.Step <= disputed && slices.ContainsFunc(m.ring(), func(w *member) bool { return w.kept(v.Step) }) {
			back = &m.verify.verified[i]
		}
	}
	if back == nil {
		m.dropUntrusted(disputed)
		m.allLost()
		return
	}
	from := back.Step
	for _, w := range m.ring() {
		switch {
		case w.kept(from):
			w.steps, w.behind = from, false
		case !w.behind:
			w.steps = from + 1 // not that state: it will fetch it
		}
	}
	m.tell(true, "all go back to step %d, the newest verified one: %s", from, m.cause())
	m.forget(from)
	m.verify.restores = true
	m.proceed(from, true)
}

// dropUntrusted removes the checkpoints of states later than the newest verified one before a dispute.
func (m *Machine) dropUntrusted(disputed uint64) {
	at := m.checkpoints[0].Step
	for _, v := range m.verify.verified {
		if v.Step <= disputed {
			at = max(at, v.Step)
		}
	}
	m.record(Entry{Drop: &Drop{at}})
	m.forget(at)
	m.emit(Drop{at})
}

// kept says whether the member could go back to the state of that step: a newer one may have taken its place since.
func (w *member) kept(step uint64) bool {
	has := func(step uint64) bool { return w.aborted != nil && slices.Contains(w.aborted.Kept, step) }
	return !w.behind && has(step) && !(w.told > step && has(w.told))
}

// forget drops what was found of states after a step that all go back to.
func (m *Machine) forget(step uint64) {
	for len(m.checkpoints) > 1 && m.stored() > step {
		m.checkpoints = m.checkpoints[:len(m.checkpoints)-1]
	}
	m.verify.verified = slices.DeleteFunc(m.verify.verified, func(v VerifiedEntry) bool { return v.Step > step })
	m.verify.hashes, m.verify.audits, m.verify.doubts = nil, nil, nil
	if m.hashStep > step {
		m.hash, m.hashStep = "", step
	}
}

// sameHashes compares the states of those who have come to the window's end. It says whether what follows is still the caller's to decide.
func (m *Machine) sameHashes(at uint64) bool {
	before := m.phase
	d := Dispute{Step: at}
	for _, w := range m.ring() {
		if w.hash != "" && w.steps == at && !w.behind {
			d.Claims = append(d.Claims, Claim{w.name, w.hash})
		}
	}
	if len(d.Claims) == 0 {
		return true
	}
	if !d.agreed() {
		m.differ(d)
		return false
	}
	m.hash, m.hashStep = d.Claims[0].Value, at
	m.settle(d)
	return m.phase == before // one who was found to have been wrong is no longer there
}
