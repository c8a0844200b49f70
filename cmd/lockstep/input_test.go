package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

func TestBadSettings(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "notes.txt")
	write(t, file, []byte("no images"))
	for _, c := range []struct {
		args []string
		says []string
	}{
		{[]string{"--data", filepath.Join(dir, "nothing")}, []string{"no such data", filepath.Join(dir, "nothing")}},
		{[]string{"--data", file}, []string{file}},
		{[]string{"--data", dir}, []string{dir}},
		{[]string{"--arch", "resnet19"}, []string{"resnet19", "resnet{18,34,50,101,152}"}},
		{[]string{"--arch", "cifar-resnet21"}, []string{"cifar-resnet21", "6n+2"}},
		{[]string{"--batch", "100", "--replica-batch", "32"}, []string{"--batch 100", "32", "96 and 128"}},
		{[]string{"--batch", "0"}, []string{"--batch 0"}},
		{[]string{"--workers", "0"}, []string{"--workers 0"}},
		{[]string{"--precision", "fp8"}, []string{"fp8", "fp32", "bf16"}},
		{[]string{"--wire", "8"}, []string{"--wire 8", "32", "16"}},
		{[]string{"--schedule", "cosine"}, []string{"cosine", "plateau"}},
		{[]string{"--epochs", "2"}, []string{"--steps", "--epochs"}},
		{[]string{"--classes", "2"}, []string{"--classes 2", "3"}},
		{[]string{"--init", filepath.Join(dir, "none.safetensors")}, []string{filepath.Join(dir, "none.safetensors")}},
		{[]string{"--init", file}, []string{file, "none of safetensors", ".ckpt"}},
		{[]string{"--resume"}, []string{"--out"}},
		{[]string{"--resume", "--out", filepath.Join(dir, "none")}, []string{"cannot resume", filepath.Join(dir, "none")}},
		{[]string{"--steps", "x"}, []string{"--steps", `"x"`}},
		{[]string{"--lr", "-1", "--wire", "3", "--arch", "vgg"}, []string{"--lr", "--wire 3", "vgg"}}, // all at once
	} {
		p := lockstep(t, 1, train(4, c.args...)...).says(c.says...)
		if p.stdout.Len() > 0 {
			t.Errorf("%v prints on standard output: %s", c.args, p.stdout.String())
		}
		if strings.Contains(p.stderr(), "panic") || strings.Contains(p.stderr(), "goroutine ") {
			t.Errorf("%v: %s", c.args, p.stderr())
		}
	}
	lockstep(t, 1, "train", "--data", shared.images()).says("--epochs", "--steps")
	lockstep(t, 1, "tarin").says("tarin", "train")
	lockstep(t, 1, "model", "alexnet").says("alexnet")
	lockstep(t, 1, "worker").says("join")
}

func TestTruncatedArchive(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	whole, cut := filepath.Join(dir, "whole.tar"), filepath.Join(dir, "cut.tar")
	archive(t, whole, func(_ string, data []byte) []byte { return data })
	b := read(t, whole)
	write(t, cut, b[:len(b)/2+100])
	lockstep(t, 1, train(4, "--data", cut)...).says(cut, "cut short")
	lockstep(t, 1, "data", "ls", cut).says(cut, "cut short")
}

func TestDamagedImage(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "images.tar")
	archive(t, path, func(name string, data []byte) []byte {
		if name == "train/rings/007.jpg" || name == "test/stripes/023.jpg" {
			clear(data[len(data)/3:])
		}
		return data
	})
	p := lockstep(t, 1, train(4, "--data", path, "--workers", "2")...)
	p.says(path, "train/rings/007.jpg", "--skip-damaged", "worker w")

	p = lockstep(t, 0, train(4, "--data", path, "--workers", "2", "--skip-damaged", "--out", filepath.Join(t.TempDir(), "run"))...)
	p.line(`^w[12]: .*damaged images passed over: \d \(.*train/rings/007\.jpg`)
	p.line(`^w[12]: .*damaged images passed over: \d \(.*test/stripes/023\.jpg`)
	want := p.report()
	if got := lockstep(t, 0, train(4, "--data", path, "--workers", "3", "--skip-damaged")...).report(); got.Hash != want.Hash || *got.TestLoss != *want.TestLoss {
		t.Errorf("with 3 workers %+v, with 2 %+v", got, want)
	}

	args := []string{"eval", "--json", "--weights", want.Checkpoint, "--data", path}
	lockstep(t, 1, append(args, "--skip-damaged=false")...).says("test/stripes/023.jpg", "--skip-damaged")
	var r evalResult
	lockstep(t, 0, append(args, "--skip-damaged")...).says("left out", "test/stripes/023.jpg").lastLine(&r)
	if r.Images != 14 {
		t.Errorf("evaluated on %d images, 14 are good", r.Images)
	}
}

// A checkpoint with a flipped byte is not used; the one before it is offered, with the command that goes on from there.
func TestDamagedCheckpoint(t *testing.T) {
	t.Parallel()
	out := filepath.Join(t.TempDir(), "run")
	lockstep(t, 0, train(4, "--out", out, "--checkpoint-every", "2")...)
	files := checkpoints(t, out)
	if len(files) != 3 {
		t.Fatalf("checkpoints %v, want those of steps 0, 2 and 4", files)
	}
	last := files[2]
	b := read(t, last)
	b[len(b)/2] ^= 1
	write(t, last, b)

	lockstep(t, 1, "checkpoint", "verify", last).says(last, "damaged")
	p := lockstep(t, 1, "checkpoint", "verify", out).says(last)
	if n := strings.Count(p.stdout.String(), "good"); n != 2 {
		t.Errorf("verify finds %d good ones:\n%s", n, p.stdout.String())
	}
	p = lockstep(t, 1, "train", "--json", "--out", out, "--resume", "--steps", "6").says(last, "damaged", "step 2")
	offer := regexp.MustCompile(`--resume-from (\S+)`).FindStringSubmatch(p.stderr())
	if offer == nil || offer[1] != files[1] {
		t.Fatalf("no offer of %s:\n%s", files[1], p.stderr())
	}
	r := lockstep(t, 0, "train", "--json", "--out", out, "--resume-from", offer[1], "--steps", "6").report()
	if want := uninterrupted(t, 6); r.Hash != want {
		t.Errorf("from the older checkpoint: hash %s, want %s", r.Hash, want)
	}
	lockstep(t, 0, "checkpoint", "verify", r.Checkpoint)
}

func TestResumeRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	out := filepath.Join(dir, "run")
	lockstep(t, 0, train(4, "--out", out)...)
	other := filepath.Join(dir, "other.tar")
	archive(t, other, func(name string, data []byte) []byte {
		if name == "train/checks/000.jpg" {
			return pattern(2, 99)
		}
		return data
	})
	moved := filepath.Join(dir, "moved.tar")
	archive(t, moved, func(_ string, data []byte) []byte { return data })
	for _, c := range []struct {
		args []string
		says []string
	}{
		{train(8, "--out", out, "--resume", "--lr", "0.05"), []string{"--lr 0.1", "0.05", "--init"}},
		{train(8, "--out", out, "--resume", "--seed", "2", "--wire", "16"), []string{"--seed 1", "--wire 32"}},
		{train(8, "--out", out, "--resume", "--data", other), []string{other, "fingerprint"}},
		{train(8, "--out", out, "--resume", "--init", "other.safetensors"), []string{"--init", "other.safetensors"}},
		{train(3, "--out", out, "--resume"), []string{"4", "3", "--steps"}},
	} {
		lockstep(t, 1, c.args...).says(c.says...)
	}
	if files := checkpoints(t, out); len(files) != 2 {
		t.Errorf("refusals left the checkpoints %v", files)
	}
	p := lockstep(t, 0, "train", "--out", out, "--resume")
	if !strings.Contains(p.stdout.String(), "nothing was left to do") || !strings.Contains(p.stdout.String(), uninterrupted(t, 4)) {
		t.Errorf("resuming a run that is done:\n%s", p.stdout.String())
	}
	r := lockstep(t, 0, train(6, "--out", out, "--resume", "--data", moved)...).report()
	if want := uninterrupted(t, 6); r.Hash != want {
		t.Errorf("resumed with the data moved: hash %s, want %s", r.Hash, want)
	}
}

// diskFull runs a coordinator whose disk is filled once the run has its first checkpoint: training goes on to its end, the
// checkpoint stays, and what failed is said.
func diskFull(t *testing.T, out, cause string, fill func(pid int), relieve func()) {
	t.Helper()
	c, join := beginCoordinator(t, 6, "--workers", "2", "--out", out, "--checkpoint-every", "2")
	fill(c.cmd.Process.Pid)
	a, b := beginWorker(t, join, "a"), beginWorker(t, join, "b")
	c.line(`checkpoint of step 2 was not written: .*` + cause + `.*step 0 stays`)
	c.line(`step 6/6 `)
	c.wait(1).says("all 6 steps are done", cause, "resume from step 0", "--resume")
	a.wait(1).says("the run ended", cause)
	b.wait(1)
	relieve()
	if step := kept(t, out); step != 0 {
		t.Errorf("a checkpoint of step %d is there", step)
	}
	left, err := filepath.Glob(filepath.Join(checkpointDir(out), "*"))
	if err != nil || len(left) != 1 {
		t.Errorf("in the folder are %v (%v), want the first checkpoint alone", left, err)
	}
	r := lockstep(t, 0, "train", "--json", "--out", out, "--resume").report()
	if want := uninterrupted(t, 6); r.Hash != want {
		t.Errorf("resumed: hash %s, want %s", r.Hash, want)
	}
}

func TestDiskFull(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := mountSmall(dir); err != nil {
		t.Skipf("a small file system to fill cannot be mounted here: %v", err)
	}
	filler := filepath.Join(dir, "filler")
	t.Cleanup(func() {
		if err := unmount(dir); err != nil {
			t.Error(err)
		}
	})
	diskFull(t, filepath.Join(dir, "run"), "no space left", func(int) {
		f, err := os.Create(filler)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		block := bytes.Repeat([]byte{7}, 4096)
		for err == nil {
			_, err = f.Write(block)
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("filling the disk: %v", err)
		}
	}, func() {
		if err := os.Remove(filler); err != nil {
			t.Fatal(err)
		}
	})
}

func TestWriteFails(t *testing.T) {
	t.Parallel()
	diskFull(t, filepath.Join(t.TempDir(), "run"), "file too large", func(pid int) {
		if err := limitFileSize(pid, 64<<10); err != nil {
			t.Skipf("the size of another process's files cannot be limited here: %v", err)
		}
	}, func() {})
}
