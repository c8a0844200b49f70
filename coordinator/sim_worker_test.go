package coordinator

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"
)

// simWorker is a worker that keeps to the protocol: its state is a number that every step's gradients, which depend on the state, go into.
// A replica that is left out, computed twice or from another state makes another number for ever.
type simWorker struct {
	world  *world
	name   string
	alive  bool
	frozen bool
	conn   uint64 // its stream; 0 without one
	bound  bool   // the coordinator knows the stream as this worker's
	epoch  uint64

	has   bool // holds the state of step
	step  uint64
	state uint64

	plan     *Plan
	rank     int
	fetching bool       // of the plan's first step, as one that is behind
	kept     []keptStep // of a follower without the state: the steps from base on
	base     uint64
	served   map[uint64]uint64 // states that others may fetch, by step
	copies   map[uint64]uint64 // states to go back to, by step
	active   bool              // the plan's window goes on
	stop     bool              // it ends here
	yielded  bool
	given    bool            // this step's contribution
	judged   map[uint64]bool // steps evaluated under this plan
	aborted  bool

	inbox   []Action
	welcome uint64 // connection that it was welcomed on: before, nothing is said over it, so that what was said on an earlier one comes first
	outbox  []Event
	said    []Event // since the newest plan
}

type keptStep struct {
	sum uint64
	lr  float64
}

// reduction is a step's sum, as the ring makes it.
type reduction struct {
	given map[string]bool
	sum   uint64
	stop  bool
}

// simRing is a generation's ring.
type simRing struct {
	members []string
	steps   map[uint64]*reduction
	broken  string // by whom
}

func mix(values ...uint64) uint64 {
	h := uint64(14695981039346656037)
	for _, v := range values {
		for range 8 {
			h = (h ^ v&0xff) * 1099511628211
			v >>= 8
		}
		h ^= h >> 29
	}
	return h
}

func hashText(state uint64) string { return strconv.FormatUint(state, 16) }

const simImages = 60 // in the validation set

// statistics is the part of a state that no gradient depends on, as running variances are: wrong ones spread only when they are copied.
const statistics = 1 << 63

// right says whether the network with that state gets an image right.
func right(state uint64, image int) bool { return mix(state&^statistics, uint64(image), 99)%3 == 0 }

// apply is the step that all take: the sum of all replicas' gradients, at a learning rate.
func apply(state, sum uint64, lr float64) uint64 {
	return mix(state&^statistics, sum, uint64(lr*1e9))&^statistics | state&statistics
}

func gradient(state, step uint64, replica int) uint64 {
	return mix(state&^statistics, step, uint64(replica), 7)
}

// count is the number of steps that the worker has committed, or kept.
func (w *simWorker) count() uint64 {
	if w.has {
		return w.step
	}
	return w.base + uint64(len(w.kept))
}

func (w *simWorker) say(ev Event) { w.outbox = append(w.outbox, ev) }

// act does one thing.
func (w *simWorker) act() {
	r := w.world.rand
	switch {
	case w.conn == 0 && !w.world.down:
		w.hello()
	case len(w.inbox) > 0 && r.IntN(2) == 0:
		msg := w.inbox[0]
		w.inbox = w.inbox[1:]
		w.hear(msg)
	case len(w.outbox) > 0 && w.bound && w.welcome == w.conn && r.IntN(2) == 0:
		ev := w.outbox[0]
		w.outbox, w.said = w.outbox[1:], append(w.said, ev)
		w.world.step(ev)
	default:
		w.work()
	}
}

func (w *simWorker) hello() {
	w.world.streams++
	w.conn = w.world.streams
	h := Hello{Stream: w.conn, Worker: w.name, Version: "v1"}
	if w.plan != nil {
		h.Attached = &Attachment{Run: "sim", Epoch: w.epoch, Generation: w.plan.Generation, Sequence: w.plan.Sequence, Running: w.active,
			Step: w.count(), Behind: !w.has, Ready: w.ready()}
	}
	w.world.step(h)
}

func (w *simWorker) ready() Ready {
	return Ready{Worker: w.name, RingAddress: "h:" + w.name, DataFingerprint: "d", Numerics: "n"}
}

// reset makes it a newcomer.
func (w *simWorker) reset() {
	w.leaveRing()
	*w = simWorker{world: w.world, name: w.name, alive: w.alive, frozen: w.frozen, epoch: w.epoch}
}

// leaveRing breaks the ring that it is in.
func (w *simWorker) leaveRing() {
	if w.plan != nil {
		w.world.ring(w.plan).breakBy(w.name)
	}
	w.active = false
}

func (r *simRing) breakBy(name string) {
	if r.broken == "" {
		r.broken = name
	}
}

// hear takes a message of the coordinator.
func (w *simWorker) hear(msg Action) {
	switch msg := msg.(type) {
	case Welcome:
		w.epoch, w.welcome = msg.Epoch, w.conn
		if msg.Reattached {
			w.outbox, w.said = append(w.said, w.outbox...), nil
			return
		}
		conn, bound, inbox := w.conn, w.bound, w.inbox
		w.reset()
		w.conn, w.bound, w.inbox, w.welcome = conn, bound, inbox, conn
		if msg.PullState {
			w.has, w.step, w.state = true, w.world.loaded.step, w.world.loaded.state
			w.world.copied(w.state)
		}
		w.say(w.ready())
	case Publish:
		w.begin(msg.Plan)
	case Pause:
		w.leaveRing()
		w.abort(CausePaused, "")
	case Yield:
		w.yielded = w.yielded || w.plan != nil && msg.Generation == w.plan.Generation && msg.Sequence == w.plan.Sequence
	case Verified:
		if _, ok := w.copies[msg.Step]; ok {
			maps.DeleteFunc(w.copies, func(step, _ uint64) bool { return step < msg.Step })
		}
	case SendState:
		w.upload(msg.Step)
	case Removed:
		w.reset()
		w.alive = w.alive && !msg.ForGood
	case Refuse:
		w.reset()
		w.alive = w.alive && msg.Kind != RefusedRemoved
	case Stop:
		w.reset()
		w.alive = false
	}
}

func (w *simWorker) upload(step uint64) {
	if w.has && w.step == step {
		w.world.uploads = append(w.world.uploads, upload{StateArrived{w.name, step, hashText(w.state), w.world.published}, w.state})
	} else {
		w.say(StateLost{w.name, step, "not at hand"})
	}
}

func (w *simWorker) abort(cause Cause, peer string) {
	a := Aborted{Worker: w.name, Step: w.count(), Behind: !w.has, Cause: cause, Peer: peer, Kept: slices.Sorted(maps.Keys(w.copies))}
	if w.plan != nil {
		a.Generation = w.plan.Generation
	}
	w.aborted = true
	w.say(a)
}

// begin takes a plan.
func (w *simWorker) begin(p Plan) {
	w.said = nil
	old, fetched := w.plan, !w.fetching
	w.fetching = false
	w.plan, w.rank = &p, slices.IndexFunc(p.Ring, func(m Member) bool { return m.Worker == w.name })
	w.stop, w.yielded, w.given, w.aborted, w.judged = false, false, false, false, map[uint64]bool{}
	w.active = p.FirstStep < p.UntilStep || w.owes(p.FirstStep)
	if p.Measure {
		w.say(Measured{w.name, Traffic{Hop: 5 * time.Millisecond, BytesPerSecond: 1e9, StepBytes: 1 << 16, Buckets: 1}})
	}
	if p.Restore {
		maps.DeleteFunc(w.copies, func(step, _ uint64) bool { return step > p.FirstStep })
	}
	following := slices.IndexFunc(p.Followers, func(f Follower) bool { return f.Position == w.rank })
	switch {
	case following >= 0:
		base := p.Followers[following].Base
		if w.has && w.step == p.FirstStep && !p.Restore {
			return // it has caught up, and its next report says so
		}
		goesOn := old != nil && !w.has && w.base == base && w.count() == p.FirstStep && fetched && !p.Restore
		if base != p.FirstStep && !goesOn {
			w.world.fatal("%s is to go on from base %d, but has %d steps from %d on", w.name, base, len(w.kept), w.base)
		}
		if !goesOn {
			w.has, w.base, w.kept = false, base, nil
		}
		return
	case slices.Contains(p.Behind, w.rank):
		w.fetching = true
	case p.Restore:
		state, ok := w.copies[p.FirstStep]
		if !ok {
			w.world.fatal("%s is to go back to step %d, which it has not kept", w.name, p.FirstStep)
		}
		w.has, w.step, w.state, w.kept = true, p.FirstStep, state, nil
	case !w.has || w.step != p.FirstStep:
		w.world.fatal("%s is to begin at step %d, but holds step %d (%v)", w.name, p.FirstStep, w.step, w.has)
	}
	if !w.fetching {
		w.serve()
	}
}

// serve keeps the states that the plan names.
func (w *simWorker) serve() {
	named := func(step uint64) bool {
		return step == w.plan.FirstStep || slices.ContainsFunc(w.plan.Followers, func(f Follower) bool { return f.Base == step })
	}
	maps.DeleteFunc(w.served, func(step, _ uint64) bool { return !named(step) })
	if w.served == nil {
		w.served = map[uint64]uint64{}
	}
	w.served[w.plan.FirstStep] = w.state
}

// work does one thing of the plan's.
func (w *simWorker) work() {
	switch {
	case !w.active:
	case w.fetching || !w.has && w.world.rand.IntN(4) == 0:
		w.fetch()
	default:
		w.train()
	}
}

// fetch gets a state from another member, if one is there that has it.
func (w *simWorker) fetch() {
	want := w.base
	if w.fetching {
		want = w.plan.FirstStep
	}
	for _, m := range w.plan.Ring {
		o := w.world.workers[m.Worker]
		if o == nil || o == w || !o.alive || o.frozen || o.plan == nil || o.plan.Generation != w.plan.Generation {
			continue
		}
		state, ok := o.served[want]
		if !ok {
			continue
		}
		w.has, w.step, w.state = true, want, state
		w.world.copied(state)
		if w.fetching {
			w.fetching = false
			w.serve()
			return
		}
		for _, k := range w.kept {
			w.state = apply(w.state, k.sum, k.lr)
			w.step++
		}
		w.kept = nil
		w.say(CaughtUp{w.name, w.plan.Generation, w.step})
		return
	}
}

// train does the next thing of the window: evaluate, give, take.
func (w *simWorker) train() {
	ring, c := w.world.ring(w.plan), w.count()
	if w.owes(c) {
		w.evaluate(c)
		w.active = !w.stop && c < w.plan.UntilStep
		return
	}
	red := ring.steps[c]
	if red == nil {
		red = &reduction{given: map[string]bool{}}
		ring.steps[c] = red
	}
	complete := len(red.given) == len(ring.members)
	if ring.broken != "" && (!w.given || !complete || w.world.rand.IntN(2) == 0) {
		w.active = false
		if !w.aborted {
			w.abort(CauseRing, w.plan.Ring[(w.rank+len(w.plan.Ring)-1)%len(w.plan.Ring)].Worker)
		}
		return
	}
	if !w.given {
		w.give(red, c)
		return
	}
	if complete {
		w.commit(red, c)
	}
}

// owes says whether this worker has a share to do of an evaluation after that many steps.
func (w *simWorker) owes(step uint64) bool {
	return slices.Contains(w.plan.EvaluateAfter, step) && !w.judged[step] && !w.plan.following(w.rank)
}

// give adds what this worker has to a step's sum.
func (w *simWorker) give(red *reduction, step uint64) {
	w.given = true
	red.given[w.name] = true
	red.stop = red.stop || w.yielded
	for r, h := range w.plan.ReplicaHost {
		if h == w.rank {
			red.sum += w.gradient(step, r)
		}
	}
	k := w.plan.VerifyEvery
	if k == 0 || step%k != 0 {
		return
	}
	audited := int(step / k % uint64(len(w.plan.ReplicaHost)))
	if host := w.plan.ReplicaHost[audited]; host == w.rank || w.nextHost(host) == w.rank {
		w.say(Audit{w.name, w.plan.Generation, step, audited, hashText(w.gradient(step, audited))})
	}
}

// gradient is what this worker computes for a replica.
func (w *simWorker) gradient(step uint64, replica int) uint64 {
	return gradient(w.state, step, replica) ^ w.world.wrong(w, step, replica)
}

// nextHost is the member behind a host that hosts any replica.
func (w *simWorker) nextHost(host int) int {
	n := len(w.plan.Ring)
	for i := 1; i <= n; i++ {
		if at := (host + i) % n; slices.Contains(w.plan.ReplicaHost, at) {
			return at
		}
	}
	return host
}

// commit takes a step's sum.
func (w *simWorker) commit(red *reduction, step uint64) {
	lr := 0.0
	for _, s := range w.plan.LearningRates {
		if s.FirstStep <= step {
			lr = s.Value
		}
	}
	done := step + 1
	w.given, w.stop = false, red.stop
	w.active = !w.stop && done < w.plan.UntilStep || w.owes(done)
	at := time.Unix(int64(step), 0)
	r := StepReport{Worker: w.name, Step: done, Loss: 1, Images: 64, Correct1: trainedRight(red.sum), LR: lr, Start: at, End: at.Add(100 * time.Millisecond), Compute: time.Duration(1+w.world.rand.IntN(9)) * time.Millisecond,
		Generation: w.plan.Generation, Sequence: w.plan.Sequence, Last: red.stop || done == w.plan.UntilStep, Behind: !w.has}
	if !w.has {
		w.kept = append(w.kept, keptStep{red.sum, lr})
		w.say(r)
		return
	}
	w.state, w.step = apply(w.state, red.sum, lr), done
	w.world.bent(w)
	if r.Last {
		r.StateHash = hashText(w.state)
	}
	w.say(r)
	w.copy(done)
	if w.plan.following(w.rank) {
		return
	}
	first := slices.IndexFunc(w.plan.Ring, func(m Member) bool { return m.Worker == w.name })
	for i := range w.plan.Ring {
		if !w.plan.following(i) {
			first = i
			break
		}
	}
	if first == w.rank && slices.Contains(w.plan.CheckpointAfter, done) {
		w.upload(done)
	}
}

// copy keeps a state to go back to, and tells its hash, which may overtake the step's own report.
func (w *simWorker) copy(step uint64) {
	k := w.plan.VerifyEvery
	if k == 0 || step%k != 0 {
		return
	}
	if w.copies == nil {
		w.copies = map[uint64]uint64{}
	}
	w.copies[step] = w.state
	w.say(StateHash{w.name, step, hashText(w.state)})
	if n := len(w.outbox); k > 1 && w.world.rand.IntN(4) == 0 {
		w.outbox[n-1], w.outbox[n-2] = w.outbox[n-2], w.outbox[n-1]
	}
}

// evaluate does this worker's share.
func (w *simWorker) evaluate(step uint64) {
	w.judged[step] = true
	k, n := 0, 0
	for i := range w.plan.Ring {
		if w.plan.following(i) {
			continue
		}
		if i < w.rank {
			k++
		}
		n++
	}
	r := EvalReport{Worker: w.name, Step: step}
	for i := range simImages {
		if i%n != k {
			continue
		}
		r.Images++
		if right(w.state, i) {
			r.Correct1++
		}
	}
	w.say(r)
}

func (w *simWorker) String() string {
	return fmt.Sprintf("%s alive=%v frozen=%v bound=%v has=%v step=%d base=%d kept=%d active=%v", w.name, w.alive, w.frozen, w.bound, w.has, w.step, w.base, len(w.kept), w.active)
}

func byName(a, b *simWorker) int { return cmp.Compare(a.name, b.name) }
