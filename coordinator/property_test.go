package coordinator

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// auditor checks what must hold of every sequence of actions, whatever the events were.
type auditor struct {
	t        *rapid.T
	replicas int
	store    bool
	plans    map[[2]uint64]bool
	last     Plan
	ending   bool
	finished int
	stopped  map[string]bool
}

func (a *auditor) check(actions []Action) {
	for _, act := range actions {
		if a.finished > 0 {
			switch act.(type) {
			case Refuse, Discard:
			default:
				a.t.Fatalf("action after Finish: %s", describe(act))
			}
		}
		switch act := act.(type) {
		case Publish:
			a.plan(act.Plan)
		case Pause:
			a.ending = true
		case SendState:
			a.ending = true
			if !a.store {
				a.t.Fatal("a state was asked for without a store")
			}
		case Stop:
			if a.stopped[act.Worker] {
				a.t.Fatalf("worker %s stopped twice", act.Worker)
			}
			a.stopped[act.Worker] = true
		case Finish:
			a.finished++
			a.ending = true
			if r := act.Result; r.Path != "" && r.Step == 0 {
				a.t.Fatalf("result has a checkpoint of no steps: %+v", r)
			}
		}
	}
}

func (a *auditor) plan(p Plan) {
	key := [2]uint64{p.Generation, p.Sequence}
	switch {
	case a.ending:
		a.t.Fatalf("plan %v after the ending began", key)
	case a.plans[key]:
		a.t.Fatalf("plan %v given twice", key)
	case p.Generation < a.last.Generation:
		a.t.Fatalf("generation goes back from %d to %d", a.last.Generation, p.Generation)
	case a.last.Sequence != 0 && p.Sequence <= a.last.Sequence:
		a.t.Fatalf("sequence goes back from %d to %d", a.last.Sequence, p.Sequence)
	case a.last.Sequence != 0 && p.FirstStep != a.last.UntilStep:
		a.t.Fatalf("window begins at %d, the last one ended at %d", p.FirstStep, a.last.UntilStep)
	case len(p.ReplicaHost) != a.replicas:
		a.t.Fatalf("%d replicas hosted, want %d", len(p.ReplicaHost), a.replicas)
	case p.FirstStep > p.UntilStep || p.FirstStep == p.UntilStep && !p.Evaluate:
		a.t.Fatalf("window [%d,%d) asks for nothing", p.FirstStep, p.UntilStep)
	case p.FirstStep < p.UntilStep && (len(p.LearningRates) == 0 || p.LearningRates[0].FirstStep != p.FirstStep):
		a.t.Fatalf("no learning rate for step %d", p.FirstStep)
	}
	if g := p.Group; g < 1 || len(p.Ring)%g != 0 || g > 1 && p.Measure || p.Measure && p.Sequence != 1 {
		a.t.Fatalf("a ring of %d in groups of %d, measured: %v", len(p.Ring), g, p.Measure)
	}
	if a.last.Sequence != 0 && (p.Group != a.last.Group) != (p.Generation != a.last.Generation) {
		a.t.Fatalf("generation %d has groups of %d, generation %d groups of %d", a.last.Generation, a.last.Group, p.Generation, p.Group)
	}
	for _, h := range p.ReplicaHost {
		if h < 0 || h >= len(p.Ring) {
			a.t.Fatalf("replica hosted by nobody: %v in a ring of %d", p.ReplicaHost, len(p.Ring))
		}
	}
	for _, c := range p.CheckpointAfter {
		if c <= p.FirstStep || c > p.UntilStep {
			a.t.Fatalf("checkpoint after %d is outside of (%d,%d]", c, p.FirstStep, p.UntilStep)
		}
	}
	a.plans[key], a.last = true, p
}

// drawMachine makes a small run.
func drawMachine(t *rapid.T) (*Machine, *auditor, Config) {
	cfg := DefaultConfig()
	cfg.Run, cfg.Version = "prop", "v1"
	cfg.TotalSteps = uint64(rapid.IntRange(1, 12).Draw(t, "steps"))
	cfg.FirstStep = uint64(rapid.IntRange(0, int(cfg.TotalSteps)).Draw(t, "first"))
	if cfg.FirstStep > 0 {
		cfg.Resumed = "resumed"
	}
	cfg.StepsPerEpoch, cfg.GlobalBatch = 3.25, 64
	cfg.Replicas = rapid.SampledFrom([]int{1, 2, 4, 8}).Draw(t, "replicas")
	cfg.MinWorkers = rapid.SampledFrom([]int{1, 2, 3, 4, 6}).Draw(t, "workers")
	cfg.Group = rapid.SampledFrom([]int{0, 0, 1, cfg.MinWorkers}).Draw(t, "group")
	cfg.CheckpointEvery = uint64(rapid.IntRange(0, 5).Draw(t, "checkpoint"))
	cfg.NoStore = rapid.Bool().Draw(t, "no store")
	cfg.FixedCrew = rapid.Bool().Draw(t, "fixed crew")
	schedule := rapid.SampledFrom([]string{"constant", "steps:40%", "plateau:patience=1"}).Draw(t, "schedule")
	cfg.Evaluate = schedule[0] == 'p' || rapid.Bool().Draw(t, "evaluate")
	if schedule[0] == 'p' || rapid.Bool().Draw(t, "often") {
		cfg.EvalEvery = Span{Value: 1, Unit: Epochs}
	}
	s, err := ParseSchedule(schedule, rapid.SampledFrom([]string{"", "2", "1e@0.001"}).Draw(t, "warm-up"), 0.1, Scale{cfg.StepsPerEpoch, cfg.TotalSteps})
	if err != nil {
		t.Fatal(err)
	}
	cfg.Schedule = s
	m, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return m, &auditor{t: t, replicas: cfg.Replicas, store: !cfg.NoStore, plans: map[[2]uint64]bool{}, stopped: map[string]bool{}}, cfg
}

// drawEvent is anything that could come from anyone, sensible or not.
func drawEvent(t *rapid.T, stream uint64) Event {
	w := rapid.SampledFrom([]string{"a", "b", "c", "d", "e", "f"}).Draw(t, "worker")
	step := uint64(rapid.IntRange(0, 14).Draw(t, "at"))
	hash := rapid.SampledFrom([]string{"", "h", "h", "h", "x"}).Draw(t, "hash")
	switch rapid.IntRange(0, 15).Draw(t, "event") {
	case 0, 1:
		return Hello{Stream: stream, Worker: w, Version: rapid.SampledFrom([]string{"v1", "v1", "v1", "v2"}).Draw(t, "version")}
	case 2, 3:
		return Ready{Worker: w, RingAddress: "h:" + w, DataFingerprint: rapid.SampledFrom([]string{"d", "d", "d", "other"}).Draw(t, "data")}
	case 4, 5, 6:
		at := time.Unix(int64(step), 0)
		return StepReport{Worker: w, Step: step, Images: 64, Start: at, End: at.Add(time.Second), StateHash: hash}
	case 7, 8:
		return EvalReport{Worker: w, Step: step, Images: 10, Correct1: 5}
	case 9:
		return Aborted{Worker: w, Step: step, Cause: Cause(rapid.IntRange(0, 4).Draw(t, "cause")), Peer: rapid.SampledFrom([]string{"", "a", "b", "z"}).Draw(t, "peer")}
	case 10:
		return rapid.SampledFrom([]Event{StreamBroken{w, "x"}, Left{w, "x"}, GossipDead{w}, Interrupt{"i"}}).Draw(t, "end")
	case 11, 12:
		return StateArrived{w, step, hash}
	case 13:
		return rapid.SampledFrom([]Event{Stored{step, "p"}, StoreFailed{step, "full"}, StateLost{w, step, "crc"}}).Draw(t, "stored")
	case 14:
		hop := time.Duration(rapid.IntRange(-1, 1<<30).Draw(t, "hop"))
		return Measured{w, Traffic{Hop: hop, BytesPerSecond: 1e8, StepBytes: 1 << 20, Buckets: 4}}
	default:
		return Heartbeat{w}
	}
}

// TestAnyEventsLeadToAnEnd: whatever comes, in whatever order, the invariants hold and ticks alone finish the run. The same events
// give the same actions.
func TestAnyEventsLeadToAnEnd(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m, a, cfg := drawMachine(t)
		twin, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		now := time.Unix(1000, 0)
		step := func(ev Event) {
			actions := m.Step(ev)
			if got, want := fmt.Sprintf("%#v", twin.Step(ev)), fmt.Sprintf("%#v", actions); got != want && !pointers(actions) {
				t.Fatalf("the same events gave other actions:\n%s\n%s", want, got)
			}
			a.check(actions)
		}
		step(Tick{now})
		for i := range rapid.IntRange(0, 150).Draw(t, "events") {
			if rapid.IntRange(0, 4).Draw(t, "tick") == 0 {
				now = now.Add(time.Duration(rapid.IntRange(-500, 2500).Draw(t, "ms")) * time.Millisecond)
				step(Tick{now})
			}
			step(drawEvent(t, uint64(i)))
		}
		// Silence: everybody is dead after seconds; if nobody ever came, the wait for workers ends too.
		limit := cfg.JoinTimeout + cfg.StallTimeout + cfg.StoreTimeout + time.Minute
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

// pointers says whether actions hold addresses, which no two machines share.
func pointers(actions []Action) bool {
	return slices.ContainsFunc(actions, func(a Action) bool {
		switch a := a.(type) {
		case Report:
			return a.Evaluation != nil
		case Finish:
			return true
		}
		return false
	})
}

// robot is a worker that does what it is told, one thing at a time.
type robot struct {
	name   string
	todo   []Event
	step   uint64
	dead   bool
	frozen bool
}

// crew plays honest workers, some of which die.
type crew struct {
	t      *rapid.T
	m      *Machine
	a      *auditor
	robots map[string]*robot
	names  []string
	disk   []Event
	full   bool
	result *Finish
}

func (c *crew) feed(ev Event) {
	actions := c.m.Step(ev)
	c.a.check(actions)
	for _, act := range actions {
		c.obey(act)
	}
}

func (c *crew) obey(act Action) {
	switch act := act.(type) {
	case Welcome:
		c.say(act.Worker, Ready{Worker: act.Worker, RingAddress: "h:" + act.Worker, DataFingerprint: "d"})
	case Publish:
		for _, w := range act.Plan.Ring {
			c.work(w.Worker, act.Plan)
		}
	case Pause:
		// What is already on its way arrives before the answer; steps not yet begun are not done.
		r := c.robots[act.Worker]
		r.todo = slices.DeleteFunc(r.todo, func(ev Event) bool {
			switch ev := ev.(type) {
			case StepReport:
				return ev.Step > r.step+1
			case StateArrived:
				return ev.Step > r.step+1
			case EvalReport:
				return true
			}
			return false
		})
		at := r.step
		for _, ev := range r.todo {
			if s, ok := ev.(StepReport); ok {
				at = s.Step
			}
		}
		c.say(act.Worker, Aborted{Worker: act.Worker, Step: at, Cause: CausePaused})
	case SendState:
		c.say(act.Worker, StateArrived{act.Worker, act.Step, hashOf(act.Step)})
	case Store:
		if c.full {
			c.disk = append(c.disk, StoreFailed{act.Step, "full"})
		} else {
			c.disk = append(c.disk, Stored{act.Step, fmt.Sprintf("ckpt-%d", act.Step)})
		}
	case Finish:
		c.result = &act
	}
}

func hashOf(step uint64) string { return fmt.Sprintf("hash-%d", step) }

func (c *crew) say(worker string, ev Event) {
	c.robots[worker].todo = append(c.robots[worker].todo, ev)
}

// work queues everything that a plan asks of a worker.
func (c *crew) work(worker string, p Plan) {
	c.robots[worker].step = p.FirstStep
	if p.Measure {
		c.say(worker, Measured{worker, Traffic{Hop: 10 * time.Millisecond, BytesPerSecond: 1e9, StepBytes: 1 << 16, Buckets: 1}})
	}
	for s := p.FirstStep + 1; s <= p.UntilStep; s++ {
		r := StepReport{Worker: worker, Step: s, Loss: 1, Images: 64, Start: time.Unix(int64(s), 0), End: time.Unix(int64(s+1), 0)}
		if s == p.UntilStep {
			r.StateHash = hashOf(s)
		}
		c.say(worker, r)
		if worker == p.Ring[0].Worker && slices.Contains(p.CheckpointAfter, s) {
			c.say(worker, StateArrived{worker, s, hashOf(s)})
		}
	}
	if p.Evaluate {
		c.say(worker, EvalReport{Worker: worker, Step: p.UntilStep, Images: 10, Correct1: 4})
	}
}

// turn lets one worker, or the disk, act.
func (c *crew) turn() {
	var ready []string
	for _, n := range c.names {
		if r := c.robots[n]; !r.dead && !r.frozen && len(r.todo) > 0 {
			ready = append(ready, n)
		}
	}
	if len(c.disk) > 0 && (len(ready) == 0 || rapid.IntRange(0, 3).Draw(c.t, "disk") == 0) {
		ev := c.disk[0]
		c.disk = c.disk[1:]
		c.feed(ev)
		return
	}
	if len(ready) == 0 {
		return
	}
	r := c.robots[rapid.SampledFrom(ready).Draw(c.t, "turn")]
	ev := r.todo[0]
	r.todo = r.todo[1:]
	if s, ok := ev.(StepReport); ok {
		r.step = s.Step
	}
	c.feed(ev)
}

// TestHonestWorkers: without faults every run completes with its last state stored; with one worker killed or frozen it ends by
// naming that worker, and no step that a survivor had committed is lost.
func TestHonestWorkers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m, a, cfg := drawMachine(t)
		c := &crew{t: t, m: m, a: a, robots: map[string]*robot{}, full: rapid.IntRange(0, 5).Draw(t, "disk full") == 0}
		now := time.Unix(1000, 0)
		c.feed(Tick{now})
		for i := range cfg.MinWorkers {
			n := string(rune('a' + i))
			c.names = append(c.names, n)
			c.robots[n] = &robot{name: n}
			c.feed(Hello{Stream: uint64(i), Worker: n, Version: "v1"})
		}
		victim, killAt := "", rapid.IntRange(0, 80).Draw(t, "kill at")
		fault := rapid.SampledFrom([]string{"none", "kill", "freeze", "interrupt"}).Draw(t, "fault")
		for i := 0; c.result == nil; i++ {
			if i > 5000 {
				t.Fatalf("no end in sight: %s", m.phase)
			}
			if i == killAt && m.phase == running {
				victim = c.strike(fault)
			}
			now = now.Add(100 * time.Millisecond)
			c.feed(Tick{now})
			for _, n := range c.names {
				if r := c.robots[n]; !r.dead && !r.frozen {
					c.feed(Heartbeat{n})
				}
			}
			if c.result == nil {
				c.turn()
			}
		}
		c.judge(cfg, fault, victim)
	})
}

func (c *crew) strike(fault string) (victim string) {
	w := rapid.SampledFrom(c.names).Draw(c.t, "victim")
	switch fault {
	case "kill":
		c.robots[w].dead = true
		c.feed(StreamBroken{w, "EOF"})
	case "freeze":
		c.robots[w].frozen = true
	case "interrupt":
		c.feed(Interrupt{"interrupted"})
		return "nobody"
	default:
		return ""
	}
	return w
}

func (c *crew) judge(cfg Config, fault, victim string) {
	err, r := c.result.Err, c.result.Result
	var unsaved *UnsavedError
	stores := !cfg.NoStore && !c.full
	var lost *WorkerLostError
	switch {
	case victim == "" || errors.As(err, &unsaved):
		if err == nil && r.Step != cfg.TotalSteps {
			c.t.Fatalf("completed at step %d of %d", r.Step, cfg.TotalSteps)
		}
		if stores && err != nil {
			c.t.Fatalf("undisturbed run failed: %v", err)
		}
		if err == nil && r.Step > cfg.FirstStep && r.Hash != hashOf(r.Step) {
			c.t.Fatalf("result has hash %q", r.Hash)
		}
	case err == nil: // the last step was done all the same
	case fault == "interrupt":
		var ie *InterruptedError
		if !errors.As(err, &ie) {
			c.t.Fatalf("interrupted, but %v", err)
		}
	case !errors.As(err, &lost) || lost.Worker != victim:
		c.t.Fatalf("%s of %s ended as %v", fault, victim, err)
	}
	if !stores || err == nil {
		return
	}
	for _, n := range c.names {
		if w := c.robots[n]; !w.dead && !w.frozen && w.step > r.Step {
			c.t.Fatalf("worker %s lives with step %d, but only step %d was kept", n, w.step, r.Step)
		}
	}
}
