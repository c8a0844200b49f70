package worker

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	pb "github.com/lockstep-ml/lockstep/internal/proto/lockstep/v1"
)

var errInjected = errors.New("injected")

// One of three dies within a step that a second has committed and the third has not: the third copies the state from the second, and the
// two end with the bits of the undisturbed run.
func TestDeathWithinAStep(t *testing.T) {
	c := newCluster(t)
	var whole, ahead sync.WaitGroup
	whole.Add(2) // buckets that b has reduced
	ahead.Add(2) // workers that have committed the step
	c.mean = func(name string, step uint64, _ int) error {
		if name != "b" || step != 3 {
			return nil
		}
		whole.Done()
		whole.Wait()
		ahead.Wait()
		return errInjected
	}
	first := map[string]*sync.Once{"a": {}, "d": {}}
	c.data = func(name string, step uint64) error {
		if name == "b" || step != 4 {
			return nil
		}
		first[name].Do(ahead.Done)
		if name == "d" {
			ahead.Wait()
			c.kill(1, 2)
			return errInjected
		}
		return nil
	}
	c.enter(true, "a", "b", "d")
	c.publish(c.plan(1, 1, 0, 8, []string{"a", "b", "d"}, 0, 1, 2, 0))
	a, b := c.aborted("a"), c.aborted("b")
	if a.Step != 4 || b.Step != 3 || a.Behind || b.Behind || a.Generation != 1 {
		t.Fatalf("a says %v, b says %v, want steps 4 and 3", a, b)
	}
	p := c.plan(2, 2, 4, 8, []string{"b", "a"}, 0, 1, 0, 1)
	p.Behind = []uint32{0}
	c.publish(p)
	c.same(8, "a", "b")
	if got := c.asked(); len(got) == 0 || got[0].of != "a" || got[0].req.Worker != "b" || got[0].req.Step != 4 {
		t.Errorf("states were asked for by %v", got)
	}
}

// A yield that one worker has heard of stops all after the same step, with a hash, and the next window goes on from there.
func TestYieldStopsAllAtOneStep(t *testing.T) {
	c := newCluster(t)
	c.enter(true, "a", "b", "d")
	p := c.plan(1, 1, 0, 1<<30, []string{"a", "b", "d"}, 0, 0, 1, 2)
	c.publish(p)
	c.step("a", 2)
	c.yield("b", p)
	a, b, d := c.last("a"), c.last("b"), c.last("d")
	if a.Step != b.Step || a.Step != d.Step || a.Generation != 1 || a.Sequence != 1 {
		t.Fatalf("stopped at %d, %d, %d", a.Step, b.Step, d.Step)
	}
	if want := undisturbed(t, a.Step); a.StateHash != want || b.StateHash != want || d.StateHash != want {
		t.Errorf("hashes %.12s, %.12s, %.12s, want %.12s", a.StateHash, b.StateHash, d.StateHash, want)
	}
	// A yield for a window that is over stops none that follows.
	c.yield("a", p)
	c.publish(c.plan(2, 2, a.Step, a.Step+3, []string{"d", "a"}, 0, 1, 0, 1))
	c.same(a.Step+3, "a", "d")
	late := c.plan(2, 2, 0, 0, nil)
	c.yield("a", late)
	c.yield("d", late)
	c.publish(c.plan(2, 3, a.Step+3, a.Step+6, []string{"d", "a"}, 0, 1, 0, 1))
	c.same(a.Step+6, "a", "d")
}

// The sums of the samples' hashes are exact, and the same for all.
func TestSamplesAreAddedUp(t *testing.T) {
	c := newCluster(t)
	c.enter(true, "a", "b")
	c.publish(c.plan(1, 1, 0, 4, []string{"a", "b"}, 1, 0, 0, 0))
	for step := uint64(1); step <= 4; step++ {
		want := []uint32{uint32(step-1) * testReplicas, 0 + 1 + 2 + 3, testReplicas << 14, 7 * testReplicas}
		for _, name := range []string{"a", "b"} {
			if got := c.step(name, step).Samples; !slices.Equal(got, want) {
				t.Errorf("step %d, %s: sums %v, want %v", step, name, got, want)
			}
		}
	}
}

// A newcomer follows: its first source dies half-way, the second goes on at the same byte, training does not wait, and with replicas of its
// own it holds the same bits.
func TestFollowerCatchesUp(t *testing.T) {
	c := newCluster(t)
	half, on := make(chan struct{}), make(chan struct{})
	var dead atomic.Value // name of the holder that died
	c.chunk = func(name string, number int) error {
		if number == 2 && dead.CompareAndSwap(nil, name) {
			close(half)
			return errInjected
		}
		if died := dead.Load(); died == name {
			return errInjected
		} else if died != nil {
			<-on
		}
		return nil
	}
	c.enter(true, "a", "b")
	c.enter(false, "n")
	p := c.plan(1, 1, 0, 1<<30, []string{"a", "n", "b"}, 0, 2, 0, 2)
	p.Followers = []*pb.Follower{{Position: 1, Base: 0}}
	p.EvaluateAfter = []uint64{2}
	c.publish(p)
	<-half
	for step := uint64(1); step <= 5; step++ {
		if r := c.step("n", step); !r.Behind {
			t.Fatalf("n is not behind at step %d", step)
		}
		if r := c.step("a", step); r.Behind {
			t.Fatalf("a is behind at step %d", step)
		}
	}
	close(on)
	caught := c.seat("n").want("caught up", func(m *pb.WorkerMessage) bool { return m.GetCaughtUp() != nil }).GetCaughtUp()
	if caught.Step <= 5 || caught.Generation != 1 {
		t.Errorf("caught up: %v", caught)
	}
	c.yield("b", p)
	n := c.last("n")
	if n.Behind || n.StateHash != undisturbed(t, n.Step) {
		t.Errorf("n ends with %v", n)
	}
	got := c.asked()
	last := got[len(got)-1] // between the two, holders may be asked that have not come to their window, or are dead
	begun := slices.ContainsFunc(got, func(r stateRequest) bool { return r.of == dead.Load() && r.req.Offset == 0 })
	if !begun || last.of == dead.Load() || last.req.Offset == 0 || len(last.req.Hash) != 64 {
		t.Errorf("n asked %v, want a second holder in the end, from where the one that died had stopped", got)
	}
	c.last("a")
	c.last("b")
	c.publish(c.plan(2, 2, n.Step, n.Step+3, []string{"n", "a", "b"}, 0, 1, 2, 0))
	c.same(n.Step+3, "a", "b", "n")
}

// A follower whose ring breaks goes on in the next generation with what it has kept and half received.
func TestFollowerGoesOnInTheNextGeneration(t *testing.T) {
	c := newCluster(t)
	on := make(chan struct{})
	c.chunk = func(_ string, number int) error {
		if number == 2 {
			<-on
		}
		return nil
	}
	c.enter(true, "a", "b")
	c.enter(false, "n")
	p := c.plan(1, 1, 0, 1<<30, []string{"a", "n", "b"}, 0, 2, 0, 2)
	p.Followers = []*pb.Follower{{Position: 1, Base: 0}}
	c.publish(p)
	c.step("n", 3)
	c.yield("a", p)
	at := c.last("n").Step
	c.last("a")
	c.last("b")
	c.pause("n") // as if the coordinator had regrouped: n says what it holds
	if x := c.aborted("n"); x.Step != at || !x.Behind || len(x.Kept) != 0 {
		t.Errorf("n says %v, want step %d, behind", x, at)
	}
	p = c.plan(2, 2, at, 1<<30, []string{"n", "b"}, 1, 1, 1, 1)
	p.Followers = []*pb.Follower{{Position: 0, Base: 0}}
	c.publish(p)
	c.step("n", at+1)
	close(on)
	caught := c.seat("n").want("caught up", func(m *pb.WorkerMessage) bool { return m.GetCaughtUp() != nil }).GetCaughtUp()
	c.yield("b", p)
	if n := c.last("n"); n.StateHash != undisturbed(t, n.Step) || caught.Generation != 2 {
		t.Errorf("n ends with %v, after %v", n, caught)
	}
	got := c.asked()
	if first, last := got[0], got[len(got)-1]; first.req.Offset != 0 || last.req.Offset == 0 || last.of != "b" {
		t.Errorf("n asked %v", got)
	}
}

// A worker that loses its coordinator works on, finds it again, and tells what it has done meanwhile.
func TestCoordinatorComesBack(t *testing.T) {
	c := newCluster(t)
	c.enter(true, "a", "b")
	p := c.plan(1, 1, 0, 12, []string{"a", "b"}, 0, 1, 0, 1)
	p.EvaluateAfter = []uint64{6}
	gate := make(chan struct{})
	c.data = func(name string, step uint64) error {
		if name == "a" && step == 4 {
			<-gate
		}
		return nil
	}
	c.publish(p)
	c.step("b", 4)
	c.seat("b").cut()
	s := c.attached("b")
	if st := s.hello.Standing; st == nil || st.Run != "run" || st.Epoch != 1 || st.Generation != 1 || st.Sequence != 1 || !st.Running || st.Step != 4 || st.Behind ||
		st.Ready.GetRingAddress() != c.crew["b"].ready.RingAddress {
		t.Fatalf("b stands at %v", st)
	}
	close(gate)
	c.last("a") // all is done before b hears of its coordinator again
	s.welcome(&pb.Welcome{Run: "run", Epoch: 2, Reattached: true})
	var steps []uint64
	evaluated := false
	for len(steps) == 0 || steps[len(steps)-1] != 12 {
		m := s.next()
		if r := m.GetStep(); r != nil {
			steps = append(steps, r.Step)
		}
		evaluated = evaluated || m.GetEval().GetStep() == 6
	}
	for step := uint64(5); step <= 12; step++ {
		if !slices.Contains(steps, step) {
			t.Errorf("step %d was not reported again: %v", step, steps)
		}
	}
	if !evaluated {
		t.Error("the share of the evaluation was lost")
	}
	// A coordinator of before is not followed.
	stale := c.plan(1, 2, 12, 13, []string{"b"}, 0, 0, 0, 0)
	s.send(&pb.CoordinatorMessage{Body: &pb.CoordinatorMessage_Plan{Plan: stale}})
	fresh := c.plan(2, 3, 12, 14, []string{"b"}, 0, 0, 0, 0)
	fresh.Epoch = 2
	s.send(&pb.CoordinatorMessage{Body: &pb.CoordinatorMessage_Plan{Plan: fresh}})
	c.same(14, "b")
}

// A worker whose place is gone, or that was removed, begins as a newcomer, with the job that it has.
func TestPlaceIsGone(t *testing.T) {
	c := newCluster(t)
	c.enter(true, "a", "b")
	p := c.plan(1, 1, 0, 1<<30, []string{"a", "b"}, 0, 1, 0, 1)
	c.publish(p)
	c.step("b", 2)
	c.seat("b").cut()
	s := c.attached("b")
	address := s.hello.Standing.GetReady().GetRingAddress()
	s.welcome(&pb.Welcome{Run: "run", Epoch: 1})
	ready := s.next().GetReady() // and nothing of before
	if ready.GetRingAddress() != address {
		t.Fatalf("b is ready with %v, want the job that it had, at %s", ready, address)
	}
	c.pause("a")
	from := c.aborted("a")
	if from.Cause != pb.Cause_CAUSE_PAUSED { // the ring broke first
		from = c.aborted("a")
	}
	s.send(&pb.CoordinatorMessage{Body: &pb.CoordinatorMessage_Removed{Removed: &pb.Removed{Reason: "taken for dead"}}})
	s = c.attached("b")
	if s.hello.Standing != nil {
		t.Fatalf("b was removed, and stands at %v", s.hello.Standing)
	}
	s.welcome(&pb.Welcome{Run: "run", Epoch: 1})
	if s.next().GetReady() == nil {
		t.Fatal("b is not ready")
	}
	p = c.plan(2, 2, from.Step, from.Step+6, []string{"a", "b"}, 0, 0, 0, 0)
	p.Followers = []*pb.Follower{{Position: 1, Base: from.Step}}
	c.publish(p)
	c.same(from.Step+6, "a")
	s.send(&pb.CoordinatorMessage{Body: &pb.CoordinatorMessage_Removed{Removed: &pb.Removed{Reason: "wrong bits", ForGood: true}}})
	if err := <-c.crew["b"].done; err == nil || errors.Is(err, ErrCoordinatorLost) {
		t.Errorf("b was removed for good, and ends with %v", err)
	}
}

// A newcomer says nothing of what it did in the place that it has lost.
func TestNewcomerSaysNothingOfBefore(t *testing.T) {
	c := newCluster(t)
	c.start("a", func(cfg *Config) { cfg.Tracer = slowTracer{} }) // most of the time it has committed a step and not reported it yet
	c.enter(true, "a")
	for generation := uint64(1); generation <= 12; generation++ {
		c.publish(c.plan(generation, generation, 0, 1<<30, []string{"a"}, 0, 0, 0, 0))
		c.step("a", 2)
		c.seat("a").cut()
		s := c.attached("a")
		s.welcome(&pb.Welcome{Run: "run", Epoch: 1, PullState: true})
		if m := s.next(); m.GetReady() == nil {
			t.Fatalf("generation %d: a is a newcomer and says %v", generation, m)
		}
	}
}

// A worker that is told to stop twice, or while its coordinator is away, ends at once.
func TestEndAtOnce(t *testing.T) {
	for name, away := range map[string]bool{"told twice": false, "coordinator away": true} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t)
			c.enter(true, "a")
			c.publish(c.plan(1, 1, 0, 1<<30, []string{"a"}, 0, 0, 0, 0))
			c.step("a", 2)
			h := c.crew["a"]
			if away {
				h.seat.cut()
				c.attached("a") // and no answer
				h.cancel()
			} else {
				h.cancel()
				h.seat.want("leaving", func(m *pb.WorkerMessage) bool { return m.GetLeaving() != nil })
				close(h.abandon)
				h.abandon = make(chan struct{})
				for h.seat.next().GetLeave() == nil {
				}
			}
			if err := <-h.done; !errors.Is(err, context.Canceled) {
				t.Errorf("Run: %v", err)
			}
		})
	}
}
