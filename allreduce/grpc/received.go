package ringgrpc

import (
	"sync"

	"google.golang.org/grpc/mem"

	"github.com/lockstep-ml/lockstep/allreduce"
	"github.com/lockstep-ml/lockstep/allreduce/coder"
)

// maxPieces bounds the pieces of a payload that are kept as they came. gRPC
// makes one for each 16 KiB; a peer that sends tiny frames would have each take
// a buffer many times its size, so its payloads are copied together.
const maxPieces = 2 + 2*allreduce.MaxPayload>>14

// received is the memory of one message as gRPC handed it over. It is pooled,
// with all that sending it on takes.
type received struct {
	data   mem.BufferSlice   // holds a reference of each
	pieces [][]byte          // the payload in data
	head   []byte            // for sending on
	boxed  mem.Buffer        // head, in gRPC's terms
	out    mem.BufferSlice   // what is sent on
	plain  *allreduce.Buffer // the values, where the payload is coded; else nil
	end    []byte            // empty; gRPC is done with all when it is done with this
}

var receivedPool = sync.Pool{New: func() any {
	head := make([]byte, headSize)
	// gRPC tells of buffers above 1 KiB only, by their capacity.
	return &received{head: head, boxed: mem.SliceBuffer(head), end: make([]byte, 0, 2048)}
}}

// newReceived takes references to data, a header of headSize and a payload.
func newReceived(data mem.BufferSlice) *received {
	r := receivedPool.Get().(*received)
	if len(data) > maxPieces {
		r.data = append(r.data, data.MaterializeToBuffer(mem.DefaultBufferPool()))
	} else {
		data.Ref()
		r.data = append(r.data, data...)
	}
	skip := headSize
	for _, b := range r.data {
		piece := b.ReadOnlyData()
		n := min(skip, len(piece))
		skip -= n
		if len(piece) > n {
			r.pieces = append(r.pieces, piece[n:])
		}
	}
	return r
}

func (r *received) message(h allreduce.Header) allreduce.Message {
	if r.plain != nil {
		return allreduce.NewMessageInPieces(h, r.plain.Message().Payload, r)
	}
	return allreduce.NewMessageInPieces(h, r.pieces, r)
}

// decode makes the values, n bytes, of a coded payload.
func (r *received) decode(n int) error {
	c := coders.Get().(*coder.Coder)
	defer coders.Put(c)
	r.plain = allreduce.NewBuffer(n)
	return c.Decode(r.plain.Message().Payload[0], r.pieces)
}

// unwrap returns the values of a coded payload as a message of their own and
// frees the rest.
func (r *received) unwrap(h allreduce.Header) allreduce.Message {
	m := r.plain.Message()
	m.Header = h
	r.plain = nil
	r.Free()
	return m
}

// forward returns the same payload behind another header. What comes back to
// pool is the last of it, so r and its memory are free then.
func (r *received) forward(h *allreduce.Header, coded bool, pool mem.BufferPool) mem.BufferSlice {
	length := 0
	for _, p := range r.pieces {
		length += len(p)
	}
	encodeHead(h, coded, length, r.head)
	r.out = append(r.out[:0], r.boxed)
	skip := headSize
	for _, b := range r.data {
		n := min(skip, b.Len())
		skip -= n
		if n < b.Len() {
			r.out = append(r.out, b.Slice(n, b.Len())) // takes a reference
		}
	}
	r.out = append(r.out, mem.NewBuffer(&r.end, pool))
	return r.out
}

// Get implements mem.BufferPool.
func (*received) Get(int) *[]byte { panic("ringgrpc: this pool only takes memory back") }

// Put implements mem.BufferPool: gRPC has written what was sent on.
func (r *received) Put(*[]byte) { r.Free() }

// Free implements allreduce.Owner.
func (r *received) Free() {
	r.data.Free()
	clear(r.data)
	clear(r.pieces)
	r.data, r.pieces = r.data[:0], r.pieces[:0]
	if r.plain != nil {
		r.plain.Free()
		r.plain = nil
	}
	receivedPool.Put(r)
}
