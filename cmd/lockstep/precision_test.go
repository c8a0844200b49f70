package main

import "testing"

// The environments of machines that have the instructions of bf16, or need none, and of one that lacks them.
var (
	plainGo = []string{"LOCKSTEP_SIMD=generic"}
	lacking = []string{"LOCKSTEP_SIMD=avx2", "LOCKSTEP_ASSUME_BF16=0"}
)

// smallest are the settings of a run that plain Go does in a second.
func smallest(command string, more ...string) []string {
	return append([]string{command, "--json", "--arch", "cifar-resnet8", "--batch", "4", "--replica-batch", "2", "--resolution", "8", "--eval-every", "0",
		"--data", shared.images(), "--steps", "2", "--precision", "bf16"}, more...)
}

// The precision is part of a run: the bits are the same for any number of workers, and another precision is refused by name.
func TestPrecision(t *testing.T) {
	t.Parallel()
	out := t.TempDir()
	one := begin(t, plainGo, smallest("train", "--workers", "1", "--out", out)...).wait(0).report()
	if two := begin(t, plainGo, smallest("train", "--workers", "2")...).wait(0).report(); two.Hash != one.Hash {
		t.Errorf("hash %s with two workers, %s with one", two.Hash, one.Hash)
	}
	if fp32 := begin(t, plainGo, smallest("train", "--workers", "1", "--precision", "fp32")...).wait(0).report(); fp32.Hash == one.Hash {
		t.Error("fp32 gives the bits of bf16")
	}
	begin(t, plainGo, "train", "--resume", "--out", out, "--precision", "fp32", "--steps", "4").wait(1).says("--precision bf16", "fp32")
	begin(t, plainGo, "eval", "--weights", out, "--data", shared.images(), "--json").wait(0)
	begin(t, lacking, "eval", "--weights", out, "--data", shared.images(), "--json").wait(1).says("cannot compute in bf16")
	begin(t, lacking, "train", "--resume", "--out", out, "--steps", "4").wait(1).says("cannot compute in bf16")
}

// A worker that was given another precision, or cannot do the run's, is refused with the reason.
func TestPrecisionOfWorkers(t *testing.T) {
	t.Parallel()
	begin(t, lacking, smallest("train")...).wait(1).says("--precision bf16", "cannot compute in bf16")
	begin(t, lacking, "bench", "engine", "--precision", "bf16").wait(1).says("cannot compute in bf16")
	c := begin(t, plainGo, smallest("coordinator", "--listen", "127.0.0.1:0", "--workers", "1")...)
	join := c.line(`workers join with: lockstep worker --join (\S+)`)[1]
	begin(t, plainGo, "worker", "--join", join, "--name", "other", "--precision", "fp32").wait(1).says("precision", "fp32", "bf16")
	begin(t, lacking, "worker", "--join", join, "--name", "old").wait(1).says("cannot compute in bf16")
	w := begin(t, plainGo, "worker", "--join", join, "--name", "able")
	c.wait(0)
	w.wait(0)
}
