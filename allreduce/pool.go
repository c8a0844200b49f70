package allreduce

import (
	"sync"

	"github.com/lockstep-ml/lockstep/internal/hugepage"
)

// bufferPools holds free buffers by class, 2^class bytes.
var bufferPools [maxClass + 1]bufferPool

// maxIdleBytes bounds what a pool keeps of its class.
const maxIdleBytes = 32 << 20

// bufferPool gives out what was given back last, which is still in the cache. A
// sync.Pool that is filled on one processor and emptied on another gives out the
// coldest first.
type bufferPool struct {
	mu   sync.Mutex
	idle []*Buffer
}

func (p *bufferPool) get() *Buffer {
	p.mu.Lock()
	defer p.mu.Unlock()
	last := len(p.idle) - 1
	if last < 0 {
		return nil
	}
	b := p.idle[last]
	p.idle = p.idle[:last]
	return b
}

func (p *bufferPool) put(b *Buffer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.idle) < maxIdleBytes>>b.class {
		p.idle = append(p.idle, b)
	}
}

// slabBytes is what is taken from the heap at a time: some payloads of the usual
// size, so that little is left over, and not so much that a small run notices.
const slabBytes = 2 * hugepage.Size

// slab is where new buffers are cut from.
var slab struct {
	mu   sync.Mutex
	rest []byte
}

// carve returns n bytes that begin at a cache line.
func carve(n int) []byte {
	slab.mu.Lock()
	defer slab.mu.Unlock()
	if len(slab.rest) < n {
		slab.rest = hugepage.Make(slabBytes)
	}
	b := slab.rest[:n:n]
	slab.rest = slab.rest[min(len(slab.rest), (n+63)/64*64):]
	return b
}
