package ringgrpc

import (
	"encoding/binary"
	"fmt"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"

	"github.com/lockstep-ml/lockstep/allreduce"
)

const codecName = "lockstep-ring"

// maxFrame is the longest message in bytes.
const maxFrame = allreduce.HeaderSize + allreduce.MaxPayload

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

// codec is gRPC's CodecV2 for *frame. It copies no payload on the way out, but
// for tiny ones, and on the way in only joins the pieces that HTTP/2 cut.
type codec struct{}

func init() { encoding.RegisterCodecV2(codec{}) }

// Name is part of the content type.
func (codec) Name() string { return codecName }

// freeing gives a payload back to its owner once gRPC has written it.
type freeing struct{ m allreduce.Message }

func (f freeing) Get(int) *[]byte { panic("ringgrpc: this pool only takes memory back") }
func (f freeing) Put(*[]byte)     { f.m.Free() }

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
	head := make([]byte, allreduce.HeaderSize)
	f.message.Header.Encode(head)
	payload := f.message.Payload
	if mem.IsBelowBufferPoolingThreshold(cap(payload)) {
		// gRPC would not tell when it is done with so small a buffer: copy it.
		head = append(head, payload...)
		f.message.Free()
		return mem.BufferSlice{mem.SliceBuffer(head)}, nil
	}
	return mem.BufferSlice{mem.SliceBuffer(head), mem.NewBuffer(&payload, freeing{f.message})}, nil
}

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
	buf := data.MaterializeToBuffer(mem.DefaultBufferPool())
	if err := f.parse(buf); err != nil {
		buf.Free()
		return err
	}
	if f.abort {
		buf.Free()
	}
	return nil
}

func (f *frame) parse(buf mem.Buffer) error {
	b := buf.ReadOnlyData()
	if binary.LittleEndian.Uint32(b) == abortMagic {
		if len(b) > 4+maxReason {
			return fmt.Errorf("ringgrpc: a reason of %d bytes, at most %d are allowed", len(b)-4, maxReason)
		}
		*f = frame{abort: true, reason: string(b[4:])}
		return nil
	}
	h, err := allreduce.DecodeHeader(b)
	if err != nil {
		return err
	}
	payload := b[allreduce.HeaderSize:]
	if len(payload) != int(h.Length) {
		return fmt.Errorf("ringgrpc: header announces %d bytes of payload, %d came", h.Length, len(payload))
	}
	*f = frame{message: allreduce.NewMessage(h, payload, buf)}
	return nil
}
