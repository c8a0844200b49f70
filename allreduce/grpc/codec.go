package ringgrpc

import (
	"encoding/binary"
	"fmt"

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
	abort   bool
	reason  string
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
		encodeHead(&f.message.Header, *framed)
		return mem.BufferSlice{mem.NewBuffer(framed, (*lent)(o))}, nil
	case *received:
		return o.forward(&f.message.Header), nil
	}
	return nil, fmt.Errorf("ringgrpc: a payload of %T, must be of Buffer or Recv", f.message.Owner())
}

func encodeHead(h *allreduce.Header, b []byte) {
	h.Encode(b)
	clear(b[allreduce.HeaderSize:headSize])
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
	h, err := parseHead(head[:min(n, headSize)])
	if err != nil {
		return err
	}
	if n-headSize != int(h.Length) {
		return fmt.Errorf("ringgrpc: header announces %d bytes of payload, %d came", h.Length, n-headSize)
	}
	*f = frame{message: newReceived(data).message(h)}
	return nil
}

// parseHead reads the header and checks that nothing but zeros fills it up.
func parseHead(b []byte) (allreduce.Header, error) {
	h, err := allreduce.DecodeHeader(b)
	if err != nil {
		return h, err
	}
	if len(b) < headSize {
		return h, fmt.Errorf("ringgrpc: a message of %d bytes, its header has %d", len(b), headSize)
	}
	for _, x := range b[allreduce.HeaderSize:] {
		if x != 0 {
			return h, fmt.Errorf("ringgrpc: the %d bytes after the header must be zero", headSize-allreduce.HeaderSize)
		}
	}
	return h, nil
}
