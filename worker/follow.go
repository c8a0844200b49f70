package worker

import (
	"context"
	"fmt"

	"github.com/lockstep-ml/lockstep/core"
	pb "github.com/lockstep-ml/lockstep/internal/proto/lockstep/v1"
	"github.com/lockstep-ml/lockstep/internal/snapshot"
)

// keptBytes bounds the gradients that a follower keeps while the state is on its way; at least minKept are kept.
const (
	keptBytes = 1 << 30
	minKept   = 4
)

// follower is a member of the ring that does not hold the state yet: it keeps what each step came to, while the state of an earlier step
// is copied beside, and applies it then.
type follower struct {
	base  uint64 // step of the state that is copied
	fetch *fetch
	kept  []keptStep // of steps base, base+1, ...

	arrival chan arrival // of the copy under way; nil between windows
	cancel  context.CancelFunc
	got     *snapshot.Snapshot // the copy, once it is whole
}

// keptStep is what a step came to.
type keptStep struct {
	step  uint64
	grads *core.Gradients[float32]
	lr    float64
}

type arrival struct {
	state *snapshot.Snapshot
	err   error
}

// step is how far the follower has got: with the state it would hold that of so many steps.
func (f *follower) step() uint64 { return f.base + uint64(len(f.kept)) }

// start copies the state in a goroutine that stop ends.
func (f *follower) start(ctx context.Context, holders []*pb.Member) {
	if f.got != nil {
		return
	}
	ctx, f.cancel = context.WithCancel(ctx)
	out := make(chan arrival, 1)
	f.arrival = out
	go func() {
		s, err := f.fetch.from(ctx, holders)
		out <- arrival{s, err} //bounded: the channel has room for the one arrival
	}()
}

// stop ends the copying; what has come stays, for the next holder to go on with.
func (f *follower) stop() {
	if f.arrival == nil {
		return
	}
	f.cancel()
	a := <-f.arrival //bounded: the fetch ends with its context, cancelled above
	f.arrival = nil
	if a.err == nil {
		f.got = a.state
	}
}

// await looks for the state's arrival, and waits for it if the follower may keep no more steps.
func (f *follower) await(ctx context.Context, limit int) error {
	if f.got != nil {
		return nil
	}
	if len(f.kept) < limit {
		select {
		case a := <-f.arrival:
			return f.arrived(a)
		default:
			return nil
		}
	}
	select {
	case a := <-f.arrival:
		return f.arrived(a)
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (f *follower) arrived(a arrival) error {
	f.arrival = nil
	f.got = a.state
	return a.err
}

// keptLimit is how many steps a follower may keep.
func keptLimit(n *core.Network) int {
	return max(minKept, keptBytes/(4*n.ParamLen()+8*n.NormLen()+1))
}

// keep puts a step's reduced gradient away and gives the trainer other memory for the next.
func (w *Worker) keep(step uint64, lr float64) {
	f := w.following
	g := w.trainer.reduced
	w.trainer.reduced = w.job.Engine.NewGradients()
	f.kept = append(f.kept, keptStep{step, g, lr})
}

// catchUp gives the engine the state, if it has arrived, and applies what was kept: from then on this worker holds what all hold.
func (w *Worker) catchUp(ctx context.Context, generation uint64) error {
	f := w.following
	if err := f.await(ctx, keptLimit(w.job.Network)); err != nil {
		return fmt.Errorf("following from step %d: %w", f.base, err)
	}
	if f.got == nil {
		return nil
	}
	if err := w.adopt(f.got); err != nil {
		return err
	}
	for _, k := range f.kept {
		if err := w.trainer.update(ctx, k.grads, k.step, k.lr); err != nil {
			return err
		}
	}
	w.committed.Store(f.step())
	w.following = nil
	w.behind.Store(false)
	w.log.Info("caught up", "step", f.step(), "copied", f.base, "applied", len(f.kept))
	w.out.put(&pb.WorkerMessage{Body: &pb.WorkerMessage_CaughtUp{CaughtUp: &pb.CaughtUp{Step: f.step(), Generation: generation}}})
	return nil
}

// adopt gives the engine a state.
func (w *Worker) adopt(s *snapshot.Snapshot) error {
	if err := w.job.Engine.SetState(stateOf(s)); err != nil {
		return err
	}
	w.committed.Store(s.Step)
	return nil
}

// takePlace brings this worker to the state that the plan asks of it, or on the way there. The ring is joined already.
func (w *Worker) takePlace(ctx context.Context, p *pb.Plan, pl place) error {
	switch {
	case pl.follows:
		return w.beginFollowing(ctx, p, pl)
	case pl.behind:
		w.stopFollowing()
		fctx, cancel := context.WithTimeout(ctx, w.cfg.TransferTimeout)
		defer cancel()
		s, err := w.newFetch(p.FirstStep).from(fctx, pl.holders)
		if err != nil {
			return err
		}
		w.log.Info("copied the state", "step", p.FirstStep)
		w.behind.Store(false)
		w.kept.clear()
		if err := w.adopt(s); err != nil {
			return err
		}
	}
	if have := w.committed.Load(); have != p.FirstStep || w.behind.Load() {
		return fmt.Errorf("the plan begins at step %d, this worker holds the state of %d steps", p.FirstStep, have)
	}
	return nil
}

// beginFollowing goes on with what was kept and copied before, if the plan's base is still that, or begins anew.
func (w *Worker) beginFollowing(ctx context.Context, p *pb.Plan, pl place) error {
	f := w.following
	if f == nil || f.base != pl.base || f.step() != p.FirstStep {
		if pl.base != p.FirstStep {
			return fmt.Errorf("the plan has this worker follow from step %d on, of which it has kept nothing", pl.base)
		}
		w.stopFollowing()
		f = &follower{base: pl.base, fetch: w.newFetch(pl.base)}
		w.following = f
	}
	w.behind.Store(true)
	w.kept.clear()
	w.committed.Store(f.step())
	f.start(ctx, pl.holders)
	return nil
}

func (w *Worker) newFetch(step uint64) *fetch {
	return &fetch{network: w.job.Network, peers: w.job.Peers, run: w.run, worker: w.cfg.Name, step: step, idle: w.cfg.ChunkTimeout, patience: w.cfg.TransferTimeout}
}

// stopFollowing forgets what was kept.
func (w *Worker) stopFollowing() {
	if w.following == nil {
		return
	}
	w.following.stop()
	w.following = nil
}

// serveStates holds the states that the plan's other members have to copy, if this worker has them.
func (w *Worker) serveStates(p *pb.Plan, pl place) error {
	if w.job.States == nil {
		return nil
	}
	var wanted []uint64
	for _, f := range p.Followers {
		wanted = append(wanted, f.Base)
	}
	now := len(p.Behind) > 0
	for _, base := range wanted {
		now = now || base == p.FirstStep
	}
	if len(p.Behind) > 0 {
		wanted = append(wanted, p.FirstStep)
	}
	w.job.States.keep(wanted)
	if !now || pl.follows || pl.behind || w.behind.Load() || w.job.States.has(p.FirstStep) {
		return nil
	}
	s := newSnapshot(w.job.Network)
	if err := w.job.Engine.GetState(stateOf(s)); err != nil {
		return fmt.Errorf("reading the engine's state: %w", err)
	}
	s.Step = w.committed.Load()
	if s.Step == p.FirstStep {
		w.job.States.add(s)
	}
	return nil
}
