package main

import (
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What is exported is what was trained: eval of the export equals eval of the checkpoint and the run's own last evaluation, and what
// is imported again has the same bits.
func TestExportImport(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	out, file := filepath.Join(dir, "run"), filepath.Join(dir, "weights.safetensors")
	run := lockstep(t, 0, train(4, "--out", out)...).report()

	evaluate := func(args ...string) evalResult {
		t.Helper()
		var r evalResult
		lockstep(t, 0, append([]string{"eval", "--json", "--data", shared.images()}, args...)...).lastLine(&r)
		r.ImagesPerSecond = 0
		return r
	}
	want := evaluate("--weights", out)
	if want.Images != 15 || float64(want.Correct1)/15 != *run.Top1 || math.Abs(want.Loss-*run.TestLoss) > 1e-6 {
		t.Errorf("eval of the run %+v, its own report %+v", want, run)
	}
	if got := evaluate("--weights", run.Checkpoint, "--eval-batch", "4", "--threads", "1"); got != want {
		t.Errorf("eval of the checkpoint %+v, of the run's folder %+v", got, want)
	}
	lockstep(t, 0, "checkpoint", "export", out, file)
	if got := evaluate("--weights", file, "--arch", "cifar-resnet8"); got != want {
		t.Errorf("eval of the export %+v, of the checkpoint %+v", got, want)
	}

	imported, again := filepath.Join(dir, "imported"), filepath.Join(dir, "again.safetensors")
	lockstep(t, 0, "checkpoint", "import", file, imported, "--arch", "cifar-resnet8", "--classes", "3")
	if got := evaluate("--weights", imported); got != want {
		t.Errorf("eval of the import %+v, of the checkpoint %+v", got, want)
	}
	lockstep(t, 0, "checkpoint", "export", imported, again)
	if a, b := lockstep(t, 0, train(2, "--init", file)...).report().Hash, lockstep(t, 0, train(2, "--init", again)...).report().Hash; a != b || a == uninterrupted(t, 2) {
		t.Errorf("training from the export ends at %s, from the export of its import at %s, from scratch at %s", a, b, uninterrupted(t, 2))
	}

	lockstep(t, 1, "checkpoint", "import", file, imported, "--arch", "cifar-resnet8", "--classes", "3").says(imported, "already")
	lockstep(t, 1, "train", "--out", imported, "--resume", "--steps", "2").says("imported", "--init")
	r := lockstep(t, 0, train(2, "--init", checkpoints(t, imported)[0])...).report()
	if want := lockstep(t, 0, train(2, "--init", file)...).report(); r.Hash != want.Hash {
		t.Errorf("training from the import ends at %s, from the export at %s", r.Hash, want.Hash)
	}
	lockstep(t, 1, "checkpoint", "import", file, filepath.Join(dir, "wrong"), "--arch", "cifar-resnet20", "--classes", "3").says(file, "cifar-resnet20")
	lockstep(t, 1, "eval", "--weights", file, "--arch", "cifar-resnet14", "--data", shared.images()).says(file, "cifar-resnet14")
	lockstep(t, 1, "eval", "--weights", filepath.Join(dir, "none")).says(filepath.Join(dir, "none"))
}

func TestCheckpointCommands(t *testing.T) {
	t.Parallel()
	out := filepath.Join(t.TempDir(), "run")
	run := lockstep(t, 0, train(6, "--out", out, "--checkpoint-every", "1", "--keep", "2")...).report()
	files := checkpoints(t, out)
	if len(files) != 2 {
		t.Errorf("kept %v, want two", files)
	}
	var rows []checkpointRow
	lockstep(t, 0, "checkpoint", "ls", "--json", out).lastLine(&rows)
	if len(rows) != 2 || rows[0].Step != 6 || rows[1].Step != 5 || rows[0].Hash != run.Hash || rows[0].Path != files[1] || rows[0].Created.IsZero() {
		t.Errorf("ls: %+v", rows)
	}
	if p := lockstep(t, 0, "ckpt", "ls", out); !strings.Contains(p.stdout.String(), run.Hash[:16]) {
		t.Errorf("ls:\n%s", p.stdout.String())
	}
	if p := lockstep(t, 0, "checkpoint", "hash", out); p.stdout.String() != run.Hash+"\n" {
		t.Errorf("hash: %q, want %s", p.stdout.String(), run.Hash)
	}
	var hash struct {
		Step uint64
		Hash string
	}
	lockstep(t, 0, "checkpoint", "hash", "--json", files[0]).lastLine(&hash)
	if want := uninterrupted(t, 5); hash.Hash != want || hash.Step != 5 {
		t.Errorf("hash of the older one: %+v, want %s", hash, want)
	}
	var verdict struct {
		Good    []string
		Damaged int
	}
	lockstep(t, 0, "checkpoint", "verify", "--json", out).lastLine(&verdict)
	if len(verdict.Good) != 2 || verdict.Damaged != 0 {
		t.Errorf("verify: %+v", verdict)
	}
	lockstep(t, 1, "checkpoint", "ls", t.TempDir()).says("no checkpoints")
	lockstep(t, 1, "checkpoint", "hash", filepath.Join(out, "none.ckpt")).says("none.ckpt", "no such file")
}

// sharedFile finds a file of the folder that holds large data sets and published weights.
func sharedFile(t *testing.T, name string) string {
	t.Helper()
	dir := os.Getenv("LOCKSTEP_SHARED")
	for root := "."; dir == ""; root = filepath.Join(root, "..") {
		if _, err := os.Stat(filepath.Join(root, "go.mod")); err == nil {
			dir = filepath.Join(root, "..", "shared")
		}
	}
	path, err := filepath.Abs(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Skipf("needs %s (LOCKSTEP_SHARED names its folder): %v", name, err)
	}
	return path
}

// PyTorch's counts on the 10,000 test images; JPEG decoders may differ in the last bit.
func TestPublishedWeights(t *testing.T) {
	if testing.Short() || underRace {
		t.Skip("evaluates on 10,000 images")
	}
	t.Parallel()
	weights, data := sharedFile(t, "weights/cifar-resnet20.safetensors"), sharedFile(t, "data/cifar10.tar.gz")
	var r evalResult
	lockstep(t, 0, "eval", "--json", "--arch", "cifar-resnet20", "--weights", weights, "--data", data, "--split", "test",
		"--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225").lastLine(&r)
	if r.Images != 10000 || absInt(r.Correct1-8103) > 3 || absInt(r.Correct5-9872) > 3 || math.Abs(r.Loss-0.8788) > 5e-4 {
		t.Errorf("%+v, PyTorch has 8103 and 9872 right and loss 0.8788", r)
	}
}

func absInt(n int) int { return max(n, -n) }
