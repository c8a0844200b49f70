package worker

import (
	"slices"
	"sync"

	pb "github.com/lockstep-ml/lockstep/internal/proto/lockstep/v1"
)

// maxQueued bounds the reports that wait for a coordinator that is away: at ten steps a second, an hour.
const maxQueued = 36_000

// outbox keeps what the coordinator has to hear, in order, across connections. Reports stay until the next plan shows that they were
// taken in, and are sent again over a new connection: one that broke may have lost them. It never blocks.
type outbox struct {
	mu    sync.Mutex
	queue []*pb.WorkerMessage
	next  int           // index of the first one that is not sent over this connection
	open  bool          // the connection is one that reports may go over
	ready chan struct{} // holds a token when there may be something to send
}

func newOutbox() *outbox { return &outbox{ready: make(chan struct{}, 1)} }

func (o *outbox) wake() {
	select {
	case o.ready <- struct{}{}:
	default:
	}
}

// put queues a message; beyond the bound the oldest report of a step goes: a later one says as much, while a share of an evaluation or
// a state's hash is waited for.
func (o *outbox) put(m *pb.WorkerMessage) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.queue) == maxQueued {
		at := max(0, slices.IndexFunc(o.queue, func(m *pb.WorkerMessage) bool { return m.GetStep() != nil && !m.GetStep().Last }))
		o.queue = slices.Delete(o.queue, at, at+1)
		if at < o.next {
			o.next--
		}
	}
	o.queue = append(o.queue, m)
	o.wake()
}

// take gives the next message to send, nil if there is none now.
func (o *outbox) take() *pb.WorkerMessage {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.open || o.next == len(o.queue) {
		return nil
	}
	o.next++
	if o.next < len(o.queue) {
		o.wake()
	}
	return o.queue[o.next-1]
}

// shut holds everything back until begin.
func (o *outbox) shut() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.open = false
}

// begin lets messages go over a new connection: everything once more, or, for a worker that begins anew, nothing of before.
func (o *outbox) begin(again bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !again {
		o.queue = nil
	}
	o.next, o.open = 0, true
	o.wake()
}

// settle forgets what was sent: the coordinator has gone on from it.
func (o *outbox) settle() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.queue = slices.Delete(o.queue, 0, o.next)
	o.next = 0
}

// empty says whether everything was handed to the connection.
func (o *outbox) empty() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.next == len(o.queue)
}
