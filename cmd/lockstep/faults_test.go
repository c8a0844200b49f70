package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// deathLimit bounds what follows a death: a frozen worker is noticed after 4 s, but the machine that tests it may be busy with other things.
const deathLimit = time.Minute

// resumed goes on for two steps with a run that ended early and compares with one that did not.
func resumed(t *testing.T, out string, step uint64, workers int) {
	t.Helper()
	steps := int(step) + 2
	r := lockstep(t, 0, "train", "--json", "--out", out, "--resume", "--steps", strconv.Itoa(steps), "--workers", strconv.Itoa(workers)).report()
	if want := uninterrupted(t, steps); r.Hash != want || r.Step != uint64(steps) {
		t.Errorf("resumed after step %d: step %d, hash %s; uninterrupted: step %d, hash %s", step, r.Step, r.Hash, steps, want)
	}
}

// kept gives the step of a folder's newest checkpoint, after verifying them all.
func kept(t *testing.T, out string) uint64 {
	t.Helper()
	lockstep(t, 0, "checkpoint", "verify", out)
	var rows []checkpointRow
	lockstep(t, 0, "checkpoint", "ls", "--json", out).lastLine(&rows)
	return rows[0].Step
}

func TestInterruptAndResume(t *testing.T) {
	for _, s := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
		t.Run(s.String(), func(t *testing.T) {
			t.Parallel()
			out := filepath.Join(t.TempDir(), "run")
			p := begin(t, nil, train(endless, "--workers", "2", "--out", out)...)
			p.line(`step \d+/1000000 `)
			p.signal(s)
			r := p.wait(exitInterrupted).report()
			p.says("interrupted at step "+fmt.Sprint(r.Step), "--resume", fmt.Sprintf("resume from step %d", r.Step), r.Checkpoint)
			if got := kept(t, out); got != r.Step || r.Step == 0 {
				t.Errorf("reported step %d, the newest checkpoint is of step %d", r.Step, got)
			}
			resumed(t, out, r.Step, 3)
		})
	}
}

// A run that is interrupted before it began can be begun with --resume.
func TestInterruptBeforeWorkers(t *testing.T) {
	t.Parallel()
	out := filepath.Join(t.TempDir(), "run")
	c, _ := beginCoordinator(t, 4, "--workers", "2", "--out", out)
	c.signal(os.Interrupt)
	c.wait(exitInterrupted).says("interrupted", "--resume")
	resumed(t, out, kept(t, out), 2)
}

// childCommands finds the processes that a process has started, and their command lines.
func childCommands(t *testing.T, parent *process) map[int][]string {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("finds worker processes in /proc")
	}
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	found := map[int][]string{}
	for _, path := range stats {
		stat, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		if fields[1] != strconv.Itoa(parent.cmd.Process.Pid) {
			continue
		}
		args, err := os.ReadFile(filepath.Join(filepath.Dir(path), "cmdline"))
		if err != nil {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil {
			t.Fatal(err)
		}
		found[pid] = strings.Split(string(args), "\x00")
	}
	return found
}

// children finds the worker processes that a train has started, by name.
func children(t *testing.T, parent *process) map[string]int {
	t.Helper()
	found := map[string]int{}
	for pid, words := range childCommands(t, parent) {
		for i, w := range words {
			if w == "--name" {
				found[words[i+1]] = pid
			}
		}
	}
	return found
}

// childOf waits until a process has started one of its own, and gives that.
func childOf(t *testing.T, parent *process) int {
	t.Helper()
	deadline := time.Now().Add(patience)
	for tick := time.NewTicker(20 * time.Millisecond); ; <-tick.C {
		for pid, words := range childCommands(t, parent) {
			if slices.Contains(words, "--serve") { // not the moment between fork and exec
				return pid
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("%v has started nothing within %v", parent.cmd.Args[1:], patience)
		}
	}
}

// gone waits until a process has ended.
func gone(t *testing.T, pid int) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for tick := time.NewTicker(20 * time.Millisecond); ; <-tick.C {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || bytes.Contains(stat, []byte(") Z ")) { // a zombie that nobody waits for is gone too
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("process %d is still there after %v: %s", pid, patience, stat)
		}
	}
}

// firstSteps is a progress line of such a run.
var firstSteps = fmt.Sprintf(`step \d+/%d `, faultySteps)

// same compares a run's end with that of one that nothing happened to.
func same(t *testing.T, p *process) {
	t.Helper()
	r := p.waitFor(0, deathLimit).report()
	if want := uninterrupted(t, faultySteps); r.Hash != want || r.Step != faultySteps {
		t.Errorf("ended at step %d with hash %s, want %s:\n%s", r.Step, r.Hash, want, p.stderr())
	}
	var used ledgerReport
	out := r.Out
	if !filepath.IsAbs(out) {
		out = filepath.Join(p.cmd.Dir, out)
	}
	lockstep(t, 0, "data", "ledger", "--json", out).lastLine(&used)
	if used.First != 1 || used.Last != faultySteps {
		t.Errorf("the ledger proves steps %d to %d, want all %d", used.First, used.Last, faultySteps)
	}
}

// A run outlives a worker of its crew, with the same bits.
func TestWorkerDies(t *testing.T) {
	for _, c := range []struct {
		name    string
		signal  syscall.Signal
		workers int
		victim  string
	}{
		{"killed, of 2", syscall.SIGKILL, 2, "w1"},
		{"killed, of 3", syscall.SIGKILL, 3, "w2"},
		{"frozen, of 2", syscall.SIGSTOP, 2, "w2"},
		{"frozen, of 3", syscall.SIGSTOP, 3, "w1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if testing.Short() && c.workers == 3 {
				t.Skip("as with 2 workers")
			}
			t.Parallel()
			p := begin(t, nil, train(faultySteps, "--workers", strconv.Itoa(c.workers), "--out", filepath.Join(t.TempDir(), "run"))...)
			p.line(firstSteps)
			crew := children(t, p)
			if len(crew) != c.workers {
				t.Fatalf("found the workers %v, want %d", crew, c.workers)
			}
			if err := syscall.Kill(crew[c.victim], c.signal); err != nil {
				t.Fatal(err)
			}
			same(t, p)
			p.says("worker "+c.victim+" was lost", "going on from step")
			for _, pid := range crew {
				gone(t, pid)
			}
		})
	}
}

// When nobody is left, the run ends, and can be gone on with.
func TestAllWorkersDie(t *testing.T) {
	t.Parallel()
	out := filepath.Join(t.TempDir(), "run")
	p := begin(t, nil, train(endless, "--workers", "2", "--out", out)...)
	p.line(`step \d+/1000000 `)
	for _, pid := range children(t, p) {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	p.waitFor(1, deathLimit).says("was lost", "--resume")
	resumed(t, out, kept(t, out), 2)
}

// A worker that dies on another machine, and one that comes into the run, change no bit.
func TestRemoteWorkers(t *testing.T) {
	t.Parallel()
	c, join := beginCoordinator(t, faultySteps, "--workers", "2", "--verify-every", "10")
	a, b := beginWorker(t, join, "a"), beginWorker(t, join, "b")
	c.line(firstSteps)
	b.signal(syscall.SIGKILL)
	c.line("going on from step")
	again := beginWorker(t, join, "b")
	same(t, c)
	c.says("worker b was lost")
	a.wait(0)
	again.wait(0)
}

// Workers that are told to stop hand their replicas over and end in order.
func TestRemoteWorkerLeaves(t *testing.T) {
	for _, s := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
		t.Run(s.String(), func(t *testing.T) {
			t.Parallel()
			c, join := beginCoordinator(t, endless, "--workers", "2")
			a, b := beginWorker(t, join, "a"), beginWorker(t, join, "b")
			c.line(`step \d+/1000000 `)
			b.signal(s)
			b.wait(0)
			c.line("worker b: it wants to leave")
			c.line(`step \d+/1000000 `)
			c.signal(os.Interrupt)
			c.wait(exitInterrupted)
			a.wait(0)
			if text := c.stderr(); strings.Contains(text, "was lost") || strings.Contains(text, "is over") {
				t.Errorf("leaving in order broke something off:\n%s", text)
			}
		})
	}
}

// A coordinator that dies is followed by another, on the same address or not, and its workers notice little.
func TestCoordinatorDies(t *testing.T) {
	for _, listen := range []string{"same address", "another address"} {
		t.Run(listen, func(t *testing.T) {
			t.Parallel()
			out := filepath.Join(t.TempDir(), "run")
			c, join := beginCoordinator(t, faultySteps, "--workers", "2", "--out", out)
			a, b := beginWorker(t, join, "a"), beginWorker(t, join, "b")
			c.line(firstSteps)
			c.signal(syscall.SIGKILL)
			<-c.ended
			at := join
			if listen != "same address" {
				at = "127.0.0.1:0"
			}
			next := begin(t, nil, "coordinator", "--json", "--listen", at, "--workers", "2", "--out", out, "--resume")
			same(t, next)
			next.says("worker a is back", "worker b is back")
			a.wait(0)
			b.wait(0)
		})
	}
}

// A coordinator and a worker that die at once: those who are left go on once there is a coordinator again.
func TestCoordinatorAndWorkerDie(t *testing.T) {
	t.Parallel()
	out := filepath.Join(t.TempDir(), "run")
	c, join := beginCoordinator(t, faultySteps, "--workers", "3", "--out", out)
	a, b, d := beginWorker(t, join, "a"), beginWorker(t, join, "b"), beginWorker(t, join, "d")
	c.line(firstSteps)
	c.signal(syscall.SIGKILL)
	b.signal(syscall.SIGKILL)
	<-c.ended
	next := begin(t, nil, "coordinator", "--json", "--listen", join, "--workers", "3", "--out", out, "--resume")
	same(t, next)
	next.says("worker b was lost")
	a.wait(0)
	d.wait(0)
}

// Without a coordinator workers wait as long as they are told to, and then say what for.
func TestNoCoordinatorComes(t *testing.T) {
	t.Parallel()
	c, join := beginCoordinator(t, endless, "--workers", "1")
	a := beginWorker(t, join, "a", "--coordinator-timeout", "1s")
	c.line(`step \d+/1000000 `)
	c.signal(syscall.SIGKILL)
	a.waitFor(1, deathLimit).says("no coordinator for 1s", "generation 1")
}

// While a coordinator lives, no other takes its run.
func TestSecondCoordinator(t *testing.T) {
	t.Parallel()
	out := filepath.Join(t.TempDir(), "run")
	c, join := beginCoordinator(t, endless, "--workers", "1", "--out", out)
	a := beginWorker(t, join, "a")
	c.line(`step \d+/1000000 `)
	begin(t, nil, "coordinator", "--listen", "127.0.0.1:0", "--out", out, "--resume").wait(1).says("a run is writing to " + out)
	c.signal(os.Interrupt)
	c.wait(exitInterrupted)
	a.wait(0)
}

// newest gives the step of a folder's newest checkpoint.
func newest(t *testing.T, out string) uint64 {
	t.Helper()
	var rows []checkpointRow
	lockstep(t, 0, "checkpoint", "ls", "--json", out).lastLine(&rows)
	return rows[0].Step
}

// A coordinator that was frozen for longer than workers wait for a word gets them back.
func TestFrozenCoordinator(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for the workers' patience of 10 s")
	}
	t.Parallel()
	c, join := beginCoordinator(t, faultySteps, "--workers", "2")
	a := beginWorker(t, join, "a", "--coordinator-timeout", "5s")
	b := beginWorker(t, join, "b", "--coordinator-timeout", "5s")
	c.line(firstSteps)
	c.signal(syscall.SIGSTOP)
	a.line("attaching again")
	c.signal(syscall.SIGCONT)
	same(t, c)
	<-a.ended // one that is not back before the last step looks for a coordinator that is gone
	<-b.ended
}

// Workers of a train that is killed do not outlive it.
func TestTrainDies(t *testing.T) {
	t.Parallel()
	out := filepath.Join(t.TempDir(), "run")
	p := begin(t, nil, train(endless, "--workers", "2", "--out", out)...)
	p.line(`step \d+/1000000 `)
	crew := children(t, p)
	p.signal(syscall.SIGKILL)
	for _, pid := range crew {
		gone(t, pid)
	}
	resumed(t, out, newest(t, out), 2) // from step 0 if no later checkpoint was due
}

// A run that blows up names the place and leaves the checkpoint before.
func TestNotFinite(t *testing.T) {
	for _, workers := range []int{1, 3} {
		t.Run(fmt.Sprint(workers), func(t *testing.T) {
			t.Parallel()
			out := filepath.Join(t.TempDir(), "run")
			p := begin(t, nil, train(20, "--lr", "1e30", "--workers", strconv.Itoa(workers), "--out", out)...).wait(1)
			p.says("NaN or infinite", "--lr", "step-000000000000.ckpt")
			p.line(`^lockstep: .*step \d+: (the gradient of [a-z0-9.]+\.(weight|bias)\[\d+\]|[a-z0-9.]*bn\d's batch (mean|variance)) on replica [0-3] `)
			if step := kept(t, out); step != 0 {
				t.Errorf("a checkpoint of step %d was written after the run blew up", step)
			}
		})
	}
}
