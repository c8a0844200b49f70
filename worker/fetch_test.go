package worker

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lockstep-ml/lockstep/core"
	pb "github.com/lockstep-ml/lockstep/internal/proto/lockstep/v1"
	"github.com/lockstep-ml/lockstep/internal/snapshot"
)

// holder serves states at an address until the test ends; chunk is called before each chunk of theirs.
func holder(t *testing.T, name string, chunk func(name string, number int) error, states ...*snapshot.Snapshot) (*pb.Member, *StateServer) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &StateServer{}
	s.open("run")
	for _, state := range states {
		s.add(state)
	}
	server := grpc.NewServer()
	pb.RegisterPeerServer(server, &gatedStates{s, &cluster{chunk: chunk}, name})
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return &pb.Member{Worker: name, RingAddress: l.Addr().String()}, s
}

// stateAt makes a state of its own for each seed.
func stateAt(t *testing.T, step, seed uint64) *snapshot.Snapshot {
	s := newSnapshot(testNetwork(t))
	core.InitHe(testNetwork(t), seed, stateOf(s))
	s.Step = step
	return s
}

func fetchOf(t *testing.T, step uint64) *fetch {
	return &fetch{network: testNetwork(t), peers: clusterPeers{}, run: "run", worker: "n", step: step, idle: tooLong, patience: tooLong}
}

// Of a holder whose bits are not those of all others, what had come before it died is given up.
func TestFetchBeginsAnewWhereNobodyKnowsTheBits(t *testing.T) {
	var died atomic.Bool
	mortal := func(_ string, number int) error {
		if died.Load() || number == 2 {
			died.Store(true)
			return status.Error(codes.Unavailable, "dying")
		}
		return nil
	}
	wrong, server := holder(t, "wrong", mortal, stateAt(t, 5, 1))
	good := stateAt(t, 5, 2)
	b, _ := holder(t, "b", nil, good)
	d, _ := holder(t, "d", nil, good)
	f := fetchOf(t, 5)
	f.patience = 0 // one who holds nothing more is no reason to wait
	if _, err := f.from(t.Context(), []*pb.Member{wrong}); err == nil || f.received() == 0 {
		t.Fatalf("the first holder did not die half-way: %v, %d bytes", err, f.received())
	}
	server.keep(nil)
	f.patience = tooLong
	s, err := f.from(t.Context(), []*pb.Member{b, d})
	if err != nil || s.Hash() != good.Hash() {
		t.Fatalf("got %v", err)
	}
}

// A fetch that gets nowhere ends, and says what it wanted and why it has not got it.
func TestFetchEnds(t *testing.T) {
	other, _ := holder(t, "other", nil, stateAt(t, 4, 1))
	f := fetchOf(t, 5)
	f.patience = time.Millisecond
	_, err := f.from(t.Context(), []*pb.Member{other})
	if err == nil || !strings.Contains(err.Error(), "state of step 5") || !strings.Contains(err.Error(), "other") {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := fetchOf(t, 5).from(ctx, []*pb.Member{other}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the context's end", err)
	}
	if _, err := fetchOf(t, 5).from(t.Context(), nil); err == nil {
		t.Error("a fetch from nobody went well")
	}
	// One that falls silent is given up for the next.
	silent := make(chan struct{})
	defer close(silent)
	mute, _ := holder(t, "mute", func(_ string, number int) error {
		if number == 1 {
			<-silent
		}
		return nil
	}, stateAt(t, 5, 1))
	b, _ := holder(t, "b", nil, stateAt(t, 5, 1))
	f = fetchOf(t, 5)
	f.idle = 100 * time.Millisecond
	if _, err := f.from(t.Context(), []*pb.Member{mute, b}); err != nil {
		t.Error(err)
	}
}

// A worker serves a few at a time, one run, the states that it has, and what it has begun to serve to its end.
func TestStateServerRefuses(t *testing.T) {
	var inside sync.WaitGroup
	inside.Add(maxServed)
	on := make(chan struct{})
	m, server := holder(t, "a", func(_ string, number int) error {
		if number == 1 {
			inside.Done()
			<-on
		}
		return nil
	}, stateAt(t, 5, 1))
	client, conn, err := clusterPeers{}.Dial(t.Context(), m.RingAddress)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ask := func(req *pb.PeerStateRequest) error {
		stream, err := client.GetState(t.Context(), req)
		for err == nil {
			_, err = stream.Recv()
		}
		return err
	}
	for want, req := range map[codes.Code]*pb.PeerStateRequest{
		codes.FailedPrecondition: {Run: "other", Step: 5},
		codes.NotFound:           {Run: "run", Step: 6},
		codes.InvalidArgument:    {Run: "run", Step: 5, Offset: 1 << 40},
	} {
		if err := ask(req); status.Code(err) != want {
			t.Errorf("%v: %v, want %v", req, err, want)
		}
	}
	if err := ask(&pb.PeerStateRequest{Run: "run", Step: 5, Hash: strings.Repeat("0", 64)}); status.Code(err) != codes.NotFound {
		t.Errorf("another hash: %v", err)
	}
	results := make(chan error, maxServed)
	for range maxServed {
		go func() { results <- ask(&pb.PeerStateRequest{Run: "run", Step: 5}) }()
	}
	inside.Wait()
	if err := ask(&pb.PeerStateRequest{Run: "run", Step: 5}); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("one too many: %v", err)
	}
	server.keep(nil)
	close(on)
	for range maxServed {
		if err := <-results; !errors.Is(err, io.EOF) {
			t.Errorf("a state that was being served broke off: %v", err)
		}
	}
	if err := ask(&pb.PeerStateRequest{Run: "run", Step: 5}); status.Code(err) != codes.NotFound {
		t.Errorf("the state was given up: %v", err)
	}
}

// A follower that may keep no more steps waits for the state, and its end.
func TestFullFollowerWaits(t *testing.T) {
	f := &follower{base: 5, kept: make([]keptStep, 3), arrival: make(chan arrival, 1)}
	if err := f.await(t.Context(), 4); err != nil || f.got != nil {
		t.Fatalf("with room for more: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	waited := make(chan error)
	go func() { waited <- f.await(ctx, 3) }()
	select {
	case err := <-waited:
		t.Fatalf("a full follower did not wait: %v", err)
	default:
	}
	cancel()
	if err := <-waited; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	f.arrival <- arrival{state: stateAt(t, 5, 1)}
	if err := f.await(t.Context(), 3); err != nil || f.got == nil {
		t.Errorf("the state is here: %v", err)
	}
}

// A queue that is full gives up reports of steps, not what is waited for.
func TestFullOutboxKeepsWhatIsWaitedFor(t *testing.T) {
	o := newOutbox()
	o.put(&pb.WorkerMessage{Body: &pb.WorkerMessage_Eval{Eval: &pb.EvalReport{Step: 1}}})
	for step := range uint64(maxQueued + 10) {
		o.put(&pb.WorkerMessage{Body: &pb.WorkerMessage_Step{Step: &pb.StepReport{Step: step}}})
	}
	o.begin(true)
	first, second, n := o.take(), o.take(), 2
	for last := second; ; n++ {
		m := o.take()
		if m == nil {
			if last.GetStep().GetStep() != maxQueued+9 {
				t.Errorf("the newest is %v", last)
			}
			break
		}
		last = m
	}
	if first.GetEval() == nil || second.GetStep().GetStep() != 11 || n != maxQueued {
		t.Errorf("%d are kept, from %v and %v on", n, first, second)
	}
}
