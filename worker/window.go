package worker

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

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
	return pl, nil
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

// window does a plan's steps, and the evaluation behind them. It is the only code that uses the engine while it runs.
// The last report, upon which the coordinator may send what follows, is returned: it may go out only when nothing runs any more.
func (w *Worker) window(ctx context.Context, p *pb.Plan, pl place) (last *pb.WorkerMessage, err error) {
	if have := w.committed.Load(); have != p.FirstStep {
		return nil, fmt.Errorf("the plan begins at step %d, this worker holds the state of %d steps", p.FirstStep, have)
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
	evaluate := slices.Contains(p.EvaluateAfter, p.UntilStep)
	for step := p.FirstStep; step < p.UntilStep; step++ {
		report, err := w.oneStep(ctx, ring, p, pl, step)
		if err != nil {
			return nil, err
		}
		if step+1 == p.UntilStep && !evaluate {
			return report, nil
		}
		if err := w.link.send(report); err != nil {
			return nil, err
		}
	}
	if !evaluate {
		return nil, nil
	}
	return w.evaluate(ctx, p, pl)
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
	return w.link.send(&pb.WorkerMessage{Body: &pb.WorkerMessage_Measured{Measured: &pb.Measured{
		HopNanos: int64(hop), BytesPerSecond: rate,
		StepBytes: uint64(w.job.Network.ParamLen()) * uint64(w.job.WireBits) / 8, Buckets: uint32(len(w.trainer.spans)),
	}}})
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

// oneStep does one step under its trace, checkpoints it, and gives its report.
func (w *Worker) oneStep(ctx context.Context, ring Ring, p *pb.Plan, pl place, step uint64) (*pb.WorkerMessage, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	sctx, sp := w.cfg.Tracer.Start(w.cfg.StepContext(ctx, w.run, step), "worker step", trace.WithAttributes(
		attribute.String("lockstep.worker", w.cfg.Name), attribute.Int64("lockstep.step", int64(step)),
		attribute.Int64("lockstep.generation", int64(p.Generation)), attribute.IntSlice("lockstep.replicas", pl.replicas)))
	defer sp.End()
	lr := learningRate(p, step)
	res, err := w.trainer.step(sctx, ring, step, pl.replicas, lr)
	if err != nil {
		sp.SetStatus(codes.Error, err.Error())
		return nil, err
	}
	sp.SetAttributes(attribute.Float64("lockstep.data_wait_seconds", res.dataWait.Seconds()),
		attribute.Float64("lockstep.compute_seconds", res.compute.Seconds()), attribute.Float64("lockstep.ring_wait_seconds", res.ringWait.Seconds()))
	done := step + 1
	w.committed.Store(done)
	report := stepReport(res, done, lr)
	if pl.rank == 0 && slices.Contains(p.CheckpointAfter, done) {
		if err := w.checkpoint(sctx, done); err != nil {
			return nil, err
		}
	}
	if done == p.UntilStep {
		state, err := w.snapshot()
		if err != nil {
			return nil, err
		}
		report.StateHash = state.Hash()
	}
	return &pb.WorkerMessage{Body: &pb.WorkerMessage_Step{Step: report}}, nil
}

func stepReport(r stepResult, done uint64, lr float64) *pb.StepReport {
	return &pb.StepReport{
		Step: done, Loss: r.metrics.LossSum / float64(max(r.metrics.Images, 1)),
		Images: uint64(r.metrics.Images), Correct1: uint64(r.metrics.Correct1), LearningRate: lr,
		StartUnixNanos: r.start.UnixNano(), EndUnixNanos: r.end.UnixNano(),
		DataWaitNanos: int64(r.dataWait), ComputeNanos: int64(r.compute), RingWaitNanos: int64(r.ringWait),
	}
}

// lossUnit is what EvalReport.loss_sum counts in: an image's loss is rounded to it, so that sums are exact.
const lossUnit = 1.0 / (1 << 32)

// maxImageLoss bounds one image's loss in the sum: with a broken network it may be infinite, and a sum of 2^31 bounded ones still fits.
const maxImageLoss = 1 << 10

// evaluate does this worker's share of an evaluation and gives its report.
func (w *Worker) evaluate(ctx context.Context, p *pb.Plan, pl place) (*pb.WorkerMessage, error) {
	report := &pb.EvalReport{Step: p.UntilStep}
	classes := w.job.Network.Classes
	logits := make([]float32, w.job.ReplicaBatch*classes)
	err := w.job.Data.Evaluate(ctx, pl.rank, len(p.Ring), func(b core.Batch) error {
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
		return nil, fmt.Errorf("evaluation after step %d: %w", p.UntilStep, err)
	}
	return &pb.WorkerMessage{Body: &pb.WorkerMessage_Eval{Eval: report}}, nil
}

func boundLoss(l float64) float64 {
	if math.IsNaN(l) {
		return maxImageLoss
	}
	return min(l, maxImageLoss)
}

// abortedMessage says why a window ended early.
func (w *Worker) abortedMessage(err error) *pb.WorkerMessage {
	step := w.committed.Load()
	a := &pb.Aborted{Step: step, Cause: pb.Cause_CAUSE_LOCAL}
	if err != nil {
		a.Reason = err.Error()
	}
	var nonFinite *NonFiniteError
	var peer PeerError
	switch {
	case err == nil || errors.Is(err, context.Canceled):
		a.Cause = pb.Cause_CAUSE_PAUSED
	case errors.As(err, &nonFinite):
		a.Cause = pb.Cause_CAUSE_NON_FINITE
		a.Reason = nonFinite.Error()
		if nonFinite.Replica >= 0 { // hosted here: this is the report to quote
			a.Peer = w.cfg.Name
		}
	case errors.As(err, &peer):
		a.Cause, a.Peer = pb.Cause_CAUSE_RING, peer.Peer()
	}
	return &pb.WorkerMessage{Body: &pb.WorkerMessage_Aborted{Aborted: a}}
}
