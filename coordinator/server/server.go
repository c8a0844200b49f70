package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"github.com/lockstep-ml/lockstep/coordinator"
	"github.com/lockstep-ml/lockstep/internal/gossip"
	pb "github.com/lockstep-ml/lockstep/internal/proto/lockstep/v1"
	"github.com/lockstep-ml/lockstep/internal/snapshot"
)

const (
	// tickEvery is how finely the machine sees time. Every deadline is late by up to this; more often only costs wake-ups.
	tickEvery = 200 * time.Millisecond
	// heartbeatEvery is the pace of the coordinator's own heartbeats to workers.
	heartbeatEvery = time.Second
	// stateBytesPerSecond is the slowest link and disk that SaveTimeout allows for: half of a gigabit link.
	stateBytesPerSecond = 50e6
	// maxMessage bounds a message: a chunk of state and its frame, and no more.
	maxMessage = snapshot.ChunkBytes + 64<<10
	// maxStates bounds the states in memory that wait to be written: one is being written, one arrives.
	maxStates = 2
	// eventQueue lets handlers go on while the machine is busy with one event.
	eventQueue = 64
)

// Server runs one training job. Use New.
type Server struct {
	pb.UnimplementedControlServer

	cfg     Config
	machine *coordinator.Machine
	grpc    *grpc.Server
	log     *slog.Logger

	events    chan coordinator.Event
	jobs      chan job
	states    chan struct{}       // one token for each state in memory
	done      chan struct{}       // closed when the run is over: nobody waits for the machine any more
	follow    []coordinator.Event // what carrying an action out gave rise to; the machine's goroutine owns it
	handlers  sync.WaitGroup
	started   atomic.Bool
	standing  atomic.Pointer[coordinator.Standing]
	base      atomic.Pointer[snapshot.Snapshot] // the state that training starts from, now
	failed    error                             // why the journal or a checkpoint could not be had; the machine's goroutine owns it
	published atomic.Uint64                     // generation of the newest plan

	mu       sync.Mutex
	lastID   uint64
	sessions map[uint64]*session
	byName   map[string]*session
	pending  map[stateKey]*arrived
}

// Result is what a run came to.
type Result = coordinator.Result

// New checks cfg and prepares a server. Nothing runs before Run.
func New(cfg Config) (*Server, error) {
	if cfg.Initial != nil {
		cfg.Machine.SaveTimeout += time.Duration(float64(cfg.Initial.Bytes()) / stateBytesPerSecond * float64(time.Second))
	}
	cfg.Machine.NoStore = cfg.Machine.NoStore || cfg.Store == nil
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("coordinator server: %w", err)
	}
	machine, err := coordinator.New(cfg.Machine)
	if err != nil {
		return nil, err
	}
	if len(cfg.History) > 0 {
		if err := machine.Restore(cfg.History); err != nil {
			return nil, err
		}
	}
	s := &Server{
		cfg: cfg, machine: machine, log: cfg.Log,
		events: make(chan coordinator.Event, eventQueue), jobs: make(chan job, maxStates),
		states: make(chan struct{}, maxStates), done: make(chan struct{}),
		sessions: make(map[uint64]*session), byName: make(map[string]*session), pending: make(map[stateKey]*arrived),
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.base.Store(cfg.Initial)
	s.keepStanding()
	s.grpc = grpc.NewServer(options(cfg)...)
	pb.RegisterControlServer(s.grpc, s)
	return s, nil
}

func options(cfg Config) []grpc.ServerOption {
	creds := insecure.NewCredentials()
	if cfg.TLS != nil {
		creds = credentials.NewTLS(cfg.TLS)
	}
	return []grpc.ServerOption{
		grpc.Creds(creds),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxSendMsgSize(math.MaxInt32), // our own messages: a plan with a rate for every step of a long warm-up may be large
		grpc.MaxConcurrentStreams(64),
		grpc.InitialWindowSize(4 << 20),
		grpc.InitialConnWindowSize(8 << 20),
		grpc.ConnectionTimeout(cfg.HelloTimeout),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 5 * time.Second, Timeout: 4 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 500 * time.Millisecond, PermitWithoutStream: true}),
		grpc.WaitForHandlers(true),
	}
}

// Addr is where workers attach.
func (s *Server) Addr() net.Addr { return s.cfg.Listener.Addr() }

// Interrupt asks Run to end in good order: the newest committed state is stored and Run returns *coordinator.InterruptedError. It
// does not wait, and may be called at any time and repeatedly. reason is for people: "interrupted".
func (s *Server) Interrupt(reason string) { s.post(coordinator.Interrupt{Reason: reason}) }

// Close gives the listener back when Run was never called; after Run it does nothing.
func (s *Server) Close() error {
	if !s.started.CompareAndSwap(false, true) {
		return nil
	}
	close(s.done)
	s.grpc.Stop()
	if err := s.cfg.Listener.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("coordinator server: %w", err)
	}
	return nil
}

// Run serves until the run is over and every worker was told so, and says what it came to. The error is one of package
// coordinator's types, or ctx's when that ended first: then workers are cut off without a word and nothing more is stored.
func (s *Server) Run(ctx context.Context) (Result, error) {
	if !s.started.CompareAndSwap(false, true) {
		return Result{}, errors.New("coordinator server: Run may be called once")
	}
	served := make(chan error, 1)
	go func() { served <- s.grpc.Serve(s.cfg.Listener) }()                //bounded: shutdown ends it when the loop is over
	storeCtx, stopStore := context.WithCancel(context.WithoutCancel(ctx)) //bounded: stopStore, once the loop is over; each write has StoreTimeout
	stored := make(chan struct{})
	go func() { defer close(stored); s.storeStates(storeCtx) }()

	result, err := s.loop(ctx, served)

	close(s.done)
	stopStore()
	s.shutdown(ctx)
	s.handlers.Wait() //bounded: shutdown has ended every connection
	select {
	case <-stored:
	case <-time.After(s.cfg.StopTimeout):
		// A disk that neither writes nor fails cannot be waited for: its goroutine ends with the process.
		s.log.Error("the checkpoint store does not return; leaving it behind")
	}
	return s.complete(result), err
}

// complete fills in what only the shell knows.
func (s *Server) complete(r Result) Result {
	if r.Hash == "" && r.Step == s.cfg.Initial.Step {
		r.Hash = s.cfg.Initial.Hash()
	}
	return r
}

// loop feeds the machine until it finishes.
func (s *Server) loop(ctx context.Context, served <-chan error) (Result, error) {
	ticker := time.NewTicker(tickEvery)
	defer ticker.Stop()
	gossiped := s.cfg.Gossip
	s.feed(ctx, coordinator.Tick{Now: s.clock(time.Now())})
	for {
		var ev coordinator.Event
		select {
		case now := <-ticker.C:
			ev = coordinator.Tick{Now: s.clock(now)}
		case ev = <-s.events:
		case g, ok := <-gossiped:
			if !ok {
				gossiped = nil
			}
			if g.Kind != gossip.Dead {
				continue
			}
			ev = coordinator.GossipDead{Worker: g.Name}
		case err := <-served:
			return Result{}, fmt.Errorf("coordinator server at %v: %w", s.Addr(), err)
		case <-ctx.Done():
			return Result{}, fmt.Errorf("coordinator server: %w", context.Cause(ctx))
		}
		if fin := s.feed(ctx, ev); fin != nil {
			return fin.Result, fin.Err
		}
	}
}

// clock is what the machine is told to be the time.
func (s *Server) clock(now time.Time) time.Time {
	if s.cfg.Offset == nil {
		return now
	}
	return now.Round(0).Add(s.cfg.Offset()) // without the monotonic reading, which no jump would show in
}

// post hands an event to the machine, unless the run is over.
func (s *Server) post(ev coordinator.Event) {
	select { //bounded: s.done is closed when the run is over
	case s.events <- ev:
	case <-s.done:
	}
}

// feed takes one event through the machine and carries the actions out.
func (s *Server) feed(ctx context.Context, ev coordinator.Event) *coordinator.Finish {
	var fin *coordinator.Finish
	s.follow = append(s.follow, ev)
	for len(s.follow) > 0 {
		next := s.follow[0]
		s.overhear(next)
		s.follow = s.follow[1:]
		for _, action := range s.machine.Step(next) {
			if f, ok := action.(coordinator.Finish); ok {
				fin = &f
				continue
			}
			s.carryOut(ctx, action)
			if s.failed != nil { // what follows from it must not be done
				return &coordinator.Finish{Err: s.failed}
			}
		}
	}
	s.keepStanding()
	return fin
}

// overhear tells whoever keeps books what the machine has no use for.
func (s *Server) overhear(ev coordinator.Event) {
	var skipped []coordinator.Skipped
	switch r := ev.(type) {
	case coordinator.StepReport:
		if s.cfg.StepReported != nil {
			s.cfg.StepReported(r)
		}
		skipped = r.Skipped
	case coordinator.EvalReport:
		skipped = r.Skipped
	}
	if len(skipped) > 0 && s.cfg.Skipped != nil {
		s.cfg.Skipped(skipped)
	}
}

func (s *Server) keepStanding() {
	st := s.machine.Standing()
	s.standing.Store(&st)
}

func (s *Server) carryOut(ctx context.Context, action coordinator.Action) {
	switch a := action.(type) {
	case coordinator.Welcome:
		s.welcome(a)
	case coordinator.Refuse:
		s.refuse(a)
	case coordinator.Publish:
		s.publish(a.Plan)
	case coordinator.Pause:
		s.send(a.Worker, &pb.CoordinatorMessage{Body: &pb.CoordinatorMessage_Pause{Pause: &pb.Pause{Reason: a.Reason}}})
	case coordinator.SendState:
		s.send(a.Worker, &pb.CoordinatorMessage{Body: &pb.CoordinatorMessage_SendState{SendState: &pb.SendState{Step: a.Step}}})
	case coordinator.Yield:
		s.send(a.Worker, &pb.CoordinatorMessage{Body: &pb.CoordinatorMessage_Yield{Yield: &pb.Yield{Generation: a.Generation, Sequence: a.Sequence}}})
	case coordinator.Verified:
		s.send(a.Worker, &pb.CoordinatorMessage{Body: &pb.CoordinatorMessage_Verified{Verified: &pb.Verified{Step: a.Step}}})
	case coordinator.Removed:
		s.remove(a)
	case coordinator.Record:
		s.failed = s.record(ctx, a.Entry)
	case coordinator.Load:
		s.failed = s.load(ctx, a)
	case coordinator.Drop:
		s.failed = s.drop(a)
	case coordinator.Stop:
		s.stop(a)
	case coordinator.Store:
		s.store(a)
	case coordinator.Discard:
		s.discard(a)
	case coordinator.Report:
		s.report(a)
	case coordinator.StepDone:
		if s.cfg.StepObserver != nil {
			s.cfg.StepObserver(a)
		}
	default:
		panic(fmt.Sprintf("coordinator server: action %T is unknown", action))
	}
}

func (s *Server) report(r coordinator.Report) {
	if r.Evaluation != nil {
		if s.cfg.Evaluated != nil {
			s.cfg.Evaluated(*r.Evaluation)
		}
		return
	}
	if r.Progress.Event != "" {
		level := slog.LevelInfo
		if r.Progress.Warning {
			level = slog.LevelWarn
		}
		s.log.Log(context.Background(), level, r.Progress.Event, "step", r.Progress.Step)
	}
	if s.cfg.Progress != nil {
		s.cfg.Progress(r.Progress)
	}
}

// shutdown lets handlers deliver what is in their outboxes, within StopTimeout, and then cuts what is left.
func (s *Server) shutdown(ctx context.Context) {
	if ctx.Err() == nil {
		quiet := make(chan struct{})
		go func() { defer close(quiet); s.grpc.GracefulStop() }() //bounded: Stop cuts it off after StopTimeout
		select {
		case <-quiet:
		case <-ctx.Done():
		case <-time.After(s.cfg.StopTimeout):
		}
	}
	s.grpc.Stop()
}

// position is the place in the data after that many steps.
func (s *Server) position(step uint64) Position {
	perEpoch := uint64(math.Round(s.cfg.Machine.StepsPerEpoch * float64(s.cfg.Machine.GlobalBatch)))
	images := step * uint64(s.cfg.Machine.GlobalBatch)
	return Position{Step: step, Epoch: images / max(perEpoch, 1), Image: images % max(perEpoch, 1)}
}

func (s *Server) meta(a coordinator.Store) Meta {
	return Meta{Run: s.cfg.Machine.Run, Hash: a.Hash, Schedule: json.RawMessage(a.Schedule), Data: s.position(a.Step)}
}
