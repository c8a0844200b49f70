package server

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

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	"github.com/lockstep-ml/lockstep/coordinator"
	pb "github.com/lockstep-ml/lockstep/internal/proto/lockstep/v1"
	"github.com/lockstep-ml/lockstep/internal/snapshot"
)

// patience bounds what a test waits for. It is no measurement: only a hang takes that long.
const patience = 30 * time.Second

// memStore keeps checkpoints in memory and fails when told to.
type memStore struct {
	mu    sync.Mutex
	saved []*snapshot.Snapshot
	metas []Meta
	fail  func(step uint64) error
}

// Get gives back what Put was given.
func (m *memStore) Get(_ context.Context, path string) (*snapshot.Snapshot, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.saved {
		if fmt.Sprintf("mem-%d", s.Step) == path {
			return s.Clone(), nil
		}
	}
	return nil, fmt.Errorf("no checkpoint %s", path)
}

func (m *memStore) Drop(after uint64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.saved = slices.DeleteFunc(m.saved, func(s *snapshot.Snapshot) bool { return s.Step > after })
	return nil
}

func (m *memStore) Put(_ context.Context, s *snapshot.Snapshot, meta Meta) (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		if err := m.fail(s.Step); err != nil {
			return "", err
		}
	}
	m.saved, m.metas = append(m.saved, s.Clone()), append(m.metas, meta)
	return fmt.Sprintf("mem-%d", s.Step), nil
}

func (m *memStore) steps() []uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	var steps []uint64
	for _, s := range m.saved {
		steps = append(steps, s.Step)
	}
	return steps
}

// initial is a small state with something in it; larger than a chunk, so that transfers have several.
func initial(step uint64) *snapshot.Snapshot {
	s := snapshot.New(snapshot.Lengths{Params: 300_000, Momentum: 300_000, Mean: 8, Var: 8})
	s.Step = step
	for i := range s.Params {
		s.Params[i] = float32(i)
	}
	return s
}

// stateAt is what "training" makes of the initial state: every step adds one to the first parameter.
func stateAt(init *snapshot.Snapshot, step uint64) *snapshot.Snapshot {
	s := init.Clone()
	s.Params[0] += float32(step - init.Step)
	s.Step = step
	return s
}

// testConfig is a run of 12 steps, 6 to the epoch, evaluated every epoch, with a checkpoint every 5 steps.
func testConfig(t *testing.T, workers int) (Config, *memStore) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg := DefaultConfig()
	m := &cfg.Machine
	m.Run, m.Version, m.Settings = "test", "v1", map[string]string{"seed": "1"}
	m.TotalSteps, m.StepsPerEpoch, m.GlobalBatch, m.Replicas, m.MinWorkers = 12, 6, 64, 8, workers
	m.CheckpointEvery, m.Evaluate, m.EvalEvery = 5, true, coordinator.Span{Value: 1, Unit: coordinator.Epochs}
	if m.Schedule, err = coordinator.ParseSchedule("plateau:patience=1", "", 0.1, coordinator.Scale{StepsPerEpoch: 6, TotalSteps: 12}); err != nil {
		t.Fatal(err)
	}
	store := &memStore{}
	cfg.Listener, cfg.Initial, cfg.Store = l, initial(0), store
	return cfg, store
}

// running is a server at work.
type running struct {
	t      *testing.T
	s      *Server
	addr   string
	result Result
	err    error
	over   chan struct{}
}

func start(t *testing.T, cfg Config) *running {
	t.Helper()
	return startContext(t, t.Context(), cfg)
}

func startContext(t *testing.T, ctx context.Context, cfg Config) *running {
	t.Helper()
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	r := &running{t: t, s: s, addr: s.Addr().String(), over: make(chan struct{})}
	go func() { defer close(r.over); r.result, r.err = s.Run(ctx) }()
	return r
}

// wait returns what Run returned.
func (r *running) wait() (Result, error) {
	r.t.Helper()
	select {
	case <-r.over:
		return r.result, r.err
	case <-time.After(patience):
		r.t.Fatal("the run does not end")
		panic("unreachable")
	}
}

// fake is a worker that speaks the protocol and computes nothing.
type fake struct {
	t        *testing.T
	name     string
	conn     *grpc.ClientConn
	client   pb.ControlClient
	stream   pb.Control_AttachClient
	cancel   context.CancelFunc
	mu       sync.Mutex // guards stream.Send
	init     *snapshot.Snapshot
	step     uint64
	numerics string
	data     string
	// onStep is called before each step; returning false means that the step is not done and the worker goes silent but alive.
	onStep func(step uint64) bool
	// spoil changes the hash that is reported.
	spoil bool
	// measured is the answer to a plan that asks for it.
	measured *pb.Measured

	// standing is what a worker says that was in the run before; it goes on with the last of plans then.
	standing *pb.Standing

	welcome *pb.Welcome
	plans   []*pb.Plan
	refused string
	stop    *pb.Stop
	puts    []error
}

func dial(t *testing.T, addr, name string) *fake {
	t.Helper()
	return dialWith(t, addr, name, insecure.NewCredentials())
}

func dialWith(t *testing.T, addr, name string, creds credentials.TransportCredentials) *fake {
	t.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(creds))
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{t: t, name: name, conn: conn, client: pb.NewControlClient(conn), numerics: "fp32", data: "d1"}
	ctx, cancel := context.WithCancel(t.Context())
	f.cancel = cancel
	if f.stream, err = f.client.Attach(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.kill)
	return f
}

// kill breaks the connection as a dying process does.
func (f *fake) kill() {
	f.cancel()
	_ = f.conn.Close() // closing twice is the only way to fail
}

func (f *fake) send(m *pb.WorkerMessage) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.stream.Send(m); err != nil && !errors.Is(err, io.EOF) && f.stream.Context().Err() == nil {
		f.t.Errorf("%s: %v", f.name, err)
	}
}

func (f *fake) hello(version string, settings map[string]string) {
	f.send(&pb.WorkerMessage{Body: &pb.WorkerMessage_Hello{Hello: &pb.Hello{Worker: f.name, Version: version, Settings: settings, Standing: f.standing}}})
}

// run attaches and obeys until Stop, a refusal or the stream's end.
func (f *fake) run() error {
	f.hello("v1", nil)
	beat := time.NewTicker(500 * time.Millisecond)
	defer beat.Stop()
	quit := make(chan struct{})
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(quit)
	wg.Add(1)
	go func() {
		defer wg.Done()
		for {
			select {
			case <-beat.C:
				f.send(&pb.WorkerMessage{Body: &pb.WorkerMessage_Heartbeat{Heartbeat: &pb.Heartbeat{}}})
			case <-quit:
				return
			}
		}
	}()
	for {
		msg, err := f.stream.Recv()
		if err != nil {
			return err
		}
		if done, err := f.obey(msg); done || err != nil {
			return err
		}
	}
}

func (f *fake) obey(msg *pb.CoordinatorMessage) (bool, error) {
	switch b := msg.GetBody().(type) {
	case *pb.CoordinatorMessage_Welcome:
		f.welcome = b.Welcome
		if b.Welcome.Reattached {
			rest := proto.Clone(f.plans[len(f.plans)-1]).(*pb.Plan)
			rest.FirstStep = f.step
			f.train(rest)
			return false, nil
		}
		if err := f.getState(); err != nil {
			return true, err
		}
		f.send(&pb.WorkerMessage{Body: &pb.WorkerMessage_Ready{Ready: f.ready()}})
	case *pb.CoordinatorMessage_Refused:
		f.refused = b.Refused.Reason
		return true, nil
	case *pb.CoordinatorMessage_Plan:
		f.plans = append(f.plans, b.Plan)
		f.train(b.Plan)
	case *pb.CoordinatorMessage_Pause:
		f.send(&pb.WorkerMessage{Body: &pb.WorkerMessage_Aborted{Aborted: &pb.Aborted{Step: f.step, Cause: pb.Cause_CAUSE_PAUSED, Generation: f.generation()}}})
	case *pb.CoordinatorMessage_SendState:
		f.puts = append(f.puts, f.putState(b.SendState.Step))
	case *pb.CoordinatorMessage_Stop:
		f.stop = b.Stop
		return true, nil
	}
	return false, nil
}

func (f *fake) ready() *pb.Ready {
	return &pb.Ready{RingAddress: "127.0.0.1:" + f.name, GossipAddress: "127.0.0.1:1" + f.name, DataFingerprint: f.data, DataSummary: f.data + " images", Numerics: f.numerics}
}

// generation is that of the newest plan.
func (f *fake) generation() uint64 {
	if len(f.plans) == 0 {
		return 0
	}
	return f.plans[len(f.plans)-1].Generation
}

func (f *fake) train(p *pb.Plan) {
	if p.Measure && f.measured != nil {
		f.send(&pb.WorkerMessage{Body: &pb.WorkerMessage_Measured{Measured: f.measured}})
	}
	for s := p.FirstStep + 1; s <= p.UntilStep; s++ {
		if f.onStep != nil && !f.onStep(s) {
			return
		}
		f.step = s
		r := &pb.StepReport{Step: s, Loss: 2 / float64(s), Images: 64, Correct1: 32, LearningRate: 0.1, StartUnixNanos: int64(s) * 1e9, EndUnixNanos: int64(s+1) * 1e9, RingWaitNanos: int64(s) * 1e6,
			Generation: p.Generation, Sequence: p.Sequence, Last: s == p.UntilStep}
		if s == p.UntilStep {
			r.StateHash = stateAt(f.init, s).Hash()
			if f.spoil {
				r.StateHash = "bad" + r.StateHash[3:]
			}
		}
		f.send(&pb.WorkerMessage{Body: &pb.WorkerMessage_Step{Step: r}})
		if f.name == p.Ring[0].Worker && slices.Contains(p.CheckpointAfter, s) {
			f.puts = append(f.puts, f.putState(s))
		}
	}
	if slices.Contains(p.EvaluateAfter, p.UntilStep) {
		f.send(&pb.WorkerMessage{Body: &pb.WorkerMessage_Eval{Eval: &pb.EvalReport{Step: p.UntilStep, Images: 50, Correct1: 30, Correct5: 45, LossSum: 50 << 31}}})
	}
}

func (f *fake) getState() error {
	stream, err := f.client.GetState(f.stream.Context(), &pb.GetStateRequest{Worker: f.name})
	if err != nil {
		return err
	}
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	h := first.Header
	l := snapshot.Lengths{Params: int(h.Params), Momentum: int(h.Params), Mean: int(h.Norms), Var: int(h.Norms)}
	b, err := snapshot.NewBuilder(snapshot.Header{Step: h.Step, Lengths: l, Hash: h.Hash}, 1<<30)
	if err != nil {
		return err
	}
	for {
		c, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			f.init, err = b.Finish()
			f.step = h.Step
			return err
		}
		if err != nil {
			return err
		}
		if err := b.Add(snapshot.Chunk{Offset: c.Offset, Data: c.Data, CRC32C: c.Crc32C}); err != nil {
			return err
		}
	}
}

// putState sends a state; errors are those of the RPC.
func (f *fake) putState(step uint64) error { return f.put(stateAt(f.init, step), nil) }

func (f *fake) put(s *snapshot.Snapshot, damage func(*pb.StateChunk)) error {
	stream, err := f.client.PutState(f.stream.Context())
	if err != nil {
		return err
	}
	r := snapshot.NewReader(s)
	h := r.Header()
	msg := &pb.StateChunk{Header: &pb.StateHeader{Worker: f.name, Step: h.Step, Params: uint64(h.Lengths.Params), Norms: uint64(h.Lengths.Mean), Hash: h.Hash}}
	for {
		if damage != nil {
			damage(msg)
		}
		if err := stream.Send(msg); err != nil {
			break // CloseAndRecv has the reason
		}
		c, err := r.Next(snapshot.ChunkBytes)
		if err != nil {
			break
		}
		msg = &pb.StateChunk{Offset: c.Offset, Data: slices.Clone(c.Data), Crc32C: c.CRC32C}
	}
	_, err = stream.CloseAndRecv()
	return err
}

// crew runs fakes until they are done.
func crew(fakes ...*fake) *sync.WaitGroup {
	var wg sync.WaitGroup
	for _, f := range fakes {
		wg.Add(1)
		go func() {
			defer wg.Done()
			if err := f.run(); err != nil && f.stream.Context().Err() == nil {
				f.t.Errorf("%s: %v", f.name, err)
			}
		}()
	}
	return &wg
}
