package shm

import (
	"sync/atomic"
	"unsafe"
)

// memory is a region as one side has mapped it.
type memory struct {
	geometry Geometry // never changes; what follows is nil once it is unmapped
	control  []byte
	slots    []byte // read-only at the receiver
	unmap    func()
}

// word returns the 32-bit word of the control area at a byte offset. Both
// sides use it through atomic operations only, which also order what was written
// to a slot before.
func (m *memory) word(at int) *atomic.Uint32 {
	_ = m.control[at+3]
	return (*atomic.Uint32)(unsafe.Pointer(&m.control[at]))
}

func (m *memory) wanted() *atomic.Uint32     { return m.word(wantedAt) }
func (m *memory) asleep() *atomic.Uint32     { return m.word(asleepAt) }
func (m *memory) lent() *atomic.Uint32       { return m.word(lentAt) }
func (m *memory) state(i int) *atomic.Uint32 { return m.word(statesAt + lineBytes*i) }

// entry returns the words of the queue for payload number i: slot and length.
func (m *memory) entry(i uint32) (slot, length *atomic.Uint32) {
	at := m.geometry.queueAt() + entry*int(i%m.geometry.queue())
	return m.word(at), m.word(at + 4)
}

// head returns the header's bytes of slot i.
func (m *memory) head(i int) []byte {
	lo := i * m.geometry.stride()
	return m.slots[lo : lo+HeadBytes : lo+HeadBytes]
}

// payload returns the first n bytes of slot i's payload.
func (m *memory) payload(i, n int) []byte {
	lo := i*m.geometry.stride() + HeadBytes
	return m.slots[lo : lo+n : lo+n]
}
