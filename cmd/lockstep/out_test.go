package main

import (
	"path/filepath"
	"testing"

	"github.com/lockstep-ml/lockstep/internal/vfs"
)

// TestOutUsedAgain starts a second run in the folder of a first: nothing of the first is lost, and both give the same bits.
func TestOutUsedAgain(t *testing.T) {
	t.Parallel()
	out := filepath.Join(t.TempDir(), "run")
	lockstep(t, 0, train(4, "--out", out)...)
	before := checkpoints(t, out)
	aside := checkpointDir(out) + ".1"
	p := lockstep(t, 0, train(4, "--out", out)...).says("held a run already", aside, "--resume")
	if r := p.report(); r.Hash != uninterrupted(t, 4) {
		t.Errorf("the second run has hash %s, want %s", r.Hash, uninterrupted(t, 4))
	}
	if kept, err := filepath.Glob(filepath.Join(aside, "*.ckpt")); err != nil || len(kept) != len(before) {
		t.Errorf("of the first run's %d checkpoints %v are left (%v)", len(before), kept, err)
	}
	lockstep(t, 0, "checkpoint", "verify", aside)
}

// TestOutInUse refuses a folder that another run is writing to, whether to start or to resume.
func TestOutInUse(t *testing.T) {
	t.Parallel()
	out := filepath.Join(t.TempDir(), "run")
	lockstep(t, 0, train(4, "--out", out)...)
	before := checkpoints(t, out)
	lock, err := vfs.Lock(filepath.Join(out, "lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	lockstep(t, 1, train(4, "--out", out)...).says(out, "another process is using it", "--out")
	lockstep(t, 1, train(8, "--out", out, "--resume")...).says(out, "another process is using it")
	if after := checkpoints(t, out); len(after) != len(before) {
		t.Errorf("refused runs left %v, want %v", after, before)
	}
}
