package allreduce

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

// Phase is the part of a bucket's reduction that a message belongs to.
type Phase uint8

const (
	// PhaseExponents takes the maximum of the blocks' exponent codes.
	PhaseExponents Phase = 1
	// PhaseReduceScatter leaves each worker with the sum of one chunk.
	PhaseReduceScatter Phase = 2
	// PhaseAllGather brings every sum to every worker.
	PhaseAllGather Phase = 3

	// The same of the outer level.
	PhaseOuterExponents     Phase = 4
	PhaseOuterReduceScatter Phase = 5
	PhaseOuterAllGather     Phase = 6

	phases = 7

	// PhaseData stands in a Key, with hop and segment 0, for the next message of
	// reduce-scatter or all-gather, of any level, in order of arrival. No message
	// has it.
	PhaseData Phase = 255
	// PhaseBothData is PhaseData while the outer level owes messages too: then the
	// end of what comes from either neighbour ends the wait, else only the inner one's.
	PhaseBothData Phase = 254
)

// Level returns the level in which a phase's messages travel.
func (p Phase) Level() Level {
	if p >= PhaseOuterExponents && p <= PhaseOuterAllGather {
		return Outer
	}
	return Inner
}

// Exponents says whether the phase is an exponent pass: its payloads are codes of
// blocks, not values.
func (p Phase) Exponents() bool { return p == PhaseExponents || p == PhaseOuterExponents }

// String returns the phase's name as errors give it.
func (p Phase) String() string {
	switch p {
	case PhaseExponents:
		return "exponents"
	case PhaseReduceScatter:
		return "reduce-scatter"
	case PhaseAllGather:
		return "all-gather"
	case PhaseOuterExponents, PhaseOuterReduceScatter, PhaseOuterAllGather:
		return "outer " + (p - PhaseOuterExponents + PhaseExponents).String()
	}
	return fmt.Sprintf("phase(%d)", uint8(p))
}

// Key finds a message among those of one generation: its phase tells which neighbour sent it.
type Key struct {
	Step    uint64
	Bucket  uint32
	Phase   Phase
	Hop     uint16
	Segment uint32
}

// Header stands in front of every message; HeaderSize bytes, little-endian:
//
//	 0  4  magic "LSR1"
//	 4  1  phase: 1..3, of the outer level 4..6
//	 5  1  wire: bits of a value, 32 or 16
//	 6  2  hop
//	 8  8  run digest
//	16  8  generation
//	24  8  step
//	32  4  bucket
//	36  4  segment of the chunk
//	40  4  replicas of the run
//	44  2  sender's rank
//	46  2  size of the ring
//	48  8  length of the bucket in values
//	56  8  offset of the payload's first value (exponents: block)
//	64  4  payload length in bytes
//	68  4  CRC32C (Castagnoli) of the payload, then of bytes 0..67
type Header struct {
	Key
	Run        uint64
	Generation uint64
	Wire       Wire
	Replicas   uint32
	From       uint16
	Size       uint16
	BucketLen  uint64
	Offset     uint64
	Length     uint32
	CRC        uint32
}

// HeaderSize is the length of an encoded Header in bytes.
const HeaderSize = 72

const headerMagic = 0x3152534c // "LSR1"

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Encode writes the header to b, which has HeaderSize bytes or more.
func (h *Header) Encode(b []byte) {
	_ = b[HeaderSize-1] // panics at once when b is too short
	le := binary.LittleEndian
	le.PutUint32(b, headerMagic)
	b[4] = byte(h.Phase)
	b[5] = byte(h.Wire)
	le.PutUint16(b[6:], h.Hop)
	le.PutUint64(b[8:], h.Run)
	le.PutUint64(b[16:], h.Generation)
	le.PutUint64(b[24:], h.Step)
	le.PutUint32(b[32:], h.Bucket)
	le.PutUint32(b[36:], h.Segment)
	le.PutUint32(b[40:], h.Replicas)
	le.PutUint16(b[44:], h.From)
	le.PutUint16(b[46:], h.Size)
	le.PutUint64(b[48:], h.BucketLen)
	le.PutUint64(b[56:], h.Offset)
	le.PutUint32(b[64:], h.Length)
	le.PutUint32(b[68:], h.CRC)
}

// DecodeHeader reads a header from the first HeaderSize bytes of b. It checks
// form, not content: lengths within bounds, a known phase and wire.
func DecodeHeader(b []byte) (Header, error) {
	var h Header
	if len(b) < HeaderSize {
		return h, fmt.Errorf("allreduce: message of %d bytes is shorter than its header of %d", len(b), HeaderSize)
	}
	le := binary.LittleEndian
	if m := le.Uint32(b); m != headerMagic {
		return h, fmt.Errorf("allreduce: message begins with %08x, not with a ring header", m)
	}
	h.Phase, h.Wire, h.Hop = Phase(b[4]), Wire(b[5]), le.Uint16(b[6:])
	h.Run, h.Generation, h.Step = le.Uint64(b[8:]), le.Uint64(b[16:]), le.Uint64(b[24:])
	h.Bucket, h.Segment, h.Replicas = le.Uint32(b[32:]), le.Uint32(b[36:]), le.Uint32(b[40:])
	h.From, h.Size = le.Uint16(b[44:]), le.Uint16(b[46:])
	h.BucketLen, h.Offset = le.Uint64(b[48:]), le.Uint64(b[56:])
	h.Length, h.CRC = le.Uint32(b[64:]), le.Uint32(b[68:])
	switch {
	case h.Phase < PhaseExponents || h.Phase >= phases:
		return h, fmt.Errorf("allreduce: header has unknown phase %d", h.Phase)
	case !h.Wire.Valid():
		return h, fmt.Errorf("allreduce: header has unknown wire width %d", h.Wire)
	case h.Length > MaxPayload:
		return h, fmt.Errorf("allreduce: header announces %d bytes, at most %d are allowed", h.Length, MaxPayload)
	}
	return h, nil
}

// checksum is CRC32C of payloads and headers. Its memory is its own, so that
// none is taken from the heap for a message.
type checksum struct{ head [HeaderSize]byte }

// of computes what stands in h.CRC, from the CRC32C of the payload. The header
// comes last: a payload that is passed on keeps its sum though its header changes.
func (c *checksum) of(h *Header, payload uint32) uint32 {
	h.Encode(c.head[:])
	return crc32.Update(payload, castagnoli, c.head[:HeaderSize-4])
}

// differs returns the first field in which got, from a peer, is not what was
// expected, nil when there is none. Key, run and generation are compared too.
func (h *Header) differs(got *Header) *MismatchError {
	as := *got
	if as.CRC = h.CRC; as == *h {
		return nil
	}
	fields := [...]struct {
		name        string
		here, there uint64
	}{
		{"the run's digest", h.Run, got.Run},
		{"the generation", h.Generation, got.Generation},
		{"the step", h.Step, got.Step},
		{"the bucket", uint64(h.Bucket), uint64(got.Bucket)},
		{"the phase", uint64(h.Phase), uint64(got.Phase)},
		{"the hop", uint64(h.Hop), uint64(got.Hop)},
		{"the segment", uint64(h.Segment), uint64(got.Segment)},
		{"the number of replicas", uint64(h.Replicas), uint64(got.Replicas)},
		{"the size of the ring", uint64(h.Size), uint64(got.Size)},
		{"the sender's rank", uint64(h.From), uint64(got.From)},
		{"the bucket's length", h.BucketLen, got.BucketLen},
		{"the wire width", uint64(h.Wire), uint64(got.Wire)},
		{"the offset of a segment", h.Offset, got.Offset},
		{"the length of a segment", uint64(h.Length), uint64(got.Length)},
	}
	for _, f := range fields {
		if f.here != f.there {
			return &MismatchError{Field: f.name, Here: f.here, There: f.there}
		}
	}
	return nil
}
