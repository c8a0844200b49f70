package worker

import (
	"context"
	"errors"
	"fmt"
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
	// Control is the coordinator.
	Control pb.ControlClient
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
	// JoinTimeout bounds the connecting of a generation's ring: every member is told at once, so seconds are plenty.
	JoinTimeout time.Duration
	// TransferTimeout bounds moving one whole state: the largest network's is 0.5 GB, and a slow link moves 10 MB/s.
	TransferTimeout time.Duration
}

// DefaultConfig has every time set.
func DefaultConfig() Config {
	return Config{
		HeartbeatEvery: time.Second, SilenceTimeout: 10 * time.Second,
		JoinTimeout: 8 * time.Second, TransferTimeout: time.Minute,
	}
}

// Validate reports every fault at once.
func (c *Config) Validate() error {
	var errs []error
	if c.Name == "" || c.Version == "" {
		errs = append(errs, errors.New("worker: a name and a version are needed"))
	}
	if c.Control == nil || c.Build == nil {
		errs = append(errs, errors.New("worker: a coordinator and a way to build the job are needed"))
	}
	if c.HeartbeatEvery <= 0 || c.SilenceTimeout <= c.HeartbeatEvery || c.JoinTimeout <= 0 || c.TransferTimeout <= 0 {
		errs = append(errs, errors.New("worker: times must be positive, and the silence timeout longer than a heartbeat"))
	}
	return errors.Join(errs...)
}

// Worker is one worker's part in a run. Run uses the engine from one goroutine at a time: the one of the window in
// progress, or its own between windows.
type Worker struct {
	cfg Config
	log *slog.Logger

	run       string
	link      *link
	job       *Job
	trainer   *trainer
	committed atomic.Uint64 // steps

	current    Ring // the ring at hand, of generation
	generation uint64
	copied     *snapshot.Snapshot // the copy that checkpoints and hashes are made from
	uploads    sync.WaitGroup     // checkpoints on their way, which read copied
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
	return &Worker{cfg: c, log: log.With("worker", c.Name)}, nil
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

// Run attaches to the coordinator and works until it ends the run (nil, or ErrRunFailed), refuses this worker,
// goes away, or ctx ends. It returns after everything it started has ended.
func (w *Worker) Run(ctx context.Context) error {
	// The stream outlives ctx by a moment, so that the last word still goes out when ctx ends.
	lctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stream, err := w.cfg.Control.Attach(lctx)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrCoordinatorLost, err)
	}
	w.link = newLink(stream, cancel, w.cfg.HeartbeatEvery, w.cfg.SilenceTimeout)
	linkDone := make(chan struct{})
	go func() {
		defer close(linkDone)
		w.link.run(lctx)
	}()
	defer func() {
		cancel()
		<-linkDone
	}()
	defer w.uploads.Wait()
	defer w.closeJob()
	if err := w.introduce(ctx); err != nil {
		return err
	}
	return w.serve(ctx)
}

func (w *Worker) closeJob() {
	w.closeRing()
	w.uploads.Wait()
	if w.job == nil || w.job.Close == nil {
		return
	}
	if err := w.job.Close(); err != nil {
		w.log.Warn("closing", "err", err)
	}
}

// introduce says hello, builds the job, pulls the state and reports ready.
func (w *Worker) introduce(ctx context.Context) error {
	hello := &pb.Hello{Worker: w.cfg.Name, Version: w.cfg.Version, Settings: w.cfg.Settings}
	if err := w.link.send(&pb.WorkerMessage{Body: &pb.WorkerMessage_Hello{Hello: hello}}); err != nil {
		return err
	}
	msg, err := w.link.next(ctx)
	if err != nil {
		return err
	}
	welcome := msg.GetWelcome()
	if welcome == nil {
		return unexpected(msg, "an answer to hello")
	}
	w.run = welcome.Run
	if err := w.build(ctx, welcome.Settings); err != nil {
		w.leave(err.Error())
		return err
	}
	info := w.job.Engine.Info()
	ready := &pb.Ready{
		RingAddress: w.job.RingAddress, DataFingerprint: w.job.Fingerprint, DataSummary: w.job.Summary,
		Numerics: info.Numerics, Engine: info.Name,
	}
	return w.link.send(&pb.WorkerMessage{Body: &pb.WorkerMessage_Ready{Ready: ready}})
}

func (w *Worker) build(ctx context.Context, settings map[string]string) error {
	job, err := w.cfg.Build(ctx, w.run, settings)
	if err != nil {
		return err
	}
	w.job = job
	if err := job.Validate(); err != nil {
		return err
	}
	w.trainer = newTrainer(job, w.cfg.Tracer)
	return w.pullState(ctx)
}

// leave sends the last word; the run is over for this worker whether or not it arrives.
func (w *Worker) leave(reason string) {
	if err := w.link.send(&pb.WorkerMessage{Body: &pb.WorkerMessage_Leave{Leave: &pb.Leave{Reason: reason}}}); err != nil {
		w.log.Debug("leaving", "err", err)
		return
	}
	w.link.hangUp()
}

// serve does what the coordinator says until it says stop.
func (w *Worker) serve(ctx context.Context) error {
	var running *windowRun
	defer func() {
		if running != nil {
			running.stop()
		}
	}()
	for {
		select {
		case <-ctx.Done():
			if running != nil {
				running.stop()
				running = nil
			}
			w.leave("told to stop: " + context.Cause(ctx).Error())
			return ctx.Err()
		case <-running.finished():
			last := running.last
			if err := running.err; err != nil {
				w.log.Info("window ended early", "committed", w.committed.Load(), "err", err)
				last = w.abortedMessage(err)
			}
			running = nil
			if last != nil {
				if err := w.link.send(last); err != nil {
					return err
				}
			}
		case msg, ok := <-w.link.in:
			if !ok {
				return w.link.failure()
			}
			done, err := w.handle(ctx, msg, &running)
			if done || err != nil {
				return err
			}
		}
	}
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
	<-r.done
}

func (w *Worker) handle(ctx context.Context, msg *pb.CoordinatorMessage, running **windowRun) (done bool, err error) {
	switch body := msg.Body.(type) {
	case *pb.CoordinatorMessage_Plan:
		if *running != nil {
			return true, fmt.Errorf("the coordinator sent plan %d/%d while a window is running", body.Plan.Generation, body.Plan.Sequence)
		}
		*running, err = w.begin(ctx, body.Plan)
		return false, err
	case *pb.CoordinatorMessage_Pause:
		var found error // what only this worker may know about the end that is under way
		if *running != nil {
			(*running).stop()
			if errors.As((*running).err, new(*NonFiniteError)) {
				found = (*running).err
			}
			*running = nil
		}
		w.closeRing()
		return false, w.link.send(w.abortedMessage(found))
	case *pb.CoordinatorMessage_SendState:
		if *running != nil {
			return true, errors.New("the coordinator asked for the state while a window is running")
		}
		return false, w.sendState(ctx, body.SendState.Step)
	case *pb.CoordinatorMessage_Stop:
		if body.Stop.Failed {
			return true, fmt.Errorf("%w: %s", ErrRunFailed, body.Stop.Reason)
		}
		return true, nil
	case *pb.CoordinatorMessage_Welcome:
		return true, unexpected(msg, "a plan")
	case *pb.CoordinatorMessage_Refused:
		return true, fmt.Errorf("%w: %s", ErrRefused, body.Refused.Reason)
	}
	return false, nil // heartbeats
}

// begin starts a plan's window.
func (w *Worker) begin(ctx context.Context, p *pb.Plan) (*windowRun, error) {
	pl, err := findPlace(p, w.cfg.Name, w.job.Replicas)
	if err != nil {
		return nil, err
	}
	w.log.Debug("plan", "generation", p.Generation, "sequence", p.Sequence, "rank", pl.rank,
		"replicas", pl.replicas, "first", p.FirstStep, "until", p.UntilStep)
	wctx, cancel := context.WithCancel(ctx)
	r := &windowRun{cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(r.done)
		r.last, r.err = w.window(wctx, p, pl)
		cancel()
	}()
	return r, nil
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
	ctx = context.WithoutCancel(ctx)
	w.uploads.Go(func() { w.upload(ctx, s, s.Step) })
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
