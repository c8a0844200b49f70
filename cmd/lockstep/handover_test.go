package main

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// A coordinator that is moved to another machine must not end the run: workers that were told of an end would not look for the next one.
func TestHandOver(t *testing.T) {
	t.Parallel()
	out := filepath.Join(t.TempDir(), "run")
	c, join := beginCoordinator(t, endless, "--workers", "1", "--out", out, "--hand-over")
	w := beginWorker(t, join, "a")
	c.line(`step \d+/`)
	c.signal(syscall.SIGTERM)
	c.wait(exitHandedOver).says("leaves the run as it is", "--continue")
	w.signal(os.Kill) // it may have given up meanwhile
	resumed(t, out, kept(t, out), 1)
}

// SIGINT ends the run all the same.
func TestHandOverInterrupted(t *testing.T) {
	t.Parallel()
	out := filepath.Join(t.TempDir(), "run")
	c, join := beginCoordinator(t, endless, "--workers", "1", "--out", out, "--hand-over")
	w := beginWorker(t, join, "a")
	c.line(`step \d+/`)
	c.signal(os.Interrupt)
	c.wait(exitInterrupted).says("interrupted at step")
	w.wait(0) // it was told
	resumed(t, out, kept(t, out), 1)
}
