package simulate

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/lockstep-ml/lockstep/coordinator"
)

const (
	// tickEvery and heartbeatEvery are those of the coordinator's server and of workers.
	tickEvery      = 200 * time.Millisecond
	heartbeatEvery = time.Second
	// retryEvery is how often a worker looks for a coordinator that is not there, or has refused it.
	retryEvery = time.Second
	// hopTimeout is allreduce's: when workers give a ring up by themselves whose member says nothing.
	hopTimeout = 8 * time.Second
	// memberBytes is a member's share of a plan on the wire: name, two addresses, and what stands between.
	memberBytes = 64
	// hostBytes is a replica's.
	hostBytes = 2
)

// sim is a run under way. Everything happens in one goroutine, in the queue's order.
type sim struct {
	cfg   Config
	model Model
	rng   *rand.Rand
	queue queue
	now   time.Duration

	machine *coordinator.Machine // nil while the coordinator is away
	epoch   uint64
	journal []coordinator.Entry
	wire    time.Duration // when what the coordinator has sent so far is out
	synced  time.Duration // when what is being carried out is safe in the journal
	finish  *coordinator.Finish

	workers []*worker // by name
	byName  map[string]*worker
	ring    *ring // of the newest plan that has reached the workers
	streams uint64

	acc account
}

// Run simulates until the run ends or the time is up. Errors are faults of the configuration, of the machine, or ctx's.
func Run(ctx context.Context, cfg Config) (*Result, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	s := &sim{cfg: cfg, model: cfg.Model, rng: rand.New(rand.NewPCG(cfg.Seed, 0x10c5)), byName: map[string]*worker{}}
	if err := s.startCoordinator(); err != nil {
		return nil, err
	}
	s.hire()
	s.queue.add(tickEvery, s.tick)
	s.queue.add(heartbeatEvery, s.heartbeats)
	if err := s.loop(ctx); err != nil {
		return nil, err
	}
	return s.result(), nil
}

// maxIdle is how long in virtual time a run may take to its first step: beyond it something is wrong with the configuration.
const maxIdle = 24 * time.Hour

func (s *sim) loop(ctx context.Context) error {
	for n := 0; s.finish == nil; n++ {
		if n%1000 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		it, ok := s.queue.next()
		if !ok {
			return errors.New("simulate: nothing is left to happen, and the run is not over")
		}
		if !s.acc.begun && it.at > maxIdle {
			return fmt.Errorf("simulate: no step was begun in %v", maxIdle)
		}
		if s.acc.begun && it.at > s.acc.began+s.cfg.For {
			s.now = s.acc.began + s.cfg.For
			break
		}
		s.now = it.at
		it.do()
	}
	if s.finish != nil && s.finish.Err != nil {
		return fmt.Errorf("simulate: the run ended after %v: %w", s.now, s.finish.Err)
	}
	return nil
}

// after has something happen later.
func (s *sim) after(d time.Duration, do func()) { s.queue.add(s.now+max(0, d), do) }

// chance draws when something happens next that happens every mean.
func (s *sim) chance(mean time.Duration) time.Duration {
	return time.Duration(s.rng.ExpFloat64() * float64(mean))
}

// startCoordinator makes a machine of what is in the journal.
func (s *sim) startCoordinator() error {
	s.epoch++
	cfg, err := s.cfg.machine(s.epoch)
	if err != nil {
		return err
	}
	m, err := coordinator.New(cfg)
	if err != nil {
		return err
	}
	if len(s.journal) > 0 {
		if err := m.Restore(s.journal); err != nil {
			return err
		}
	}
	s.machine = m
	if s.cfg.CoordinatorMTBF > 0 {
		s.after(s.chance(s.cfg.CoordinatorMTBF), s.loseCoordinator)
	}
	return nil
}

// loseCoordinator kills it; another one comes, and the workers find it one by one within a second.
func (s *sim) loseCoordinator() {
	s.machine = nil
	s.acc.coordinators++
	s.acc.coordinatorGone(s.now)
	s.after(s.cfg.CoordinatorBack, func() {
		if err := s.startCoordinator(); err != nil {
			panic(fmt.Sprintf("simulate: the machine refuses its own journal: %v", err))
		}
		for _, w := range s.workers {
			if w.up {
				w.attached = false
				w.seek(time.Duration(s.rng.Float64() * float64(retryEvery)))
			}
		}
	})
}

func (s *sim) tick() {
	s.feed(coordinator.Tick{Now: epochStart.Add(s.now)})
	s.after(tickEvery, s.tick)
}

// epochStart is when virtual time begins; any time would do.
var epochStart = time.Unix(1e9, 0)

// heartbeats lets every worker that has said nothing for a second say that it lives.
func (s *sim) heartbeats() {
	for _, w := range s.workers {
		if w.up && w.attached && s.now-w.heard >= heartbeatEvery {
			w.say(coordinator.Heartbeat{Worker: w.name})
		}
	}
	s.after(heartbeatEvery, s.heartbeats)
}

// feed tells the machine, and carries out what it wants. Nothing of that has an effect before this is over.
func (s *sim) feed(ev coordinator.Event) {
	if s.machine == nil || s.finish != nil {
		return
	}
	s.acc.events++
	var o orders
	s.synced = s.now
	for _, a := range s.machine.Step(ev) {
		s.carryOut(a, &o)
	}
	if len(o.paused) > 0 {
		s.acc.noticed(s.now)
		s.send(0, func() { s.pause(o.paused) })
	}
	if o.yield != nil {
		y := *o.yield
		s.send(0, func() { s.yield(y) })
	}
}

// orders are what one event led to that goes to many workers alike.
type orders struct {
	paused map[string]bool
	yield  *coordinator.Yield
}

func (s *sim) carryOut(a coordinator.Action, o *orders) {
	switch a := a.(type) {
	case coordinator.Record:
		s.journal = append(s.journal, a.Entry)
		s.synced += s.cfg.Sync
	case coordinator.Publish:
		s.publish(a.Plan)
	case coordinator.Pause:
		if o.paused == nil {
			o.paused = map[string]bool{}
		}
		o.paused[a.Worker] = true
	case coordinator.Yield:
		o.yield = &a
	case coordinator.Welcome:
		s.deliver(a.Worker, func(w *worker) { w.welcomed(a) })
	case coordinator.Refuse:
		s.deliver(a.Worker, func(w *worker) { w.refused() })
	case coordinator.Removed:
		s.deliver(a.Worker, func(w *worker) { w.removed() })
	case coordinator.Stop:
		s.deliver(a.Worker, func(w *worker) { w.dismissed() })
	case coordinator.Report:
		if e := a.Progress.Event; e != "" && s.cfg.Log != nil {
			s.cfg.Log(s.now, e)
		}
	case coordinator.Finish:
		s.finish = &a
	}
}

// send has something arrive at workers behind all that the coordinator has sent before; it weighs so many bytes.
func (s *sim) send(bytes float64, do func()) {
	s.wire = max(s.wire, s.synced) + seconds(bytes/s.model.BytesPerSecond)
	s.acc.control += bytes
	s.queue.add(s.wire+s.model.Hop, do)
}

// deliver sends something to a worker, if it is still the same process by then.
func (s *sim) deliver(name string, do func(*worker)) {
	w := s.byName[name]
	life := w.life
	s.send(0, func() {
		if w.up && w.life == life {
			do(w)
		}
	})
}

// publish sends a plan: to each of its members a copy, one after another.
func (s *sim) publish(p coordinator.Plan) {
	bytes := float64(len(p.Ring) * (memberBytes*len(p.Ring) + hostBytes*len(p.ReplicaHost)))
	s.send(bytes, func() { s.begin(p) })
}
