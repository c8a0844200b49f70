package main

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/lockstep-ml/lockstep/coordinator/journal"
)

// longSteps is the length of runs in which somebody comes back while they last: many times as long as that takes.
const longSteps = 500

// A worker that was frozen is told that the others have gone on without it, and comes back as a newcomer, with the same bits.
func TestFrozenWorkerComesBack(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for heartbeats to be missed, and trains for a while")
	}
	t.Parallel()
	want := uninterrupted(t, longSteps)
	c, join := beginCoordinator(t, longSteps, "--workers", "3")
	a, b, d := beginWorker(t, join, "a"), beginWorker(t, join, "b"), beginWorker(t, join, "d")
	c.line(`step \d+/500 `)
	b.signal(syscall.SIGSTOP)
	c.line("worker b was lost")
	c.line("going on from step")
	b.signal(syscall.SIGCONT)
	b.line("attaching again.*removed from the run")
	if r := c.waitFor(0, deathLimit).report(); r.Hash != want || r.Step != longSteps {
		t.Errorf("ended at step %d with hash %s, want %s:\n%s", r.Step, r.Hash, want, c.stderr())
	}
	c.says("worker b is ready")
	for _, w := range []*process{a, b, d} {
		w.wait(0)
	}
}

// Where storage has no locks, a second coordinator takes the run from one that lives: that one sees it in the journal, says so and ends, and
// the workers go on under the second.
func TestTakenOver(t *testing.T) {
	if testing.Short() {
		t.Skip("trains for a while")
	}
	t.Parallel()
	want := uninterrupted(t, longSteps)
	out := filepath.Join(t.TempDir(), "run")
	c, join := beginCoordinator(t, longSteps, "--workers", "2", "--out", out, "--verify-every", "5")
	a, b := beginWorker(t, join, "a"), beginWorker(t, join, "b")
	c.line(`step \d+/500 `)
	if err := os.Remove(filepath.Join(out, "lock")); err != nil {
		t.Fatal(err)
	}
	next := begin(t, nil, "coordinator", "--json", "--listen", "127.0.0.1:0", "--workers", "2", "--out", out, "--resume")
	c.waitFor(1, deathLimit).says("another coordinator has taken the run over: it is coordinator 2, this one was coordinator 1", filepath.Join(out, journal.Name))
	if r := next.waitFor(0, deathLimit).report(); r.Hash != want || r.Step != longSteps {
		t.Errorf("ended at step %d with hash %s, want %s:\n%s", r.Step, r.Hash, want, next.stderr())
	}
	next.says("worker a is back", "worker b is back")
	a.wait(0)
	b.wait(0)
}

// Two coordinators do not share a folder of decisions, whatever their output folders are.
func TestStateFolder(t *testing.T) {
	t.Parallel()
	state := filepath.Join(t.TempDir(), "decisions")
	c, _ := beginCoordinator(t, endless, "--out", filepath.Join(t.TempDir(), "run"), "--state", state)
	if _, err := os.Stat(filepath.Join(state, journal.Name)); err != nil {
		t.Error(err)
	}
	other := append([]string{"coordinator", "--listen", "127.0.0.1:0", "--state", state, "--out", filepath.Join(t.TempDir(), "other")}, small(endless)...)
	begin(t, nil, other...).wait(1).says("keeps its decisions in "+state, "--state")
	c.signal(os.Interrupt)
	c.wait(exitInterrupted)
}

// A new run in the folder of an earlier one leaves that one's decisions as they are; what goes on with a run adds to them.
func TestJournalOfEarlierRun(t *testing.T) {
	t.Parallel()
	out := filepath.Join(t.TempDir(), "run")
	path := filepath.Join(out, journal.Name)
	lockstep(t, 0, train(1, "--workers", "1", "--out", out)...)
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lockstep(t, 0, train(1, "--workers", "1", "--out", out)...).says(path + ".1")
	if got, err := os.ReadFile(path + ".1"); err != nil || string(got) != string(before) {
		t.Errorf("the first run's decisions are not what they were (%v)", err)
	}
	second, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lockstep(t, 0, "train", "--json", "--out", out, "--resume", "--steps", "2", "--workers", "1")
	if got, err := os.ReadFile(path); err != nil || len(got) <= len(second) || !strings.HasPrefix(string(got), string(second)) {
		t.Errorf("the resumed run has not gone on with the journal of %d bytes, it has %d (%v)", len(second), len(got), err)
	}
}

// Damage in the journal is said, with the place and the mend, and touches nothing.
func TestDamagedJournal(t *testing.T) {
	t.Parallel()
	out := filepath.Join(t.TempDir(), "run")
	path := filepath.Join(out, journal.Name)
	lockstep(t, 0, train(1, "--workers", "1", "--out", out)...)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	again := []string{"train", "--out", out, "--resume", "--steps", "2", "--workers", "1"}
	lockstep(t, 1, again...).says(path, "damaged at byte", "move the journal away")
	if err := os.Rename(path, path+".bad"); err != nil {
		t.Fatal(err)
	}
	lockstep(t, 0, again...)
}

// A run is asked through any of its members, or at its coordinator.
func TestStatus(t *testing.T) {
	t.Parallel()
	c, join := beginCoordinator(t, endless, "--workers", "1")
	a := beginWorker(t, join, "a")
	c.line(`step \d+/1000000 `)
	var r statusReport
	lockstep(t, 0, "status", "--join", join, "--json").lastLine(&r)
	if r.Phase != "running" || r.Epoch != 1 || r.Generation == 0 || r.Step == 0 || r.TotalSteps != endless || len(r.Members) != 1 || r.Members[0].Worker != "a" {
		t.Fatalf("status %+v", r)
	}
	text := lockstep(t, 0, "status", "--join", r.Members[0].Gossip).stdout.String()
	for _, want := range []string{"run " + r.Run + ": running, coordinator 1", "of 1000000", "  a  ring " + r.Members[0].Ring} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in:\n%s", want, text)
		}
	}
	lockstep(t, 1, "status").says("--join", "--control")
	lockstep(t, 1, "status", "--control", "127.0.0.1:1").says("coordinator at 127.0.0.1:1")
	c.signal(os.Interrupt)
	c.wait(exitInterrupted)
	a.wait(0)
}
