package worker

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/lockstep-ml/lockstep/core"
	pb "github.com/lockstep-ml/lockstep/internal/proto/lockstep/v1"
)

// place is a worker's part in a plan.
type place struct {
	rank     int
	replicas []int // hosted, ascending
	follows  bool
	base     uint64 // step of the state to copy, if it follows
	behind   bool
	holders  []*pb.Member // of the state of the plan's first step, this worker not among them
	share    int          // of the members that do not follow, this is number share of shares
	shares   int
}

// findPlace reads where the named worker stands in a plan, and refuses a plan that does not add up.
func findPlace(p *pb.Plan, name string, replicas int) (place, error) {
	pl := place{rank: slices.IndexFunc(p.Ring, func(m *pb.Member) bool { return m.Worker == name })}
	if pl.rank < 0 {
		return pl, fmt.Errorf("plan %d/%d has no place for %s", p.Generation, p.Sequence, name)
	}
	if len(p.ReplicaHost) != replicas {
		return pl, fmt.Errorf("plan %d/%d assigns %d replicas, the run has %d", p.Generation, p.Sequence, len(p.ReplicaHost), replicas)
	}
	for r, host := range p.ReplicaHost {
		if int(host) >= len(p.Ring) {
			return pl, fmt.Errorf("plan %d/%d gives replica %d to member %d of %d", p.Generation, p.Sequence, r, host, len(p.Ring))
		}
		if int(host) == pl.rank {
			pl.replicas = append(pl.replicas, r)
		}
	}
	if g := int(p.Group); g > 1 && len(p.Ring)%g != 0 {
		return pl, fmt.Errorf("plan %d/%d has groups of %d, its ring %d members", p.Generation, p.Sequence, g, len(p.Ring))
	}
	if p.UntilStep < p.FirstStep || len(p.LearningRates) == 0 || p.LearningRates[0].FirstStep > p.FirstStep {
		return pl, fmt.Errorf("plan %d/%d has no learning rate for its steps [%d, %d)", p.Generation, p.Sequence, p.FirstStep, p.UntilStep)
	}
	return pl, pl.findState(p)
}

// findState reads who has the state of the plan's first step and who has not.
func (pl *place) findState(p *pb.Plan) error {
	for i, m := range p.Ring {
		f := slices.IndexFunc(p.Followers, func(f *pb.Follower) bool { return int(f.Position) == i })
		if f < 0 {
			if i == pl.rank {
				pl.share = pl.shares
			}
			pl.shares++
		}
		behind := slices.Contains(p.Behind, uint32(i))
		if i == pl.rank {
			pl.follows, pl.behind = f >= 0, behind
			if f >= 0 {
				pl.base = p.Followers[f].Base
			}
		} else if f < 0 && !behind {
			pl.holders = append(pl.holders, m)
		}
	}
	if pl.follows && (len(pl.replicas) > 0 || pl.behind || pl.base > p.FirstStep) {
		return fmt.Errorf("plan %d/%d has a follower host replicas, or follow from step %d on, after its first, %d", p.Generation, p.Sequence, pl.base, p.FirstStep)
	}
	return nil
}

// learningRate reads the rate of a step.
func learningRate(p *pb.Plan, step uint64) float64 {
	lr := p.LearningRates[0].Value
	for _, e := range p.LearningRates {
		if e.FirstStep > step {
			break
		}
		lr = e.Value
	}
	return lr
}

// window does a plan's steps and evaluations. It is the only code that uses the engine while it runs.
// The last report, upon which the coordinator may send what follows, is returned: it may go out only when nothing runs any more.
func (w *Worker) window(ctx context.Context, p *pb.Plan, pl place) (last *pb.WorkerMessage, err error) {
	if p.Restore && !pl.behind && !pl.follows {
		if err := w.goBack(p.FirstStep); err != nil {
			return nil, err
		}
	}
	if err := w.serveStates(p, pl); err != nil {
		return nil, err
	}
	ring, err := w.ring(ctx, p, pl)
	if err != nil {
		return nil, err
	}
	if p.Measure {
		if err := w.measure(ctx, ring); err != nil {
			return nil, err
		}
	}
	defer func() {
		if w.following != nil {
			w.following.stop()
		}
	}()
	if err := w.takePlace(ctx, p, pl); err != nil {
		return nil, err
	}
	return w.steps(ctx, ring, p, pl)
}

// steps runs through the window, to its end or to the boundary at which all have agreed to stop.
func (w *Worker) steps(ctx context.Context, ring Ring, p *pb.Plan, pl place) (last *pb.WorkerMessage, err error) {
	if p.VerifyEvery > 0 && !w.behind.Load() && len(w.kept.steps()) == 0 {
		if err := w.verify(p.FirstStep); err != nil {
			return nil, err
		}
		w.hashBeside()
	}
	if slices.Contains(p.EvaluateAfter, p.FirstStep) {
		if last, err = w.evaluate(ctx, p, pl, p.FirstStep); err != nil || p.FirstStep == p.UntilStep {
			return last, err
		}
		w.report(last)
	}
	for step := p.FirstStep; step < p.UntilStep; step++ {
		report, ended, err := w.oneStep(ctx, ring, p, pl, step)
		if err != nil {
			return nil, err
		}
		evaluate := slices.Contains(p.EvaluateAfter, step+1) && !pl.follows
		if ended && !evaluate {
			return report, nil
		}
		w.report(report)
		if !evaluate {
			continue
		}
		if report, err = w.evaluate(ctx, p, pl, step+1); err != nil || ended {
			return report, err
		}
		w.report(report)
	}
	return nil, nil
}

// report queues what the coordinator is to hear; a follower without a share has nothing to say.
func (w *Worker) report(m *pb.WorkerMessage) {
	if m == nil {
		return
	}
	w.out.put(m)
	if m.GetStep() != nil {
		w.hashBeside()
	}
}

// ring gives the plan's ring: the one at hand if the generation is the same, else a new one.
func (w *Worker) ring(ctx context.Context, p *pb.Plan, pl place) (Ring, error) {
	if w.current != nil && w.generation == p.Generation {
		return w.current, nil
	}
	w.closeRing()
	m := Membership{Run: w.run, Generation: p.Generation, Rank: pl.rank, Replicas: w.job.Replicas, Group: int(p.Group)}
	for _, e := range p.Ring {
		m.Names = append(m.Names, e.Worker)
		m.Addresses = append(m.Addresses, e.RingAddress)
	}
	ctx, cancel := context.WithTimeout(ctx, w.cfg.JoinTimeout)
	defer cancel()
	ring, err := w.job.Rings.Join(ctx, m)
	if err != nil {
		return nil, fmt.Errorf("joining the ring of generation %d: %w", p.Generation, err)
	}
	w.current, w.generation = ring, p.Generation
	return ring, nil
}

// measure tells the coordinator what the ring's links are like.
func (w *Worker) measure(ctx context.Context, ring Ring) error {
	hop, rate, err := ring.Measure(ctx)
	if err != nil {
		return fmt.Errorf("measuring the ring: %w", err)
	}
	w.report(&pb.WorkerMessage{Body: &pb.WorkerMessage_Measured{Measured: &pb.Measured{
		HopNanos: int64(hop), BytesPerSecond: rate,
		StepBytes: uint64(w.job.Network.ParamLen()) * uint64(w.job.WireBits) / 8, Buckets: uint32(len(w.trainer.spans)),
	}}})
	return nil
}

// closeRing leaves the ring at hand, if any.
func (w *Worker) closeRing() {
	if w.current == nil {
		return
	}
	if err := w.current.Close(); err != nil {
		w.log.Debug("closing the ring", "generation", w.generation, "err", err)
	}
	w.current = nil
}

// oneStep does one step under its trace, commits it, and gives its report; ended says that the window ends with it.
func (w *Worker) oneStep(ctx context.Context, ring Ring, p *pb.Plan, pl place, step uint64) (report *pb.WorkerMessage, ended bool, err error) {
	if err := ctx.Err(); err != nil {
		return nil, false, err
	}
	sctx, sp := w.cfg.Tracer.Start(w.cfg.StepContext(ctx, w.run, step), "worker step", trace.WithAttributes(
		attribute.String("lockstep.worker", w.cfg.Name), attribute.Int64("lockstep.step", int64(step)),
		attribute.Int64("lockstep.generation", int64(p.Generation)), attribute.IntSlice("lockstep.replicas", pl.replicas)))
	defer sp.End()
	job := task{step: step, replicas: pl.replicas, lr: learningRate(p, step), audit: auditOf(p, pl, step), yield: func() bool { return w.yields(p) }}
	res, err := w.trainer.step(sctx, ring, job)
	if err == nil {
		err = w.commit(sctx, &res, job)
	}
	if err != nil {
		sp.SetStatus(codes.Error, err.Error())
		return nil, false, err
	}
	sp.SetAttributes(attribute.Float64("lockstep.data_wait_seconds", res.dataWait.Seconds()),
		attribute.Float64("lockstep.compute_seconds", res.compute.Seconds()), attribute.Float64("lockstep.ring_wait_seconds", res.ringWait.Seconds()))
	if res.digest != "" {
		w.report(&pb.WorkerMessage{Body: &pb.WorkerMessage_Audit{Audit: &pb.Audit{Step: step, Replica: uint32(job.audit), Digest: res.digest, Generation: p.Generation}}})
	}
	done := step + 1
	r := stepReport(res, done, job.lr)
	r.Generation, r.Sequence = p.Generation, p.Sequence
	r.Last = done == p.UntilStep || res.notes.yield
	if err := w.afterStep(sctx, p, pl, r); err != nil {
		return nil, false, err
	}
	r.Behind = w.behind.Load()
	return &pb.WorkerMessage{Body: &pb.WorkerMessage_Step{Step: r}}, r.Last, nil
}

// commit applies a step whose every bucket has come, or keeps it, if the state to apply it to is not here yet.
func (w *Worker) commit(ctx context.Context, res *stepResult, job task) error {
	if w.following != nil {
		w.keep(job.step, job.lr)
	} else if err := w.trainer.update(ctx, w.trainer.reduced, job.step, job.lr); err != nil {
		return err
	}
	res.end = time.Now()
	w.committed.Store(job.step + 1)
	return nil
}

// afterStep does what a plan wants of a committed step's state.
func (w *Worker) afterStep(ctx context.Context, p *pb.Plan, pl place, r *pb.StepReport) error {
	if w.following != nil {
		if err := w.catchUp(ctx, p.Generation); err != nil || w.behind.Load() {
			return err
		}
	}
	if err := w.cfg.Faults.state(r.Step, w.job.Engine, w.job.Network); err != nil {
		return err
	}
	if pl.share == 0 && !pl.follows && slices.Contains(p.CheckpointAfter, r.Step) {
		if err := w.checkpoint(ctx, r.Step); err != nil {
			return err
		}
	}
	if p.VerifyEvery > 0 && r.Step%p.VerifyEvery == 0 {
		if err := w.verify(r.Step); err != nil {
			return err
		}
	}
	if r.Last {
		state, err := w.snapshot()
		if err != nil {
			return err
		}
		r.StateHash = state.Hash()
	}
	return nil
}

// yields says whether the end of the plan's window at the next boundary was asked for.
func (w *Worker) yields(p *pb.Plan) bool {
	asked := w.yield.Load()
	return asked != nil && asked.Generation == p.Generation && asked.Sequence == p.Sequence
}

func stepReport(r stepResult, done uint64, lr float64) *pb.StepReport {
	return &pb.StepReport{
		Step: done, Loss: r.metrics.LossSum / float64(max(r.metrics.Images, 1)),
		Images: uint64(r.metrics.Images), Correct1: uint64(r.metrics.Correct1), LearningRate: lr,
		StartUnixNanos: r.start.UnixNano(), EndUnixNanos: r.end.UnixNano(),
		DataWaitNanos: int64(r.dataWait), ComputeNanos: int64(r.compute), RingWaitNanos: int64(r.ringWait),
		Samples: r.notes.samples[:], Skipped: skippedMessages(r.skipped),
	}
}

// lossUnit is what EvalReport.loss_sum counts in: an image's loss is rounded to it, so that sums are exact.
const lossUnit = 1.0 / (1 << 32)

// maxImageLoss bounds one image's loss in the sum: with a broken network it may be infinite, and a sum of 2^31 bounded ones still fits.
const maxImageLoss = 1 << 10

// evaluate does this worker's share of the evaluation after that many steps and gives its report; nil for a follower, which has none.
func (w *Worker) evaluate(ctx context.Context, p *pb.Plan, pl place, step uint64) (*pb.WorkerMessage, error) {
	if pl.follows {
		return nil, nil
	}
	report := &pb.EvalReport{Step: step}
	classes := w.job.Network.Classes
	logits := make([]float32, w.job.ReplicaBatch*classes)
	skipped, err := w.job.Data.Evaluate(ctx, pl.share, pl.shares, func(b core.Batch) error {
		n := len(b.Labels)
		if err := w.job.Engine.Eval(b, logits[:n*classes]); err != nil {
			return err
		}
		for i := range n {
			m := core.Score(logits[i*classes:(i+1)*classes], b.Labels[i:i+1], classes, nil)
			report.Images++
			report.Correct1 += uint64(m.Correct1)
			report.Correct5 += uint64(m.Correct5)
			report.LossSum += int64(math.Round(boundLoss(m.LossSum) / lossUnit))
		}
		return ctx.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("evaluation after step %d: %w", step, err)
	}
	report.Skipped = skippedMessages(skipped)
	return &pb.WorkerMessage{Body: &pb.WorkerMessage_Eval{Eval: report}}, nil
}

func boundLoss(l float64) float64 {
	if math.IsNaN(l) {
		return maxImageLoss
	}
	return min(l, maxImageLoss)
}

// abortedMessage says why a window ended early. What there is to say of its states was said then: what is said later is of another try.
func (w *Worker) abortedMessage(err error) *pb.WorkerMessage {
	w.unhashed = nil
	w.hashing.Wait() //bounded: a hash takes a moment and waits for nobody
	step := w.committed.Load()
	a := &pb.Aborted{Step: step, Cause: pb.Cause_CAUSE_LOCAL, Generation: w.plan.GetGeneration(), Behind: w.behind.Load(), Kept: w.kept.steps()}
	if err != nil {
		a.Reason = err.Error()
	}
	var nonFinite *NonFiniteError
	var peer PeerError
	var damaged DamagedSample
	switch {
	case err == nil || errors.Is(err, context.Canceled):
		a.Cause = pb.Cause_CAUSE_PAUSED
	case errors.As(err, &nonFinite):
		a.Cause = pb.Cause_CAUSE_NON_FINITE
		a.Reason = nonFinite.Error()
		if nonFinite.Replica >= 0 { // hosted here: this is the report to quote
			a.Peer = w.cfg.Name
		}
	case errors.As(err, &damaged):
		a.Cause, a.Sample = pb.Cause_CAUSE_DAMAGED, damaged.DamagedSample()
	case errors.As(err, &peer):
		a.Cause, a.Peer = pb.Cause_CAUSE_RING, peer.Peer()
	}
	return &pb.WorkerMessage{Body: &pb.WorkerMessage_Aborted{Aborted: a}}
}
