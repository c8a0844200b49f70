package coordinator

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// phase is where a run stands.
type phase uint8

const (
	gathering phase = iota // waiting for workers to attach and become ready
	running                // a plan is out: its steps, then its evaluation
	pausing                // something happened: survivors are coming out of the step in flight
	saving                 // the newest state is being fetched and stored
	over                   // Finish was given
)

var phaseNames = [...]string{"gathering", "running", "pausing", "saving", "over"}

func (p phase) String() string { return phaseNames[p] }

// maxTick is the most that one Tick can move the clock.
const maxTick = time.Second

// member is an attached worker.
type member struct {
	name    string
	stream  uint64
	seen    time.Duration // on the machine's clock
	suspect bool          // gossip says dead, and nothing was heard since
	ready   *Ready
	steps   uint64      // newest committed step reported
	hash    string      // of the state at the window's end
	eval    *EvalReport // of the plan in progress
	traffic *Traffic    // as measured; nil before
	aborted *Aborted
	lost    string // how it was lost; empty while it is alive
	broken  bool   // its stream is gone: nothing can be sent
}

func (w *member) alive() bool { return w.lost == "" }

// Machine is the coordinator's mind. Feed it from one goroutine.
//
// Invariants: there is one plan for each (generation, sequence), both only grow, and every plan hosts each replica exactly once;
// once a run is ending no plan follows; every phase has a deadline, so that ticks alone lead to Finish.
//
// Rejected: deciding in the handlers of the connections under one lock. It is shorter, but its order of decisions is the
// scheduler's, and no test can replay it.
type Machine struct {
	cfg     Config
	phase   phase
	now     time.Duration // sum of ticks
	last    time.Time     // of the newest tick
	since   time.Duration // when the phase began
	members []*member     // sorted by name: also the ring's order
	plan    Plan          // the newest; Sequence 0 before the first
	moved   time.Duration // when progress was last reported
	slowest time.Duration // of all steps reported

	meter   meter
	spans   []StepDone // steps that some worker has yet to report, in order
	eval    *Evaluation
	history []scheduleAt // the schedule's states, by the evaluation that made them

	hash     string // of the state at hashStep, as far as known
	hashStep uint64
	stored   uint64   // step of the newest checkpoint
	path     string   // of the newest checkpoint; empty if there is none
	storing  []uint64 // steps whose states are being written, in order
	ending   ending
	save     save

	out []Action
}

// scheduleAt is the schedule's state from an evaluation on.
type scheduleAt struct {
	step  uint64
	state json.RawMessage
}

// New returns a machine that waits for workers. It takes cfg.Schedule over.
func New(cfg Config) (*Machine, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("coordinator: %w", err)
	}
	cfg.Schedule = cfg.Schedule.clone()
	m := &Machine{cfg: cfg, stored: cfg.FirstStep, path: cfg.Resumed, hashStep: cfg.FirstStep}
	m.history = []scheduleAt{{step: cfg.FirstStep, state: cfg.Schedule.MarshalState()}}
	m.meter.step = cfg.FirstStep
	return m, nil
}

// Step takes one event and returns what is to be done, in order.
func (m *Machine) Step(ev Event) []Action {
	m.out = nil
	if m.phase == over {
		if h, ok := ev.(Hello); ok {
			m.emit(Refuse{h.Stream, h.Worker, RefusedOver, fmt.Sprintf("run %s is over", m.cfg.Run)})
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
	case StateArrived: // a verified state is good even if its sender has died since
		m.onStateArrived(w, ev)
		return
	case StreamBroken:
		w.broken = true
		m.lose(w, "its connection broke: "+ev.Reason)
		return
	case Left:
		w.broken = true
		m.lose(w, "it left: "+ev.Reason)
		return
	case GossipDead:
		w.suspect = true
		return
	}
	if !w.alive() {
		return
	}
	w.seen, w.suspect = m.now, false
	switch ev := ev.(type) {
	case Heartbeat:
	case Ready:
		m.onReady(w, ev)
	case StepReport:
		m.onStepReport(w, ev)
	case EvalReport:
		m.onEvalReport(w, ev)
	case Measured:
		m.onMeasured(w, ev)
	case Aborted:
		m.onAborted(w, ev)
	case StateLost:
		m.onStateLost(w, ev)
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
		if w.alive() {
			m.checkSilence(w)
		}
	}
	switch m.phase {
	case gathering:
		m.checkGathering()
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

// checkSilence loses a worker that has not been heard for too long.
func (m *Machine) checkSilence(w *member) {
	limit, why := m.cfg.DeadAfter, ""
	if m.phase == gathering {
		limit *= 3
	} else if w.suspect {
		limit, why = m.cfg.SuspectAfter, ", and the gossip says it is dead"
	}
	if m.now-w.seen > limit {
		m.lose(w, fmt.Sprintf("no heartbeat for %v%s", limit, why))
	}
}

// Standing is a snapshot of the run for a status query.
type Standing struct {
	Phase           string
	Step, Total     uint64
	Generation      uint64
	Ring            []Member
	Loss            float64
	ImagesPerSecond float64
}

// Standing says where the run is.
func (m *Machine) Standing() Standing {
	return Standing{
		Phase: m.phase.String(), Step: m.meter.step, Total: m.cfg.TotalSteps, Generation: m.plan.Generation,
		Ring: slices.Clone(m.plan.Ring), Loss: m.meter.loss, ImagesPerSecond: m.meter.current(m.cfg.GlobalBatch),
	}
}

func (m *Machine) emit(a Action) { m.out = append(m.out, a) }

// tell reports an event to people.
func (m *Machine) tell(warning bool, format string, args ...any) {
	p := m.progress()
	p.Warning, p.Event = warning, fmt.Sprintf(format, args...)
	m.emit(Report{Progress: p})
}

func (m *Machine) enter(p phase) { m.phase, m.since = p, m.now }

func (m *Machine) find(name string) *member {
	i, ok := m.search(name)
	if !ok {
		return nil
	}
	return m.members[i]
}

func (m *Machine) search(name string) (int, bool) {
	return slices.BinarySearchFunc(m.members, name, func(w *member, name string) int { return strings.Compare(w.name, name) })
}
