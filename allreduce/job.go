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
	codes  *buffer // one byte a block; local maxima, then those of all replicas
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
	j.codes = newBuffer(fixed.Blocks(len(j.dst)))
	j.fixed.Codes = j.codes.data
	clear(j.codes.data)
	for _, c := range j.local {
		fixed.MaxCodes(j.codes.data, c.Values)
	}
	if j.r.cfg.Size > 1 {
		if err := j.exponents(ctx); err != nil {
			return err
		}
	}
	if err := j.nonFinite(); err != nil {
		return err
	}
	if j.r.cfg.Size == 1 {
		// Without a network the same arithmetic: all replicas are here.
		j.fixed.SumDecode(nil, nil, 0, len(j.dst))
		return nil
	}
	return j.data(ctx)
}

// exponents takes the maximum of the codes over all workers. Each hop passes on
// all that is known; the maximum is idempotent, so Size-1 hops of the whole
// array do, where reduce-scatter and all-gather would take twice as many hops
// for an array that is too small to care.
func (j *job) exponents(ctx context.Context) error {
	codes := j.codes.data
	for hop := range j.r.cfg.Size - 1 {
		h := j.header(PhaseExponents, hop, 0, 0, len(codes))
		out := newBuffer(len(codes))
		copy(out.data, codes)
		if err := j.send(ctx, h, out.data, out); err != nil {
			return err
		}
		m, err := j.recv(ctx, h)
		if err != nil {
			return err
		}
		fixed.MaxBytes(codes, m.Payload)
		m.Free()
	}
	return nil
}

// nonFinite returns a *NonFiniteError when a block of any replica has the code
// for it. All workers come to the same verdict, and no message of the bucket is
// outstanding then, so the ring stays usable.
func (j *job) nonFinite() error {
	block := slices.Index(j.codes.data, fixed.CodeNonFinite)
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

// timeout is how long a wait of a phase may last.
func (j *job) timeout(p Phase) time.Duration {
	if p == PhaseExponents {
		return j.r.cfg.BeginTimeout
	}
	return j.r.cfg.HopTimeout
}

// send seals a message and hands it to the transport, with its payload.
func (j *job) send(ctx context.Context, h Header, payload []byte, owner Owner) error {
	h.CRC = h.Sum(payload)
	hop, cancel := context.WithTimeout(ctx, j.timeout(h.Phase))
	defer cancel()
	if err := j.r.transport.Send(hop, NewMessage(h, payload, owner)); err != nil {
		return j.hopError(ctx, "send", &h, err)
	}
	return nil
}

// recv waits for the left neighbour's message at h's place and verifies it:
// nothing of it is used unless every byte is as it was sent and every field is
// as expected. want has this worker's rank in From.
func (j *job) recv(ctx context.Context, want Header) (Message, error) {
	want.From = uint16(j.r.cfg.left())
	hop, cancel := context.WithTimeout(ctx, j.timeout(want.Phase))
	defer cancel()
	m, err := j.r.transport.Recv(hop, want.Key)
	if err != nil {
		return Message{}, j.hopError(ctx, "receive", &want, err)
	}
	if err := verify(&want, &m); err != nil {
		m.Free()
		return Message{}, j.hopError(ctx, "receive", &want, err)
	}
	return m, nil
}

func verify(want *Header, m *Message) error {
	if sum := m.Header.Sum(m.Payload); sum != m.Header.CRC {
		return &ChecksumError{Want: m.Header.CRC, Got: sum}
	}
	if err := want.differs(&m.Header); err != nil {
		return err
	}
	if len(m.Payload) != int(want.Length) {
		return &MismatchError{Field: "the payload's length", Here: uint64(want.Length), There: uint64(len(m.Payload))}
	}
	return nil
}

// hopError gives err its place. ctx is the bucket's, not the hop's. The end of
// the ring is returned as it is: it has a place of its own.
func (j *job) hopError(ctx context.Context, op string, h *Header, err error) error {
	if cause := context.Cause(j.r.ctx); cause != nil {
		return cause
	}
	c := &j.r.cfg
	peer := c.left()
	if op == "send" {
		peer = c.right()
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
