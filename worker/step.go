package worker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/errgroup"

	"github.com/lockstep-ml/lockstep/core"
)

// trainer runs steps: it owns the engine, the gradients of the hosted replicas, and the reduced gradient.
type trainer struct {
	job    *Job
	tracer trace.Tracer
	spans  []Span
	ready  *readiness
	layout statistics

	grads   []*core.Gradients[float32] // one a hosted replica, reused from step to step
	stats   [][]float32                // likewise, the statistics bucket's contributions
	reduced *core.Gradients[float32]
	total   []float32 // the statistics bucket, reduced

	audited *core.Gradients[float32] // of a replica that another worker hosts; nil before the first
	spoil   *Faults
}

// task is what a step asks of one worker.
type task struct {
	step     uint64
	replicas []int // hosted, ascending
	lr       float64
	audit    int         // replica whose values are to be digested, -1 for none; computed here even if another worker hosts it
	yield    func() bool // whether the end of the window has been asked for; nil for no
}

// stepResult is a committed step's figures.
type stepResult struct {
	metrics           core.Metrics // of the global batch
	start, end        time.Time
	dataWait, compute time.Duration
	ringWait          time.Duration // from the end of the last backward pass until every bucket was there
	notes             notes
	skipped           []Skipped
	digest            string // of the audited replica
}

func newTrainer(j *Job, tracer trace.Tracer) *trainer {
	spans := BucketSpans(j.Network.ParamLen())
	layout := newStatistics(j.Network.NormLen())
	return &trainer{
		job: j, tracer: tracer, spans: spans, ready: newReadiness(spans), layout: layout,
		reduced: j.Engine.NewGradients(), total: make([]float32, layout.size),
	}
}

// host makes room for the gradients of n hosted replicas.
func (t *trainer) host(n int) {
	for len(t.grads) < n {
		t.grads = append(t.grads, t.job.Engine.NewGradients())
		t.stats = append(t.stats, make([]float32, t.layout.size))
	}
}

// step does a step up to its update: when it returns nil, reduced holds the whole gradient and the statistics. The engine's state is untouched.
func (t *trainer) step(ctx context.Context, ring Ring, job task) (stepResult, error) {
	res := stepResult{start: time.Now()}
	t.host(len(job.replicas))
	order := job.order()
	_, wait := t.tracer.Start(ctx, "data wait")
	batches, err := t.job.Data.Next(ctx, job.step, order)
	wait.End()
	if err != nil {
		return res, fmt.Errorf("step %d: data: %w", job.step, err)
	}
	defer batches.Release()
	res.dataWait, res.skipped = batches.Waited, batches.Skipped

	// The group's context ends as soon as one bucket fails, so that the others do not wait for their deadlines.
	group, gctx := errgroup.WithContext(ctx)
	digest, trainErr := t.compute(gctx, group, ring, job, batches)
	computed := time.Now()
	res.digest, res.compute = digest, computed.Sub(res.start)-res.dataWait
	_, tail := t.tracer.Start(ctx, "ring wait")
	ringErr := group.Wait() //bounded: every reduction has the ring's deadlines, and ends with ctx
	tail.End()
	res.ringWait = time.Since(computed)
	if err := t.verdict(job.step, job.replicas, trainErr, ringErr); err != nil {
		return res, err
	}
	res.metrics, res.notes = t.layout.unpack(t.total, t.reduced, t.job.Replicas)
	return res, nil
}

// order lists the replicas to compute: one that is only audited comes first, so that buckets become ready during the last hosted one.
func (j task) order() []int {
	if j.audit < 0 || slices.Contains(j.replicas, j.audit) {
		return j.replicas
	}
	return append([]int{j.audit}, j.replicas...)
}

// update commits a step: it is the only place where the engine's state changes while training.
func (t *trainer) update(ctx context.Context, g *core.Gradients[float32], step uint64, lr float64) error {
	_, sp := t.tracer.Start(ctx, "update")
	defer sp.End()
	h := t.job.SGD
	h.LR = lr
	if err := t.job.Engine.Update(g, h); err != nil {
		return fmt.Errorf("step %d: update: %w", step, err)
	}
	return nil
}

// verdict says what kept a step from being committed, nil if nothing did.
func (t *trainer) verdict(step uint64, replicas []int, trainErr, ringErr error) error {
	if ringErr != nil && trainErr == nil {
		// A neighbour that has heard of a bad value gives the ring up, and its host may learn of that before the verdict on the value itself.
		if bad := t.findNonFinite(step, replicas); bad != nil {
			return bad
		}
	}
	if ringErr != nil {
		return t.explain(step, ringErr)
	}
	if trainErr != nil {
		return fmt.Errorf("step %d: %w", step, trainErr)
	}
	return nil
}

// compute runs the replicas one after another and sets each bucket going once the last hosted one has it. An error cancels the
// reductions already started. It gives the digest of the audited replica.
func (t *trainer) compute(ctx context.Context, group *errgroup.Group, ring Ring, job task, batches Batches) (digest string, err error) {
	t.ready.reset()
	start := func(b int) { t.reduce(ctx, group, ring, job.step, b, job.replicas) }
	if len(job.replicas) == 0 { // only relays
		t.ready.done(0, t.job.Network.ParamLen(), start)
	}
	order := job.order()
	extra := len(order) - len(job.replicas)
	for i, replica := range order {
		if err := ctx.Err(); err != nil {
			return "", fail(group, err)
		}
		last := i == len(order)-1 && len(job.replicas) > 0
		g := t.into(i - extra)
		m, err := t.train(ctx, batches.Replica[i], g, replica, func(lo, hi int) {
			if last {
				t.spoil.gradient(job.step, replica, g.Values[lo:hi], lo)
				t.ready.done(lo, hi, start)
			}
		})
		if err != nil {
			return "", fail(group, fmt.Errorf("replica %d: %w", replica, err))
		}
		if !last {
			t.spoil.gradient(job.step, replica, g.Values, 0)
		}
		if replica == job.audit {
			digest = digestOf(g)
		}
		if i >= extra {
			n := notes{yield: job.yield != nil && job.yield(), samples: batches.samples(i)}
			t.layout.pack(t.stats[i-extra], g, m, n)
		}
	}
	if !t.ready.whole() {
		panic("worker: the engine returned from Train without announcing every gradient")
	}
	group.Go(func() error { return t.reduceStatistics(ctx, ring, job.step, job.replicas) })
	return digest, nil
}

// into gives the memory for hosted replica number i, or, below 0, for one that is only audited.
func (t *trainer) into(i int) *core.Gradients[float32] {
	if i >= 0 {
		return t.grads[i]
	}
	if t.audited == nil {
		t.audited = t.job.Engine.NewGradients()
	}
	return t.audited
}

// fail makes the group's other members give up.
func fail(group *errgroup.Group, err error) error {
	group.Go(func() error { return err })
	return err
}

// train runs one replica under spans of the trace.
func (t *trainer) train(ctx context.Context, b core.Batch, g *core.Gradients[float32], replica int, ready func(lo, hi int)) (core.Metrics, error) {
	at := trace.WithAttributes(attribute.Int("lockstep.replica", replica))
	_, phase := t.tracer.Start(ctx, "forward", at)
	m, err := t.job.Engine.Train(b, g, core.Hooks{
		Forward: func() {
			phase.End()
			_, phase = t.tracer.Start(ctx, "backward", at)
		},
		Ready: ready,
	})
	phase.End()
	return m, err
}

// reduce starts the reduction of gradient bucket b.
func (t *trainer) reduce(ctx context.Context, group *errgroup.Group, ring Ring, step uint64, b int, replicas []int) {
	s := t.spans[b]
	local := make([]Contribution, len(replicas))
	for i, r := range replicas {
		local[i] = Contribution{Replica: r, Values: t.grads[i].Values[s.Lo:s.Hi]}
	}
	group.Go(func() error {
		return t.traced(ctx, ring, step, b, false, local, t.reduced.Values[s.Lo:s.Hi])
	})
}

func (t *trainer) reduceStatistics(ctx context.Context, ring Ring, step uint64, replicas []int) error {
	local := make([]Contribution, len(replicas))
	for i, r := range replicas {
		local[i] = Contribution{Replica: r, Values: t.stats[i]}
	}
	return t.traced(ctx, ring, step, len(t.spans), true, local, t.total)
}

func (t *trainer) traced(ctx context.Context, ring Ring, step uint64, b int, exact bool, local []Contribution, dst []float32) error {
	ctx, sp := t.tracer.Start(ctx, "all-reduce", trace.WithAttributes(
		attribute.Int("lockstep.bucket", b), attribute.Int("lockstep.values", len(dst))))
	defer sp.End()
	err := ring.Mean(ctx, step, b, exact, local, dst)
	if err != nil {
		sp.RecordError(err)
		return &bucketError{bucket: b, err: err}
	}
	return nil
}

// bucketError remembers which bucket failed, so that an index inside it can be named as a parameter.
type bucketError struct {
	bucket int
	err    error
}

func (e *bucketError) Error() string { return fmt.Sprintf("bucket %d: %v", e.bucket, e.err) }
func (e *bucketError) Unwrap() error { return e.err }

// NonFiniteError says that a gradient or statistic of a step was not a finite number, so the step was not applied.
type NonFiniteError struct {
	Step    uint64
	Replica int    // -1 where another worker hosts the culprit
	Where   string // the value: a parameter's gradient or a statistic; empty where another worker knows it
}

// Error names what is known, and what may be done.
func (e *NonFiniteError) Error() string {
	if e.Replica < 0 {
		return fmt.Sprintf("step %d: a gradient of a replica on another worker is NaN or infinite", e.Step)
	}
	return fmt.Sprintf("step %d: %s on replica %d is NaN or infinite; a lower --lr or a --warmup usually helps", e.Step, e.Where, e.Replica)
}

// findNonFinite looks through the hosted replicas' gradients, in the order of the buckets, and then through their statistics.
func (t *trainer) findNonFinite(step uint64, replicas []int) error {
	for b, s := range t.spans {
		for i, replica := range replicas {
			if at := firstNonFinite(t.grads[i].Values[s.Lo:s.Hi]); at >= 0 {
				return &NonFiniteError{Step: step, Replica: replica, Where: t.valueName(b, at)}
			}
		}
	}
	for i, replica := range replicas {
		if at := firstNonFinite(t.stats[i]); at >= 0 {
			return &NonFiniteError{Step: step, Replica: replica, Where: t.valueName(len(t.spans), at)}
		}
	}
	return nil
}

// firstNonFinite is the index of the first NaN or infinity, -1 without any.
func firstNonFinite(v []float32) int {
	return slices.IndexFunc(v, func(x float32) bool { return x-x != 0 })
}

// explain turns a ring's error into one with the parameter's name.
func (t *trainer) explain(step uint64, err error) error {
	var nf NonFinite
	if !errors.As(err, &nf) {
		return fmt.Errorf("step %d: %w", step, err)
	}
	out := &NonFiniteError{Step: step, Replica: -1}
	var at *bucketError
	replica, index, local := nf.NonFinite()
	if !local || !errors.As(err, &at) {
		return out
	}
	out.Replica, out.Where = replica, t.valueName(at.bucket, index)
	return out
}

// valueName names a value of a bucket.
func (t *trainer) valueName(bucket, index int) string {
	if bucket == len(t.spans) {
		return t.statisticName(index)
	}
	p, i := t.job.Network.ParamAt(t.spans[bucket].Lo + index)
	return fmt.Sprintf("the gradient of %s[%d]", p.Name, i)
}

func (t *trainer) statisticName(i int) string {
	if i >= t.layout.metricsAt {
		return "the loss"
	}
	kind := "batch mean"
	if i >= t.layout.varAt {
		i, kind = i-t.layout.varAt, "batch variance"
	}
	for _, n := range t.job.Network.Norms() {
		if i < n.Offset+n.Channels {
			return fmt.Sprintf("%s's %s", n.Name, kind)
		}
	}
	return kind
}
