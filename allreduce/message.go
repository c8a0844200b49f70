package allreduce

import (
	"math/bits"
	"sync"
)

// Owner is told when a payload's memory is no longer in use.
type Owner interface{ Free() }

// Message is one header and its payload. Whoever holds a Message owns its
// payload and must pass it on or call Free, exactly once.
type Message struct {
	Header  Header
	Payload []byte
	owner   Owner
}

// NewMessage joins a header and a payload. Owner may be nil when the payload
// is left to the garbage collector.
func NewMessage(h Header, payload []byte, owner Owner) Message {
	return Message{Header: h, Payload: payload, owner: owner}
}

// Free gives the payload's memory back. The payload must not be touched after.
func (m Message) Free() {
	if m.owner != nil {
		m.owner.Free()
	}
}

// buffer is pooled payload memory, in classes of powers of two from 64 bytes
// to MaxPayload.
type buffer struct {
	data  []byte
	class int
}

const minClass = 6

var bufferPools [21]sync.Pool // class: 2^class bytes; 2^20 = MaxPayload

// newBuffer returns a buffer whose data has n bytes, of unspecified content.
func newBuffer(n int) *buffer {
	class := minClass
	if n > 1<<minClass {
		class = bits.Len(uint(n - 1))
	}
	if class >= len(bufferPools) {
		panic("allreduce: a payload was expected to be at most MaxPayload bytes")
	}
	if b, ok := bufferPools[class].Get().(*buffer); ok {
		b.data = b.data[:n]
		return b
	}
	return &buffer{data: make([]byte, n, 1<<class), class: class}
}

// Free returns the buffer to its pool.
func (b *buffer) Free() { bufferPools[b.class].Put(b) }
