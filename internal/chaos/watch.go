package chaos

import (
	"context"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	pb "github.com/lockstep-ml/lockstep/internal/proto/lockstep/v1"
	"github.com/lockstep-ml/lockstep/internal/tlsconf"
)

const (
	// pollEvery is how often the coordinator is asked where the run stands, and so how exact times are.
	pollEvery = 50 * time.Millisecond
	// pollLimit bounds one such question.
	pollLimit = time.Second
	// settledSteps of one generation without another one: the newcomers have caught up, and are in the ring.
	settledSteps = 20
)

// view is where a run was seen last.
type view struct {
	Step, Total, Generation uint64
	Members                 []string
	Phase                   string
	settled                 uint64    // step at which the generation was first seen
	advanced                time.Time // when the newest step was first seen
	seen                    bool
}

// meter finds the longest time without a new step since it was made.
type meter struct {
	last    time.Time
	longest time.Duration
}

// watcher asks the coordinator where the run stands, for as long as run lasts.
type watcher struct {
	site site

	mu        sync.Mutex
	seat      seat
	view      view
	meters    map[*meter]bool
	members   map[string]bool // whoever was in a ring
	high      uint64          // furthest step
	redone    uint64          // steps that were done again after the run went back
	rings     uint64          // generations that were seen to begin
	questions int             // answered
}

func newWatcher(s site, at seat) *watcher {
	return &watcher{site: s, seat: at, view: view{advanced: time.Now()}, meters: map[*meter]bool{}, members: map[string]bool{}}
}

// follow looks for a new coordinator from now on; what the one before said is old.
func (w *watcher) follow(at seat) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seat, w.view.seen = at, false
}

// run asks until the context ends.
func (w *watcher) run(ctx context.Context) {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	var conn *grpc.ClientConn
	var at seat
	for {
		w.mu.Lock()
		now := w.seat
		w.mu.Unlock()
		if conn == nil || now != at {
			if conn != nil {
				conn.Close() // nothing is lost by it
			}
			at = now
			conn = w.connect(at)
		}
		if conn != nil {
			w.ask(ctx, pb.NewControlClient(conn))
		}
		select {
		case <-ctx.Done():
			if conn != nil {
				conn.Close()
			}
			return
		case <-tick.C:
		}
	}
}

// connect prepares a connection; nil if that cannot be, which the next turn tries again.
func (w *watcher) connect(at seat) *grpc.ClientConn {
	creds := insecure.NewCredentials()
	if dir := w.site.tls(at.node); dir != "" {
		id, err := tlsconf.Load(dir)
		if err != nil {
			return nil
		}
		creds = credentials.NewTLS(id.Client())
	}
	quick := backoff.Config{BaseDelay: pollEvery, Multiplier: 1, MaxDelay: pollEvery}
	conn, err := grpc.NewClient("passthrough:///"+at.control, grpc.WithTransportCredentials(creds),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: quick, MinConnectTimeout: pollLimit}),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) { return w.site.dial(ctx, at.node, address) }))
	if err != nil {
		return nil
	}
	return conn
}

// ask asks once. No answer is no news: the coordinator may be away on purpose.
func (w *watcher) ask(ctx context.Context, c pb.ControlClient) {
	ctx, cancel := context.WithTimeout(ctx, pollLimit)
	defer cancel()
	r, err := c.Status(ctx, &pb.StatusRequest{})
	if err == nil {
		w.take(r, time.Now())
	}
}

// take notes an answer.
func (w *watcher) take(r *pb.StatusResponse, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	v := &w.view
	v.Total, v.Phase, v.seen = r.TotalSteps, r.Phase, true
	w.questions++
	v.Members = v.Members[:0:0]
	for _, m := range r.Members {
		v.Members = append(v.Members, m.Worker)
		w.members[m.Worker] = true
	}
	if r.Generation != v.Generation {
		v.Generation, v.settled = r.Generation, r.Step
		w.rings++
	}
	if r.Step > v.Step {
		v.advanced = now
		// A coordinator that was started again may show an old step until it has heard of the newest; then it leaps.
		if v.Step < w.high && r.Step <= w.high {
			w.redone, w.high = w.redone+w.high-v.Step, r.Step
		}
		w.high = max(w.high, r.Step)
		for m := range w.meters {
			m.longest = max(m.longest, now.Sub(m.last))
			m.last = now
		}
	}
	if r.Generation != 0 || r.Step > v.Step { // one that has just begun may not know yet
		v.Step = r.Step
	}
}

// measure begins to look for the longest time without a new step.
func (w *watcher) measure() *meter {
	w.mu.Lock()
	defer w.mu.Unlock()
	m := &meter{last: time.Now()}
	w.meters[m] = true
	return m
}

// read ends a measurement. A time without a step that has not ended counts too.
func (w *watcher) read(m *meter) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.meters[m] {
		delete(w.meters, m)
		m.longest = max(m.longest, time.Since(m.last))
	}
	return m.longest
}

func (w *watcher) now() view {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.view
}

// wasMember says whether a worker has been in a ring.
func (w *watcher) wasMember(name string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.members[name]
}

// until waits for a view, looking as often as the coordinator is asked; false if the time or the context ended first.
func (w *watcher) until(ctx context.Context, within time.Duration, ok func(view) bool) bool {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for !ok(w.now()) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return false
		}
	}
	return true
}
