package allreduce

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/lockstep-ml/lockstep/allreduce/fixed"
)

// job is the reduction of one bucket, run by the goroutine that called Reduce.
type job struct {
	r      *Ring
	bucket Bucket
	wire   Wire
	local  []Contribution
	dst    []float32
	codes  []byte          // one byte a block; local maxima, then those of all replicas
	caller context.Context // the bucket's; wait has its own below it
	wait   *waiter
	check  checksum
	fixed  fixed.Bucket
}

func newJob(r *Ring, b Bucket, g fixed.Grid, local []Contribution, dst []float32) *job {
	j := &job{r: r, bucket: b, wire: g.Wire(), local: local, dst: dst}
	j.fixed = fixed.Bucket{Grid: g, Dst: dst, Replicas: make([][]float32, len(local))}
	for i, c := range local {
		j.fixed.Replicas[i] = c.Values
	}
	return j
}

func (j *job) run(ctx context.Context) error {
	if len(j.dst) == 0 {
		return nil
	}
	if err := context.Cause(ctx); err != nil {
		return err
	}
	codes := NewBuffer(fixed.Blocks(len(j.dst)))
	defer codes.Free()
	j.codes = codes.pieces[0]
	j.fixed.Codes = j.codes
	clear(j.codes)
	for _, c := range j.local {
		fixed.MaxCodes(j.codes, c.Values)
	}
	if j.r.cfg.Size == 1 {
		if err := j.nonFinite(); err != nil {
			return err
		}
		// Without a network the same arithmetic: all replicas are here.
		j.fixed.SumDecode(nil, nil, 0, len(j.dst))
		return nil
	}
	j.caller, j.wait = ctx, newWaiter(ctx)
	defer j.wait.close()
	if err := j.exponents(); err != nil {
		return err
	}
	if err := j.nonFinite(); err != nil {
		return err
	}
	return j.data()
}

// exponents takes the maximum of the codes over all workers. Each hop passes on
// all that is known; the maximum is idempotent, so in each level Size-1 hops of the
// whole array do, where reduce-scatter and all-gather would take twice as many hops
// for an array that is too small to care. After the inner level a worker knows its
// group's, which is what the outer passes on.
func (j *job) exponents() error {
	for level, seat := range j.r.seats {
		phase := PhaseExponents
		if Level(level) == Outer {
			phase = PhaseOuterExponents
		}
		for hop := range seat.Size - 1 {
			if err := j.exchange(phase, hop); err != nil {
				return err
			}
		}
	}
	return nil
}

// exchange is one hop of the exponent pass.
func (j *job) exchange(phase Phase, hop int) error {
	h := j.header(phase, hop, 0, 0, len(j.codes))
	out, err := j.buffer(&h)
	if err != nil {
		return err
	}
	copy(out.Payload[0], j.codes)
	out.add(j.codes)
	if err := j.send(&h, out); err != nil {
		return err
	}
	m, err := j.recv(&h)
	if err != nil {
		return err
	}
	return j.raise(&h, m)
}

// raise takes the left neighbour's codes into this worker's.
func (j *job) raise(want *Header, m Message) error {
	defer m.Free()
	m.sum = payloadSum(&m)
	if err := j.verify(want, &m); err != nil {
		return err
	}
	rest := j.codes
	for _, piece := range m.Payload {
		fixed.MaxBytes(rest[:len(piece)], piece)
		rest = rest[len(piece):]
	}
	return nil
}

// nonFinite returns a *NonFiniteError when a block of any replica has the code
// for it. All workers come to the same verdict, and no message of the bucket is
// outstanding then, so the ring stays usable.
func (j *job) nonFinite() error {
	block := slices.Index(j.codes, fixed.CodeNonFinite)
	if block < 0 {
		return nil
	}
	e := &NonFiniteError{Step: j.bucket.Step, Bucket: j.bucket.ID, Block: block}
	for _, c := range j.local {
		i := fixed.FirstNonFinite(c.Values)
		if i < 0 || (e.Local && (i > e.Index || i == e.Index && c.Replica > e.Replica)) {
			continue
		}
		e.Local, e.Replica, e.Index, e.Block = true, c.Replica, i, i/fixed.BlockSize
		e.Value = fmt.Sprint(float64(c.Values[i]))
	}
	return e
}

// header fills in what is sent at (phase, hop, segment). What is received at
// the same place differs in sender, offset and length only.
func (j *job) header(phase Phase, hop, segment, offset, length int) Header {
	c := &j.r.cfg
	return Header{
		Key: Key{Step: j.bucket.Step, Bucket: uint32(j.bucket.ID), Phase: phase, Hop: uint16(hop), Segment: uint32(segment)},
		Run: j.r.runDigest, Generation: c.Generation, Wire: j.wire,
		Replicas: uint32(c.Replicas), From: uint16(c.Rank), Size: uint16(c.Size),
		BucketLen: uint64(len(j.dst)), Offset: uint64(offset), Length: uint32(length),
	}
}

// left is the rank of who sends messages of a phase to this worker.
func (j *job) left(p Phase) int { return j.r.seats[p.Level()].Left() }

// timeout is how long a wait of a phase may last.
func (j *job) timeout(p Phase) time.Duration {
	if p.Exponents() {
		return j.r.cfg.BeginTimeout
	}
	return j.r.cfg.HopTimeout
}

// buffer returns memory for what is sent at h's place.
func (j *job) buffer(h *Header) (Message, error) {
	j.wait.begin(j.timeout(h.Phase))
	m, err := j.r.transport.Buffer(j.wait.ctx, h.Phase.Level(), int(h.Length))
	if err = j.wait.end(err); err != nil {
		return Message{}, j.hopError("send", h, err)
	}
	return m, nil
}

// send seals a message whose payload's sum is known and hands it to the transport.
func (j *job) send(h *Header, m Message) error {
	m.Header = *h
	m.Header.CRC = j.check.of(&m.Header, m.sum)
	j.wait.begin(j.timeout(h.Phase))
	if err := j.wait.end(j.r.transport.Send(j.wait.ctx, m)); err != nil {
		return j.hopError("send", h, err)
	}
	return nil
}

// await waits for the message with key k.
func (j *job) await(k Key) (Message, error) {
	j.wait.begin(j.timeout(k.Phase))
	m, err := j.r.transport.Recv(j.wait.ctx, k)
	if err = j.wait.end(err); err != nil {
		m.Free()
		return Message{}, err
	}
	return m, nil
}

// recv waits for the left neighbour's message at want's place. It must be passed
// to verify before anything that came of it is used. It corrects want, which has
// this worker's rank in From.
func (j *job) recv(want *Header) (Message, error) {
	want.From = uint16(j.left(want.Phase))
	m, err := j.await(want.Key)
	if err != nil {
		return Message{}, j.hopError("receive", want, err)
	}
	if err := j.compare(want, &m); err != nil {
		m.Free()
		return Message{}, err
	}
	return m, nil
}

// compare returns what is wrong with a message's header or length: that it is
// damaged, where that explains it.
func (j *job) compare(want *Header, m *Message) error {
	mismatch := want.differs(&m.Header)
	if n := m.Len(); mismatch == nil && n != int(want.Length) {
		mismatch = &MismatchError{Field: "the payload's length", Here: uint64(want.Length), There: uint64(n)}
	}
	if mismatch == nil {
		return nil
	}
	m.sum = payloadSum(m)
	if err := j.verify(want, m); err != nil {
		return err
	}
	return j.hopError("receive", want, mismatch)
}

// verify compares the checksum of a received message, the payload's being
// known, with what it says.
func (j *job) verify(want *Header, m *Message) error {
	sum := j.check.of(&m.Header, m.sum)
	if sum == m.Header.CRC {
		return nil
	}
	return j.hopError("receive", want, &ChecksumError{Want: m.Header.CRC, Got: sum})
}

// hopError gives err its place. The end of the ring is returned as it is: it has
// a place of its own.
func (j *job) hopError(op string, h *Header, err error) error {
	ctx := j.caller
	if cause := context.Cause(j.r.ctx); cause != nil {
		return cause
	}
	c := &j.r.cfg
	peer := j.left(h.Phase)
	if op == "send" {
		peer = j.r.seats[h.Phase.Level()].Right()
	}
	var broken *PeerError
	switch {
	case errors.As(err, &broken):
		peer = broken.Peer
	case ctx.Err() != nil:
		err = fmt.Errorf("the caller gave up: %w", context.Cause(ctx))
	case errors.Is(err, context.DeadlineExceeded):
		err = fmt.Errorf("no progress within %v: %w", j.timeout(h.Phase), err)
	}
	return &HopError{
		Run: c.Run, Generation: c.Generation, Step: h.Step, Bucket: j.bucket.ID,
		Phase: h.Phase, Hop: int(h.Hop), Peer: peer, PeerName: c.name(peer), Op: op, Err: err,
	}
}
