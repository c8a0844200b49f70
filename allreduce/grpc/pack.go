package ringgrpc

import (
	"fmt"
	"sync"
	"time"

	"github.com/lockstep-ml/lockstep/allreduce"
	"github.com/lockstep-ml/lockstep/allreduce/coder"
)

// coders decode what comes in: gRPC's codec belongs to no stream.
var coders = sync.Pool{New: func() any { return new(coder.Coder) }}

// flight is a message from when a lane takes it until gRPC has written it. It is
// how gRPC gives the message's memory back.
type flight struct {
	coding *coding
	values int
	owner  allreduce.Owner
}

var flights = sync.Pool{New: func() any { return new(flight) }}

// Get implements mem.BufferPool.
func (*flight) Get(int) *[]byte { panic("ringgrpc: this pool only takes memory back") }

// Put implements mem.BufferPool.
func (f *flight) Put(*[]byte) {
	f.coding.written(time.Now(), f.values)
	f.owner.Free()
	*f = flight{}
	flights.Put(f)
}

// pack makes the lane's frame of a message: in coded form where the link codes.
// What came coded and is passed on is not coded again.
func (n *lane) pack(m allreduce.Message) {
	f := &n.frame
	*f = frame{message: m}
	if !codable(&m.Header) {
		return
	}
	code, sample := n.coding.begin(time.Now())
	came, _ := m.Owner().(*received)
	switch {
	case came != nil && came.plain != nil && code:
		f.coded = true
	case came != nil && came.plain != nil:
		f.message = came.unwrap(m.Header)
	case code:
		n.encode(f)
	case sample:
		n.sample(&m)
	}
	f.flight = flights.Get().(*flight)
	*f.flight = flight{coding: &n.coding, values: int(m.Header.Length), owner: f.message.Owner()}
}

// encode codes a frame's message, unless that saves less than a sixteenth.
func (n *lane) encode(f *frame) {
	m := f.message
	b := allreduce.NewBuffer(int(m.Header.Length - m.Header.Length/16))
	out := b.Message()
	start := time.Now()
	left, ok := n.coder.Encode(out.Payload[0], m.Payload)
	took := time.Since(start)
	if !ok {
		b.Free()
		n.coding.encoded(m.Len(), m.Len(), took)
		return
	}
	n.coding.encoded(m.Len(), left, took)
	m.Free()
	b.Truncate(left)
	f.message, f.coded = b.Message(), true
	f.message.Header = m.Header
}

// sample codes the beginning of a message, and decodes it, to see how fast that is.
func (n *lane) sample(m *allreduce.Message) {
	values := m.Payload[0]
	values = values[:min(len(values)&^1, sampleBytes)]
	if len(values) == 0 {
		return
	}
	b, back := allreduce.NewBuffer(len(values)), allreduce.NewBuffer(len(values))
	defer b.Free()
	defer back.Free()
	out := b.Message().Payload[0]
	start := time.Now()
	left, ok := n.coder.Encode(out, [][]byte{values})
	took := time.Since(start)
	if !ok {
		n.coding.encoded(len(values), len(values), took)
		n.coding.decoded(len(values), took) // nothing to decode, and nothing to gain
		return
	}
	n.coding.encoded(len(values), left, took)
	start = time.Now()
	if err := n.coder.Decode(back.Message().Payload[0], [][]byte{out[:left]}); err != nil {
		panic(fmt.Sprintf("ringgrpc: what was coded was expected to decode: %v", err))
	}
	n.coding.decoded(len(values), time.Since(start))
}
