package main

import (
	"bytes"
	"image/png"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/lockstep-ml/lockstep/coordinator"
	"github.com/lockstep-ml/lockstep/internal/runfolder"
)

// table reads a run's table of metrics, without what differs from one time to the next.
func table(t *testing.T, out string) []runfolder.Row {
	t.Helper()
	f, err := os.Open(filepath.Join(out, runfolder.TableName))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rows, err := runfolder.ReadTable(f)
	if err != nil {
		t.Fatal(err)
	}
	for i := range rows {
		rows[i].ImagesPerSecond = nil
	}
	return rows
}

// tableText is the same as text.
func tableText(t *testing.T, out string) string {
	t.Helper()
	var b bytes.Buffer
	if err := runfolder.WriteTable(&b, table(t, out)); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestFolderExplainsItself trains, is killed, goes on, and wants the folder to say the same as that of a run that was left alone, and all
// of what was asked for.
func TestFolderExplainsItself(t *testing.T) {
	t.Parallel()
	out, whole := t.TempDir(), t.TempDir()
	settings := []string{"--eval-every", "4", "--checkpoint-every", "3"}
	killed := begin(t, nil, train(endless, append(settings, "--out", out)...)...)
	killed.line("after step 8:")
	killed.signal(syscall.SIGKILL)
	<-killed.ended
	steps := 40
	lockstep(t, 0, "train", "--out", out, "--resume", "--steps", "40", "--workers", "1")
	lockstep(t, 0, train(steps, append(settings, "--out", whole)...)...)
	rows := table(t, out)
	if len(rows) != steps {
		t.Fatalf("%d rows for %d steps", len(rows), steps)
	}
	for i, r := range rows {
		if r.Step != uint64(i+1) || r.TrainError == nil || r.Evaluated() != (r.Step%4 == 0) {
			t.Errorf("row %d is %+v", i+1, r)
		}
	}
	if got, want := tableText(t, out), tableText(t, whole); got != want {
		t.Errorf("after a kill:\n%s\nundisturbed:\n%s", got, want)
	}
	checkRun(t, out, uint64(steps))
	checkBest(t, out, rows)
	data, err := os.ReadFile(filepath.Join(out, "training.png"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := png.Decode(bytes.NewReader(data)); err != nil {
		t.Error(err)
	}
}

func checkRun(t *testing.T, out string, steps uint64) {
	t.Helper()
	run, err := runfolder.ReadRun(out)
	if err != nil {
		t.Fatal(err)
	}
	if !run.Done() || run.Steps != steps || len(run.Result.Hash) != 64 || run.Result.Hosts != 1 {
		t.Errorf("the result is %+v", run.Result)
	}
	if len(run.Starts) != 2 || run.Starts[1].Workers != 1 || run.Starts[1].Go == "" || run.Settings["arch"] != "cifar-resnet8" {
		t.Errorf("the record is %+v", run)
	}
}

// checkBest wants best.ckpt to be the state of the first step with the best top-1, and last.ckpt that of the last step.
func checkBest(t *testing.T, out string, rows []runfolder.Row) {
	t.Helper()
	best := slices.MaxFunc(rows, func(a, b runfolder.Row) int {
		if !a.Evaluated() || !b.Evaluated() {
			return map[bool]int{true: 1, false: -1}[a.Evaluated()]
		}
		return int(1e6**a.TestTop1 - 1e6**b.TestTop1)
	})
	for name, step := range map[string]uint64{bestName: best.Step, lastName: rows[len(rows)-1].Step} {
		c, err := loadCheckpoint(t.Context(), filepath.Join(out, name))
		if err != nil {
			t.Fatal(err)
		}
		if c.Step != step {
			t.Errorf("%s is of step %d, want %d", name, c.Step, step)
		}
	}
}

// TestFolderUsedAgain wants nothing of an earlier run lost or mixed with the next one's.
func TestFolderUsedAgain(t *testing.T) {
	t.Parallel()
	out := t.TempDir()
	lockstep(t, 0, train(4, "--out", out)...)
	lockstep(t, 0, train(2, "--out", out)...)
	if n := len(table(t, out)); n != 2 {
		t.Errorf("the second run's table has %d rows", n)
	}
	if _, err := os.Stat(filepath.Join(out, runfolder.TableName+".1")); err != nil {
		t.Errorf("the first run's table: %v", err)
	}
}

// TestBestKept gives checkpoints and evaluations in either order, and takes wrong ones back.
func TestBestKept(t *testing.T) {
	dir := t.TempDir()
	b, err := openBest(dir)
	if err != nil {
		t.Fatal(err)
	}
	file := func(step uint64) string {
		path := filepath.Join(dir, strings.Repeat("i", int(step)))
		if err := os.WriteFile(path, []byte{byte(step)}, 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	eval := func(step, right uint64) coordinator.Evaluation {
		return coordinator.Evaluation{Step: step, Images: 10, Correct1: right, Correct5: 10}
	}
	want := func(step uint64) {
		t.Helper()
		data, err := os.ReadFile(filepath.Join(dir, bestName))
		if b.err() != nil || step > 0 && (err != nil || data[0] != byte(step)) || step == 0 && err == nil {
			t.Errorf("best is %v (%v, %v), want step %d", data, err, b.err(), step)
		}
	}
	b.keep(1, file(1))
	want(0)
	b.evaluated(eval(1, 5))
	want(1)
	b.evaluated(eval(2, 6))
	b.keep(2, file(2))
	want(2)
	b.evaluated(eval(3, 6)) // no better
	b.keep(3, file(3))
	want(2)
	if b, err = openBest(dir); err != nil || b.best == nil || b.best.Step != 2 {
		t.Fatalf("read back as %+v: %v", b, err)
	}
	b.evaluated(eval(4, 9))
	if err := b.drop(1); err != nil {
		t.Fatal(err)
	}
	b.keep(4, file(4)) // of the evaluation that was taken back
	want(0)
	b.evaluated(eval(4, 1))
	want(4)
}
