package coordinator

import (
	"fmt"
	"slices"
	"time"
)

// phase is where a run stands.
type phase uint8

const (
	gathering   phase = iota // waiting for workers to attach and become ready
	reattaching              // after a restart: waiting for the workers of the newest plan
	running                  // a plan is out: its steps and evaluations
	pausing                  // something happened: survivors are coming out of the step in flight
	saving                   // the newest state is being fetched and stored
	over                     // Finish was given
)

var phaseNames = [...]string{"gathering", "reattaching", "running", "pausing", "saving", "over"}

func (p phase) String() string { return phaseNames[p] }

// maxTick is the most that one Tick can move the clock.
const maxTick = time.Second

// Machine is the coordinator's mind. Feed it from one goroutine.
//
// Invariants: there is one plan for each (generation, sequence), both only grow, and every plan hosts each replica exactly once,
// by members that hold the state of its first step or fetch it before they begin; no committed step is done again while a worker
// lives that holds it, unless its bits are disputed; every phase has a deadline, so that ticks alone lead to Finish. Everything that
// must outlive this process is in the entries that it has recorded.
//
// Rejected: deciding in the handlers of the connections under one lock. It is shorter, but its order of decisions is the
// scheduler's, and no test can replay it.
type Machine struct {
	cfg      Config
	phase    phase
	opened   bool          // the first event was taken
	redrop   *Drop         // may not have been carried out
	returned bool          // a worker has come back after a restart
	highest  uint64        // generation that a worker has told of
	now      time.Duration // sum of ticks
	last     time.Time     // of the newest tick
	since    time.Duration // when the phase began
	members  []*member     // all that are attached, sorted by name: also the ring's order
	removed  map[string]string
	ref      Reference

	plan      Plan              // the newest; Sequence 0 before the first
	sources   map[uint64]source // by the base that followers of the plan fetch
	yielded   bool              // members were asked to end the plan's window early
	unsettled bool              // something has changed since it was last asked whether they should be
	rebalance bool              // another assignment pays
	balance   *balance
	traffic   Traffic // what was measured of the links; not plausible before
	measured  int     // plans that have asked for it

	base    uint64        // step of the state that workers pull
	moved   time.Duration // when progress was last reported
	newest  uint64        // committed step that was heard of
	slowest time.Duration // of all steps reported
	damage  []finding
	blames  []blame
	retries int // gatherings since the newest committed step

	meter   meter
	spans   []StepDone // steps that some worker has yet to report, in order
	shares  []EvalReport
	counted int // of the plan's evaluations
	eval    *Evaluation
	history []scheduleAt // the schedule's states, by the evaluation that made them

	hash        string // of the state at hashStep, as far as known
	hashStep    uint64
	checkpoints []Stored // known ones, rising; the first has no Path if it is the run's very beginning
	storing     []uint64 // steps whose states are being written, in order
	verify      verification
	ending      ending
	save        save

	out []Action
}

// New returns a machine that waits for workers. It takes cfg.Schedule over.
func New(cfg Config) (*Machine, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("coordinator: %w", err)
	}
	cfg.Schedule = cfg.Schedule.clone()
	m := &Machine{cfg: cfg, base: cfg.FirstStep, removed: map[string]string{}, balance: newBalance(cfg.Replicas)}
	m.balance.equal = cfg.EqualShares
	m.ref = Reference{DataFingerprint: cfg.DataFingerprint, DataSummary: cfg.DataSummary, Numerics: cfg.Numerics}
	m.startFrom(cfg.FirstStep, cfg.Resumed, cfg.Schedule.MarshalState())
	return m, nil
}

// Step takes one event and returns what is to be done, in order.
func (m *Machine) Step(ev Event) []Action {
	m.out = nil
	if !m.opened {
		m.open()
	}
	if m.phase == over {
		if h, ok := ev.(Hello); ok {
			m.emit(Refuse{h.Stream, h.Worker, RefusedOver, fmt.Sprintf("run %s is over", m.cfg.Run)})
		}
		if s, ok := ev.(StateArrived); ok {
			m.emit(Discard{Worker: s.Worker, Step: s.Step})
		}
		return m.out
	}
	switch ev := ev.(type) {
	case Tick:
		m.onTick(ev.Now)
	case Hello:
		m.onHello(ev)
	case Stored:
		m.onStored(ev)
	case StoreFailed:
		m.onStoreFailed(ev)
	case Interrupt:
		m.onInterrupt(ev)
	default:
		m.stepWorker(ev)
	}
	m.askToYield()
	return m.out
}

// stepWorker takes the events that a worker is the subject of.
func (m *Machine) stepWorker(ev Event) {
	w := m.find(subject(ev))
	if w == nil {
		if s, ok := ev.(StateArrived); ok {
			m.emit(Discard{Worker: s.Worker, Step: s.Step})
		}
		return
	}
	switch ev := ev.(type) {
	case StreamBroken:
		m.leftAlone(w, "its connection broke: "+ev.Reason)
		return
	case Left:
		m.leftAlone(w, "it left: "+ev.Reason)
		return
	case GossipDead:
		w.suspect = true
		return
	}
	w.seen, w.suspect = m.now, false
	switch ev := ev.(type) {
	case Heartbeat:
	case Ready:
		m.onReady(w, ev)
	case Leaving:
		m.onLeaving(w, ev)
	case StateArrived:
		m.onStateArrived(w, ev)
	case StateLost:
		m.onStateLost(w, ev)
	default:
		m.stepMember(w, ev)
	}
}

// stepMember takes what only members of the plan's ring have to tell.
func (m *Machine) stepMember(w *member, ev Event) {
	if !w.in {
		return
	}
	switch ev := ev.(type) {
	case StepReport:
		m.onStepReport(w, ev)
	case EvalReport:
		m.onEvalReport(w, ev)
	case Measured:
		m.onMeasured(w, ev)
	case Aborted:
		m.onAborted(w, ev)
	case StateHash:
		m.onStateHash(w, ev)
	case Audit:
		m.onAudit(w, ev)
	case CaughtUp:
		m.onCaughtUp(w, ev)
	default:
		panic(fmt.Sprintf("coordinator: event %T is unknown", ev))
	}
}

func subject(ev Event) string {
	switch ev := ev.(type) {
	case StreamBroken:
		return ev.Worker
	case Left:
		return ev.Worker
	case GossipDead:
		return ev.Worker
	case Heartbeat:
		return ev.Worker
	case Ready:
		return ev.Worker
	case StepReport:
		return ev.Worker
	case EvalReport:
		return ev.Worker
	case Measured:
		return ev.Worker
	case Aborted:
		return ev.Worker
	case StateArrived:
		return ev.Worker
	case StateLost:
		return ev.Worker
	case StateHash:
		return ev.Worker
	case Audit:
		return ev.Worker
	case CaughtUp:
		return ev.Worker
	case Leaving:
		return ev.Worker
	}
	panic(fmt.Sprintf("coordinator: event %T is unknown", ev))
}

// onTick moves the clock and looks at every deadline.
func (m *Machine) onTick(now time.Time) {
	if !m.last.IsZero() {
		m.now += min(max(now.Sub(m.last), 0), maxTick)
	}
	m.last = now
	for _, w := range slices.Clone(m.members) {
		m.checkSilence(w)
	}
	switch m.phase {
	case gathering:
		m.checkGathering()
	case reattaching:
		m.checkReattaching()
	case running:
		if m.now-m.moved > m.cfg.StallTimeout {
			m.end(ending{kind: endStalled, workers: m.laggards()})
		}
	case pausing:
		m.checkPausing()
	case saving:
		m.checkSaving()
	}
}

// checkSilence loses a worker that has not been heard for too long. Before it has loaded its data it may be silent for longer.
func (m *Machine) checkSilence(w *member) {
	limit, why := m.cfg.DeadAfter, ""
	if m.phase == gathering || w.ready == nil {
		limit *= 3
	} else if w.suspect {
		limit, why = m.cfg.SuspectAfter, ", and the gossip says it is dead"
	}
	if !w.gone && m.phase != over && m.now-w.seen > limit {
		m.lose(w, fmt.Sprintf("no heartbeat for %v%s", limit, why))
	}
}

// Standing is a snapshot of the run for a status query.
type Standing struct {
	Phase           string
	Epoch           uint64
	Step, Total     uint64
	Generation      uint64
	Ring            []Member
	Workers         []WorkerStanding // all that are attached, by name
	Loss            float64
	ImagesPerSecond float64
}

// WorkerStanding is what a worker is to the run: loading, spare, follower, follower caught up, hosting or leaving.
type WorkerStanding struct{ Worker, Standing string }

// Standing says where the run is.
func (m *Machine) Standing() Standing {
	s := Standing{
		Phase: m.phase.String(), Epoch: m.cfg.Epoch, Step: m.meter.step, Total: m.cfg.TotalSteps, Generation: m.plan.Generation,
		Ring: slices.Clone(m.plan.Ring), Loss: m.meter.loss, ImagesPerSecond: m.meter.current(m.cfg.GlobalBatch),
	}
	for _, w := range m.members {
		s.Workers = append(s.Workers, WorkerStanding{w.name, w.standing()})
	}
	return s
}

func (m *Machine) emit(a Action) { m.out = append(m.out, a) }

// record journals a decision, ahead of what follows from it.
func (m *Machine) record(e Entry) { m.emit(Record{e}) }

// tell reports an event to people.
func (m *Machine) tell(warning bool, format string, args ...any) {
	p := m.progress()
	p.Warning, p.Event = warning, fmt.Sprintf(format, args...)
	m.emit(Report{Progress: p})
}

func (m *Machine) enter(p phase) { m.phase, m.since = p, m.now }
