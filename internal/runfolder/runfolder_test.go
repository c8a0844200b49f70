package runfolder

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"github.com/lockstep-ml/lockstep/internal/vfs"
)

func trained(step uint64, loss float64) Row {
	return Row{Step: step, Epoch: float64(step) / 3, LR: Known(0.1), TrainLoss: Known(loss), TrainError: Known(loss / 4), ImagesPerSecond: Known(100 + float64(step))}
}

func evaluated(step uint64, top1 float64) Row {
	return Row{Step: step, Epoch: float64(step) / 3, TestLoss: Known(1.5), TestTop1: Known(top1), TestTop5: Known(0.999)}
}

func open(t *testing.T, dir string) *MetricsWriter {
	t.Helper()
	w, err := OpenMetrics(vfs.OS{}, dir)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func rowsOf(t *testing.T, dir string) []Row {
	t.Helper()
	rows, err := ReadMetrics(filepath.Join(dir, MetricsName))
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

// TestMetricsOutliveACrash cuts the file anywhere in its last line, as a crash would, goes on from an earlier step, and wants each
// step once, with what it came to at last.
func TestMetricsOutliveACrash(t *testing.T) {
	dir := t.TempDir()
	w := open(t, dir)
	for step := range uint64(4) {
		w.Trained(1, trained(step+1, 4))
		w.Trained(1, trained(step+1, 4)) // by another worker
	}
	w.Evaluated(evaluated(4, 0.5))
	w.Trained(1, trained(5, 4))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, MetricsName)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(data, []byte("\n")); n != 6 {
		t.Fatalf("%d lines, want 6:\n%s", n, data)
	}
	last := len(data) - 1 - bytes.LastIndexByte(data[:len(data)-1], '\n')
	for cut := 1; cut <= last; cut += 7 {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, MetricsName), data[:len(data)-cut], 0o644); err != nil {
			t.Fatal(err)
		}
		w := open(t, dir)
		for step := uint64(3); step <= 7; step++ {
			w.Trained(2, trained(step, 3))
		}
		w.Evaluated(evaluated(6, 0.75))
		rows, err := w.Finish(6)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Errorf("closed twice: %v", err)
		}
		if again := rowsOf(t, dir); !reflect.DeepEqual(rows, again) || len(rows) != 6 {
			t.Fatalf("%d rows, then %d, want 6 twice", len(rows), len(again))
		}
		for i, r := range rows {
			want := 4.0
			if i >= 2 {
				want = 3
			}
			if r.Step != uint64(i+1) || *r.TrainLoss != want || r.Evaluated() != (r.Step == 4 || r.Step == 6) {
				t.Errorf("cut by %d: row %d is step %d, loss %v, evaluated %v", cut, i, r.Step, *r.TrainLoss, r.Evaluated())
			}
		}
	}
}

// TestTableComesBack writes tables and reads them; what is no number stays empty.
func TestTableComesBack(t *testing.T) {
	odd := trained(9, 1)
	odd.TrainLoss, odd.LR = Known(math.NaN()), Known(1.0/3)
	for _, rows := range [][]Row{nil, {trained(1, 0.1), evaluated(2, 1e-17), odd}} {
		var b bytes.Buffer
		if err := WriteTable(&b, rows); err != nil {
			t.Fatal(err)
		}
		again, err := ReadTable(strings.NewReader(b.String()))
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(rows, again) {
			t.Errorf("came back as %+v:\n%s", again, b.String())
		}
	}
	for _, bad := range []string{"", "a,b\n", strings.Join(heads(), ",") + "\n1,2,x,,,,,,\n", strings.Join(heads(), ",") + "\n-1,2,,,,,,,\n"} {
		if _, err := ReadTable(strings.NewReader(bad)); err == nil {
			t.Errorf("%q was taken for a table", bad)
		}
	}
}

func TestThin(t *testing.T) {
	var rows []Row
	for step := uint64(1); step <= 11; step++ {
		r := trained(step, float64(step))
		if step == 7 {
			r = r.merge(evaluated(7, 0.5))
		}
		rows = append(rows, r)
	}
	var got []string
	for _, r := range Thin(rows, 5) {
		text := fmt.Sprint(r.Step)
		if r.TrainLoss != nil {
			text += fmt.Sprintf(":%v", *r.TrainLoss)
		}
		if r.Evaluated() {
			text += "!"
		}
		got = append(got, text)
	}
	if want := "5:3 7! 10:8 11:11"; strings.Join(got, " ") != want {
		t.Errorf("thinned to %v, want %s", got, want)
	}
	for steps, want := range map[uint64]uint64{0: 1, 5000: 1, 5001: 2, 64_000: 20, 600_000: 200} {
		if got := TableEvery(steps); got != want {
			t.Errorf("a table of %d steps has one of %d, want %d", steps, got, want)
		}
	}
}

func TestReadRefuses(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, MetricsName)
	for _, bad := range []string{"{}\n", "nonsense\n", `{"step":1,"colour":2}` + "\n", strings.Repeat("x", 2000)} {
		if err := os.WriteFile(path, []byte(bad), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadMetrics(path); err == nil {
			t.Errorf("%.30q was read", bad)
		}
		if _, err := OpenMetrics(vfs.OS{}, dir); err == nil {
			t.Errorf("%.30q was gone on with", bad)
		}
	}
}

// fullFile takes the first bytes of what it is given and then says that the disk is full, until it has room.
type fullFile struct {
	vfs.EditFile
	room bool
}

func (f *fullFile) WriteAt(b []byte, at int64) (int, error) {
	if f.room {
		return f.EditFile.WriteAt(b, at)
	}
	n, err := f.EditFile.WriteAt(b[:min(len(b), 9)], at)
	return n, errors.Join(err, syscall.ENOSPC)
}

func TestLinesOutliveAFullDisk(t *testing.T) {
	dir := t.TempDir()
	w := open(t, dir)
	w.Trained(1, trained(1, 1))
	full := &fullFile{EditFile: w.file}
	w.file = full
	w.Trained(1, trained(2, 1))
	w.Trained(1, trained(3, 1))
	if err := w.Sync(); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("Sync with lines that were not written: %v", err)
	}
	if rows := rowsOf(t, dir); len(rows) != 1 {
		t.Errorf("%d rows while the disk is full", len(rows))
	}
	full.room = true
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if rows := rowsOf(t, dir); len(rows) != 3 {
		t.Errorf("%d rows with room again", len(rows))
	}
}

func TestRunComesBack(t *testing.T) {
	dir := t.TempDir()
	if _, err := ReadRun(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("of a folder without a run: %v", err)
	}
	r := &Run{Settings: map[string]string{"lr": "0.1"}, Steps: 7, Starts: []Start{{Workers: 2, Environment: Here("v1")}}, Result: &Result{Step: 7}}
	if err := r.Write(vfs.OS{}, dir); err != nil {
		t.Fatal(err)
	}
	again, err := ReadRun(dir)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(r, again) || !again.Done() {
		t.Errorf("came back as %+v", again)
	}
	if e := again.Starts[0]; e.Version != "v1" || e.Go == "" || e.Cores < 1 || e.SIMD == "" {
		t.Errorf("the environment is %+v", e)
	}
	again.Result.Error = "lost"
	if again.Done() {
		t.Error("a run that failed is done")
	}
	if err := os.WriteFile(filepath.Join(dir, RunName), []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadRun(dir); err == nil || !strings.Contains(err.Error(), RunName) {
		t.Errorf("a damaged file: %v", err)
	}
}
