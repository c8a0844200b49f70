package worker

import (
	"context"
	"errors"
	"io"
	"net"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/lockstep-ml/lockstep/core"
	"github.com/lockstep-ml/lockstep/core/reference"
	pb "github.com/lockstep-ml/lockstep/internal/proto/lockstep/v1"
	"github.com/lockstep-ml/lockstep/internal/snapshot"
)

// script is a coordinator that does what a test says, over a real connection.
type script struct {
	pb.UnimplementedControlServer
	initial  *snapshot.Snapshot
	attach   func(stream pb.Control_AttachServer) error
	attached atomic.Bool // once is enough for a script
	states   chan uint64 // steps of the states that arrived whole
}

func (s *script) Attach(stream pb.Control_AttachServer) error {
	if s.attached.Swap(true) {
		return status.Error(codes.Unavailable, "gone")
	}
	hello, err := stream.Recv()
	if err != nil || hello.GetHello() == nil {
		return errors.Join(err, errors.New("no hello"))
	}
	if err := stream.Send(&pb.CoordinatorMessage{Body: &pb.CoordinatorMessage_Welcome{Welcome: &pb.Welcome{Run: "run", PullState: true}}}); err != nil {
		return err
	}
	return s.attach(stream)
}

func (s *script) GetState(_ *pb.GetStateRequest, stream pb.Control_GetStateServer) error {
	r := snapshot.NewReader(s.initial)
	h := r.Header()
	head := &pb.StateHeader{Step: h.Step, Params: uint64(h.Lengths.Params), Norms: uint64(h.Lengths.Mean), Hash: h.Hash}
	if err := stream.Send(&pb.StateChunk{Header: head}); err != nil {
		return err
	}
	for {
		c, err := r.Next(snapshot.ChunkBytes)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := stream.Send(&pb.StateChunk{Offset: c.Offset, Data: c.Data, Crc32C: c.CRC32C}); err != nil {
			return err
		}
	}
}

func (s *script) PutState(stream pb.Control_PutStateServer) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	l := s.initial.Lengths()
	b, err := snapshot.NewBuilder(snapshot.Header{Step: first.Header.Step, Hash: first.Header.Hash, Lengths: l}, l.Bytes())
	if err != nil {
		return err
	}
	for {
		c, err := stream.Recv()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		if err := b.Add(snapshot.Chunk{Offset: c.Offset, Data: c.Data, CRC32C: c.Crc32C}); err != nil {
			return err
		}
	}
	if _, err := b.Finish(); err != nil {
		return err
	}
	s.states <- first.Header.Step
	return stream.SendAndClose(&pb.PutStateResponse{Path: "path"})
}

// report waits for the next message that is no heartbeat.
func report(stream pb.Control_AttachServer) (*pb.WorkerMessage, error) {
	for {
		m, err := stream.Recv()
		if err != nil || m.GetHeartbeat() == nil {
			return m, err
		}
	}
}

func planOf(sequence, first, until uint64, evaluate bool, checkpoints ...uint64) *pb.CoordinatorMessage {
	var evaluations []uint64
	if evaluate {
		evaluations = []uint64{until}
	}
	return &pb.CoordinatorMessage{Body: &pb.CoordinatorMessage_Plan{Plan: &pb.Plan{
		Generation: 1, Sequence: sequence, Ring: []*pb.Member{{Worker: "w", RingAddress: "here"}}, ReplicaHost: make([]uint32, testReplicas),
		FirstStep: first, UntilStep: until, LearningRates: []*pb.LearningRate{{Value: 0.01}}, EvaluateAfter: evaluations, CheckpointAfter: checkpoints,
	}}}
}

func stopMessage(failed bool, reason string) *pb.CoordinatorMessage {
	return &pb.CoordinatorMessage{Body: &pb.CoordinatorMessage_Stop{Stop: &pb.Stop{Failed: failed, Reason: reason}}}
}

// alone is the ring of one worker, which hosts every replica.
type alone struct{}

func (alone) Join(context.Context, Membership) (Ring, error) { return alone{}, nil }
func (alone) Close() error                                   { return nil }

func (alone) Measure(context.Context) (time.Duration, float64, error) {
	return time.Millisecond, 1e9, nil
}

func (alone) Mean(_ context.Context, _ uint64, _ int, _ bool, local []Contribution, dst []float32) error {
	for i := range dst {
		sum := float32(0)
		for _, c := range local {
			if v := c.Values[i]; v != v {
				return aloneNonFinite{c.Replica, i}
			}
			sum += c.Values[i]
		}
		dst[i] = sum / float32(len(local))
	}
	return nil
}

type aloneNonFinite struct{ replica, index int }

func (aloneNonFinite) Error() string                 { return "not finite" }
func (e aloneNonFinite) NonFinite() (int, int, bool) { return e.replica, e.index, true }

// dialer reaches a coordinator at one address.
func dialer(addr string) func(context.Context) (pb.ControlClient, io.Closer, error) {
	return func(context.Context) (pb.ControlClient, io.Closer, error) {
		conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return nil, nil, err
		}
		return pb.NewControlClient(conn), conn, nil
	}
}

// follow runs a worker under a script and gives what Run returned. Nothing may be left behind.
func follow(t *testing.T, ctx context.Context, data Data, change func(*Config), attach func(*script, pb.Control_AttachServer) error) error {
	t.Helper()
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	network := testNetwork(t)
	s := &script{initial: newSnapshot(network), states: make(chan uint64, 4)}
	core.InitHe(network, 7, stateOf(s.initial))
	scripted := make(chan error, 1)
	s.attach = func(stream pb.Control_AttachServer) error {
		ready, err := report(stream)
		if err == nil && ready.GetReady() == nil {
			err = errors.New("the worker did not say ready")
		}
		if err == nil {
			err = attach(s, stream)
		}
		scripted <- err
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	pb.RegisterControlServer(server, s)
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	cfg := DefaultConfig()
	cfg.Name, cfg.Version, cfg.Dial = "w", "v", dialer(l.Addr().String())
	cfg.Build = func(context.Context, string, map[string]string) (*Job, error) {
		e, err := reference.New[float32](network, core.CompileConfig{Batch: testBatch, Resolution: testSide, Threads: 1})
		if err != nil {
			return nil, err
		}
		return &Job{Network: network, Engine: e, Data: data, Rings: alone{}, Replicas: testReplicas, ReplicaBatch: testBatch,
			WireBits: 32, SGD: core.SGD{Momentum: 0.9}, Close: e.Close}, nil
	}
	if change != nil {
		change(&cfg)
	}
	w, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	runErr := w.Run(ctx)
	if err := <-scripted; err != nil {
		t.Errorf("the script failed: %v", err)
	}
	server.Stop()
	if err := <-served; err != nil {
		t.Error(err)
	}
	return runErr
}

// slowTracer makes the end of a step take its time.
type slowTracer struct{ noop.Tracer }

func (slowTracer) Start(ctx context.Context, name string, _ ...trace.SpanStartOption) (context.Context, trace.Span) {
	return ctx, slowSpan{name: name}
}

type slowSpan struct {
	noop.Span
	name string
}

func (s slowSpan) End(...trace.SpanEndOption) {
	for range 20_000 * strings.Count(s.name, "worker step") {
		runtime.Gosched()
	}
}

// What follows a window's last report comes at once, and finds the worker ready for it: the next plan, or a wish for the state.
func TestNextPlanAtOnce(t *testing.T) {
	const windows = 60
	slow := func(c *Config) { c.Tracer = slowTracer{} }
	err := follow(t, t.Context(), testData{poisonReplica: -1}, slow, func(s *script, stream pb.Control_AttachServer) error {
		for i := range uint64(windows) {
			evaluate := i%2 == 1
			if err := stream.Send(planOf(i+1, i, i+1, evaluate)); err != nil {
				return err
			}
			m, err := report(stream)
			if err != nil || m.GetStep().GetStep() != i+1 || len(m.GetStep().GetStateHash()) != 64 {
				return errors.Join(err, errors.New("want a step with its hash, got "+m.String()))
			}
			if evaluate {
				if m, err = report(stream); err != nil || m.GetEval().GetImages() != 6*testBatch {
					return errors.Join(err, errors.New("want an evaluation, got "+m.String()))
				}
			}
			if i%10 == 9 {
				if err := stream.Send(&pb.CoordinatorMessage{Body: &pb.CoordinatorMessage_SendState{SendState: &pb.SendState{Step: i + 1}}}); err != nil {
					return err
				}
				if got := <-s.states; got != i+1 {
					return errors.New("got a state of another step")
				}
			}
		}
		return stream.Send(stopMessage(false, "done"))
	})
	if err != nil {
		t.Errorf("Run: %v", err)
	}
}

// A pause ends the window between two steps, and the state asked for then is that of the step reported.
func TestPauseAndSave(t *testing.T) {
	err := follow(t, t.Context(), testData{poisonReplica: -1}, nil, func(s *script, stream pb.Control_AttachServer) error {
		if err := stream.Send(planOf(1, 0, 1<<40, false, 1)); err != nil {
			return err
		}
		if got := <-s.states; got != 1 {
			return errors.New("the checkpoint is of another step")
		}
		if err := stream.Send(&pb.CoordinatorMessage{Body: &pb.CoordinatorMessage_Pause{Pause: &pb.Pause{}}}); err != nil {
			return err
		}
		for {
			m, err := report(stream)
			if err != nil {
				return err
			}
			a := m.GetAborted()
			if a == nil {
				continue
			}
			if a.Cause != pb.Cause_CAUSE_PAUSED || a.Step < 1 {
				return errors.New("want a pause after a step, got " + m.String())
			}
			if err := stream.Send(&pb.CoordinatorMessage{Body: &pb.CoordinatorMessage_SendState{SendState: &pb.SendState{Step: a.Step}}}); err != nil {
				return err
			}
			if got := <-s.states; got != a.Step {
				return errors.New("the state is of another step")
			}
			return stream.Send(stopMessage(true, "another worker was lost"))
		}
	})
	if !errors.Is(err, ErrRunFailed) || !strings.Contains(err.Error(), "another worker was lost") {
		t.Errorf("Run: %v, want %v", err, ErrRunFailed)
	}
}

// A gradient that is not finite is reported with its place, under the worker's own name, and not applied.
func TestNonFiniteReported(t *testing.T) {
	err := follow(t, t.Context(), testData{poisonStep: 3, poisonReplica: 2}, nil, func(_ *script, stream pb.Control_AttachServer) error {
		if err := stream.Send(planOf(1, 0, 10, false)); err != nil {
			return err
		}
		for {
			m, err := report(stream)
			if err != nil {
				return err
			}
			a := m.GetAborted()
			if a == nil {
				continue
			}
			if a.Cause != pb.Cause_CAUSE_NON_FINITE || a.Step != 3 || a.Peer != "w" || !strings.Contains(a.Reason, "on replica 2") {
				return errors.New("want step 3, replica 2, peer w; got " + m.String())
			}
			return stream.Send(stopMessage(true, "blew up"))
		}
	})
	if !errors.Is(err, ErrRunFailed) {
		t.Errorf("Run: %v, want %v", err, ErrRunFailed)
	}
}

// A coordinator that neither speaks nor hangs up is given up.
func TestSilentCoordinator(t *testing.T) {
	impatient := func(c *Config) {
		c.HeartbeatEvery, c.SilenceTimeout, c.CoordinatorPatience = 20*time.Millisecond, 200*time.Millisecond, 300*time.Millisecond
	}
	err := follow(t, t.Context(), testData{poisonReplica: -1}, impatient, func(_ *script, stream pb.Control_AttachServer) error {
		<-stream.Context().Done()
		return nil
	})
	if !errors.Is(err, ErrCoordinatorLost) || !strings.Contains(err.Error(), "no coordinator for 300ms") {
		t.Errorf("Run: %v, want %v", err, ErrCoordinatorLost)
	}
}

// A worker that is told to stop asks to be left out, works on until the ring does without it, and ends in order.
func TestLeaveInOrder(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	err := follow(t, ctx, testData{poisonReplica: -1}, nil, func(_ *script, stream pb.Control_AttachServer) error {
		if err := stream.Send(planOf(1, 0, 1<<40, false)); err != nil {
			return err
		}
		if _, err := report(stream); err != nil {
			return err
		}
		cancel()
		for asked := false; ; {
			m, err := report(stream)
			if err != nil {
				return err
			}
			if m.GetLeaving() != nil {
				asked = true
				yield := &pb.CoordinatorMessage{Body: &pb.CoordinatorMessage_Yield{Yield: &pb.Yield{Generation: 1, Sequence: 1}}}
				if err := stream.Send(yield); err != nil {
					return err
				}
			}
			if m.GetStep().GetLast() {
				if !asked || len(m.GetStep().StateHash) != 64 {
					return errors.New("the window ended unasked, or without a hash: " + m.String())
				}
				return stream.Send(stopMessage(false, "left"))
			}
		}
	})
	if err != nil {
		t.Errorf("Run: %v", err)
	}
}

// A worker that is not let go says goodbye when its patience ends.
func TestLeaveAlone(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	hasty := func(c *Config) { c.LeaveTimeout = 50 * time.Millisecond }
	err := follow(t, ctx, testData{poisonReplica: -1}, hasty, func(_ *script, stream pb.Control_AttachServer) error {
		if err := stream.Send(planOf(1, 0, 1<<40, false)); err != nil {
			return err
		}
		if _, err := report(stream); err != nil {
			return err
		}
		cancel()
		for {
			m, err := report(stream)
			if err != nil || m.GetLeave() != nil {
				return err
			}
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Run: %v, want %v", err, context.Canceled)
	}
}
