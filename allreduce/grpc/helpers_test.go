package ringgrpc

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/lockstep-ml/lockstep/allreduce"
	"github.com/lockstep-ml/lockstep/allreduce/shm"
)

func TestMain(m *testing.M) {
	if way := os.Getenv(memberEnv); way != "" {
		fmt.Println(member(way))
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

const run = "ring-test"

// worker is what one process would hold.
type worker struct {
	node   *Node
	server *grpc.Server
	addr   string // where the left neighbour dials
	proxy  *proxy // in front of the server; nil without
	serve  errgroup.Group
}

func newWorker(t testing.TB, run string, withProxy bool) *worker {
	t.Helper()
	return newWorkerWith(t, run, withProxy, 1, insecure.NewCredentials())
}

func newWorkerWith(t testing.TB, run string, withProxy bool, lanes int, creds credentials.TransportCredentials, opts ...grpc.ServerOption) *worker {
	t.Helper()
	cfg := DefaultConfig()
	cfg.Run, cfg.Credentials, cfg.Lanes, cfg.Sharing = run, creds, lanes, ShareNever
	return newWorkerOf(t, cfg, withProxy, opts...)
}

func newWorkerOf(t testing.TB, cfg Config, withProxy bool, opts ...grpc.ServerOption) *worker {
	t.Helper()
	node, err := NewNode(cfg)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &worker{node: node, server: grpc.NewServer(append(ServerOptions(), opts...)...), addr: l.Addr().String()}
	node.Register(w.server)
	w.serve.Go(func() error { return w.server.Serve(l) })
	if withProxy {
		w.proxy = newProxy(t, w.addr)
		w.addr = w.proxy.listener.Addr().String()
	}
	t.Cleanup(func() { w.close(t) })
	return w
}

func (w *worker) close(t testing.TB) {
	if err := w.node.Close(); err != nil {
		t.Logf("close node: %v", err)
	}
	w.server.Stop()
	if err := w.serve.Wait(); err != nil {
		t.Errorf("serve: %v", err)
	}
	if w.proxy != nil {
		w.proxy.close()
	}
}

// newSharers makes workers that share memory, whatever else they are told.
func newSharers(t testing.TB, n int, withProxy bool, tweak func(*Config)) []*worker {
	t.Helper()
	out := make([]*worker, n)
	for i := range out {
		cfg := DefaultConfig()
		cfg.Run, cfg.Credentials, cfg.Sharing = run, insecure.NewCredentials(), ShareAlways
		if tweak != nil {
			tweak(&cfg)
		}
		out[i] = newWorkerOf(t, cfg, withProxy)
	}
	return out
}

// eachWay runs a test with neighbours that send all over gRPC, that share
// memory, and of which every other one does not want to.
func eachWay(t *testing.T, f func(t *testing.T, workers func(n int, withProxy bool) []*worker)) {
	t.Run("grpc", func(t *testing.T) {
		f(t, func(n int, withProxy bool) []*worker { return newWorkers(t, n, withProxy) })
	})
	t.Run("shm", func(t *testing.T) {
		skipWithoutSharing(t)
		f(t, func(n int, withProxy bool) []*worker { return newSharers(t, n, withProxy, nil) })
	})
	t.Run("mixed", func(t *testing.T) {
		skipWithoutSharing(t)
		i := 0
		f(t, func(n int, withProxy bool) []*worker {
			return newSharers(t, n, withProxy, func(c *Config) {
				c.Sharing = []Sharing{ShareAuto, ShareAuto, ShareNever}[i%3]
				i++
			})
		})
	})
}

func skipWithoutSharing(t *testing.T) {
	t.Helper()
	out, err := shm.Create(shm.Default())
	if err != nil {
		t.Skip(err)
	}
	out.Close()
}

// newWorkers makes workers with one lane, two, three, one, ...
func newWorkers(t testing.TB, n int, withProxy bool) []*worker {
	t.Helper()
	out := make([]*worker, n)
	for i := range out {
		out[i] = newWorkerWith(t, run, withProxy, 1+i%3, insecure.NewCredentials())
	}
	return out
}

// joinAll makes the rings of one generation.
func joinAll(t testing.TB, workers []*worker, generation uint64, replicas int, tweak func(*allreduce.Config)) []*allreduce.Ring {
	t.Helper()
	return joinOver(t, workers, generation, replicas, tweak, func(_ int, tr allreduce.Transport) allreduce.Transport { return tr })
}

// joinOver is joinAll with something round the transports.
func joinOver(t testing.TB, workers []*worker, generation uint64, replicas int, tweak func(*allreduce.Config), wrap func(rank int, tr allreduce.Transport) allreduce.Transport) []*allreduce.Ring {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	rings := make([]*allreduce.Ring, len(workers))
	var g errgroup.Group
	var addresses []string
	for _, w := range workers {
		addresses = append(addresses, w.addr)
	}
	for rank, w := range workers {
		g.Go(func() error {
			cfg := allreduce.DefaultConfig()
			cfg.Run, cfg.Generation, cfg.Rank, cfg.Size, cfg.Replicas = run, generation, rank, len(workers), replicas
			if tweak != nil {
				tweak(&cfg)
			}
			transport, err := w.node.JoinGroups(ctx, generation, rank, cfg.Group, addresses)
			if err != nil {
				return err
			}
			rings[rank], err = allreduce.New(cfg, wrap(rank, transport))
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	return rings
}

func closeAll(t testing.TB, rings []*allreduce.Ring) {
	t.Helper()
	var g errgroup.Group
	for _, r := range rings {
		g.Go(r.Close)
	}
	if err := g.Wait(); err != nil {
		t.Errorf("close: %v", err)
	}
}

// gradients makes values as a backward pass leaves them: small, of many sizes.
func gradients(replicas, n int, seed uint64) [][]float32 {
	rng := rand.New(rand.NewPCG(seed, 7))
	all := make([][]float32, replicas)
	for r := range all {
		all[r] = make([]float32, n)
		for i := range all[r] {
			all[r][i] = float32(rng.NormFloat64() * 1e-3 * float64(1+i%1000))
		}
	}
	return all
}

// reduce runs one bucket on all ranks; replica r is on rank r modulo the size.
func reduce(ctx context.Context, rings []*allreduce.Ring, b allreduce.Bucket, all [][]float32) ([][]float32, []error) {
	out := make([][]float32, len(rings))
	errs := make([]error, len(rings))
	var wg sync.WaitGroup
	for rank, ring := range rings {
		var local []allreduce.Contribution
		for r := rank; r < len(all); r += len(rings) {
			local = append(local, allreduce.Contribution{Replica: r, Values: all[r]})
		}
		out[rank] = make([]float32, len(all[0]))
		wg.Go(func() { errs[rank] = ring.Reduce(ctx, b, local, out[rank]) })
	}
	wg.Wait()
	return out, errs
}

// alone computes a bucket with a ring of one.
func alone(t testing.TB, b allreduce.Bucket, all [][]float32) []float32 {
	t.Helper()
	cfg := allreduce.DefaultConfig()
	cfg.Run, cfg.Replicas = run, len(all)
	r, err := allreduce.New(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	out, errs := reduce(t.Context(), []*allreduce.Ring{r}, b, all)
	if errs[0] != nil {
		t.Fatal(errs[0])
	}
	closeAll(t, []*allreduce.Ring{r})
	return out[0]
}

// proxy is a TCP relay that can cut connections as a dying process does, or
// swallow what passes through as a frozen one does.
type proxy struct {
	listener net.Listener
	target   string
	wg       sync.WaitGroup

	mu     sync.Mutex
	conns  []net.Conn
	dead   bool
	total  int64         // bytes towards the target
	budget int64         // bytes towards the target before onSpent is called
	spent  chan struct{} // closed when the budget is used up
	frozen bool
}

func newProxy(t testing.TB, target string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{listener: l, target: target, budget: 1 << 62, spent: make(chan struct{})}
	p.wg.Go(p.accept)
	return p
}

func (p *proxy) accept() {
	for {
		in, err := p.listener.Accept()
		if err != nil {
			return // closed
		}
		out, err := net.Dial("tcp", p.target)
		if err != nil {
			in.Close()
			continue
		}
		if !p.keep(in, out) {
			return
		}
		p.wg.Go(func() { p.relay(out, in, true) })
		p.wg.Go(func() { p.relay(in, out, false) })
	}
}

func (p *proxy) keep(conns ...net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns = append(p.conns, conns...)
	if p.dead {
		for _, c := range conns {
			c.Close()
		}
	}
	return !p.dead
}

func (p *proxy) relay(to, from net.Conn, forward bool) {
	defer to.Close()
	b := make([]byte, 64<<10)
	for {
		n, err := from.Read(b)
		if err != nil {
			return
		}
		if forward {
			p.count(n)
		}
		p.mu.Lock()
		frozen := p.frozen
		p.mu.Unlock()
		if frozen {
			continue
		}
		if _, err := to.Write(b[:n]); err != nil {
			return
		}
	}
}

func (p *proxy) count(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.total += int64(n)
	if p.budget > 0 {
		if p.budget -= int64(n); p.budget <= 0 {
			close(p.spent)
		}
	}
}

// forwarded is how many bytes have gone to the target.
func (p *proxy) forwarded() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.total
}

// after arms spent: it closes once n more bytes have gone to the target.
func (p *proxy) after(n int64) <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.budget = n
	return p.spent
}

// freeze swallows everything from now on.
func (p *proxy) freeze() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.frozen = true
}

// reset breaks all connections at once, without goodbye.
func (p *proxy) reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dead = true
	p.listener.Close()
	abort(p.conns)
}

// resetOne breaks the connection that was made last; the others stay.
func (p *proxy) resetOne() {
	p.mu.Lock()
	defer p.mu.Unlock()
	abort(p.conns[len(p.conns)-2:])
}

func abort(conns []net.Conn) {
	for _, c := range conns {
		if tcp, ok := c.(*net.TCPConn); ok {
			// Only makes the close abrupt; an error means it is closed already.
			_ = tcp.SetLinger(0)
		}
		c.Close()
	}
}

func (p *proxy) close() {
	p.reset()
	p.wg.Wait()
}

func describe(n, replicas int) string { return fmt.Sprintf("%d workers, %d replicas", n, replicas) }
