package allreduce

import (
	"math/bits"

	"github.com/lockstep-ml/lockstep/internal/crc32c"
)

// Owner is told when a payload's memory is no longer in use.
type Owner interface{ Free() }

// Message is one header and its payload. Whoever holds a Message owns its
// payload and must pass it on or call Free, exactly once.
type Message struct {
	Header Header
	// Payload is the payload in order, in as many pieces as it came in. A piece
	// may be of any length and begin at any address: a value may straddle two.
	// One that Transport.Buffer gave is a single piece, to be written; one that
	// was received is only read.
	Payload [][]byte
	// Unsummed says that the payload did not leave this machine's memory: the
	// checksum is of the header alone. Set by the transport, on what it gives
	// out as on what it receives, never by what a peer says.
	Unsummed bool
	// Bound says that a received payload cannot be sent on as it is, but must be
	// copied into memory of Transport.Buffer. Set by the transport.
	Bound bool

	owner Owner
	sum   uint32 // CRC32C of the payload, once it is known
}

// NewMessage joins a header and a payload in one piece. Owner may be nil when
// the payload is left to the garbage collector.
func NewMessage(h Header, payload []byte, owner Owner) Message {
	return NewMessageInPieces(h, [][]byte{payload}, owner)
}

// NewMessageInPieces joins a header and a payload. The pieces, and the slice of
// them, are the message's until it is freed.
func NewMessageInPieces(h Header, payload [][]byte, owner Owner) Message {
	return Message{Header: h, Payload: payload, owner: owner}
}

// Owner returns who was named as the payload's owner, so that a transport knows
// its own memory.
func (m *Message) Owner() Owner { return m.owner }

// Len is the length of the payload in bytes.
func (m *Message) Len() int {
	n := 0
	for _, piece := range m.Payload {
		n += len(piece)
	}
	return n
}

// Free gives the payload's memory back. The payload must not be touched after.
func (m Message) Free() {
	if m.owner != nil {
		m.owner.Free()
	}
}

// add counts b, the next bytes written to the payload, into its checksum.
func (m *Message) add(b []byte) {
	if !m.Unsummed {
		m.sum = crc32c.Update(m.sum, b)
	}
}

// Headroom is how many bytes a Buffer has in front of its payload, for a
// transport's framing: a multiple of a cache line.
const Headroom = 128

// Buffer is pooled memory for one outgoing payload, aligned to a cache line.
type Buffer struct {
	mem    []byte // Headroom and 1<<class bytes
	class  int
	pieces [1][]byte
	framed []byte
}

const (
	// minClass keeps every Buffer above 1 KiB: gRPC leaves smaller ones to the
	// garbage collector and does not tell when it is done with them.
	minClass = 10
	maxClass = 20 // MaxPayload
)

// NewBuffer returns memory for a payload of n bytes, at most MaxPayload, of
// unspecified content.
func NewBuffer(n int) *Buffer {
	class := minClass
	if n > 1<<minClass {
		class = bits.Len(uint(n - 1))
	}
	if class > maxClass {
		panic("allreduce: a payload was expected to be at most MaxPayload bytes")
	}
	b := bufferPools[class].get()
	if b == nil {
		b = &Buffer{mem: carve(Headroom + 1<<class), class: class}
	}
	b.pieces[0] = b.mem[Headroom : Headroom+n : Headroom+n]
	return b
}

// Message returns the buffer as a message without a header, which owns it.
func (b *Buffer) Message() Message { return Message{Payload: b.pieces[:], owner: b} }

// Truncate shortens the payload to its first n bytes. Messages made before keep
// their header alone.
func (b *Buffer) Truncate(n int) { b.pieces[0] = b.pieces[0][:n] }

// Frame returns the payload with the last head bytes of the headroom in front.
// The pointer is good until Free.
func (b *Buffer) Frame(head int) *[]byte {
	b.framed = b.mem[Headroom-head : Headroom+len(b.pieces[0])]
	return &b.framed
}

// Free returns the buffer to its pool.
func (b *Buffer) Free() { bufferPools[b.class].put(b) }
