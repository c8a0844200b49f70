package server

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/lockstep-ml/lockstep/coordinator"
	"github.com/lockstep-ml/lockstep/coordinator/journal"
	pb "github.com/lockstep-ml/lockstep/internal/proto/lockstep/v1"
	"github.com/lockstep-ml/lockstep/internal/vfs"
)

// journalFunc is a Journal that is one function.
type journalFunc func(coordinator.Entry) error

func (f journalFunc) Append(e coordinator.Entry) error { return f(e) }

// cutOff runs fakes that will lose their coordinator.
func cutOff(fakes ...*fake) *sync.WaitGroup {
	var wg sync.WaitGroup
	for _, f := range fakes {
		wg.Go(func() {
			if err := f.run(); err == nil {
				f.t.Errorf("%s: ended in order, with stop %v", f.name, f.stop)
			}
		})
	}
	return &wg
}

// TestUnrecordedPlan: a plan that the journal does not take is told to nobody.
func TestUnrecordedPlan(t *testing.T) {
	cfg, _ := testConfig(t, 2)
	cfg.Journal = journalFunc(func(e coordinator.Entry) error {
		if e.Plan != nil {
			return fmt.Errorf("journal of the test: %w", syscall.EIO)
		}
		return nil
	})
	r := start(t, cfg)
	a, b := dial(t, r.addr, "1"), dial(t, r.addr, "2")
	wg := cutOff(a, b)
	_, err := r.wait()
	wg.Wait()
	if !errors.Is(err, syscall.EIO) || !strings.Contains(err.Error(), "journal of the test") || !strings.Contains(err.Error(), "--resume") {
		t.Errorf("ended with %v", err)
	}
	if len(a.plans)+len(b.plans) != 0 {
		t.Errorf("plans %v and %v were told", a.plans, b.plans)
	}
}

// TestJournalWaitsForRoom: while the disk is full nothing is decided, people are told, and then the run goes on.
func TestJournalWaitsForRoom(t *testing.T) {
	cfg, _ := testConfig(t, 1)
	full := 2
	cfg.Journal = journalFunc(func(e coordinator.Entry) error {
		if e.Plan != nil && full > 0 {
			full--
			return syscall.ENOSPC
		}
		return nil
	})
	var warnings []string
	cfg.Progress = func(p coordinator.Progress) {
		if p.Warning {
			warnings = append(warnings, p.Event)
		}
	}
	r := start(t, cfg)
	wg := crew(dial(t, r.addr, "1"))
	result, err := r.wait()
	wg.Wait()
	if err != nil || result.Step != 12 || full != 0 {
		t.Fatalf("ended with %v, result %+v, %d failures left", err, result, full)
	}
	if len(warnings) != 1 || !strings.Contains(warnings[0], "make room") {
		t.Errorf("warnings %q", warnings)
	}
}

// open opens a journal for a coordinator.
func open(t *testing.T, path string) (*journal.Journal, journal.Opened) {
	t.Helper()
	j, o, err := journal.Open(vfs.OS{}, path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() }) // of files that nothing more is written to
	return j, o
}

// die runs two workers to step 3 under a coordinator that then dies, and gives what it leaves.
func die(t *testing.T, path string) (store *memStore, plan *pb.Plan) {
	t.Helper()
	cfg, store := testConfig(t, 2)
	cfg.Journal, _ = open(t, path)
	three := make(chan struct{})
	cfg.StepObserver = func(s coordinator.StepDone) {
		if s.Step == 3 {
			close(three)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	r := startContext(t, ctx, cfg)
	a, b := dial(t, r.addr, "1"), dial(t, r.addr, "2")
	hold := func(step uint64) bool { return step <= 3 }
	a.onStep, b.onStep = hold, hold
	wg := cutOff(a, b)
	await(t, three)
	cancel()
	if _, err := r.wait(); !errors.Is(err, context.Canceled) {
		t.Fatalf("ended with %v", err)
	}
	wg.Wait()
	return store, a.plans[0]
}

// successor is the next coordinator of that run.
func successor(t *testing.T, path string, store *memStore) Config {
	t.Helper()
	cfg, _ := testConfig(t, 2)
	j, o := open(t, path)
	cfg.Journal, cfg.History, cfg.Machine.Epoch, cfg.Store = j, o.Entries, o.Epoch, store
	return cfg
}

// back is a worker that attaches again at step 3 of a plan.
func back(t *testing.T, addr, name string, plan *pb.Plan) *fake {
	t.Helper()
	f := dial(t, addr, name)
	f.init, f.step, f.plans = initial(0), 3, []*pb.Plan{plan}
	f.standing = &pb.Standing{Run: "test", Epoch: 1, Generation: plan.Generation, Sequence: plan.Sequence, Running: true, Step: 3, Ready: f.ready()}
	return f
}

// TestSuccessor: workers attach to the next coordinator and go on with the plan they have.
func TestSuccessor(t *testing.T) {
	path := filepath.Join(t.TempDir(), journal.Name)
	store, plan := die(t, path)
	cfg := successor(t, path, store)
	r := start(t, cfg)
	a, b := back(t, r.addr, "1", plan), back(t, r.addr, "2", plan)
	st, err := a.client.Status(t.Context(), &pb.StatusRequest{})
	if err != nil || st.Epoch != 2 || st.Phase != "reattaching" || len(st.Members) != 2 || st.Members[0].GossipAddress != "127.0.0.1:11" {
		t.Errorf("status %v, %v", st, err)
	}
	wg := crew(a, b)
	result, err := r.wait()
	wg.Wait()
	if err != nil || result.Step != 12 || result.Hash != stateAt(cfg.Initial, 12).Hash() {
		t.Fatalf("ended with %v, result %+v", err, result)
	}
	for _, f := range []*fake{a, b} {
		if w := f.welcome; !w.Reattached || w.Epoch != 2 || w.PullState {
			t.Errorf("worker %s was welcomed with %v", f.name, w)
		}
		if p := f.plans; len(p) != 2 || p[1].Generation != plan.Generation || p[1].FirstStep != 6 || p[1].Epoch != 2 {
			t.Errorf("worker %s got plans %v", f.name, p)
		}
	}
	if got := store.steps(); !slices.Equal(got, []uint64{5, 10, 12}) {
		t.Errorf("checkpoints of %v", got)
	}
	if _, o := open(t, path); !o.Over {
		t.Error("the journal does not say that the run is over")
	}
}

// TestNobodyComesBack: then newcomers begin from the newest checkpoint.
func TestNobodyComesBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), journal.Name)
	store, _ := die(t, path)
	at2 := stateAt(initial(0), 2)
	stored, err := store.Put(t.Context(), at2, Meta{})
	if err != nil {
		t.Fatal(err)
	}
	j, _ := open(t, path)
	if err := j.Append(coordinator.Entry{Stored: &coordinator.Stored{Step: 2, Path: stored}}); err != nil {
		t.Fatal(err)
	}
	cfg := successor(t, path, store)
	cfg.Machine.ReattachFirst = 2 * tickEvery
	gathering := make(chan struct{})
	cfg.Progress = func(p coordinator.Progress) {
		if strings.Contains(p.Event, "waiting for workers, to go on from step 2") {
			close(gathering)
		}
	}
	r := start(t, cfg)
	await(t, gathering)
	c, d := dial(t, r.addr, "3"), dial(t, r.addr, "4")
	wg := crew(c, d)
	result, err := r.wait()
	wg.Wait()
	if err != nil || result.Step != 12 {
		t.Fatalf("ended with %v, result %+v", err, result)
	}
	if c.init.Step != 2 || c.init.Hash() != at2.Hash() {
		t.Errorf("a newcomer began from step %d", c.init.Step)
	}
}

// TestFenced: a coordinator whose run has been taken over decides nothing more, and says who has it.
func TestFenced(t *testing.T) {
	path := filepath.Join(t.TempDir(), journal.Name)
	cfg, _ := testConfig(t, 1)
	cfg.Journal, _ = open(t, path)
	taken := false
	cfg.StepObserver = func(coordinator.StepDone) {
		if !taken {
			taken = true
			next, o := open(t, path)
			if err := next.Append(coordinator.Entry{Epoch: &coordinator.EpochEntry{Epoch: o.Epoch, Run: "test"}}); err != nil {
				t.Error(err)
			}
		}
	}
	r := start(t, cfg)
	a := dial(t, r.addr, "1")
	wg := cutOff(a)
	_, err := r.wait()
	wg.Wait()
	if !errors.Is(err, journal.ErrFenced) || !strings.Contains(err.Error(), "it is coordinator 2, this one was coordinator 1") {
		t.Errorf("ended with %v", err)
	}
	if a.stop != nil || len(a.plans) != 1 {
		t.Errorf("the worker got plans %v and stop %v", a.plans, a.stop)
	}
}

// TestDrop: checkpoints with wrong bits are gone, and one that cannot be removed ends the run.
func TestDrop(t *testing.T) {
	cfg, store := testConfig(t, 1)
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close() // it was never run
	for _, step := range []uint64{2, 4, 6} {
		if _, err := store.Put(t.Context(), stateAt(cfg.Initial, step), Meta{}); err != nil {
			t.Fatal(err)
		}
	}
	s.carryOut(t.Context(), coordinator.Drop{Step: 4})
	if got := store.steps(); !slices.Equal(got, []uint64{2, 4}) || s.failed != nil {
		t.Errorf("checkpoints of %v stay, %v", got, s.failed)
	}
	for _, l := range []coordinator.Load{{Step: 6, Path: "mem-6"}, {Step: 3, Path: "mem-4"}} {
		s.carryOut(t.Context(), l)
		if s.failed == nil || s.base.Load() != cfg.Initial {
			t.Errorf("%+v was loaded", l)
		}
	}
}

// TestAttachmentIsBounded: what a worker says of itself is cut to size, and may be missing.
func TestAttachmentIsBounded(t *testing.T) {
	long := strings.Repeat("x", 2*maxText)
	a := attachment(&pb.Hello{Worker: "1", Standing: &pb.Standing{Run: long}})
	if len(a.Run) > maxText+3 || a.Ready.Worker != "1" {
		t.Errorf("attachment of %d bytes, ready %+v", len(a.Run), a.Ready)
	}
	ev := event("1", &pb.WorkerMessage{Body: &pb.WorkerMessage_Aborted{Aborted: &pb.Aborted{Kept: make([]uint64, 1000)}}})
	if got := ev.(coordinator.Aborted).Kept; len(got) != maxList {
		t.Errorf("%d kept steps were taken", len(got))
	}
	if attachment(&pb.Hello{Worker: "1"}) != nil {
		t.Error("a newcomer has an attachment")
	}
}
