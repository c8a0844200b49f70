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

// A dead or frozen worker ends the run within 10 s. The machine that tests it may be busy with other things, so three times that pass
// here; the time it took is logged.
const deathLimit = 30 * time.Second

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
			out := filepath.Join(t.TempDir(), "run")
			p := begin(t, nil, train(endless, "--workers", strconv.Itoa(c.workers), "--out", out)...)
			p.line(`step \d+/1000000 `)
			crew := children(t, p)
			if len(crew) != c.workers {
				t.Fatalf("found the workers %v, want %d", crew, c.workers)
			}
			if err := syscall.Kill(crew[c.victim], c.signal); err != nil {
				t.Fatal(err)
			}
			begun := time.Now()
			p.waitFor(1, deathLimit).says("worker "+c.victim+" was lost", "--resume")
			t.Logf("the run ended %v after the signal", time.Since(begun).Round(10*time.Millisecond))
			for _, pid := range crew {
				gone(t, pid)
			}
			r := p.report()
			if got := kept(t, out); got != r.Step || r.Step == 0 {
				t.Errorf("reported step %d, the newest checkpoint is of step %d", r.Step, got)
			}
			p.says(fmt.Sprintf("resume from step %d with --resume", r.Step))
			resumed(t, out, r.Step, 2)
		})
	}
}

// A worker that dies on another machine ends the run too, and the others are told why.
func TestRemoteWorkerDies(t *testing.T) {
	t.Parallel()
	out := filepath.Join(t.TempDir(), "run")
	c, join := beginCoordinator(t, endless, "--workers", "2", "--out", out)
	a, b := beginWorker(t, join, "a"), beginWorker(t, join, "b")
	c.line(`step \d+/1000000 `)
	b.signal(syscall.SIGKILL)
	c.waitFor(1, deathLimit).says("worker b was lost")
	a.wait(1).says("the run ended", "worker b was lost")
	resumed(t, out, kept(t, out), 1)
}

// One worker told to stop by its operator is named, with the reason.
func TestRemoteWorkerInterrupted(t *testing.T) {
	t.Parallel()
	out := filepath.Join(t.TempDir(), "run")
	c, join := beginCoordinator(t, endless, "--workers", "2", "--out", out)
	a, b := beginWorker(t, join, "a"), beginWorker(t, join, "b")
	c.line(`step \d+/1000000 `)
	b.signal(os.Interrupt)
	b.wait(exitInterrupted)
	c.waitFor(1, deathLimit).says("worker b was lost", "it left")
	a.wait(1)
	resumed(t, out, kept(t, out), 1)
}

func TestCoordinatorDies(t *testing.T) {
	t.Parallel()
	out := filepath.Join(t.TempDir(), "run")
	c, join := beginCoordinator(t, endless, "--workers", "2", "--out", out, "--checkpoint-every", "1")
	a, b := beginWorker(t, join, "a"), beginWorker(t, join, "b")
	c.line(`checkpoint of step \d+ written`)
	c.signal(syscall.SIGKILL)
	begun := time.Now()
	a.waitFor(1, deathLimit).says("coordinator lost")
	b.waitFor(1, deathLimit).says("coordinator lost")
	t.Logf("the workers ended %v after the signal", time.Since(begun).Round(10*time.Millisecond))
	// Whatever the kill left half-written is cleared away, and said.
	resumed(t, out, newest(t, out), 2)
}

// newest gives the step of a folder's newest checkpoint.
func newest(t *testing.T, out string) uint64 {
	t.Helper()
	var rows []checkpointRow
	lockstep(t, 0, "checkpoint", "ls", "--json", out).lastLine(&rows)
	return rows[0].Step
}

func TestFrozenCoordinator(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for the workers' patience of 10 s")
	}
	t.Parallel()
	c, join := beginCoordinator(t, endless, "--workers", "2")
	a, b := beginWorker(t, join, "a"), beginWorker(t, join, "b")
	c.line(`step \d+/1000000 `)
	c.signal(syscall.SIGSTOP)
	a.wait(1).says("coordinator lost", "silent for 10s")
	b.wait(1).says("coordinator lost")
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
