package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	pb "github.com/lockstep-ml/lockstep/internal/proto/lockstep/v1"
)

// Bounds of the wait between two tries to reach the coordinator.
const (
	firstRetry = 100 * time.Millisecond
	lastRetry  = time.Second
)

// errRefusedAgain is a refusal of a worker that was welcome before. The coordinator may not have seen the end of its old connection yet.
var errRefusedAgain = errors.New("refused on coming back")

// refusedPatience is how long a worker that comes back takes a refusal for such a misunderstanding.
const refusedPatience = 15 * time.Second

// connection is an attachment and what ends it.
type connection struct {
	closer io.Closer
	cancel context.CancelFunc
	done   chan struct{} // closed when link.run has returned
}

func (c *connection) close() {
	c.cancel()
	<-c.done         //bounded: link.run ends with the stream, cancelled above
	c.closer.Close() // nothing is lost by it
}

// attach connects to the coordinator, wherever it is now, and says hello. A worker that was welcome before keeps trying for
// CoordinatorPatience; a new one gives up with the first failure.
func (w *Worker) attach(ctx context.Context) (*connection, *pb.Welcome, error) {
	begun := time.Now()
	for pause := firstRetry; ; pause = min(2*pause, lastRetry) {
		c, welcome, err := w.tryAttach(ctx)
		waited := time.Since(begun)
		switch {
		case err == nil:
			return c, welcome, nil
		case ctx.Err() != nil:
			return nil, nil, ctx.Err()
		case w.job == nil, errors.Is(err, ErrRefused), errors.Is(err, errRefusedAgain) && waited > refusedPatience:
			return nil, nil, err
		case waited > w.cfg.CoordinatorPatience:
			return nil, nil, fmt.Errorf("run %s, generation %d, step %d: no coordinator for %v: %w",
				w.run, w.plan.GetGeneration(), w.committed.Load(), w.cfg.CoordinatorPatience, err)
		}
		w.log.Info("looking for the coordinator", "for", waited.Round(time.Millisecond), "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// tryAttach tries once.
func (w *Worker) tryAttach(ctx context.Context) (*connection, *pb.Welcome, error) {
	dctx, cancelDial := context.WithTimeout(ctx, w.cfg.SilenceTimeout)
	defer cancelDial()
	client, closer, err := w.cfg.Dial(dctx)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrCoordinatorLost, err)
	}
	// The stream outlives ctx by a moment, so that the last word still goes out when ctx ends.
	lctx, cancel := context.WithCancel(context.WithoutCancel(ctx)) //bounded: the connection's close, in attached; before the welcome, the bound two lines down
	bound := context.AfterFunc(dctx, cancel)
	defer bound()
	stream, err := client.Attach(lctx) //bounded: bound cancels it
	if err != nil {
		cancel()
		return nil, nil, fmt.Errorf("%w: %w", ErrCoordinatorLost, errors.Join(err, closer.Close()))
	}
	w.out.shut()
	w.link = newLink(stream, cancel, w.out, w.cfg.HeartbeatEvery, w.cfg.SilenceTimeout)
	c := &connection{closer: closer, cancel: cancel, done: make(chan struct{})}
	welcome, err := w.hello(dctx, stream, c, lctx)
	if err != nil {
		c.close()
		return nil, nil, err
	}
	w.mu.Lock()
	w.control = client
	w.mu.Unlock()
	return c, welcome, nil
}

// hello introduces this worker and reads the answer.
func (w *Worker) hello(ctx context.Context, stream pb.Control_AttachClient, c *connection, lctx context.Context) (*pb.Welcome, error) {
	hello := &pb.Hello{Worker: w.cfg.Name, Version: w.cfg.Version, Settings: w.cfg.Settings, Standing: w.standing()}
	sendErr := stream.Send(&pb.WorkerMessage{Body: &pb.WorkerMessage_Hello{Hello: hello}}) //bounded: bound, in tryAttach, cancels it
	go func() {
		defer close(c.done)
		w.link.run(lctx)
	}()
	if sendErr != nil && !errors.Is(sendErr, io.EOF) {
		return nil, fmt.Errorf("%w: %w", ErrCoordinatorLost, sendErr)
	}
	msg, err := w.link.next(ctx)
	if err != nil {
		return nil, err
	}
	if r := msg.GetRefused(); r != nil && w.job != nil && r.Passing {
		return nil, fmt.Errorf("%w: %s", errRefusedAgain, r.Reason)
	}
	welcome := msg.GetWelcome()
	switch {
	case welcome == nil:
		return nil, unexpected(msg, "an answer to hello")
	case w.run != "" && welcome.Run != w.run:
		return nil, fmt.Errorf("%w: this worker has begun run %s, here is run %s", ErrRefused, w.run, welcome.Run)
	case welcome.Epoch < w.epoch:
		return nil, fmt.Errorf("%w: coordinator %d of run %s, which has had coordinator %d", ErrCoordinatorLost, welcome.Epoch, w.run, w.epoch)
	}
	if w.run == "" { // later a window may be reading it
		w.run = welcome.Run
	}
	w.epoch = welcome.Epoch
	return welcome, nil
}

// standing is what a worker that was in the run before is in the middle of; nil for a newcomer.
func (w *Worker) standing() *pb.Standing {
	if w.plan == nil {
		return nil
	}
	return &pb.Standing{Run: w.run, Epoch: w.epoch, Generation: w.plan.Generation, Sequence: w.plan.Sequence,
		Running: w.running != nil, Step: w.committed.Load(), Behind: w.behind.Load(), Ready: w.readiness()}
}

// client is the coordinator as it was last reached.
func (w *Worker) client() pb.ControlClient {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.control
}

// enter does what a welcome asks for: goes on, or begins as a newcomer.
func (w *Worker) enter(ctx context.Context, welcome *pb.Welcome) error {
	if welcome.Reattached {
		w.log.Info("attached again", "epoch", w.epoch, "generation", w.plan.GetGeneration(), "step", w.committed.Load(), "running", w.running != nil)
		w.out.begin(true)
		return nil
	}
	w.standAside()
	w.out.begin(false) // without what the window has still said
	if err := w.prepare(ctx, welcome); err != nil {
		w.leave(err.Error())
		return err
	}
	w.out.put(&pb.WorkerMessage{Body: &pb.WorkerMessage_Ready{Ready: w.readiness()}})
	return nil
}

// standAside gives up the place in the ring, and all that belongs to it but the job.
func (w *Worker) standAside() {
	if w.running != nil {
		w.running.stop()
		w.running = nil
	}
	w.closeRing()
	w.stopFollowing()
	w.unhashed = nil
	w.hashing.Wait() //bounded: a hash takes a moment and waits for nobody
	w.plan = nil
	w.kept.clear()
}

// prepare builds the job, once, and pulls the state if there is one to begin from.
func (w *Worker) prepare(ctx context.Context, welcome *pb.Welcome) error {
	if w.job == nil {
		job, err := w.cfg.Build(ctx, w.run, welcome.Settings)
		if err != nil {
			return err
		}
		w.job = job
		if err := job.Validate(); err != nil {
			return err
		}
		if job.States != nil {
			job.States.open(w.run)
		}
		w.trainer = newTrainer(job, w.cfg.Tracer)
		w.trainer.spoil = w.cfg.Faults
	}
	if welcome.PullState {
		return w.pullState(ctx)
	}
	w.behind.Store(true) // until a plan says where the state comes from
	return nil
}

func (w *Worker) readiness() *pb.Ready {
	info := w.job.Engine.Info()
	return &pb.Ready{
		RingAddress: w.job.RingAddress, GossipAddress: w.job.GossipAddress, DataFingerprint: w.job.Fingerprint, DataSummary: w.job.Summary,
		Numerics: info.Numerics, Engine: info.Name,
	}
}
