package ringbench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/sync/errgroup"
)

// seat is a member's part in one session.
type seat struct {
	member *Member
	spec   *Spec
	place  *Place
	rings  Rings
	ring   Ring
	listen net.Listener // of the plain ring
	raw    *rawRing

	grads      [][]float32 // of each hosted replica, the statistics behind the gradient
	result     []float32   // likewise
	lastBucket int         // after gradient and statistics: the barrier's
	token      []float32   // the barrier's result
}

func (s *seat) close() error {
	var errs []error
	if s.ring != nil {
		errs = append(errs, s.ring.Close())
	}
	if s.rings != nil {
		errs = append(errs, s.rings.Close())
	}
	if s.raw != nil {
		errs = append(errs, s.raw.close())
	}
	if s.listen != nil {
		s.listen.Close() // a ring that failed may have closed it
	}
	return errors.Join(errs...)
}

// do answers one request.
func (s *seat) do(ctx context.Context, r *request) (*reply, error) {
	if r.Op == opPrepare {
		return s.prepare(r.Spec)
	}
	if s.spec == nil {
		return nil, fmt.Errorf("%s before %s", r.Op, opPrepare)
	}
	if r.Op == opJoin {
		return s.join(ctx, r.Place, r.Counted)
	}
	if s.ring == nil {
		return nil, fmt.Errorf("%s before %s", r.Op, opJoin)
	}
	ctx, cancel := context.WithTimeout(ctx, s.member.Patience)
	defer cancel()
	switch r.Op {
	case opVerify:
		return s.verify(ctx, r.Step)
	case opMeasure:
		if err := s.hold(ctx, r.Step); err != nil {
			return nil, err
		}
		hop, rate, err := s.ring.Measure(ctx)
		return &reply{Took: hop, Rate: rate}, err
	case opRound:
		return s.timed(ctx, r.Step, s.reduce)
	case opStep:
		return s.timed(ctx, r.Step, s.step)
	case opRaw:
		return s.moveRaw(r.Bytes)
	case opHop:
		begun := time.Now()
		err := s.needRaw(func() error { return s.raw.circle(s.place.Rank, s.member.Patience) })
		return &reply{Took: time.Since(begun)}, err
	}
	return nil, fmt.Errorf("%q is not known here: are all members of one version?", r.Op)
}

// prepare makes room and listens.
func (s *seat) prepare(spec *Spec) (*reply, error) {
	if spec == nil || s.spec != nil {
		return nil, errors.New("a session is prepared once, with a spec")
	}
	if err := spec.Validate(); err != nil {
		return nil, err
	}
	if err := s.member.Fits(spec.Memory()); err != nil {
		return nil, err
	}
	var err error
	if s.listen, err = net.Listen("tcp", net.JoinHostPort(s.member.Host, "0")); err != nil {
		return nil, fmt.Errorf("plain ring: %w", err)
	}
	if s.rings, err = s.member.Open(spec.Link, s.member.Host); err != nil {
		return nil, err
	}
	s.spec = spec
	for range spec.hosts() {
		s.grads = append(s.grads, make([]float32, spec.Elements+spec.Statistics))
	}
	s.result = make([]float32, spec.Elements+spec.Statistics)
	s.token, s.lastBucket = make([]float32, 1), len(spec.Buckets)+1
	return &reply{Address: s.rings.Address(), Raw: s.listen.Addr().String()}, nil
}

// join takes the place in a generation's ring, and the first time in the plain ring.
func (s *seat) join(ctx context.Context, p *Place, counted bool) (*reply, error) {
	if err := s.check(p); err != nil {
		return nil, err
	}
	if s.ring != nil {
		if err := s.ring.Close(); err != nil {
			return nil, err
		}
		s.ring = nil
	}
	if s.place == nil {
		for i, grad := range s.grads {
			fillAll(grad, p.Rank*s.spec.hosts()+i)
		}
	}
	s.place = p
	ctx, cancel := context.WithTimeout(ctx, s.member.Patience)
	defer cancel()
	ring, err := s.rings.Join(ctx, *p, counted)
	if err != nil {
		return nil, err
	}
	s.ring = ring
	if s.raw == nil && len(p.Names) > 1 {
		l := s.listen
		if s.raw, err = joinRaw(ctx, secured(l, s.member.Server), s.member.Dial, s.spec.Run, p, s.member.Patience); err != nil {
			return nil, err
		}
	}
	return &reply{}, nil
}

// check holds a place against the session.
func (s *seat) check(p *Place) error {
	n := s.spec.Replicas / s.spec.hosts()
	if p == nil || len(p.Names) != n || len(p.Addresses) != n || len(p.Raw) != n || p.Rank < 0 || p.Rank >= n {
		return fmt.Errorf("the place does not fit a ring of %d", n)
	}
	if s.place != nil && s.place.Rank != p.Rank {
		return fmt.Errorf("rank %d cannot become %d", s.place.Rank, p.Rank)
	}
	if p.Group < 0 || p.Group > n || p.Group > 1 && n%p.Group != 0 {
		return fmt.Errorf("%d members do not divide into groups of %d", n, p.Group)
	}
	errs := []error{s.member.Allow(p.Raw[p.right()])}
	for _, addr := range p.Addresses { // which of them are neighbours is the ring's business
		errs = append(errs, s.member.Allow(addr))
	}
	return errors.Join(errs...)
}

// hosted gives the values [lo, hi) of the replicas that this place hosts.
func (s *seat) hosted(lo, hi int) []Hosted {
	out := make([]Hosted, len(s.grads))
	for i, grad := range s.grads {
		out[i] = Hosted{s.place.Rank*len(s.grads) + i, grad[lo:hi]}
	}
	return out
}

// fillAll makes a replica's gradient on all cores.
func fillAll(grad []float32, replica int) {
	var group errgroup.Group
	for at := 0; at < len(grad); at += 1 << 22 {
		group.Go(func() error {
			fill(grad[at:min(at+1<<22, len(grad))], replica, at)
			return nil
		})
	}
	//bounded: the members of the group only compute
	group.Wait() // nothing here fails
}

// verify reduces every bucket and gives what a ring of one worker can be compared with.
func (s *seat) verify(ctx context.Context, step uint64) (*reply, error) {
	clear(s.result)
	if _, err := s.reduce(ctx, step); err != nil {
		return nil, err
	}
	out := &reply{Digests: digests(s.result, s.spec.Buckets)}
	out.Messages, out.Bytes = s.ring.Sent()
	return out, nil
}

// hold holds everybody up until all are there: a bucket of one value is complete nowhere before it has begun everywhere.
func (s *seat) hold(ctx context.Context, step uint64) error {
	return s.ring.Mean(ctx, step, s.lastBucket, true, s.hosted(0, 1), s.token)
}

// timed does work between two looks at the clock, with everybody held up before it.
func (s *seat) timed(ctx context.Context, step uint64, work func(context.Context, uint64) (exposed time.Duration, err error)) (*reply, error) {
	if err := s.hold(ctx, step); err != nil {
		return nil, err
	}
	cpu, begun := cpuTime(), time.Now()
	exposed, err := work(ctx, step)
	out := &reply{Took: time.Since(begun), Exposed: exposed, CPU: cpuTime() - cpu}
	out.Coding, out.Ways = s.ring.Coding(), s.ring.Ways()
	return out, err
}

// reduce sets all buckets going at once.
func (s *seat) reduce(ctx context.Context, step uint64) (exposed time.Duration, err error) {
	group, ctx := errgroup.WithContext(ctx)
	for i := range s.spec.Buckets {
		s.start(ctx, group, step, i)
	}
	return 0, group.Wait() //bounded: each bucket ends by the deadlines of the ring
}

func (s *seat) start(ctx context.Context, group *errgroup.Group, step uint64, i int) {
	b := s.spec.Buckets[i]
	group.Go(func() error {
		err := s.ring.Mean(ctx, step, i, false, s.hosted(b.Lo, b.Hi), s.result[b.Lo:b.Hi])
		if err != nil {
			return fmt.Errorf("bucket %d: %w", i, err)
		}
		return nil
	})
}

// step does what a training step does to the ring: buckets come when a backward pass would have them, then the statistics. The stand-in for
// computing waits, and takes no core. exposed is how long after the computing the last bucket came.
func (s *seat) step(ctx context.Context, step uint64) (exposed time.Duration, err error) {
	begun := time.Now()
	group, gctx := errgroup.WithContext(ctx)
	until := func(share float64) {
		t := time.NewTimer(time.Until(begun.Add(time.Duration(share * float64(s.spec.Compute)))))
		defer t.Stop()
		select {
		case <-t.C:
		case <-gctx.Done():
		}
	}
	for i, b := range s.spec.Buckets {
		until(b.Ready)
		s.start(gctx, group, step, i)
	}
	until(1)
	computed := time.Now()
	if s.spec.Statistics > 0 {
		group.Go(func() error {
			at := s.spec.Elements
			return s.ring.Mean(gctx, step, len(s.spec.Buckets), true, s.hosted(at, len(s.result)), s.result[at:])
		})
	}
	err = group.Wait() //bounded: each bucket ends by the deadlines of the ring
	return time.Since(computed), err
}

// needRaw does work on the plain ring, which a ring of one does not have.
func (s *seat) needRaw(work func() error) error {
	if s.raw == nil {
		return errors.New("a ring of one has no neighbours")
	}
	return work()
}

func (s *seat) moveRaw(n int64) (*reply, error) {
	if n < 1 || n > 1<<40 {
		return nil, fmt.Errorf("%d bytes over the plain ring, must be 1..2^40", n)
	}
	cpu, begun := cpuTime(), time.Now()
	err := s.needRaw(func() error { return s.raw.move(n, s.member.Patience) })
	return &reply{Took: time.Since(begun), CPU: cpuTime() - cpu}, err
}
