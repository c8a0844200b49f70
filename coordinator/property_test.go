package coordinator

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// drawConfig makes a small run.
func drawConfig(t *rapid.T) Config {
	cfg := DefaultConfig()
	cfg.Run, cfg.Version = "sim", "v1"
	cfg.TotalSteps = uint64(rapid.IntRange(1, 24).Draw(t, "steps"))
	cfg.StepsPerEpoch, cfg.GlobalBatch = 3.25, 64
	cfg.Replicas = rapid.SampledFrom([]int{1, 2, 4, 8}).Draw(t, "replicas")
	cfg.MinWorkers = rapid.SampledFrom([]int{1, 2, 3, 4, 6}).Draw(t, "workers")
	cfg.Group = rapid.SampledFrom([]int{0, 0, 1, cfg.MinWorkers}).Draw(t, "group")
	cfg.CheckpointEvery = uint64(rapid.IntRange(0, 5).Draw(t, "checkpoint"))
	schedule := rapid.SampledFrom([]string{"constant", "steps:40%", "plateau:patience=1"}).Draw(t, "schedule")
	cfg.Evaluate = schedule[0] == 'p' || rapid.Bool().Draw(t, "evaluate")
	if schedule[0] == 'p' || rapid.Bool().Draw(t, "often") {
		cfg.EvalEvery = Span{Value: 1, Unit: Epochs}
	}
	s, err := ParseSchedule(schedule, rapid.SampledFrom([]string{"", "2", "1e@0.001", "error:50%@0.001,every=3", "error:45%@0.001,every=5"}).Draw(t, "warm-up"), 0.1, Scale{cfg.StepsPerEpoch, cfg.TotalSteps})
	if err != nil {
		t.Fatal(err)
	}
	cfg.Schedule = s
	cfg.CheckpointEvaluated = rapid.Bool().Draw(t, "keep evaluated")
	cfg.VerifyEvery = uint64(rapid.IntRange(0, 4).Draw(t, "verify"))
	return cfg
}

// check holds an action against the auditor's rules and against what the workers really hold.
func (w *world) check(a Action) {
	w.audit.check(a)
	switch a := a.(type) {
	case Publish:
		w.checkHolders(a.Plan)
	case SendState: // of the last state, which nobody compares if only one has come so far
		w.lone = w.lone || len(slices.DeleteFunc(w.m.ring(), func(o *member) bool { return o.hash == "" || o.steps != a.Step })) < 2
	case Report:
		if e := a.Evaluation; e != nil && !w.corrupt && (e.Images != simImages || e.Correct1 != correct(w.truth.states[e.Step])) {
			w.fatal("evaluation after step %d: %+v, want %d of %d", e.Step, *e, correct(w.truth.states[e.Step]), simImages)
		}
	}
}

// checkHolders asks that no committed step is done again while a member lives that holds it.
func (w *world) checkHolders(p Plan) {
	for i, m := range p.Ring {
		o := w.workers[m.Worker]
		if o == nil || !o.alive || !o.bound || !o.has || o.plan == nil || p.Restore || p.following(i) {
			continue
		}
		if o.step > p.FirstStep {
			w.fatal("plan %d.%d begins at step %d, but %s holds step %d", p.Generation, p.Sequence, p.FirstStep, m.Worker, o.step)
		}
		if o.step < p.FirstStep && !slices.Contains(p.Behind, i) {
			w.fatal("plan %d.%d begins at step %d, which %s does not hold: %v", p.Generation, p.Sequence, p.FirstStep, m.Worker, o)
		}
	}
}

// truthful asks that every state is the undisturbed run's.
func (w *world) truthful() {
	for _, o := range w.sorted() {
		if o.has && o.state != w.truth.states[o.step] {
			w.fatal("%s holds other bits than the undisturbed run: %v", o.name, o)
		}
	}
}

// faults are what can happen to a run, by name.
var faults = map[string]func(w *world, o *simWorker){
	"kill": func(w *world, o *simWorker) {
		o.leaveRing()
		o.alive = false
		if o.bound {
			o.bound = false
			w.step(StreamBroken{o.name, "EOF"})
		}
	},
	"come back": func(w *world, o *simWorker) {
		if !o.alive {
			w.workers[o.name] = &simWorker{world: w, name: o.name, alive: true}
		}
	},
	"freeze": func(_ *world, o *simWorker) { o.frozen = true },
	"thaw": func(w *world, _ *simWorker) {
		for _, o := range w.sorted() {
			o.frozen = false
		}
	},
	"break": func(w *world, o *simWorker) {
		bound := o.bound
		o.conn, o.bound, o.inbox = 0, false, nil
		if bound {
			w.step(StreamBroken{o.name, "reset"})
		}
	},
	"half-open": func(_ *world, o *simWorker) { o.conn, o.bound, o.inbox = 0, false, nil },
	"cut": func(w *world, o *simWorker) {
		if o.plan != nil && o.alive {
			w.ring(o.plan).breakBy(o.name)
		}
	},
	"join":  func(w *world, _ *simWorker) { w.join() },
	"leave": func(_ *world, o *simWorker) { o.say(Leaving{o.name, "maintenance"}) },
	"fall":  func(w *world, _ *simWorker) { w.fall() },
	"fall within a step": func(w *world, _ *simWorker) {
		w.cutAt = w.rand.IntN(12)
	},
	"interrupt":             func(w *world, _ *simWorker) { w.interrupted = !w.down; w.step(Interrupt{"interrupted"}) },
	"dead, says the gossip": func(w *world, o *simWorker) { w.step(GossipDead{o.name}) },
}

func (w *world) join() {
	n := len(w.workers)
	name := string(rune('a'+n*7%26)) + string(rune('a'+n/26)) // not in the order of their coming
	w.workers[name] = &simWorker{world: w, name: name, alive: true}
}

// drawWorld starts a run with its workers.
func drawWorld(t *rapid.T, cfg Config) *world {
	w := newWorld(t, cfg)
	for range cfg.MinWorkers + rapid.IntRange(0, 2).Draw(t, "more") {
		w.join()
	}
	return w
}

// TestAnyFaultsLeaveTheBitsAlone: whatever fails and whenever, the run ends with the bits of the undisturbed one as long as workers
// come. No committed step is lost while a holder lives, and the same events give the same actions.
func TestAnyFaultsLeaveTheBitsAlone(t *testing.T) {
	var names []string
	for n := range faults {
		names = append(names, n)
	}
	slices.Sort(names)
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t, drawConfig(t))
		for range rapid.IntRange(0, 10).Draw(t, "faults") {
			w.settle(rapid.IntRange(0, 60).Draw(t, "turns"))
			w.truthful()
			if w.result != nil {
				break
			}
			fault := rapid.SampledFrom(names).Draw(t, "fault")
			all := w.sorted()
			o := all[rapid.IntRange(0, len(all)-1).Draw(t, "on")]
			w.note("== %s: %s", fault, o.name)
			faults[fault](w, o)
		}
		faults["thaw"](w, nil)
		for i := 0; w.result == nil; i++ {
			for w.living() < w.cfg.MinWorkers {
				w.join()
			}
			if w.settle(200); i > 100 {
				w.fatal("no end in sight: %s", w.m.phase)
			}
			w.truthful()
		}
		w.judge()
	})
}

// judgeInterrupted asks that the newest state is kept that somebody held who could be asked for it.
func (w *world) judgeInterrupted(err error) {
	var ended *InterruptedError
	if err == nil {
		return // the last step was done all the same
	}
	if !errors.As(err, &ended) {
		w.fatal("interrupted, but ended with %v", err)
	}
	if ended.Unsaved != "" {
		return
	}
	for _, o := range w.sorted() {
		if o.alive && !o.frozen && o.bound && o.has && o.plan != nil && o.step > ended.Step && w.m.find(o.name) != nil && w.m.find(o.name).in {
			w.fatal("%s holds step %d, but only step %d was kept", o.name, o.step, ended.Step)
		}
	}
}

func (w *world) living() int {
	n := 0
	for _, o := range w.workers {
		if o.alive {
			n++
		}
	}
	return n
}

func (w *world) judge() {
	err, r := w.result.Err, w.result.Result
	var lost *WorkerLostError
	var unsaved *UnsavedError
	switch {
	case w.closed:
	case errors.As(err, &lost) && w.m.retries > maxRetries:
		return // everybody died again and again
	case errors.As(err, &unsaved):
	case w.interrupted:
		w.judgeInterrupted(err)
	case err != nil:
		w.fatal("ended with %v", err)
	case r.Step != w.cfg.TotalSteps || r.Hash != hashText(w.truth.states[r.Step]) && (r.Hash != "" || !w.restarted()):
		w.fatal("ended at step %d with hash %s, want step %d and %x", r.Step, r.Hash, w.cfg.TotalSteps, w.truth.states[w.cfg.TotalSteps])
	}
	for step, state := range w.disk {
		if state != w.truth.states[step] {
			w.fatal("the checkpoint of step %d has other bits than the undisturbed run", step)
		}
	}
}

// restarted says whether the coordinator is not the first: the hash of a state that an earlier one stored may be unknown to it.
func (w *world) restarted() bool { return w.down || w.m.cfg.Epoch > 1 }

// TestTicksAloneLeadToAnEnd: when everybody has fallen silent, at whatever point, the run ends.
func TestTicksAloneLeadToAnEnd(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cfg := drawConfig(t)
		cfg.FixedCrew, cfg.NoStore = rapid.Bool().Draw(t, "fixed"), rapid.Bool().Draw(t, "no store")
		w := drawWorld(t, cfg)
		w.audit.noStore = cfg.NoStore
		w.settle(rapid.IntRange(0, 100).Draw(t, "turns"))
		if w.down {
			w.start()
		}
		limit := 2*cfg.JoinTimeout + cfg.StallTimeout + cfg.StoreTimeout + time.Minute
		for waited := time.Duration(0); w.result == nil; waited += time.Second {
			if waited > limit {
				w.fatal("still %s after %v of ticks", w.m.phase, waited)
			}
			w.now = w.now.Add(time.Second)
			w.step(Tick{w.now})
		}
	})
}

// drawEvent is anything that could come from anyone, sensible or not.
func drawEvent(t *rapid.T, stream uint64) Event {
	w := rapid.SampledFrom([]string{"a", "b", "c", "d", "e", "f"}).Draw(t, "worker")
	step := uint64(rapid.IntRange(0, 14).Draw(t, "at"))
	generation := uint64(rapid.IntRange(0, 4).Draw(t, "generation"))
	hash := rapid.SampledFrom([]string{"", "h", "h", "h", "x"}).Draw(t, "hash")
	switch rapid.IntRange(0, 19).Draw(t, "event") {
	case 0, 1:
		h := Hello{Stream: stream, Worker: w, Version: rapid.SampledFrom([]string{"v1", "v1", "v1", "v2"}).Draw(t, "version")}
		if rapid.IntRange(0, 3).Draw(t, "attached") == 0 {
			h.Attached = &Attachment{Run: "sim", Epoch: generation, Generation: generation, Step: step, Running: step%2 == 0, Ready: Ready{RingAddress: "h:" + w}}
		}
		return h
	case 2, 3:
		return Ready{Worker: w, RingAddress: "h:" + w, DataFingerprint: rapid.SampledFrom([]string{"d", "d", "d", "other"}).Draw(t, "data")}
	case 4, 5, 6:
		at := time.Unix(int64(step), 0)
		return StepReport{Worker: w, Step: step, Images: 64, Start: at, End: at.Add(time.Second), StateHash: hash, Generation: generation, Last: hash == "h", Behind: step%5 == 0}
	case 7, 8:
		return EvalReport{Worker: w, Step: step, Images: 10, Correct1: 5}
	case 9, 10:
		return Aborted{Worker: w, Step: step, Cause: Cause(rapid.IntRange(0, 4).Draw(t, "cause")), Peer: rapid.SampledFrom([]string{"", "a", "b", "z"}).Draw(t, "peer"),
			Generation: generation, Behind: hash == "x", Kept: []uint64{step / 2}}
	case 11:
		return rapid.SampledFrom([]Event{StreamBroken{w, "x"}, Left{w, "x"}, GossipDead{w}, Interrupt{"i"}}).Draw(t, "end")
	case 12, 13:
		return StateArrived{w, step, hash, generation}
	case 14:
		return rapid.SampledFrom([]Event{Stored{step, "p"}, StoreFailed{step, "full"}, StateLost{w, step, "crc"}}).Draw(t, "stored")
	case 15:
		hop := time.Duration(rapid.IntRange(-1, 1<<30).Draw(t, "hop"))
		return Measured{w, Traffic{Hop: hop, BytesPerSecond: 1e8, StepBytes: 1 << 20, Buckets: 4}}
	case 16:
		return StateHash{w, step, hash}
	case 17:
		return Audit{w, generation, step, int(step % 3), hash}
	case 18:
		return rapid.SampledFrom([]Event{CaughtUp{w, generation, step}, Leaving{w, "l"}}).Draw(t, "change")
	default:
		return Heartbeat{w}
	}
}

// TestAnyEventsLeadToAnEnd: whatever comes, in whatever order, plans keep to the rules and ticks alone finish the run. The same events
// give the same actions.
func TestAnyEventsLeadToAnEnd(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cfg := drawConfig(t)
		cfg.FixedCrew, cfg.NoStore = rapid.Bool().Draw(t, "fixed crew"), rapid.Bool().Draw(t, "no store")
		m, twin := mustNew(t, cfg), mustNew(t, cfg)
		a := &auditor{fatal: t.Fatalf, replicas: cfg.Replicas, noStore: cfg.NoStore, plans: map[[2]uint64]bool{}, stopped: map[string]bool{}}
		now := time.Unix(1000, 0)
		step := func(ev Event) {
			actions := m.Step(ev)
			if got, want := describeAll(twin.Step(ev)), describeAll(actions); got != want {
				t.Fatalf("the same events gave other actions:\n%s\n%s", want, got)
			}
			for _, act := range actions {
				a.check(act)
			}
		}
		step(Tick{now})
		for i := range rapid.IntRange(0, 150).Draw(t, "events") {
			if rapid.IntRange(0, 4).Draw(t, "tick") == 0 {
				now = now.Add(time.Duration(rapid.IntRange(-500, 2500).Draw(t, "ms")) * time.Millisecond)
				step(Tick{now})
			}
			step(drawEvent(t, uint64(i)))
		}
		limit := 2*cfg.JoinTimeout + cfg.StallTimeout + cfg.StoreTimeout + time.Minute
		for waited := time.Duration(0); m.phase != over; waited += time.Second {
			if waited > limit {
				t.Fatalf("still %s after %v of ticks", m.phase, waited)
			}
			now = now.Add(time.Second)
			step(Tick{now})
		}
		if a.finished != 1 {
			t.Fatalf("finished %d times", a.finished)
		}
	})
}

func mustNew(t *rapid.T, cfg Config) *Machine {
	m, err := New(cfg)
	if err != nil {
		t.Fatal(fmt.Sprint(err))
	}
	return m
}
