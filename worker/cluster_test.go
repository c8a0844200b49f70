package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/lockstep-ml/lockstep/allreduce"
	"github.com/lockstep-ml/lockstep/allreduce/memnet"
	"github.com/lockstep-ml/lockstep/core"
	"github.com/lockstep-ml/lockstep/core/reference"
	pb "github.com/lockstep-ml/lockstep/internal/proto/lockstep/v1"
	"github.com/lockstep-ml/lockstep/internal/snapshot"
)

// tooLong bounds every wait of a test; nothing is expected to take a hundredth of it.
const tooLong = time.Minute

// cluster is a run in one process: workers with engines, exact rings and real connections, and a coordinator that does what the test says.
type cluster struct {
	pb.UnimplementedControlServer
	t       *testing.T
	network *core.Network
	initial *snapshot.Snapshot
	addr    string // of the coordinator
	end     chan struct{}
	seats   chan *seat // new attachments
	calls   sync.WaitGroup

	mu       sync.Mutex
	crew     map[string]*hand
	rings    map[uint64]*memnet.Network // by generation
	requests []stateRequest
	// What a test may put between: all are called with the worker's name, and may block.
	data  func(name string, step uint64) error             // before a step's batches
	mean  func(name string, step uint64, bucket int) error // after a reduction that has gone well
	chunk func(name string, number int) error              // before a piece of a state is sent to another worker
}

// stateRequest is what a worker asked another one for.
type stateRequest struct {
	of  string
	req *pb.PeerStateRequest
}

// hand is a worker of the cluster.
type hand struct {
	name    string
	cancel  context.CancelFunc
	abandon chan struct{}
	done    chan error
	ready   *pb.Ready
	seat    *seat // newest
}

// seat is one attachment of a worker.
type seat struct {
	c      *cluster
	hello  *pb.Hello
	stream pb.Control_AttachServer
	in     chan *pb.WorkerMessage // closed with the stream
	cut    context.CancelFunc
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	leaks := goleak.IgnoreCurrent()
	c := &cluster{t: t, network: testNetwork(t), seats: make(chan *seat, 16), end: make(chan struct{}), crew: map[string]*hand{}, rings: map[uint64]*memnet.Network{}}
	c.initial = newSnapshot(c.network)
	core.InitHe(c.network, 7, stateOf(c.initial))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c.addr = l.Addr().String()
	server := grpc.NewServer()
	pb.RegisterControlServer(server, c)
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	t.Cleanup(func() {
		for _, h := range c.crew {
			h.cancel()
			close(h.abandon)
			<-h.done
		}
		close(c.end)
		c.calls.Wait()
		server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
		for _, n := range c.rings {
			n.Close()
		}
		goleak.VerifyNone(t, leaks)
	})
	return c
}

// Attach hands an attachment to the test and passes on what it says.
func (c *cluster) Attach(stream pb.Control_AttachServer) error {
	c.calls.Add(1)
	defer c.calls.Done()
	hello, err := stream.Recv()
	if err != nil || hello.GetHello() == nil {
		return errors.Join(err, errors.New("no hello"))
	}
	ctx, cut := context.WithCancel(stream.Context())
	defer cut()
	s := &seat{c: c, hello: hello.GetHello(), stream: stream, in: make(chan *pb.WorkerMessage, 4096), cut: cut}
	c.calls.Go(func() {
		defer close(s.in)
		for {
			m, err := stream.Recv()
			if err != nil {
				cut()
				return
			}
			if m.GetHeartbeat() == nil {
				s.in <- m
			}
		}
	})
	select {
	case c.seats <- s:
	case <-c.end:
	}
	select {
	case <-ctx.Done():
		return status.Error(codes.Unavailable, "cut")
	case <-c.end:
		return nil
	}
}

func (c *cluster) GetState(r *pb.GetStateRequest, stream pb.Control_GetStateServer) error {
	return (&script{initial: c.initial}).GetState(r, stream)
}

// start runs a worker.
func (c *cluster) start(name string, change func(*Config)) *hand {
	c.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	h := &hand{name: name, cancel: cancel, abandon: make(chan struct{}), done: make(chan error, 1)}
	cfg := DefaultConfig()
	cfg.Name, cfg.Version, cfg.Dial, cfg.Abandon = name, "v", dialer(c.addr), h.abandon
	cfg.SilenceTimeout = tooLong
	cfg.Build = func(context.Context, string, map[string]string) (*Job, error) { return c.job(name) }
	if change != nil {
		change(&cfg)
	}
	w, err := New(cfg)
	if err != nil {
		c.t.Fatal(err)
	}
	go func() {
		h.done <- w.Run(ctx)
		close(h.done)
	}()
	c.crew[name] = h
	return h
}

// job makes what a worker works on, and serves its states at its ring address.
func (c *cluster) job(name string) (*Job, error) {
	e, err := reference.New[float32](c.network, core.CompileConfig{Batch: testBatch, Resolution: testSide, Threads: 1})
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	states := &StateServer{}
	server := grpc.NewServer()
	pb.RegisterPeerServer(server, &gatedStates{states, c, name})
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	return &Job{Network: c.network, Engine: e, Data: clusterData{c, name}, Rings: clusterRings{c, name}, States: states, Peers: clusterPeers{},
		Replicas: testReplicas, ReplicaBatch: testBatch, WireBits: 32, SGD: core.SGD{Momentum: 0.9, WeightDecay: 1e-4}, RingAddress: l.Addr().String(),
		Close: func() error {
			server.Stop()
			return errors.Join(<-served, e.Close())
		}}, nil
}

// clusterData lets the test in before each step.
type clusterData struct {
	c    *cluster
	name string
}

func (d clusterData) Next(ctx context.Context, step uint64, replicas []int) (Batches, error) {
	if f := d.c.data; f != nil {
		if err := f(d.name, step); err != nil {
			return Batches{}, err
		}
	}
	b, err := testData{poisonReplica: -1}.Next(ctx, step, replicas)
	for _, r := range replicas {
		b.Samples = append(b.Samples, [4]uint32{uint32(step), uint32(r), 1 << 14, 7})
	}
	return b, err
}

func (d clusterData) Evaluate(ctx context.Context, k, n int, visit func(core.Batch) error) ([]Skipped, error) {
	return testData{poisonReplica: -1}.Evaluate(ctx, k, n, visit)
}

// clusterRings joins exact rings in memory.
type clusterRings struct {
	c    *cluster
	name string
}

func (r clusterRings) Join(_ context.Context, m Membership) (Ring, error) {
	r.c.mu.Lock()
	defer r.c.mu.Unlock()
	n := r.c.rings[m.Generation]
	if n == nil {
		n = memnet.New(memnet.Config{Run: m.Run, Generation: m.Generation, Size: len(m.Names)})
		r.c.rings[m.Generation] = n
	}
	cfg := allreduce.DefaultConfig()
	cfg.Run, cfg.Generation, cfg.Rank, cfg.Size, cfg.Replicas, cfg.Names, cfg.Wire = m.Run, m.Generation, m.Rank, len(m.Names), m.Replicas, m.Names, allreduce.Wire32
	cfg.BeginTimeout = tooLong
	ring, err := allreduce.New(cfg, n.Endpoint(m.Rank))
	if err != nil {
		return nil, err
	}
	return clusterRing{exactRing{ring}, r}, nil
}

type clusterRing struct {
	exactRing
	r clusterRings
}

func (r clusterRing) Mean(ctx context.Context, step uint64, bucket int, exact bool, local []Contribution, dst []float32) error {
	err := r.exactRing.Mean(ctx, step, bucket, exact, local, dst)
	var hop *allreduce.HopError
	switch f := r.r.c.mean; {
	case errors.As(err, &hop):
		return seenOn{hop}
	case err == nil && f != nil:
		return f(r.r.name, step, bucket)
	}
	return err
}

type seenOn struct{ *allreduce.HopError }

func (e seenOn) Peer() string { return e.PeerName }

// clusterPeers dials ring addresses.
type clusterPeers struct{}

func (clusterPeers) Dial(_ context.Context, address string) (pb.PeerClient, io.Closer, error) {
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, nil, err
	}
	return pb.NewPeerClient(conn), conn, nil
}

// gatedStates lets the test in before each chunk of a state.
type gatedStates struct {
	*StateServer
	c    *cluster
	name string
}

func (g *gatedStates) GetState(req *pb.PeerStateRequest, stream pb.Peer_GetStateServer) error {
	g.c.mu.Lock()
	g.c.requests = append(g.c.requests, stateRequest{g.name, req})
	g.c.mu.Unlock()
	return g.StateServer.GetState(req, &gatedStream{Peer_GetStateServer: stream, g: g})
}

type gatedStream struct {
	pb.Peer_GetStateServer
	g *gatedStates
	n int
}

func (s *gatedStream) Send(m *pb.StateChunk) error {
	if f := s.g.c.chunk; f != nil {
		if err := f(s.g.name, s.n); err != nil {
			return err
		}
	}
	s.n++
	return s.Peer_GetStateServer.Send(m)
}

// attached waits for a worker's next attachment.
func (c *cluster) attached(name string) *seat {
	c.t.Helper()
	select {
	case s := <-c.seats:
		if s.hello.Worker != name {
			c.t.Fatalf("%s attaches, want %s", s.hello.Worker, name)
		}
		c.crew[name].seat = s
		return s
	case <-time.After(tooLong):
		c.t.Fatalf("%s does not attach", name)
		return nil
	}
}

// enter brings workers into the run: pulled says that they get the initial state.
func (c *cluster) enter(pulled bool, names ...string) {
	c.t.Helper()
	for _, name := range names {
		h := c.crew[name]
		if h == nil {
			h = c.start(name, nil)
		}
		s := c.attached(name)
		s.welcome(&pb.Welcome{Run: "run", Epoch: 1, PullState: pulled})
		h.ready = s.want("ready", func(m *pb.WorkerMessage) bool { return m.GetReady() != nil }).GetReady()
	}
}

func (s *seat) send(m *pb.CoordinatorMessage) {
	s.c.t.Helper()
	if err := s.stream.Send(m); err != nil {
		s.c.t.Fatalf("telling %s: %v", s.hello.Worker, err)
	}
}

func (s *seat) welcome(w *pb.Welcome) {
	s.c.t.Helper()
	s.send(&pb.CoordinatorMessage{Body: &pb.CoordinatorMessage_Welcome{Welcome: w}})
}

// next gives the next message that is no heartbeat.
func (s *seat) next() *pb.WorkerMessage {
	s.c.t.Helper()
	select {
	case m, ok := <-s.in:
		if !ok {
			s.c.t.Fatalf("the stream of %s is over", s.hello.Worker)
		}
		return m
	case <-time.After(tooLong):
		s.c.t.Fatalf("%s says nothing", s.hello.Worker)
		return nil
	}
}

// want passes over messages up to one that is looked for.
func (s *seat) want(what string, is func(*pb.WorkerMessage) bool) *pb.WorkerMessage {
	s.c.t.Helper()
	var passed []string
	for {
		m := s.next()
		if is(m) {
			return m
		}
		passed = append(passed, m.String())
		if m.GetAborted() != nil || m.GetLeave() != nil {
			s.c.t.Fatalf("%s: want %s, got %v", s.hello.Worker, what, passed)
		}
	}
}

func (c *cluster) seat(name string) *seat { return c.crew[name].seat }

// last waits for the report of a window's last step.
func (c *cluster) last(name string) *pb.StepReport {
	c.t.Helper()
	return c.seat(name).want("a last step", func(m *pb.WorkerMessage) bool { return m.GetStep().GetLast() }).GetStep()
}

// step waits for the report of a step.
func (c *cluster) step(name string, step uint64) *pb.StepReport {
	c.t.Helper()
	return c.seat(name).want(fmt.Sprint("step ", step), func(m *pb.WorkerMessage) bool { return m.GetStep().GetStep() == step }).GetStep()
}

// aborted waits for the word that a worker is out of its step.
func (c *cluster) aborted(name string) *pb.Aborted {
	c.t.Helper()
	return c.seat(name).want("aborted", func(m *pb.WorkerMessage) bool { return m.GetAborted() != nil }).GetAborted()
}

// plan makes a plan; hosts gives each replica's host by its place in the ring.
func (c *cluster) plan(generation, sequence, first, until uint64, ring []string, hosts ...uint32) *pb.Plan {
	p := &pb.Plan{Generation: generation, Sequence: sequence, FirstStep: first, UntilStep: until, ReplicaHost: hosts, Epoch: 1}
	for _, name := range ring {
		p.Ring = append(p.Ring, &pb.Member{Worker: name, RingAddress: c.crew[name].ready.RingAddress})
	}
	for s := first; s == first || s < until && s < first+100; s++ {
		p.LearningRates = append(p.LearningRates, &pb.LearningRate{FirstStep: s, Value: rate(s)})
	}
	return p
}

// rate is another one for each step, so that a step applied with that of its neighbour shows.
func rate(step uint64) float64 { return 0.02 / float64(1+step%5) }

func (c *cluster) publish(p *pb.Plan) {
	c.t.Helper()
	for _, m := range p.Ring {
		c.seat(m.Worker).send(&pb.CoordinatorMessage{Body: &pb.CoordinatorMessage_Plan{Plan: p}})
	}
}

func (c *cluster) pause(names ...string) {
	c.t.Helper()
	for _, name := range names {
		c.seat(name).send(&pb.CoordinatorMessage{Body: &pb.CoordinatorMessage_Pause{Pause: &pb.Pause{}}})
	}
}

func (c *cluster) yield(name string, p *pb.Plan) {
	c.t.Helper()
	y := &pb.Yield{Generation: p.Generation, Sequence: p.Sequence}
	c.seat(name).send(&pb.CoordinatorMessage{Body: &pb.CoordinatorMessage_Yield{Yield: y}})
}

// same compares what workers say at a window's end with the undisturbed run.
func (c *cluster) same(step uint64, names ...string) {
	c.t.Helper()
	want := undisturbed(c.t, step)
	for _, name := range names {
		if r := c.last(name); r.Step != step || r.StateHash != want {
			c.t.Errorf("%s ends at step %d with hash %.12s, want step %d, %.12s", name, r.Step, r.StateHash, step, want)
		}
	}
}

// undisturbed is the hash after so many steps of one worker to whom nothing happens.
func undisturbed(t *testing.T, steps uint64) string {
	t.Helper()
	members, _ := testCluster(t, allreduce.Wire32, testData{poisonReplica: -1}, [][]int{{0, 1, 2, 3}})
	m := members[0]
	for s := range steps {
		if _, err := m.step(t.Context(), m.ring, s, m.replicas, rate(s)); err != nil {
			t.Fatal(err)
		}
	}
	return m.hash(t, steps)
}

// asked lists who was asked for states, in order.
func (c *cluster) asked() []stateRequest {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.requests)
}

// kill ends a member's part in a ring as a crash would.
func (c *cluster) kill(generation uint64, rank int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rings[generation].Kill(rank)
}
