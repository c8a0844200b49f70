package server

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lockstep-ml/lockstep/coordinator"
	"github.com/lockstep-ml/lockstep/internal/gossip"
	pb "github.com/lockstep-ml/lockstep/internal/proto/lockstep/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestWholeRun: three workers do twelve steps in two windows; the result, the checkpoints and every callback are as they should be.
func TestWholeRun(t *testing.T) {
	cfg, store := testConfig(t, 3)
	var observed []uint64
	var evals []coordinator.Evaluation
	var steps []uint64
	cfg.StepObserver = func(s coordinator.StepDone) {
		observed = append(observed, s.Step)
		if took, want := s.End.Sub(s.Start), time.Duration(s.Step)*time.Millisecond; took != time.Second || s.Tail != want {
			t.Errorf("step %d lasted %v with a tail of %v, want 1s and %v", s.Step, took, s.Tail, want)
		}
	}
	cfg.Evaluated = func(e coordinator.Evaluation) { evals = append(evals, e) }
	cfg.Progress = func(p coordinator.Progress) {
		if p.Event == "" && !slices.Contains(steps, p.Step) {
			steps = append(steps, p.Step)
		}
	}
	r := start(t, cfg)
	fakes := []*fake{dial(t, r.addr, "3"), dial(t, r.addr, "1"), dial(t, r.addr, "2")}
	wg := crew(fakes...)
	result, err := r.wait()
	wg.Wait()
	if err != nil {
		t.Fatal(err)
	}
	want := []uint64{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}
	if !slices.Equal(observed, want) || !slices.Equal(steps, want) {
		t.Errorf("steps observed %v, shown %v", observed, steps)
	}
	final := stateAt(cfg.Initial, 12)
	if result.Step != 12 || result.Hash != final.Hash() || result.Path != "mem-12" || result.Loss != 2.0/12 || result.ImagesPerSecond != 64 {
		t.Errorf("result %+v", result)
	}
	if len(evals) != 2 || evals[1].Images != 150 || evals[1].Correct1 != 90 || evals[1].Correct5 != 135 || evals[1].Loss != 0.5 {
		t.Errorf("evaluations %+v", evals)
	}
	if got := store.steps(); !slices.Equal(got, []uint64{5, 10, 12}) {
		t.Errorf("checkpoints of steps %v", got)
	}
	if store.saved[2].Hash() != final.Hash() || store.metas[1].Data != (Position{10, 1, 256}) || store.metas[2].Run != "test" {
		t.Errorf("last checkpoint has %+v", store.metas[2])
	}
	// The second evaluation was no better than the first: the schedule's state in the last checkpoint says so.
	if got := string(store.metas[2].Schedule); !strings.Contains(got, `"drops":[12]`) {
		t.Errorf("schedule state %s", got)
	}
	for _, f := range fakes {
		if f.stop == nil || f.stop.Failed || len(f.plans) != 2 || f.plans[0].Generation != 1 {
			t.Errorf("worker %s: stop %v after %d plans", f.name, f.stop, len(f.plans))
		}
	}
	if p := fakes[0].plans[1]; p.Sequence != 2 || p.Ring[0].Worker != "1" || p.FirstStep != 6 || p.UntilStep != 12 || !slices.Equal(p.ReplicaHost, []uint32{0, 0, 0, 1, 1, 1, 2, 2}) {
		t.Errorf("second plan %v", p)
	}
}

func TestRefusals(t *testing.T) {
	cfg, _ := testConfig(t, 2)
	ready := whenReady(&cfg)
	r := start(t, cfg)
	good := dial(t, r.addr, "1")
	goodDone := crew(good)
	await(t, ready)
	for _, tt := range []struct {
		name   string
		hello  func(*fake)
		change func(*fake)
		want   []string
	}{
		{"version", func(f *fake) { f.hello("v2", nil) }, nil, []string{"version v2", "version v1", "install"}},
		{"settings", func(f *fake) { f.hello("v1", map[string]string{"seed": "9"}) }, nil, []string{"--seed is 9 here and 1 in the run"}},
		{"data", nil, func(f *fake) { f.data = "d2" }, []string{"d2 images", "d1 images", "--data"}},
		{"numerics", nil, func(f *fake) { f.numerics = "bf16" }, []string{"bf16", "fp32"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := dial(t, r.addr, "2")
			if tt.change != nil {
				tt.change(f)
				if err := f.run(); err != nil {
					t.Fatal(err)
				}
			} else {
				tt.hello(f)
				msg, err := f.stream.Recv()
				if err != nil {
					t.Fatal(err)
				}
				f.refused = msg.GetRefused().GetReason()
			}
			for _, want := range tt.want {
				if !strings.Contains(f.refused, want) {
					t.Errorf("refused with %q, want %q in it", f.refused, want)
				}
			}
		})
	}
	r.s.Interrupt("interrupted")
	if _, err := r.wait(); !errors.As(err, new(*coordinator.InterruptedError)) {
		t.Errorf("ended with %v", err)
	}
	goodDone.Wait()
}

// whenReady tells on a channel of every worker that becomes ready: the first is what the others are compared with.
func whenReady(cfg *Config) <-chan struct{} {
	ready := make(chan struct{}, 16)
	cfg.Progress = func(p coordinator.Progress) {
		if strings.Contains(p.Event, "is ready") {
			ready <- struct{}{}
		}
	}
	return ready
}

func await(t *testing.T, what <-chan struct{}) {
	t.Helper()
	select {
	case <-what:
	case <-time.After(patience):
		t.Fatal("what was waited for does not happen")
	}
}

// whenRegrouped tells on a channel that a generation is over and another follows.
func whenRegrouped(cfg *Config) <-chan struct{} {
	again := make(chan struct{}, 16)
	cfg.Progress = func(p coordinator.Progress) {
		if strings.Contains(p.Event, "going on from step") {
			again <- struct{}{}
		}
	}
	return again
}

// TestWorkerKilled: the connection of one of three workers breaks in a step. The others go on from the newest state.
func TestWorkerKilled(t *testing.T) {
	cfg, store := testConfig(t, 3)
	again := whenRegrouped(&cfg)
	r := start(t, cfg)
	fakes := []*fake{dial(t, r.addr, "1"), dial(t, r.addr, "2"), dial(t, r.addr, "3")}
	for i, f := range fakes {
		f.onStep = func(step uint64) bool {
			if step == 4 && i == 1 {
				f.kill()
				return false
			}
			return step <= 4-uint64(i/2) // the third is one step behind
		}
	}
	wg := crew(fakes...)
	await(t, again)
	r.s.Interrupt("interrupted")
	result, err := r.wait()
	wg.Wait()
	var ended *coordinator.InterruptedError
	if !errors.As(err, &ended) || ended.Path != "mem-4" || ended.Step != 4 {
		t.Fatalf("ended with %v", err)
	}
	if !slices.Equal(store.steps(), []uint64{4}) || result.Hash != stateAt(cfg.Initial, 4).Hash() {
		t.Errorf("checkpoints of %v, result %+v", store.steps(), result)
	}
	for _, i := range []int{0, 2} {
		if p := fakes[i].plans; len(p) != 2 || p[1].Generation != 2 || len(p[1].Ring) != 2 || p[1].FirstStep != 4 || !slices.Equal(p[1].Behind, []uint32{1}) {
			t.Errorf("worker %s got plans %v", fakes[i].name, p)
		}
	}
}

// TestFrozenWorker: a worker whose connection stays open but which says nothing more is found by its missing heartbeats, sooner when
// the gossip holds it for dead.
func TestFrozenWorker(t *testing.T) {
	cfg, _ := testConfig(t, 2)
	cfg.Machine.DeadAfter, cfg.Machine.SuspectAfter = time.Hour, time.Second
	hints := make(chan gossip.Event, 1)
	cfg.Gossip = hints
	again := whenRegrouped(&cfg)
	r := start(t, cfg)
	alive, frozen := dial(t, r.addr, "1"), dial(t, r.addr, "2")
	alive.onStep = func(step uint64) bool { return step <= 2 }
	wg := crew(alive)
	frozen.onStep = func(uint64) bool { return false } // a word after the hint would clear it
	frozen.hello("v1", nil)
	for {
		msg, err := frozen.stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := frozen.obey(msg); err != nil {
			t.Fatal(err)
		}
		if len(frozen.plans) > 0 {
			break
		}
	}
	hints <- gossip.Event{Kind: gossip.Dead, Name: "2"}
	await(t, again)
	r.s.Interrupt("interrupted")
	if _, err := r.wait(); !errors.As(err, new(*coordinator.InterruptedError)) {
		t.Fatalf("ended with %v", err)
	}
	wg.Wait()
	msg, err := frozen.stream.Recv()
	for err == nil && msg.GetRemoved() == nil {
		msg, err = frozen.stream.Recv()
	}
	if err != nil || !strings.Contains(msg.GetRemoved().Reason, "gossip") {
		t.Errorf("the frozen worker was told %v, %v", msg, err)
	}
}

func TestInterrupt(t *testing.T) {
	cfg, store := testConfig(t, 2)
	cfg.Initial = initial(2)
	cfg.Machine.FirstStep, cfg.Machine.Resumed = 2, "old-2"
	r := start(t, cfg)
	a, b := dial(t, r.addr, "1"), dial(t, r.addr, "2")
	var once sync.Once
	hold := func(step uint64) bool {
		if step == 6 {
			once.Do(func() { r.s.Interrupt("interrupted") })
			return false
		}
		return true
	}
	a.onStep, b.onStep = hold, hold
	wg := crew(a, b)
	result, err := r.wait()
	wg.Wait()
	var ie *coordinator.InterruptedError
	if !errors.As(err, &ie) || ie.Step != 5 || result.Path != "mem-5" {
		t.Fatalf("ended with %v, result %+v", err, result)
	}
	if got := store.steps(); !slices.Equal(got, []uint64{5}) {
		t.Errorf("checkpoints of %v", got)
	}
	if a.stop == nil || a.stop.Failed || !strings.Contains(a.stop.Reason, "--resume") {
		t.Errorf("worker was told %v", a.stop)
	}
}

// TestDiskFull: a checkpoint that cannot be written is warned of and training goes on; the last one can be written again.
func TestDiskFull(t *testing.T) {
	cfg, store := testConfig(t, 2)
	store.fail = func(step uint64) error {
		if step < 12 {
			return syscall.ENOSPC
		}
		return nil
	}
	var warnings []string
	cfg.Progress = func(p coordinator.Progress) {
		if p.Warning {
			warnings = append(warnings, p.Event)
		}
	}
	r := start(t, cfg)
	a, b := dial(t, r.addr, "1"), dial(t, r.addr, "2")
	wg := crew(a, b)
	result, err := r.wait()
	wg.Wait()
	if err != nil || result.Path != "mem-12" {
		t.Fatalf("ended with %v, result %+v", err, result)
	}
	if len(warnings) != 2 || !strings.Contains(warnings[0], "step 5") || !strings.Contains(warnings[0], "no space left") {
		t.Errorf("warnings %q", warnings)
	}
	if len(a.puts) != 3 || a.puts[0] == nil || a.puts[2] != nil {
		t.Errorf("the worker heard %v", a.puts)
	}
}

func TestHashMismatch(t *testing.T) {
	cfg, store := testConfig(t, 3)
	cfg.Machine.CheckpointEvery = 0
	r := start(t, cfg)
	fakes := []*fake{dial(t, r.addr, "1"), dial(t, r.addr, "2"), dial(t, r.addr, "3")}
	fakes[2].spoil = true
	wg := crew(fakes...)
	_, err := r.wait()
	wg.Wait()
	var mm *coordinator.HashMismatchError
	if !errors.As(err, &mm) || mm.AtStep != 6 || !slices.Equal(mm.Odd, []string{"3"}) {
		t.Fatalf("ended with %v", err)
	}
	if len(store.steps()) != 0 {
		t.Errorf("a disputed state was stored: %v", store.steps())
	}
}

// TestNonFinite: the worker that knows the replica is quoted, and nothing is stored over the checkpoint before.
func TestNonFinite(t *testing.T) {
	cfg, store := testConfig(t, 2)
	r := start(t, cfg)
	a, b := dial(t, r.addr, "1"), dial(t, r.addr, "2")
	for _, f := range []*fake{a, b} {
		f.onStep = func(step uint64) bool {
			if step < 6 {
				return true
			}
			msg := &pb.Aborted{Step: 5, Cause: pb.Cause_CAUSE_NON_FINITE, Generation: f.generation(), Reason: "a replica of another worker"}
			if f == b {
				msg.Reason, msg.Peer = "replica 7 has NaN in fc.weight", "2"
			}
			f.send(&pb.WorkerMessage{Body: &pb.WorkerMessage_Aborted{Aborted: msg}})
			return false
		}
	}
	wg := crew(a, b)
	_, err := r.wait()
	wg.Wait()
	var nf *coordinator.NonFiniteError
	if !errors.As(err, &nf) || nf.Worker != "2" || nf.AtStep != 5 || nf.Path != "mem-5" || !strings.Contains(err.Error(), "replica 7") {
		t.Fatalf("ended with %v", err)
	}
	if got := store.steps(); !slices.Equal(got, []uint64{5}) {
		t.Errorf("checkpoints of %v", got)
	}
}

// TestSpoiltState: states that are damaged, foreign or of another network are refused and training does not notice.
func TestSpoiltState(t *testing.T) {
	cfg, store := testConfig(t, 1)
	cfg.Machine.CheckpointEvery = 0
	r := start(t, cfg)
	f := dial(t, r.addr, "1")
	stranger := dial(t, r.addr, "stranger")
	f.onStep = func(step uint64) bool {
		if step != 3 {
			return true
		}
		good := stateAt(f.init, 2)
		small := initial(2)
		small.Params = small.Params[:10]
		small.Momentum = small.Momentum[:10]
		for _, tt := range []struct {
			what   string
			err    error
			code   codes.Code
			hidden bool
		}{
			{"a damaged chunk", f.put(good, func(c *pb.StateChunk) {
				if c.Offset > 0 {
					c.Data[7] ^= 1
				}
			}), codes.DataLoss, false},
			{"a wrong hash", f.put(good, func(c *pb.StateChunk) {
				if c.Header != nil {
					c.Header.Hash = initial(5).Hash()
				}
			}), codes.DataLoss, false},
			{"another network", f.put(small, nil), codes.InvalidArgument, false},
			{"no header", f.put(good, func(c *pb.StateChunk) { c.Header = nil }), codes.InvalidArgument, false},
			{"a step that was never done", f.put(stateAt(f.init, 99), nil), codes.Unavailable, false},
			{"a stranger", func() error { stranger.init = f.init; return stranger.putState(2) }(), codes.FailedPrecondition, false},
			{"a stranger's wish", stranger.getState(), codes.FailedPrecondition, false},
		} {
			if status.Code(tt.err) != tt.code {
				t.Errorf("%s: %v, want %v", tt.what, tt.err, tt.code)
			}
		}
		return true
	}
	wg := crew(f)
	result, err := r.wait()
	wg.Wait()
	if err != nil || result.Path != "mem-12" || !slices.Equal(store.steps(), []uint64{12}) {
		t.Fatalf("ended with %v, %v", err, store.steps())
	}
}

// TestManners: connections that do not behave are cut off and the run goes on.
func TestManners(t *testing.T) {
	cfg, _ := testConfig(t, 1)
	cfg.HelloTimeout = 100 * time.Millisecond
	r := start(t, cfg)
	silent := dial(t, r.addr, "silent")
	if _, err := silent.stream.Recv(); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("silence: %v", err)
	}
	rude := dial(t, r.addr, "rude")
	rude.send(&pb.WorkerMessage{Body: &pb.WorkerMessage_Heartbeat{}})
	if _, err := rude.stream.Recv(); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("no Hello: %v", err)
	}
	talker := dial(t, r.addr, "talker")
	settings := map[string]string{}
	for i := range maxSettings + 1 {
		settings[strings.Repeat("x", i+1)] = ""
	}
	talker.hello("v1", settings)
	if _, err := talker.stream.Recv(); status.Code(err) != codes.InvalidArgument {
		t.Errorf("too many settings: %v", err)
	}
	st, err := talker.client.Status(t.Context(), &pb.StatusRequest{})
	if err != nil || st.Run != "test" || st.TotalSteps != 12 {
		t.Errorf("status %v, %v", st, err)
	}
	wg := crew(dial(t, r.addr, "1"))
	if _, err := r.wait(); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
}

// TestNameAgain: a worker that went away before the start may come back under its name, and the end of its old stream does not
// take the new one with it.
func TestNameAgain(t *testing.T) {
	cfg, _ := testConfig(t, 2)
	r := start(t, cfg)
	old := dial(t, r.addr, "1")
	old.hello("v1", nil)
	if _, err := old.stream.Recv(); err != nil {
		t.Fatal(err)
	}
	old.send(&pb.WorkerMessage{Body: &pb.WorkerMessage_Leave{Leave: &pb.Leave{Reason: "told to"}}})
	var again *fake
	deadline := time.Now().Add(patience)
	for { // the goodbye and the new Hello are on different streams: try until the first has been heard
		again = dial(t, r.addr, "1")
		again.hello("v1", nil)
		msg, err := again.stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if msg.GetWelcome() != nil {
			if _, err := again.obey(msg); err != nil {
				t.Fatal(err)
			}
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the name is never free again")
		}
	}
	old.kill()
	wg := crew(dial(t, r.addr, "2"))
	for again.stop == nil {
		msg, err := again.stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := again.obey(msg); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.wait(); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
}

// TestContextEnds: the caller's context cuts everything off at once.
func TestContextEnds(t *testing.T) {
	cfg, _ := testConfig(t, 2)
	ready := whenReady(&cfg)
	ctx, cancel := context.WithCancelCause(t.Context())
	r := startContext(t, ctx, cfg)
	f := dial(t, r.addr, "1")
	done := make(chan error, 1)
	go func() { done <- f.run() }()
	await(t, ready)
	why := errors.New("second Ctrl-C")
	cancel(why)
	if _, err := r.wait(); !errors.Is(err, why) {
		t.Errorf("ended with %v", err)
	}
	if err := <-done; err == nil {
		t.Error("the worker's stream ended in good order")
	}
}

func TestConfigFaultsAtOnce(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Machine.Replicas, cfg.Machine.GlobalBatch = 3, 256
	_, err := New(cfg)
	for _, want := range []string{"no name", "256 images does not divide into 3", "no listener", "no state", "no learning-rate schedule", "at least one step"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("faults: %v; %q is missing", err, want)
		}
	}
}

// TestNeverRun: a server that is given up before Run leaves nothing behind.
func TestNeverRun(t *testing.T) {
	cfg, _ := testConfig(t, 1)
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Run(t.Context()); err == nil {
		t.Error("a closed server ran")
	}
}
