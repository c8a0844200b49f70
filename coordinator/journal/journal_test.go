package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"github.com/lockstep-ml/lockstep/coordinator"
	"github.com/lockstep-ml/lockstep/internal/vfs"
	"github.com/lockstep-ml/lockstep/internal/vfs/errorfs"
)

func entries() []coordinator.Entry {
	return []coordinator.Entry{
		{Epoch: &coordinator.EpochEntry{Epoch: 1, Run: "r", Version: "v"}},
		{Plan: &coordinator.Plan{Generation: 1, Sequence: 1, Ring: []coordinator.Member{{Worker: "a", RingAddress: "h:1"}}, ReplicaHost: []int{0, 0},
			UntilStep: 9, LearningRates: []coordinator.LRSpan{{Value: 0.1}}, Followers: []coordinator.Follower{{Position: 0, Base: 3}}}},
		{Stored: &coordinator.Stored{Step: 4, Path: "p"}},
		{Verified: &coordinator.VerifiedEntry{Step: 4, Hash: "h"}},
	}
}

// written makes a journal with entries in it and gives its path.
func written(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), Name)
	j, o, err := Open(vfs.OS{}, path)
	if err != nil || o.Epoch != 1 || len(o.Entries) != 0 {
		t.Fatalf("a new journal: %+v, %v", o, err)
	}
	for _, e := range entries() {
		if err := j.Append(e); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestWhatWasWrittenIsRead(t *testing.T) {
	path := written(t)
	j, o, err := Open(vfs.OS{}, path)
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	if !reflect.DeepEqual(o.Entries, entries()) || o.Run != "r" || o.Epoch != 2 || o.Over || o.Cut != 0 {
		t.Errorf("read %+v", o)
	}
	if err := j.Append(coordinator.Entry{Over: &coordinator.OverEntry{Step: 9}}); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if o, _, err := parse(data); err != nil || !o.Over {
		t.Errorf("the end is not read: %+v, %v", o, err)
	}
}

// A journal cut off anywhere gives the records that were whole, and goes on from there.
func TestTornTail(t *testing.T) {
	data, err := os.ReadFile(written(t))
	if err != nil {
		t.Fatal(err)
	}
	for n := range len(data) {
		path := filepath.Join(t.TempDir(), Name)
		if err := os.WriteFile(path, data[:n], 0o644); err != nil {
			t.Fatal(err)
		}
		j, o, err := Open(vfs.OS{}, path)
		if err != nil {
			t.Fatalf("cut at byte %d: %v", n, err)
		}
		if len(o.Entries) >= len(entries()) || !reflect.DeepEqual(o.Entries, append([]coordinator.Entry(nil), entries()[:len(o.Entries)]...)) {
			t.Fatalf("cut at byte %d: read %d entries", n, len(o.Entries))
		}
		if err := j.Append(entries()[3]); err != nil {
			t.Fatal(err)
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		again, back, err := Open(vfs.OS{}, path)
		if err != nil || len(back.Entries) != len(o.Entries)+1 {
			t.Fatalf("cut at byte %d and gone on: %d entries, %v", n, len(back.Entries), err)
		}
		if err := again.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// Damage before the last record is an error that names the place, and leaves the file alone.
func TestDamage(t *testing.T) {
	data, err := os.ReadFile(written(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []int{3, len(magic) + 2, len(magic) + 30} {
		bad := bytes.Clone(data)
		bad[at] ^= 0x40
		path := filepath.Join(t.TempDir(), Name)
		if err := os.WriteFile(path, bad, 0o644); err != nil {
			t.Fatal(err)
		}
		_, _, err := Open(vfs.OS{}, path)
		if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), path) {
			t.Errorf("byte %d changed: %v", at, err)
		}
		if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, bad) {
			t.Errorf("byte %d changed: the damaged journal was touched (%v)", at, err)
		}
	}
}

// The coordinator before is fenced off by the next one's first entry, or by a journal of its own.
func TestFence(t *testing.T) {
	path := written(t)
	old, _, err := Open(vfs.OS{}, path)
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	if err := old.Append(coordinator.Entry{Epoch: &coordinator.EpochEntry{Epoch: 2, Run: "r"}}); err != nil {
		t.Fatal(err)
	}
	next, o, err := Open(vfs.OS{}, path)
	if err != nil || o.Epoch != 3 {
		t.Fatalf("%+v, %v", o, err)
	}
	defer next.Close()
	if err := old.Append(entries()[2]); err != nil {
		t.Fatalf("nobody else has written yet: %v", err)
	}
	if err := next.Append(coordinator.Entry{Epoch: &coordinator.EpochEntry{Epoch: 3, Run: "r"}}); !errors.Is(err, ErrFenced) {
		t.Fatalf("the file has grown under its hands: %v", err)
	}
	third, _, err := Open(vfs.OS{}, path)
	if err != nil {
		t.Fatal(err)
	}
	defer third.Close()
	if err := third.Append(coordinator.Entry{Epoch: &coordinator.EpochEntry{Epoch: 3, Run: "r"}}); err != nil {
		t.Fatal(err)
	}
	if err := old.Append(entries()[2]); !errors.Is(err, ErrFenced) {
		t.Errorf("the old one writes on: %v", err)
	}
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	if err := third.Append(entries()[2]); err == nil {
		t.Error("it was written to a journal that was moved away")
	}
}

// A disk that fails at any operation, for a moment or for good, loses no decision that was taken for safe, and leaves a journal that reads.
func TestFaults(t *testing.T) {
	for _, fault := range []errorfs.Fault{{Err: syscall.ENOSPC, Short: true}, {Err: syscall.EIO}, {Err: syscall.EIO, Short: true, Dead: true}} {
		t.Run(fmt.Sprintf("%+v", fault), func(t *testing.T) {
			for k := 0; ; k++ {
				fault.At = k
				fsys, path := errorfs.New(vfs.OS{}, fault), filepath.Join(t.TempDir(), Name)
				safe := fill(fsys, path, fault)
				back, o, err := Open(vfs.OS{}, path)
				if err != nil {
					t.Fatalf("operation %d failed: %v", k, err)
				}
				if err := back.Close(); err != nil {
					t.Fatal(err)
				}
				n := len(o.Entries)
				if n < safe || n > safe+1 || !reflect.DeepEqual(o.Entries, append([]coordinator.Entry(nil), entries()[:n]...)) {
					t.Fatalf("operation %d failed: %d entries were safe, %d are read", k, safe, n)
				}
				if !fsys.Injected() {
					if safe != len(entries()) {
						t.Fatalf("nothing failed, and %d entries are safe", safe)
					}
					return
				}
				if !fault.Dead && safe != len(entries()) {
					t.Fatalf("operation %d failed once, and %d entries are safe", k, safe)
				}
			}
		})
	}
}

// fill appends the entries, each as often as a disk that fails once needs, and gives how many are safe.
func fill(fsys vfs.FS, path string, fault errorfs.Fault) (safe int) {
	j, _, err := Open(fsys, path)
	if err != nil && !fault.Dead {
		j, _, err = Open(fsys, path)
	}
	if err != nil {
		return 0
	}
	defer j.Close() // of a disk that may be gone
	for _, e := range entries() {
		err := j.Append(e)
		if err != nil && !fault.Dead {
			err = j.Append(e)
		}
		if err != nil {
			return safe
		}
		safe++
	}
	return safe
}

// A record that this version does not understand is no decision to pass over.
func TestUnknownDecision(t *testing.T) {
	path := written(t)
	body := []byte(`{"merger":{"step":3}}`)
	b := binary.LittleEndian.AppendUint32(nil, uint32(len(body)))
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	b = append(binary.LittleEndian.AppendUint32(b, crc32.Checksum(body, castagnoli)), body...)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, append(data, b...), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Open(vfs.OS{}, path); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), fmt.Sprint("byte ", len(data))) {
		t.Errorf("opened with %v", err)
	}
}

func FuzzParse(f *testing.F) {
	data, err := os.ReadFile(written(f))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add(data[:len(data)-3])
	f.Add([]byte(magic))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		_, good, err := parse(data)
		if err != nil {
			return
		}
		if good > int64(len(data)) {
			t.Fatalf("%d of %d bytes are good", good, len(data))
		}
		if _, again, err := parse(data[:good]); err != nil || again != good {
			t.Fatalf("the good part of %d bytes reads as %d, %v", good, again, err)
		}
	})
}
