package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	pb "github.com/lockstep-ml/lockstep/internal/proto/lockstep/v1"
	"github.com/lockstep-ml/lockstep/internal/snapshot"
)

// Config is how a worker finds its place.
type Config struct {
	// Name tells this worker from the others; unique in the run.
	Name string
	// Version of the binary; the coordinator refuses another than its own.
	Version string
	// Settings given by hand, flag name to value, to be compared with the run's.
	Settings map[string]string
	// Dial connects to the coordinator, wherever it is at that moment. The connection is the worker's to close.
	Dial func(ctx context.Context) (pb.ControlClient, io.Closer, error)
	// Build makes the job from the run's settings. It may take long: heartbeats go on meanwhile.
	Build func(ctx context.Context, run string, settings map[string]string) (*Job, error)

	// Tracer records spans; nil records none.
	Tracer trace.Tracer
	// StepContext puts a step's trace, the same on every worker, into ctx; nil leaves ctx alone.
	StepContext func(ctx context.Context, run string, step uint64) context.Context
	// Log gets what an operator may want to know; nil discards it.
	Log *slog.Logger

	// HeartbeatEvery must be well below the coordinator's patience (4 s).
	HeartbeatEvery time.Duration
	// SilenceTimeout is how long the coordinator may be silent. Longer than its own heartbeat (1 s) by enough
	// to ride out a machine's hiccup, shorter than an operator's patience.
	SilenceTimeout time.Duration
	// CoordinatorPatience is how long a worker does without a coordinator, holding its state, before it gives up: as long as an
	// operator may need to notice and to start another one.
	CoordinatorPatience time.Duration
	// LeaveTimeout bounds the wait for the coordinator to let a worker go that was told to stop.
	LeaveTimeout time.Duration
	// Abandon, once closed, ends a worker at once that is leaving in order; nil never does.
	Abandon <-chan struct{}
	// ChunkTimeout bounds the wait for the next chunk of a state from another worker.
	ChunkTimeout time.Duration
	// Faults is for tests; nil in every real run.
	Faults *Faults
	// JoinTimeout bounds the connecting of a generation's ring: every member is told at once, so seconds are plenty.
	JoinTimeout time.Duration
	// TransferTimeout bounds moving one whole state: the largest network's is 0.5 GB, and a slow link moves 10 MB/s.
	TransferTimeout time.Duration
}

// DefaultConfig has every time set.
func DefaultConfig() Config {
	return Config{
		HeartbeatEvery: time.Second, SilenceTimeout: 10 * time.Second,
		JoinTimeout: 8 * time.Second, TransferTimeout: time.Minute, ChunkTimeout: 3 * time.Second,
		CoordinatorPatience: 15 * time.Minute, LeaveTimeout: 30 * time.Second,
	}
}

// Validate reports every fault at once.
func (c *Config) Validate() error {
	var errs []error
	if c.Name == "" || c.Version == "" {
		errs = append(errs, errors.New("worker: a name and a version are needed"))
	}
	if c.Dial == nil || c.Build == nil {
		errs = append(errs, errors.New("worker: a coordinator and a way to build the job are needed"))
	}
	if c.HeartbeatEvery <= 0 || c.SilenceTimeout <= c.HeartbeatEvery || c.JoinTimeout <= 0 || c.TransferTimeout <= 0 ||
		c.CoordinatorPatience <= 0 || c.LeaveTimeout <= 0 || c.ChunkTimeout <= 0 {
		errs = append(errs, errors.New("worker: times must be positive, and the silence timeout longer than a heartbeat"))
	}
	return errors.Join(errs...)
}

// Worker is one worker's part in a run. Run uses the engine from one goroutine at a time: the one of the window in
// progress, or its own between windows.
type Worker struct {
	cfg Config
	log *slog.Logger

	run     string
	epoch   uint64 // newest coordinator's
	link    *link
	out     *outbox
	control pb.ControlClient // of the newest connection; guarded by mu, for uploads look at it too
	mu      sync.Mutex

	job     *Job
	trainer *trainer
	plan    *pb.Plan   // newest; nil before the first and for a newcomer
	running *windowRun // nil between windows
	leaving bool       // has asked to be left out

	committed atomic.Uint64            // steps
	behind    atomic.Bool              // the state of committed is not at hand, see follower
	yield     atomic.Pointer[pb.Yield] // newest heard of
	following *follower                // nil unless behind
	kept      keptStates

	current    Ring // the ring at hand, of generation
	generation uint64
	copied     *snapshot.Snapshot // the copy that checkpoints and hashes are made from
	scratch    *snapshot.Snapshot // likewise, for hashes when no more states are kept
	unhashed   *snapshot.Snapshot // copied, to be hashed once its step is reported; nil without any
	uploads    sync.WaitGroup     // checkpoints on their way, which read copied
	hashing    sync.WaitGroup     // of a state that was copied
}

// New makes a worker; it starts nothing.
func New(c Config) (*Worker, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if c.Tracer == nil {
		c.Tracer = noop.NewTracerProvider().Tracer("")
	}
	if c.StepContext == nil {
		c.StepContext = func(ctx context.Context, _ string, _ uint64) context.Context { return ctx }
	}
	log := c.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Worker{cfg: c, log: log.With("worker", c.Name), out: newOutbox()}, nil
}

// Errors that end a worker.
var (
	// ErrRefused is wrapped when the coordinator would not have this worker.
	ErrRefused = errors.New("refused by the coordinator")
	// ErrRunFailed is wrapped when the coordinator ended the run for a failure, here or elsewhere.
	ErrRunFailed = errors.New("the run ended")
	// ErrCoordinatorLost is wrapped when the coordinator went away.
	ErrCoordinatorLost = errors.New("coordinator lost")
)

// Run attaches to the coordinator and works until it ends the run (nil, or ErrRunFailed), refuses this worker, or stays away for longer than
// CoordinatorPatience. When ctx ends, the worker asks to be left out of the ring, works on until it is, and returns nil. It
// returns after everything it started has ended.
func (w *Worker) Run(ctx context.Context) error {
	//bounded: the deferred cancel, when Run returns
	work, cancel := context.WithCancel(context.WithoutCancel(ctx)) // outlives ctx, for a worker that leaves in order
	defer cancel()
	defer w.uploads.Wait() //bounded: each upload has TransferTimeout
	defer w.closeJob()
	defer w.standAside()
	for {
		again, err := w.attached(ctx, work)
		if !again {
			return err
		}
		w.log.Warn("attaching again", "err", err)
	}
}

// attached is one connection to the coordinator, from hello to its end; again says that another should follow.
func (w *Worker) attached(ctx, work context.Context) (again bool, err error) {
	c, welcome, err := w.attach(ctx)
	if err != nil {
		return false, err
	}
	defer c.close()
	if err := w.enter(ctx, welcome); err != nil {
		return false, err
	}
	err = w.serve(ctx, work)
	var out *removedError
	if errors.As(err, &out) {
		w.standAside()
		return !out.forGood && ctx.Err() == nil, err
	}
	return errors.Is(err, ErrCoordinatorLost) && ctx.Err() == nil, err
}

// removedError says that the coordinator has taken this worker out.
type removedError struct {
	reason  string
	forGood bool
}

func (e *removedError) Error() string { return "removed from the run: " + e.reason }

func (w *Worker) closeJob() {
	w.closeRing()
	w.uploads.Wait() //bounded: each upload has TransferTimeout
	if w.job == nil || w.job.Close == nil {
		return
	}
	if err := w.job.Close(); err != nil {
		w.log.Warn("closing", "err", err)
	}
}

// leave sends the last word; the run is over for this worker whether or not it arrives.
func (w *Worker) leave(reason string) {
	w.out.put(&pb.WorkerMessage{Body: &pb.WorkerMessage_Leave{Leave: &pb.Leave{Reason: reason}}})
	w.link.hangUp()
}

// serve does what the coordinator says until it says stop, the connection breaks, or this worker is to end.
func (w *Worker) serve(ctx, work context.Context) error {
	told := ctx.Done()
	var late <-chan time.Time
	for {
		select {
		case <-told:
			told = nil
			timer := time.NewTimer(w.cfg.LeaveTimeout)
			defer timer.Stop()
			late = timer.C
			w.leaving = true
			w.out.put(&pb.WorkerMessage{Body: &pb.WorkerMessage_Leaving{Leaving: &pb.Leaving{Reason: "told to stop: " + context.Cause(ctx).Error()}}})
		case <-late:
			w.standAside()
			w.leave(fmt.Sprintf("told to stop, and not let go within %v", w.cfg.LeaveTimeout))
			return ctx.Err()
		case <-w.cfg.Abandon:
			w.standAside()
			w.leave("told to stop at once")
			return ctx.Err()
		case <-w.running.finished():
			w.windowEnded()
		case msg, ok := <-w.link.in:
			if !ok {
				return w.link.failure()
			}
			done, err := w.handle(work, msg)
			if done || err != nil {
				return err
			}
		}
	}
}

// windowEnded reports what the window came to.
func (w *Worker) windowEnded() {
	last := w.running.last
	if err := w.running.err; err != nil {
		w.log.Info("window ended early", "committed", w.committed.Load(), "err", err)
		w.closeRing() // so that the neighbours notice
		last = w.abortedMessage(err)
	}
	w.running = nil
	w.report(last)
}

// windowRun is a window in progress, in a goroutine of its own.
type windowRun struct {
	cancel context.CancelFunc
	done   chan struct{}
	// What the window came to, valid once done is closed.
	last *pb.WorkerMessage // the report still to be sent; nil for none
	err  error
}

// finished is closed when the window is; nil, which blocks for ever, for none.
func (r *windowRun) finished() <-chan struct{} {
	if r == nil {
		return nil
	}
	return r.done
}

// stop breaks the window off and waits for it. A replica's pass cannot be interrupted, so this may take as long as one.
func (r *windowRun) stop() {
	r.cancel()
	<-r.done //bounded: a pass cannot be broken off; the ring's waits end with the context
}

func (w *Worker) handle(ctx context.Context, msg *pb.CoordinatorMessage) (done bool, err error) {
	switch body := msg.Body.(type) {
	case *pb.CoordinatorMessage_Plan:
		return w.begin(ctx, body.Plan)
	case *pb.CoordinatorMessage_Pause:
		var found error // what only this worker may know about the end that is under way
		if w.running != nil {
			w.running.stop()
			if errors.As(w.running.err, new(*NonFiniteError)) {
				found = w.running.err
			}
			w.running = nil
		}
		w.closeRing()
		w.report(w.abortedMessage(found))
	case *pb.CoordinatorMessage_Yield:
		w.yield.Store(body.Yield)
	case *pb.CoordinatorMessage_Verified:
		w.kept.agree(body.Verified.Step)
	case *pb.CoordinatorMessage_SendState:
		if w.running != nil {
			return true, errors.New("the coordinator asked for the state while a window is running")
		}
		return false, w.sendState(ctx, body.SendState.Step)
	case *pb.CoordinatorMessage_Stop:
		if body.Stop.Failed {
			return true, fmt.Errorf("%w: %s", ErrRunFailed, body.Stop.Reason)
		}
		return true, nil
	case *pb.CoordinatorMessage_Removed:
		if w.leaving {
			return true, nil
		}
		return true, &removedError{reason: body.Removed.Reason, forGood: body.Removed.ForGood}
	case *pb.CoordinatorMessage_Welcome:
		return true, unexpected(msg, "a plan")
	case *pb.CoordinatorMessage_Refused:
		return true, fmt.Errorf("%w: %s", ErrRefused, body.Refused.Reason)
	}
	return false, nil // heartbeats
}

// begin starts a plan's window.
func (w *Worker) begin(ctx context.Context, p *pb.Plan) (done bool, err error) {
	if p.Epoch < w.epoch {
		w.log.Warn("a plan of an earlier coordinator", "epoch", p.Epoch, "newest", w.epoch)
		return false, nil
	}
	if w.running != nil {
		return true, fmt.Errorf("the coordinator sent plan %d/%d while a window is running", p.Generation, p.Sequence)
	}
	pl, err := findPlace(p, w.cfg.Name, w.job.Replicas)
	if err != nil {
		return true, err
	}
	w.log.Debug("plan", "generation", p.Generation, "sequence", p.Sequence, "rank", pl.rank,
		"replicas", pl.replicas, "first", p.FirstStep, "until", p.UntilStep)
	w.plan = p
	w.out.settle()
	wctx, cancel := context.WithCancel(ctx)
	r := &windowRun{cancel: cancel, done: make(chan struct{})}
	w.running = r
	go func() {
		defer close(r.done)
		r.last, r.err = w.window(wctx, p, pl)
		cancel()
	}()
	return false, nil
}

// sendState uploads the committed state beside whatever comes next.
func (w *Worker) sendState(ctx context.Context, step uint64) error {
	if have := w.committed.Load(); have != step {
		w.log.Warn("asked for a state that is not at hand", "asked", step, "have", have)
	}
	s, err := w.snapshot()
	if err != nil {
		return err
	}
	ctx = context.WithoutCancel(ctx) //bounded: upload gives it TransferTimeout
	control := w.client()
	w.uploads.Go(func() { w.upload(ctx, control, s, s.Step) })
	return nil
}

func unexpected(msg *pb.CoordinatorMessage, want string) error {
	if r := msg.GetRefused(); r != nil {
		return fmt.Errorf("%w: %s", ErrRefused, r.Reason)
	}
	if s := msg.GetStop(); s != nil {
		return fmt.Errorf("%w: %s", ErrRunFailed, s.Reason)
	}
	return fmt.Errorf("the coordinator sent %T where %s was due", msg.Body, want)
}
