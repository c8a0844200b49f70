package coordinator

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"pgregory.net/rapid"
)

// world is a coordinator, its disk and its workers. Everything that happens in it follows from the seed.
type world struct {
	t           *rapid.T
	rand        *rand.Rand
	cfg         Config
	m           *Machine
	twin        *Machine // is told the same and must do the same
	now         time.Time
	journal     []Entry
	disk        map[uint64]uint64 // checkpoints' states, by step
	loaded      struct{ step, state uint64 }
	workers     map[string]*simWorker
	rings       map[uint64]*simRing // by generation
	truth       reference
	streams     uint64
	uploads     []upload
	jobs        []job
	down        bool // no coordinator is there
	corrupt     bool // a worker computes wrongly
	spread      bool // wrong statistics were copied from it
	lone        bool // a host was without another that it could be compared with
	disturbed   bool // other things fail too
	interrupted bool
	closed      bool                                                // as the journal tells
	published   uint64                                              // generation of the newest plan
	cutAt       int                                                 // actions of a Step until the coordinator dies; negative for never
	bent        func(*simWorker)                                    // after each step, where memory may go wrong
	wrong       func(o *simWorker, step uint64, replica int) uint64 // what is wrong about a gradient

	audit  auditor
	result *Finish
	log    []string
}

// upload is a state on its way to the coordinator.
type upload struct {
	ev    StateArrived
	state uint64
}

// job is a state on its way to the disk.
type job struct {
	step  uint64
	state uint64
}

// reference is the undisturbed run: its state and its learning rates.
type reference struct{ states []uint64 }

func undisturbed(cfg Config) reference {
	s := cfg.Schedule.clone()
	probe := &Machine{cfg: cfg}
	probe.cfg.Schedule = s
	states := []uint64{mix(1) &^ statistics}
	for step := uint64(0); step < cfg.TotalSteps; step++ {
		state, sum := states[step], uint64(0)
		for r := range cfg.Replicas {
			sum += gradient(state, step, r)
		}
		states = append(states, apply(state, sum, s.LR(step)))
		s.ObserveTraining(step+1, 64, trainedRight(sum))
		if probe.owesEvaluation(step + 1) {
			e := Evaluation{Images: simImages, Correct1: correct(states[step+1])}
			s.Observe(step+1, 1-e.Top1())
		}
	}
	return reference{states}
}

func correct(state uint64) uint64 {
	n := uint64(0)
	for i := range simImages {
		if right(state, i) {
			n++
		}
	}
	return n
}

// trainedRight is how many of a step's 64 images were right.
func trainedRight(sum uint64) uint64 { return mix(sum) % 65 }

func newWorld(t *rapid.T, cfg Config) *world {
	w := &world{
		t: t, rand: rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1)), cfg: cfg, now: time.Unix(1000, 0), cutAt: -1,
		disk: map[uint64]uint64{}, workers: map[string]*simWorker{}, rings: map[uint64]*simRing{}, truth: undisturbed(cfg), bent: func(*simWorker) {},
		wrong: func(*simWorker, uint64, int) uint64 { return 0 },
	}
	w.audit = auditor{fatal: t.Fatalf, replicas: cfg.Replicas, plans: map[[2]uint64]bool{}, stopped: map[string]bool{}}
	w.audit.fatal = w.fatal
	w.start()
	return w
}

// start starts a coordinator with what is journaled.
func (w *world) start() {
	cfg := w.cfg
	if n := len(w.journal); n > 0 && w.journal[n-1].Over != nil { // it had ended, and only could not say so any more
		w.result, w.closed = &Finish{}, true
		return
	}
	w.loaded.step, w.loaded.state = 0, w.truth.states[0]
	for _, e := range w.journal {
		if e.Epoch != nil {
			cfg.Epoch = e.Epoch.Epoch + 1
		}
	}
	for _, m := range []**Machine{&w.m, &w.twin} {
		var err error
		if *m, err = New(cfg); err != nil {
			w.t.Fatal(err)
		}
		if err := (*m).Restore(w.journal); err != nil {
			w.t.Fatal(err)
		}
	}
	w.down = false
	w.step(Tick{w.now})
}

// fall ends the coordinator's process: what is on its way from or to it is lost. Workers say again what they have said since the newest plan.
func (w *world) fall() {
	w.down, w.uploads, w.jobs, w.cutAt = true, nil, nil, -1
	w.audit.stopped = map[string]bool{}
	for _, o := range w.sorted() {
		o.conn, o.bound, o.inbox = 0, false, nil
	}
}

func (w *world) sorted() []*simWorker {
	var all []*simWorker
	for _, o := range w.workers {
		all = append(all, o)
	}
	slices.SortFunc(all, byName)
	return all
}

// step feeds the coordinator and carries out what it says, all of it or until it dies.
func (w *world) step(ev Event) {
	if w.down || w.result != nil {
		return
	}
	actions := w.m.Step(ev)
	if got, want := describeAll(w.twin.Step(ev)), describeAll(actions); got != want {
		w.t.Fatalf("the same events gave other actions:\n%s\n%s", want, got)
	}
	w.note("%T%+v", ev, ev)
	hosts := slices.DeleteFunc(w.m.ring(), func(o *member) bool { return o.hosts == 0 })
	w.lone = w.lone || w.m.plan.Sequence > 0 && len(hosts) < 2 && w.m.phase != gathering && w.m.phase != reattaching
	for _, a := range actions {
		if w.cutAt == 0 {
			w.note("-- the coordinator dies")
			w.fall()
			return
		}
		w.cutAt = max(-1, w.cutAt-1)
		w.note("    %s", describe(a))
		w.check(a)
		w.carryOut(a)
	}
}

func describeAll(actions []Action) string {
	var b strings.Builder
	for _, a := range actions {
		fmt.Fprintln(&b, describe(a))
	}
	return b.String()
}

func (w *world) note(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if strings.HasPrefix(text, "coordinator.Tick") || strings.HasPrefix(text, "coordinator.Heartbeat") {
		return
	}
	w.log = append(w.log, text)
}

// fatal fails with the end of the log.
func (w *world) fatal(format string, args ...any) {
	w.t.Helper()
	for _, o := range w.sorted() {
		w.note("%v inbox=%d outbox=%d conn=%d", o, len(o.inbox), len(o.outbox), o.conn)
	}
	w.t.Fatalf("%s\n%s", fmt.Sprintf(format, args...), strings.Join(w.log[max(0, len(w.log)-400):], "\n"))
}

// tell puts an action into a worker's inbox.
func (w *world) tell(worker string, a Action) {
	if o := w.workers[worker]; o != nil && o.alive && o.bound {
		o.inbox = append(o.inbox, a)
	}
}

// unbind makes an action the last word on a worker's stream.
func (w *world) unbind(worker string, a Action) {
	w.tell(worker, a)
	if o := w.workers[worker]; o != nil {
		o.bound = false
	}
}

func (w *world) carryOut(a Action) {
	switch a := a.(type) {
	case Record:
		w.journal = append(w.journal, throughDisk(w.t, a.Entry))
	case Welcome:
		o := w.workers[a.Worker]
		if o == nil || !o.alive || o.conn != a.Stream {
			w.step(StreamBroken{a.Worker, "gone before it was welcomed"})
			return
		}
		o.bound = true
		o.inbox = append(o.inbox, a)
	case Refuse:
		if o := w.workers[a.Worker]; o != nil && o.conn == a.Stream {
			o.bound, o.inbox = false, append(o.inbox, a)
		}
	case Publish:
		w.published = a.Plan.Generation
		w.rings[a.Plan.Generation] = w.ringOf(a.Plan)
		for _, m := range a.Plan.Ring {
			w.tell(m.Worker, a)
		}
	case Pause:
		w.tell(a.Worker, a)
	case Yield:
		w.tell(a.Worker, a)
	case Verified:
		w.tell(a.Worker, a)
	case SendState:
		w.tell(a.Worker, a)
	case Removed:
		w.unbind(a.Worker, a)
	case Stop:
		w.unbind(a.Worker, a)
	case Load:
		w.load(a)
	case Drop:
		for step := range w.disk {
			if step > a.Step {
				delete(w.disk, step)
			}
		}
	case Finish:
		w.result = &a
	}
}

func (w *world) ringOf(p Plan) *simRing {
	if r := w.rings[p.Generation]; r != nil {
		return r
	}
	r := &simRing{steps: map[uint64]*reduction{}}
	for _, m := range p.Ring {
		r.members = append(r.members, m.Worker)
	}
	return r
}

// copied notes what state a worker got from elsewhere.
func (w *world) copied(state uint64) { w.spread = w.spread || state&statistics != 0 }

func (w *world) ring(p *Plan) *simRing { return w.rings[p.Generation] }

func (w *world) load(a Load) {
	w.loaded.step, w.loaded.state = 0, w.truth.states[0]
	if a.Step == 0 {
		return
	}
	state, ok := w.disk[a.Step]
	if !ok {
		w.fatal("checkpoint %q of step %d is not on disk", a.Path, a.Step)
	}
	w.loaded.step, w.loaded.state = a.Step, state
}

// turn lets time pass, and somebody act.
func (w *world) turn() {
	w.now = w.now.Add(time.Duration(10+w.rand.IntN(40)) * time.Millisecond)
	w.step(Tick{w.now})
	all := w.sorted()
	for _, o := range all {
		if o.alive && !o.frozen && o.bound {
			w.step(Heartbeat{o.name})
		}
	}
	w.store()
	for range 2 * len(all) {
		if o := all[w.rand.IntN(len(all))]; o.alive && !o.frozen {
			o.act()
		}
	}
}

// store moves states on: from a worker to the coordinator, and to the disk.
func (w *world) store() {
	if w.down {
		return
	}
	if len(w.uploads) > 0 && w.rand.IntN(3) == 0 {
		u := w.uploads[0]
		w.uploads = w.uploads[1:]
		if o := w.workers[u.ev.Worker]; o != nil && o.bound {
			w.arrive(u)
		}
	}
	if len(w.jobs) > 0 && w.rand.IntN(3) == 0 {
		j := w.jobs[0]
		w.jobs = w.jobs[1:]
		if w.rand.IntN(10) == 0 {
			w.step(StoreFailed{j.step, "disk full"})
			return
		}
		w.disk[j.step] = j.state
		w.step(Stored{j.step, fmt.Sprintf("ckpt-%d", j.step)})
	}
}

// arrive hands a state over; the coordinator may want to have it stored.
func (w *world) arrive(u upload) {
	before := len(w.m.storing)
	w.step(u.ev)
	if !w.down && w.result == nil && len(w.m.storing) > before {
		w.jobs = append(w.jobs, job{u.ev.Step, u.state})
	}
}

// settle runs until the run ends.
func (w *world) settle(turns int) {
	for range turns {
		if w.result != nil {
			return
		}
		if w.down && w.rand.IntN(20) == 0 {
			w.start()
		}
		w.turn()
	}
}
