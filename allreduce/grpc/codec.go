package ringgrpc

import (
	"encoding/binary"
	"fmt"
	"time"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"

	"github.com/lockstep-ml/lockstep/allreduce"
)

const codecName = "lockstep-ring"

// headSize is the length of a ring message's header with the zeros that fill it
// up. With gRPC's own 5 bytes in front it makes 128, and DATA frames hold 16 KiB:
// so each piece of a payload is a multiple of a cache line long, and begins at one
// where it is received.
const headSize = allreduce.Headroom - 5

// maxFrame is the longest message in bytes.
const maxFrame = headSize + allreduce.MaxPayload

// maxReason bounds the text of a reason to give up.
const maxReason = 2048

// abortMagic is "LSA1".
const abortMagic = 0x3141534c

// frame is what one gRPC message holds: a ring message, or a reason to give up.
type frame struct {
	message allreduce.Message
	// coded says that the payload is sent, or came, in coded form.
	coded    bool
	decoding time.Duration // how long that took
	flight   *flight       // is told when the message has been written; may be nil
	abort    bool
	reason   string
}

// codec is gRPC's CodecV2 for *frame. It copies no payload: what is sent goes
// out of the memory it was computed in, and what comes in is read, and passed
// on, in the pieces that HTTP/2 cut.
type codec struct{}

func init() { encoding.RegisterCodecV2(codec{}) }

// Name is part of the content type.
func (codec) Name() string { return codecName }

// Marshal takes ownership of a ring message's payload.
func (codec) Marshal(v any) (mem.BufferSlice, error) {
	f, ok := v.(*frame)
	if !ok {
		return nil, fmt.Errorf("ringgrpc: the codec carries frames, not %T", v)
	}
	if f.abort {
		reason := f.reason[:min(len(f.reason), maxReason)]
		b := binary.LittleEndian.AppendUint32(nil, abortMagic)
		return mem.BufferSlice{mem.SliceBuffer(append(b, reason...))}, nil
	}
	switch o := f.message.Owner().(type) {
	case *allreduce.Buffer:
		framed := o.Frame(headSize)
		encodeHead(&f.message.Header, f.coded, len(*framed)-headSize, *framed)
		return mem.BufferSlice{mem.NewBuffer(framed, f.pool((*lent)(o)))}, nil
	case *received:
		return o.forward(&f.message.Header, f.coded, f.pool(o)), nil
	}
	return nil, fmt.Errorf("ringgrpc: a payload of %T, must be of Buffer or Recv", f.message.Owner())
}

// pool is where gRPC gives the message's memory back to: otherwise, unless
// somebody wants to know when.
func (f *frame) pool(otherwise mem.BufferPool) mem.BufferPool {
	if f.flight != nil {
		return f.flight
	}
	return otherwise
}

// A ring message's header is followed by its form and, where that is coded, by
// the bytes of payload that are sent; the header has those of the values.
const (
	formAt, lengthAt = allreduce.HeaderSize, allreduce.HeaderSize + 4
	formCoded        = 1
)

// encodeHead writes the header, and the form of a payload sent as length bytes.
func encodeHead(h *allreduce.Header, coded bool, length int, b []byte) {
	h.Encode(b)
	clear(b[allreduce.HeaderSize:headSize])
	if coded {
		b[formAt] = formCoded
		binary.LittleEndian.PutUint32(b[lengthAt:], uint32(length))
	}
}

// lent is a Buffer while gRPC writes it; Put is how gRPC gives it back.
type lent allreduce.Buffer

// Get implements mem.BufferPool.
func (*lent) Get(int) *[]byte { panic("ringgrpc: this pool only takes memory back") }

// Put implements mem.BufferPool.
func (l *lent) Put(*[]byte) { (*allreduce.Buffer)(l).Free() }

// Unmarshal fills in a *frame, which then owns the received memory.
func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	f, ok := v.(*frame)
	if !ok {
		return fmt.Errorf("ringgrpc: the codec carries frames, not %T", v)
	}
	n := data.Len()
	if n < 4 || n > maxFrame {
		return fmt.Errorf("ringgrpc: a frame of %d bytes, must be 4..%d", n, maxFrame)
	}
	var head [headSize]byte
	data.CopyTo(head[:])
	if binary.LittleEndian.Uint32(head[:]) == abortMagic {
		if n > 4+maxReason {
			return fmt.Errorf("ringgrpc: a reason of %d bytes, at most %d are allowed", n-4, maxReason)
		}
		*f = frame{abort: true, reason: string(data.Materialize()[4:])}
		return nil
	}
	h, length, coded, err := parseHead(head[:min(n, headSize)])
	if err != nil {
		return err
	}
	if n-headSize != length {
		return fmt.Errorf("ringgrpc: header announces %d bytes of payload, %d came", length, n-headSize)
	}
	r, start := newReceived(data), time.Now()
	if coded {
		if err := r.decode(int(h.Length)); err != nil {
			r.Free()
			return fmt.Errorf("ringgrpc: step %d, bucket %d, %v, hop %d, segment %d: %w", h.Step, h.Bucket, h.Phase, h.Hop, h.Segment, err)
		}
	}
	*f = frame{message: r.message(h), coded: coded, decoding: time.Since(start)}
	return nil
}

// parseHead reads the header and the payload's form and length as sent. It
// checks that only zeros fill it up.
func parseHead(b []byte) (h allreduce.Header, length int, coded bool, err error) {
	if h, err = allreduce.DecodeHeader(b); err != nil {
		return h, 0, false, err
	}
	if len(b) < headSize {
		return h, 0, false, fmt.Errorf("ringgrpc: a message of %d bytes, its header has %d", len(b), headSize)
	}
	length = int(h.Length)
	if coded = b[formAt] == formCoded; coded {
		length = int(binary.LittleEndian.Uint32(b[lengthAt:]))
		if !codable(&h) || length >= int(h.Length) {
			return h, 0, false, fmt.Errorf("ringgrpc: %d bytes of %d-bit values in phase %v cannot be coded as %d", h.Length, h.Wire, h.Phase, length)
		}
	}
	for i, x := range b[allreduce.HeaderSize:] {
		at := i + allreduce.HeaderSize
		if x != 0 && !(coded && (at == formAt || at >= lengthAt && at < lengthAt+4)) {
			return h, 0, false, fmt.Errorf("ringgrpc: byte %d after the header is %d, must be zero", i, x)
		}
	}
	return h, length, coded, nil
}
