package ringgrpc

import (
	"sync"

	"google.golang.org/grpc/mem"

	"github.com/lockstep-ml/lockstep/internal/hugepage"
)

// frameBytes is the payload of the largest HTTP/2 frame that gRPC sends.
const frameBytes = 16 << 10

// maxIdleFrames bounds the frames that are kept for use: 16 MiB.
const maxIdleFrames = 1024

// framePool is where gRPC takes the memory of received frames from, last given
// back first: that is still in the cache. gRPC's own pool clears what it gives out,
// which costs as much as a copy, and a sync.Pool that is filled on one processor
// and emptied on another gives out the coldest first.
type framePool struct {
	mu   sync.Mutex
	idle []*[]byte
}

var frames framePool

// Get implements mem.BufferPool.
func (p *framePool) Get(n int) *[]byte {
	if n > frameBytes {
		return mem.DefaultBufferPool().Get(n)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.idle) == 0 {
		p.more()
	}
	last := len(p.idle) - 1
	b := p.idle[last]
	p.idle = p.idle[:last]
	*b = (*b)[:n]
	return b
}

// more makes frames. Called with mu held.
func (p *framePool) more() {
	for slab := hugepage.Make(2 * hugepage.Size); len(slab) > 0; slab = slab[frameBytes:] {
		b := slab[:frameBytes:frameBytes]
		p.idle = append(p.idle, &b)
	}
}

// Put implements mem.BufferPool.
func (p *framePool) Put(b *[]byte) {
	if cap(*b) != frameBytes {
		mem.DefaultBufferPool().Put(b)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.idle) < maxIdleFrames {
		p.idle = append(p.idle, b)
	}
}
