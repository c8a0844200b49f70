package chaos

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

const patience = 60 * time.Second

// state is a process's, as the kernel tells: R, S, T for stopped, Z; "" if it is gone.
func state(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	after := b[bytes.LastIndexByte(b, ')')+1:]
	return string(bytes.Fields(after)[0])
}

// comesTo waits until a process is in one of the states.
func comesTo(t *testing.T, pid int, states string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		s := state(pid)
		if s == "" && strings.Contains(states, "-") || s != "" && strings.Contains(states, s) {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("process %d is in state %q, want one of %q", pid, s, states)
		}
	}
}

// parent starts a process that has a child, and gives both.
func parent(t *testing.T) (p *process, child int) {
	t.Helper()
	t.Setenv(role, "")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	l := newLauncher()
	t.Cleanup(l.close)
	p, err = l.start(exec.Command(self, "parent"), t.TempDir(), "parent", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.kill(true) }) // it may be gone
	for begun := time.Now(); child == 0; {
		child, _ = strconv.Atoi(tail(p.out, 1)) // 0 until it has said so
		if time.Since(begun) > patience {
			t.Fatal("it never said who its child is:", tail(p.log, 3))
		}
	}
	return p, child
}

func TestStopAndContinue(t *testing.T) {
	p, child := parent(t)
	pid := p.cmd.Process.Pid
	if err := p.signal(syscall.SIGSTOP, false); err != nil {
		t.Fatal(err)
	}
	comesTo(t, pid, "T")
	if state(child) == "T" {
		t.Error("the child was stopped too")
	}
	if err := p.signal(syscall.SIGCONT, false); err != nil {
		t.Fatal(err)
	}
	comesTo(t, pid, "RS")
}

func TestKillOneOrAll(t *testing.T) {
	for _, group := range []bool{false, true} {
		p, child := parent(t)
		if err := p.kill(group); err != nil {
			t.Fatal(err)
		}
		if code, err := p.wait(t.Context(), patience); err != nil || code != -1 {
			t.Errorf("exit code %d, %v", code, err)
		}
		if group {
			comesTo(t, child, "-Z")
		} else if s := state(child); s != "S" && s != "R" {
			t.Errorf("the child is in state %q", s)
		}
		syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) // the orphan
		if err := p.signal(syscall.SIGTERM, false); err != nil || !p.ended() {
			t.Error("a signal to one that has ended:", err)
		}
	}
}

// Nothing that was started outlives its launcher.
func TestLauncherTakesThemAlong(t *testing.T) {
	p, _ := parent(t)
	t.Setenv(role, "")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	l := newLauncher()
	q, err := l.start(exec.Command(self, "parent"), t.TempDir(), "parent", nil)
	if err != nil {
		t.Fatal(err)
	}
	l.close()
	comesTo(t, q.cmd.Process.Pid, "-Z")
	if !q.ended() || p.ended() {
		t.Errorf("of two launchers one was closed; its process has ended: %v, the other's: %v", q.ended(), p.ended())
	}
}

func TestWaitHasALimit(t *testing.T) {
	p, _ := parent(t)
	if _, err := p.wait(t.Context(), time.Millisecond); err == nil || !strings.Contains(err.Error(), "parent has not ended within 1ms") {
		t.Error(err)
	}
}

// A full disk refuses what is written, and a freed one takes it.
func TestDisk(t *testing.T) {
	if err := missingDisk(); err != nil {
		t.Skip("no small file system here:", err)
	}
	d, err := newDisk(t.TempDir(), 4<<20)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.close() })
	file, content := filepath.Join(d.dir, "x"), make([]byte, 64<<10)
	for range 2 {
		if err := os.WriteFile(file, content, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(os.Remove(file), d.fill()); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, content, 0o644); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("writing to a full disk: %v", err)
		}
		if err := d.free(); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(d.free(), d.close()); err != nil {
		t.Error(err)
	}
}
