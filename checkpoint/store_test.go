package checkpoint

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/lockstep-ml/lockstep/internal/vfs"
	"github.com/lockstep-ml/lockstep/internal/vfs/errorfs"
)

func list(t *testing.T, s *Store) (steps []uint64) {
	t.Helper()
	entries, err := s.List()
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		steps = append(steps, e.Step)
	}
	return steps
}

// flip changes one bit of a file.
func flip(t *testing.T, path string, at int64) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[at] ^= 1 << (at % 8)
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestSaveKeepsTheLastK(t *testing.T) {
	o := DefaultOptions(filepath.Join(t.TempDir(), "run", "checkpoints"))
	o.Keep = 2
	s := openStore(t, o)
	for step := range uint64(5) {
		path := save(t, s, testCheckpoint(t, step*10))
		if filepath.Base(path) != fmt.Sprintf("step-%012d.ckpt", step*10) {
			t.Errorf("step %d is saved as %s", step*10, path)
		}
	}
	if got := list(t, s); !slices.Equal(got, []uint64{40, 30}) {
		t.Errorf("steps %v stay, want 40 and 30", got)
	}
	c, skipped, err := s.Latest(context.Background())
	if err != nil || len(skipped) > 0 || c.Step != 40 {
		t.Errorf("the latest is %v (%v, %v)", c, skipped, err)
	}
	save(t, s, testCheckpoint(t, 40)) // again: replaces
	if got := list(t, s); !slices.Equal(got, []uint64{40, 30}) {
		t.Errorf("steps %v stay after saving one again", got)
	}
}

func TestGoingBackNeverLosesTheGoodOnes(t *testing.T) {
	o := DefaultOptions(t.TempDir())
	o.Keep = 3
	s := openStore(t, o)
	for _, step := range []uint64{100, 150, 160, 170} {
		path := save(t, s, testCheckpoint(t, step))
		if step > 100 {
			flip(t, path, 500)
		}
	}
	// Step 170 was good when it was saved, so 100 had to go to keep three. The run now begins anew.
	if got := list(t, s); !slices.Equal(got, []uint64{170, 160, 150}) {
		t.Fatalf("steps %v", got)
	}
	for _, step := range []uint64{10, 20, 30, 40} {
		save(t, s, testCheckpoint(t, step))
	}
	if got := list(t, s); !slices.Equal(got, []uint64{170, 160, 150, 40, 30, 20}) {
		t.Errorf("steps %v stay, want the damaged later ones left alone and the last three good", got)
	}
	c, skipped, err := s.Latest(context.Background())
	if err != nil || c.Step != 40 || len(skipped) != 3 {
		t.Errorf("the latest good one is %v with %d passed over: %v", c, len(skipped), err)
	}
}

func TestPruneRemovesNothingUnlessTheNewOneVerifies(t *testing.T) {
	o := DefaultOptions(t.TempDir())
	o.Keep = 1
	save(t, openStore(t, o), testCheckpoint(t, 1))
	o.FS = lossy{vfs.OS{}}
	s := openStore(t, o)
	path, err := s.Save(context.Background(), testCheckpoint(t, 2))
	var prune *PruneError
	if path == "" || !errors.As(err, &prune) || !errors.Is(err, ErrDamaged) {
		t.Errorf("path %q, error %v", path, err)
	}
	c, skipped, err := s.Latest(context.Background())
	if err != nil || c.Step != 1 || len(skipped) != 1 || filepath.Base(skipped[0].Path) != FileName(2) {
		t.Errorf("latest: %v, passed over %v: %v", c, skipped, err)
	}
}

// lossy is a disk that says it has written what it has not.
type lossy struct{ vfs.OS }

type lossyFile struct{ vfs.File }

func (l lossy) Create(name string, perm os.FileMode) (vfs.File, error) {
	f, err := l.OS.Create(name, perm)
	return lossyFile{f}, err
}

func (f lossyFile) Write(p []byte) (int, error) {
	if len(p) > 1000 {
		p = bytes.Clone(p)
		p[len(p)/2] ^= 1
	}
	return f.File.Write(p)
}

func TestOneFlippedBitAnywhereIsFoundAndNamed(t *testing.T) {
	s := openStore(t, DefaultOptions(t.TempDir()))
	old := save(t, s, testCheckpoint(t, 0)) // zstd sections too
	path := save(t, s, testCheckpoint(t, 1))
	for _, path := range []string{old, path} {
		good, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		m, head, err := readHead(bytes.NewReader(good), int64(len(good)), DefaultMaxBytes)
		if err != nil {
			t.Fatal(err)
		}
		check := func(at int64, place string) {
			bad := bytes.Clone(good)
			bad[at] ^= 1 << (at % 8)
			if err := os.WriteFile(path, bad, 0o644); err != nil {
				t.Fatal(err)
			}
			_, err := s.Verify(context.Background(), path)
			var d *Damage
			if !errors.As(err, &d) || !errors.Is(err, ErrDamaged) || d.Path != path || !strings.Contains(d.Place, place) {
				t.Fatalf("byte %d of %s, in %s: %v", at, path, place, err)
			}
			if at < d.Offset || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), place) {
				t.Fatalf("byte %d: the error names another place: %v", at, err)
			}
		}
		for at := range int64(headerBytes) {
			check(at, "header")
		}
		for at := int64(headerBytes); at < int64(len(head)); at += 97 {
			check(at, "manifest")
		}
		for _, sec := range m.Tensors {
			for _, at := range []int64{0, sec.Length / 2, sec.Length - 1} {
				check(int64(len(head))+sec.Offset+at, sec.key().String())
			}
		}
		for at := int64(len(good) - trailerBytes); at < int64(len(good)); at++ {
			check(at, "checksum of the file")
		}
		if err := os.WriteFile(path, good, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAFileCutOrGrownIsFound(t *testing.T) {
	s := openStore(t, DefaultOptions(t.TempDir()))
	path := save(t, s, testCheckpoint(t, 0))
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	try := func(file []byte) {
		if err := os.WriteFile(path, file, 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Load(context.Background(), path); !errors.Is(err, ErrDamaged) {
			t.Fatalf("%d of %d bytes: %v", len(file), len(good), err)
		}
	}
	for n := 0; n < len(good); n += 1 + len(good)/300 {
		try(good[:n])
	}
	try(good[:len(good)-1])
	try(append(bytes.Clone(good), 0))
}

func TestTheOlderOneIsOfferedWhenTheNewestIsDamaged(t *testing.T) {
	s := openStore(t, DefaultOptions(t.TempDir()))
	save(t, s, testCheckpoint(t, 1))
	path := save(t, s, testCheckpoint(t, 2))
	m, err := s.Manifest(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	last := m.Tensors[len(m.Tensors)-1]
	flip(t, path, info.Size()-trailerBytes-last.Length)
	c, skipped, err := s.Latest(context.Background())
	if err != nil || c.Step != 1 || len(skipped) != 1 || skipped[0].Path != path || skipped[0].Place != "tensor bn1.running_var (running_var)" {
		t.Errorf("latest %v, passed over %v: %v", c, skipped, err)
	}
	flip(t, filepath.Join(s.o.Dir, FileName(1)), 30)
	_, skipped, err = s.Latest(context.Background())
	if !errors.Is(err, ErrNone) || !errors.Is(err, ErrDamaged) || len(skipped) != 2 {
		t.Errorf("with both damaged: passed over %v: %v", skipped, err)
	}
}

func TestLatestOfNothing(t *testing.T) {
	o := DefaultOptions(filepath.Join(t.TempDir(), "not", "there"))
	o.ReadOnly = true
	if _, _, err := openStore(t, o).Latest(context.Background()); !errors.Is(err, ErrNone) {
		t.Errorf("error %v, want ErrNone", err)
	}
	if _, err := os.Stat(o.Dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a read-only store made its folder: %v", err)
	}
}

func TestAFileUnderAnotherStepsNameIsPassedOver(t *testing.T) {
	s := openStore(t, DefaultOptions(t.TempDir()))
	path := save(t, s, testCheckpoint(t, 5))
	if err := os.Rename(path, filepath.Join(s.o.Dir, FileName(50))); err != nil {
		t.Fatal(err)
	}
	if _, skipped, err := s.Latest(context.Background()); !errors.Is(err, ErrNone) || len(skipped) != 1 {
		t.Errorf("passed over %v: %v", skipped, err)
	}
}

func TestANewerFormatIsNotTakenForDamage(t *testing.T) {
	s := openStore(t, DefaultOptions(t.TempDir()))
	save(t, s, testCheckpoint(t, 4))
	path := save(t, s, testCheckpoint(t, 5))
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[8]++
	putChecksums(b)
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
	_, _, err = s.Latest(context.Background())
	if !errors.Is(err, ErrVersion) || errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), path) {
		t.Errorf("error %v, want ErrVersion and the file", err)
	}
}

// TestWhateverFailsTheOldCheckpointStays makes every operation of a Save fail in turn, in every way, and looks at the folder after.
func TestWhateverFailsTheOldCheckpointStays(t *testing.T) {
	for _, fault := range []errorfs.Fault{
		{Err: syscall.ENOSPC}, {Err: syscall.EIO}, {Err: syscall.ENOSPC, Short: true}, {Err: syscall.EIO, Dead: true},
	} {
		t.Run(fmt.Sprintf("%v,short=%v,dead=%v", fault.Err, fault.Short, fault.Dead), func(t *testing.T) {
			tried := 0
			for ; tried == 0 || saveWithFault(t, fault, tried-1); tried++ {
			}
			if tried < 15 {
				t.Errorf("only %d operations were made to fail", tried)
			}
		})
	}
}

// saveWithFault saves step 3 over steps 1 and 2 with operation k failing, and says whether there was one to fail.
func saveWithFault(t *testing.T, fault errorfs.Fault, k int) bool {
	t.Helper()
	ctx := context.Background()
	o := DefaultOptions(t.TempDir())
	o.Keep = 2
	clean := openStore(t, o)
	save(t, clean, testCheckpoint(t, 1))
	save(t, clean, testCheckpoint(t, 2))

	fault.At = k
	faulty := errorfs.New(vfs.OS{}, fault)
	o.FS = faulty
	s, err := Open(o)
	path := ""
	if err == nil {
		path, err = s.Save(ctx, testCheckpoint(t, 3))
	}
	if !faulty.Injected() {
		if err != nil || path == "" || !slices.Equal(list(t, clean), []uint64{3, 2}) {
			t.Fatalf("without a fault: path %q, steps %v, error %v", path, list(t, clean), err)
		}
		return false
	}
	ops := faulty.Ops()
	at := fmt.Sprintf("operation %d, %s", k, ops[k])
	if err == nil {
		t.Fatalf("%s: nothing was reported", at)
	}
	if !errors.Is(err, fault.Err) {
		t.Fatalf("%s: the cause is lost: %v", at, err)
	}
	newest := uint64(2)
	if path != "" || strings.HasPrefix(ops[k], "syncdir") {
		newest = 3 // the new file has its name
	}
	c, skipped, latestErr := clean.Latest(ctx)
	if latestErr != nil || len(skipped) > 0 || c.Step != newest {
		t.Fatalf("%s: latest is %v, want step %d; passed over %v, %v", at, c, newest, skipped, latestErr)
	}
	if _, err := clean.Verify(ctx, filepath.Join(o.Dir, FileName(2))); err != nil {
		t.Fatalf("%s: the checkpoint before is gone: %v", at, err)
	}
	checkLeftovers(t, at, o, fault.Dead || strings.HasPrefix(ops[k], "remove"))
	return true
}

// checkLeftovers: a failed save leaves no temporary file, a dead process may, and the next Open removes it.
func checkLeftovers(t *testing.T, at string, o Options, mayLeave bool) {
	t.Helper()
	temps := func() (n int) {
		entries, err := os.ReadDir(o.Dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if vfs.IsTemp(e.Name()) {
				n++
			}
		}
		return n
	}
	left := temps()
	if left > 0 && !mayLeave {
		t.Fatalf("%s: a temporary file stays", at)
	}
	o.FS = vfs.OS{}
	readOnly := o
	readOnly.ReadOnly = true
	openStore(t, readOnly)
	if temps() != left {
		t.Fatalf("%s: a read-only store cleaned the folder", at)
	}
	if s := openStore(t, o); len(s.Cleaned()) != left || temps() != 0 {
		t.Fatalf("%s: %d temporary files, Open removed %v", at, left, s.Cleaned())
	}
}

func TestAFullDiskIsExplained(t *testing.T) {
	o := DefaultOptions(t.TempDir())
	o.FS = errorfs.New(vfs.OS{}, errorfs.Fault{At: 1, Err: syscall.ENOSPC, Short: true, Only: "write"})
	s := openStore(t, o)
	path, err := s.Save(context.Background(), testCheckpoint(t, 1))
	var failed *SaveError
	if path != "" || !errors.As(err, &failed) || !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("path %q, error %v", path, err)
	}
	for _, want := range []string{FileName(1), "no space left", fmt.Sprintf("needs %d bytes", failed.Need), "are free", "free some space", "older checkpoints are untouched"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not say %q: %v", want, err)
		}
	}
	if save(t, s, testCheckpoint(t, 1)) == "" {
		t.Error("the next save does not go on")
	}
	if info, err := os.Stat(filepath.Join(o.Dir, FileName(1))); err != nil || info.Size() != failed.Need {
		t.Errorf("needs %d bytes, took %v (%v)", failed.Need, info.Size(), err)
	}
}

func TestSaveRefusesWhatItCouldNotRead(t *testing.T) {
	o := DefaultOptions(t.TempDir())
	s := openStore(t, o)
	for name, change := range map[string]func(c *Checkpoint){
		"other hash":   func(c *Checkpoint) { c.Hash = strings.Repeat("0", 64) },
		"twice":        func(c *Checkpoint) { c.Tensors = append(c.Tensors, c.Tensors[0]) },
		"no name":      func(c *Checkpoint) { c.Tensors[0].Name = "" },
		"role":         func(c *Checkpoint) { c.Tensors[0].Role = "x" },
		"shape":        func(c *Checkpoint) { c.Tensors[0].Shape = []int{7} },
		"bad JSON":     func(c *Checkpoint) { c.Config = json.RawMessage(`{`) },
		"big manifest": func(c *Checkpoint) { c.Data = json.RawMessage(`"` + strings.Repeat("x", maxManifest) + `"`) },
	} {
		c := testCheckpoint(t, 1)
		change(c)
		var failed *SaveError
		if path, err := s.Save(context.Background(), c); path != "" || !errors.As(err, &failed) {
			t.Errorf("%s: path %q, error %v", name, path, err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := s.Save(ctx, testCheckpoint(t, 1)); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled save: %v", err)
	}
	o.ReadOnly = true
	if path, err := openStore(t, o).Save(context.Background(), testCheckpoint(t, 1)); err == nil || path != "" {
		t.Errorf("a read-only store saved %q", path)
	}
	if got := list(t, s); len(got) > 0 {
		t.Errorf("steps %v are there after saves that failed", got)
	}
}

func TestListSeesOnlyCheckpoints(t *testing.T) {
	s := openStore(t, DefaultOptions(t.TempDir()))
	save(t, s, testCheckpoint(t, 12))
	for _, name := range []string{"step-12.ckpt", "step-000000000013.ckpt.bak", "step-00000000001x.ckpt", "notes.txt", ".step-000000000014.ckpt.tmp-1"} {
		if err := os.WriteFile(filepath.Join(s.o.Dir, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(s.o.Dir, FileName(99)), 0o755); err != nil {
		t.Fatal(err)
	}
	if got := list(t, s); !slices.Equal(got, []uint64{12}) {
		t.Errorf("steps %v, want 12 alone", got)
	}
}

func TestOptionsReportEveryFault(t *testing.T) {
	err := Options{}.Validate()
	for _, want := range []string{"folder", "keep", "largest", "file system"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("no word of %s: %v", want, err)
		}
	}
	if _, err := Open(Options{}); err == nil {
		t.Error("a store without options opens")
	}
}
