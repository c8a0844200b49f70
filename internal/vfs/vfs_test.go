package vfs_test

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/lockstep-ml/lockstep/internal/vfs"
	"github.com/lockstep-ml/lockstep/internal/vfs/errorfs"
)

func writeText(fsys vfs.FS, path, text string) error {
	return vfs.WriteAtomic(fsys, path, 0o644, func(w io.Writer) error {
		half := len(text) / 2
		if _, err := io.WriteString(w, text[:half]); err != nil {
			return err
		}
		_, err := io.WriteString(w, text[half:])
		return err
	})
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func TestWriteAtomicIsAllOrNothing(t *testing.T) {
	for _, fault := range []errorfs.Fault{{Err: syscall.ENOSPC}, {Err: syscall.EIO, Short: true}, {Err: syscall.EIO, Dead: true}} {
		t.Run(fmt.Sprintf("%+v", fault), func(t *testing.T) {
			k := 0
			for ; ; k++ {
				dir := t.TempDir()
				path := filepath.Join(dir, "state.json")
				if err := writeText(vfs.OS{}, path, "the old text"); err != nil {
					t.Fatal(err)
				}
				fault.At = k
				faulty := errorfs.New(vfs.OS{}, fault)
				err := writeText(faulty, path, "the new text, which is longer")
				if !faulty.Injected() {
					if err != nil || read(t, path) != "the new text, which is longer" {
						t.Fatalf("without a fault: %q, %v", read(t, path), err)
					}
					break
				}
				op := faulty.Ops()[k]
				if !errors.Is(err, fault.Err) || !strings.Contains(err.Error(), path) {
					t.Fatalf("%s failed and the error is %v", op, err)
				}
				want := "the old text"
				if strings.HasPrefix(op, "syncdir") {
					want = "the new text, which is longer"
				}
				if got := read(t, path); got != want {
					t.Fatalf("%s failed and the file holds %q", op, got)
				}
				if left := names(t, dir); len(left) != 1 && !fault.Dead {
					t.Fatalf("%s failed and %v are there", op, left)
				}
				if _, err := vfs.CleanTemp(vfs.OS{}, dir); err != nil {
					t.Fatal(err)
				}
				if left := names(t, dir); len(left) != 1 {
					t.Fatalf("%s failed and after cleaning %v are there", op, left)
				}
			}
			if k != 7 { // create, write, write, sync, close, rename, syncdir
				t.Errorf("%d operations were made to fail, want 7", k)
			}
		})
	}
}

func TestAWriterThatGivesUpLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	cause := errors.New("no more to say")
	err := vfs.WriteAtomic(vfs.OS{}, filepath.Join(dir, "x"), 0o600, func(io.Writer) error { return cause })
	if !errors.Is(err, cause) || len(names(t, dir)) != 0 {
		t.Errorf("error %v, files %v", err, names(t, dir))
	}
}

func TestCleanTempTakesTempFilesOnly(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a", ".b", "c.tmp-1", ".d.tmp-0011", ".e.json.tmp-ff"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, ".f.tmp-1"), 0o755); err != nil {
		t.Fatal(err)
	}
	removed, err := vfs.CleanTemp(vfs.OS{}, dir)
	if err != nil || strings.Join(removed, " ") != ".d.tmp-0011 .e.json.tmp-ff" {
		t.Errorf("removed %v, %v", removed, err)
	}
	if got := strings.Join(names(t, dir), " "); got != ".b .f.tmp-1 a c.tmp-1" {
		t.Errorf("left %s", got)
	}
	if _, err := vfs.CleanTemp(vfs.OS{}, filepath.Join(dir, "nowhere")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a folder that is not there: %v", err)
	}
}

// TestErrorFSPassesEverythingOn checks the wrapper against the file system beneath, and that each operation is counted and can fail.
func TestErrorFSPassesEverythingOn(t *testing.T) {
	dir := t.TempDir()
	use := func(f vfs.FS, dir string) error {
		name, moved := filepath.Join(dir, "sub", "a"), filepath.Join(dir, "sub", "b")
		if err := f.MkdirAll(filepath.Dir(name)); err != nil {
			return err
		}
		w, err := f.Create(name, 0o600)
		if err != nil {
			return err
		}
		_, err = w.Write([]byte("0123456789"))
		if err := errors.Join(err, w.Sync(), w.Close()); err != nil {
			return err
		}
		if err := errors.Join(f.Rename(name, moved), f.SyncDir(filepath.Dir(moved))); err != nil {
			return err
		}
		r, err := f.Open(moved)
		if err != nil {
			return err
		}
		var head, tail [5]byte
		_, readErr := io.ReadFull(r, head[:])
		_, atErr := r.ReadAt(tail[:], 5)
		info, statErr := r.Stat()
		if err := errors.Join(readErr, atErr, statErr, r.Close()); err != nil {
			return err
		}
		if string(head[:])+string(tail[:]) != "0123456789" || info.Size() != 10 {
			return fmt.Errorf("read %s and %s of %d bytes", head, tail, info.Size())
		}
		entries, err := f.ReadDir(filepath.Dir(moved))
		if err != nil || len(entries) != 1 {
			return fmt.Errorf("%d entries: %w", len(entries), err)
		}
		if free, err := f.Free(dir); err != nil || free == 0 {
			return fmt.Errorf("%d bytes free: %w", free, err)
		}
		return f.Remove(moved)
	}
	count := errorfs.New(vfs.OS{}, errorfs.Fault{At: -1})
	if err := errors.Join(use(vfs.OS{}, filepath.Join(dir, "os")), use(count, filepath.Join(dir, "count"))); err != nil {
		t.Fatal(err)
	}
	if count.Injected() || len(count.Ops()) != 15 {
		t.Errorf("operations %v", count.Ops())
	}
	for k := range count.Ops() {
		f := errorfs.New(vfs.OS{}, errorfs.Fault{At: k, Err: syscall.EIO})
		if err := use(f, filepath.Join(dir, fmt.Sprint(k))); !errors.Is(err, syscall.EIO) || !f.Injected() {
			t.Errorf("operation %d, %s: %v", k, count.Ops()[k], err)
		}
	}
}

func TestCreateRefusesAFileThatIsThere(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x")
	if err := writeText(vfs.OS{}, path, "kept"); err != nil {
		t.Fatal(err)
	}
	f, err := (vfs.OS{}).Create(path, 0o600)
	if !errors.Is(err, fs.ErrExist) || f != nil {
		t.Errorf("error %v", err)
	}
	if f, err := (vfs.OS{}).Open(path + "y"); !errors.Is(err, fs.ErrNotExist) || f != nil {
		t.Errorf("error %v", err)
	}
	if read(t, path) != "kept" {
		t.Error("the file changed")
	}
}
