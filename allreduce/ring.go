package allreduce

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"

	"github.com/lockstep-ml/lockstep/allreduce/fixed"
)

// Bucket names a run of parameters reduced together.
type Bucket struct {
	// Step counts the SGD updates of the run.
	Step uint64
	// ID counts the buckets of a step, 0..2^32-1. A pair (Step, ID) is reduced
	// once in a generation.
	ID int
	// Wire overrides the ring's width for this bucket; 0 leaves it.
	Wire Wire
}

// Contribution is what one hosted replica adds to a bucket.
type Contribution struct {
	Replica int
	// Values has the bucket's length. The ring only reads it.
	Values []float32
}

// Ring is one worker's place in the ring of one generation. A Ring is used
// until its first error, other than a NonFiniteError, and then replaced by that
// of a new generation: after a half-done bucket the neighbours' state is
// unknown, and finding it out would cost more than a new ring does.
type Ring struct {
	cfg       Config
	transport Transport
	runDigest uint64
	seats     []Seat    // by level
	schedule  *schedule // of a ring of one worker: nil

	ctx    context.Context // ends, with the cause, when the ring fails
	cancel context.CancelCauseFunc

	underway atomic.Int64 // segments of this worker that have not come back

	mu     sync.Mutex
	active map[bucketKey]struct{}
	done   recentSet
	closed bool
	idle   *sync.Cond // active became empty

	closeOnce sync.Once
	closeErr  error
}

// New makes a ring over t, which it then owns: Close closes it. A ring of one
// worker uses no transport, and t may be nil. Starts nothing.
func New(cfg Config, t Transport) (*Ring, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if t == nil && cfg.Size > 1 {
		return nil, fmt.Errorf("allreduce: a ring of %d workers needs a transport", cfg.Size)
	}
	if err := fixed.Check(); err != nil {
		return nil, fmt.Errorf("allreduce: %w", err)
	}
	r := &Ring{cfg: cfg, transport: t, runDigest: RunDigest(cfg.Run), active: map[bucketKey]struct{}{}}
	r.seats = Seats(cfg.Rank, cfg.Size, cfg.Group)
	if cfg.Size > 1 {
		r.schedule = newSchedule(r.seats)
	}
	r.idle = sync.NewCond(&r.mu)
	r.ctx, r.cancel = context.WithCancelCause(context.Background()) //bounded: cancelled by the first error, and by Close
	return r, nil
}

// Reduce sets dst to the mean over all replicas of the run of the bucket's
// values: float32(float64(sum) * 2^-k / Replicas), where sum and k are those of
// the value's block. The bits of dst depend on the replicas' values alone.
//
// local holds this worker's replicas, in any order; none is allowed. dst and
// all Values have the bucket's length; dst may be one of the Values. It blocks
// until the bucket is complete. On error dst holds nothing of use. The error is
// a *NonFiniteError, a *HopError, what ended ctx, what the ring was aborted
// with, or says what is wrong with the arguments.
func (r *Ring) Reduce(ctx context.Context, b Bucket, local []Contribution, dst []float32) error {
	wire := b.Wire
	if wire == 0 {
		wire = r.cfg.Wire
	}
	return r.reduce(ctx, b, wire, true, local, dst)
}

// ReduceSum is Reduce without the division, always with 32-bit blocks: for
// counts and sums of losses. Integers come out exact as long as the largest in
// a block of 1024 is below 2^24. A sum beyond float32's range is an infinity.
func (r *Ring) ReduceSum(ctx context.Context, b Bucket, local []Contribution, dst []float32) error {
	return r.reduce(ctx, b, Wire32, false, local, dst)
}

func (r *Ring) reduce(ctx context.Context, b Bucket, wire Wire, mean bool, local []Contribution, dst []float32) error {
	if err := r.check(b, wire, local, len(dst)); err != nil {
		return err
	}
	key := bucketKey{b.Step, uint32(b.ID)}
	if err := r.enter(key); err != nil {
		return err
	}
	defer r.leave(key)

	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	defer context.AfterFunc(r.ctx, func() { stop(context.Cause(r.ctx)) })()

	j := newJob(r, b, fixed.NewGrid(wire, r.cfg.Replicas, mean), local, dst)
	err := j.run(ctx)
	var nonFinite *NonFiniteError
	if err != nil && !errors.As(err, &nonFinite) {
		r.fail(err)
	}
	return err
}

// check finds faults of the caller; they leave the ring usable.
func (r *Ring) check(b Bucket, wire Wire, local []Contribution, n int) error {
	place := func(format string, args ...any) error {
		return fmt.Errorf("allreduce: step %d bucket %d: %s", b.Step, b.ID, fmt.Sprintf(format, args...))
	}
	if b.ID < 0 || int64(b.ID) > math.MaxUint32 {
		return place("bucket ID must be 0..2^32-1")
	}
	if !wire.Valid() {
		return place("wire width is %d, must be 32 or 16", uint8(wire))
	}
	if n > MaxBucket {
		return place("%d values, at most %d are allowed: use smaller buckets", n, MaxBucket)
	}
	seen := make(map[int]bool, len(local))
	for _, c := range local {
		if c.Replica < 0 || c.Replica >= r.cfg.Replicas {
			return place("replica %d does not exist, the run has %d", c.Replica, r.cfg.Replicas)
		}
		if seen[c.Replica] {
			return place("replica %d is given twice", c.Replica)
		}
		seen[c.Replica] = true
		if len(c.Values) != n {
			return place("replica %d has %d values, the result has %d", c.Replica, len(c.Values), n)
		}
	}
	if r.cfg.Size == 1 && len(local) != r.cfg.Replicas {
		return place("%d replicas given, a ring of one worker hosts all %d", len(local), r.cfg.Replicas)
	}
	return nil
}

// enter admits a bucket unless the ring has failed or has seen it before.
func (r *Ring) enter(k bucketKey) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := context.Cause(r.ctx); err != nil {
		return err
	}
	if r.closed {
		return ErrClosed
	}
	if _, busy := r.active[k]; busy || r.done.has(k) {
		return fmt.Errorf("allreduce: step %d bucket %d was already reduced in generation %d", k.step, k.bucket, r.cfg.Generation)
	}
	r.active[k] = struct{}{}
	return nil
}

func (r *Ring) leave(k bucketKey) {
	if r.transport != nil {
		r.transport.Forget(k.step, k.bucket)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.active, k)
	r.done.add(k)
	if len(r.active) == 0 {
		r.idle.Broadcast()
	}
}

// fail ends the ring with err; the first one stays.
func (r *Ring) fail(err error) {
	if context.Cause(r.ctx) != nil {
		return
	}
	r.cancel(err)
	if r.transport != nil {
		r.transport.Abort(context.Cause(r.ctx))
	}
}

// Abort makes every Reduce, now and later, return err promptly and tells the
// neighbours. The ring still has to be closed.
func (r *Ring) Abort(err error) {
	if err == nil {
		err = ErrClosed
	}
	r.fail(err)
}

// Err returns what the ring failed with, nil while it is whole.
func (r *Ring) Err() error { return context.Cause(r.ctx) }

// Close ends the ring and its transport, and waits for both. A Reduce in
// progress returns ErrClosed. May be called twice.
func (r *Ring) Close() error {
	r.closeOnce.Do(func() {
		r.mu.Lock()
		r.closed = true
		busy := len(r.active) > 0
		r.mu.Unlock()
		if busy {
			r.fail(ErrClosed)
		}
		r.mu.Lock()
		for len(r.active) > 0 {
			r.idle.Wait() //bounded: every wait of a job has a deadline, and ends with the ring
		}
		r.mu.Unlock()
		if r.transport != nil {
			r.closeErr = r.transport.Close()
		}
		r.cancel(ErrClosed)
	})
	return r.closeErr
}
