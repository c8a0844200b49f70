package shm

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"os"

	"github.com/lockstep-ml/lockstep/internal/hugepage"
)

// ErrNotHere is returned where the system has no anonymous shared memory that
// this package knows how to use.
var ErrNotHere = errors.New("shm: shared memory between processes is not implemented on this system")

// ErrClosed is returned by an Inlet that was closed.
var ErrClosed = errors.New("shm: region is closed")

// Geometry is the shape of a region: how many slots, of how many bytes.
type Geometry struct {
	// Slots bounds how many payloads are under way on a link at once.
	Slots int
	// SlotBytes is the longest payload of a slot, a multiple of 64.
	SlotBytes int
}

const (
	maxSlots     = 1024
	maxSlotBytes = 1 << 20   // allreduce.MaxPayload
	maxRegion    = 256 << 20 // what a neighbour can make this process map
)

// Default is 128 slots of 256 KiB, 32 MiB: about the segments that four workers
// have under way with 25 buckets at once. With half as many more payloads are
// copied out to free their slots, a tenth of the processor time; twice as many
// saved some 5 % at most, for memory that is all taken at once.
func Default() Geometry { return Geometry{Slots: 128, SlotBytes: 256 << 10} }

// Validate says what is wrong with g.
func (g Geometry) Validate() error {
	switch {
	case g.Slots < 1 || g.Slots > maxSlots:
		return fmt.Errorf("shm: %d slots, must be 1..%d", g.Slots, maxSlots)
	case g.SlotBytes < 64 || g.SlotBytes > maxSlotBytes || g.SlotBytes%64 != 0:
		return fmt.Errorf("shm: slots of %d bytes, must be a multiple of 64 in 64..%d", g.SlotBytes, maxSlotBytes)
	case g.Slots*g.SlotBytes > maxRegion:
		return fmt.Errorf("shm: %d slots of %d bytes are more than %d bytes together", g.Slots, g.SlotBytes, maxRegion)
	}
	return nil
}

// The control area is the end of the file, little-endian as the processors it is shared between; each
// word that changes has a cache line of its own:
//
//	  0    4  magic "LSM1"
//	  4    4  slots
//	  8    4  bytes of a slot
//	 16   16  token
//	 64    4  wanted: the sender waits for a slot to come back
//	128    4  asleep: the receiver waits for a payload
//	192    4  count of payloads lent since the beginning, modulo 2^32
//	256+64i  4  state of slot i: 0 the sender's, 1 lent to the receiver
//
// The queue follows: 8 bytes for each payload lent, slot and length, as many as
// the next power of two above the slots has room for.
//
// The slots are in front of it, where the file begins, so that huge pages can
// hold them: HeadBytes each, then the payload.
const (
	magic     = 0x314d534c // "LSM1"
	tokenAt   = 16
	wantedAt  = 64
	asleepAt  = 128
	lentAt    = 192
	statesAt  = 256
	lineBytes = 64
	entry     = 8 // bytes in the queue
)

// HeadBytes is how many bytes a slot has for a header beside its payload: two
// cache lines.
const HeadBytes = 128

// queue is how many entries the queue has.
func (g Geometry) queue() uint32 { return 1 << bits.Len(uint(g.Slots-1)) }

func (g Geometry) queueAt() int { return statesAt + lineBytes*g.Slots }

// stride is the distance from slot to slot.
func (g Geometry) stride() int { return HeadBytes + g.SlotBytes }

// control is the length of the control area in bytes.
func (g Geometry) control() int {
	return wholePages(g.queueAt()+entry*int(g.queue()), os.Getpagesize())
}

// slots is the length of the slots' area in bytes, whole huge pages if it is longer than one.
func (g Geometry) slots() int {
	n := wholePages(g.Slots*g.stride(), os.Getpagesize())
	if n > hugepage.Size {
		n = wholePages(n, hugepage.Size)
	}
	return n
}

// size is the length of the region in bytes.
func (g Geometry) size() int { return g.slots() + g.control() }

func wholePages(n, page int) int { return (n + page - 1) / page * page }

// token tells the memory that was meant from any other.
type token [16]byte

func newToken() (t token) {
	_, _ = rand.Read(t[:]) // never fails: it ends the process instead
	return t
}

// Offer tells a receiver where to find a region and its bells. Whoever is on
// another host, in another process namespace or not permitted to look fails to
// open it.
type Offer struct {
	geometry Geometry
	pid      uint32
	file     uint32 // descriptors in that process: the region,
	lentBell uint32 // the reading end of the bell for payloads lent,
	freeBell uint32 // the writing end of the bell for slots freed
	token    token
}

const (
	offerMagic = 0x314f534c // "LSO1"
	offerBytes = 44
)

// Encode returns the offer as 44 bytes, little-endian: magic "LSO1", process,
// descriptors of region, bell of payloads and bell of slots, slots, bytes of a
// slot, token.
func (o Offer) Encode() []byte {
	le := binary.LittleEndian
	b := le.AppendUint32(make([]byte, 0, offerBytes), offerMagic)
	for _, v := range []uint32{o.pid, o.file, o.lentBell, o.freeBell, uint32(o.geometry.Slots), uint32(o.geometry.SlotBytes)} {
		b = le.AppendUint32(b, v)
	}
	return append(b, o.token[:]...)
}

// DecodeOffer reads an offer and checks its geometry.
func DecodeOffer(b []byte) (Offer, error) {
	le := binary.LittleEndian
	if len(b) != offerBytes || le.Uint32(b) != offerMagic {
		return Offer{}, errors.New("shm: not an offer of shared memory")
	}
	o := Offer{
		pid: le.Uint32(b[4:]), file: le.Uint32(b[8:]), lentBell: le.Uint32(b[12:]), freeBell: le.Uint32(b[16:]),
		geometry: Geometry{Slots: int(le.Uint32(b[20:])), SlotBytes: int(le.Uint32(b[24:]))},
		token:    token(b[28:]),
	}
	return o, o.geometry.Validate()
}

// describe writes the fields of the control area that never change.
func (o Offer) describe(control []byte) {
	le := binary.LittleEndian
	le.PutUint32(control[0:], magic)
	le.PutUint32(control[4:], uint32(o.geometry.Slots))
	le.PutUint32(control[8:], uint32(o.geometry.SlotBytes))
	copy(control[tokenAt:], o.token[:])
}

// describes says whether control is that of the region offered.
func (o Offer) describes(control []byte) error {
	le := binary.LittleEndian
	switch {
	case le.Uint32(control) != magic:
		return errors.New("shm: the memory found is not that of a link")
	case token(control[tokenAt:tokenAt+16]) != o.token:
		return errors.New("shm: the memory found is another link's: its token differs")
	case int(le.Uint32(control[4:])) != o.geometry.Slots || int(le.Uint32(control[8:])) != o.geometry.SlotBytes:
		return errors.New("shm: the memory found has another number or size of slots than was offered")
	}
	return nil
}
