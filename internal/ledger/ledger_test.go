package ledger

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func row(step, generation uint64) Row {
	return Row{step, generation, 64, [4]uint32{uint32(step), 2, 3, 4}}
}

func expected(step uint64) (uint64, [4]uint32) { return 64, [4]uint32{uint32(step) + 1, 2, 3, 4} }

// verify gives the last step, and -1 for a ledger that does not begin at the first.
func verify(text string) (int, error) {
	first, last, err := Verify(strings.NewReader(text), expected)
	if first > 1 {
		return -1, err
	}
	return int(last), err
}

// A ledger that is closed, or cut off anywhere in its last row, is gone on with.
func TestWriterGoesOn(t *testing.T) {
	for cut := range len(row(2, 1).String()) + 1 {
		path := filepath.Join(t.TempDir(), Name)
		w, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range []Row{row(1, 1), row(1, 1), row(2, 1)} {
			w.Add(r)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data[:len(data)-cut], 0o644); err != nil {
			t.Fatal(err)
		}
		w, err = Open(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range []Row{row(2, 1), row(2, 2), row(3, 2), row(2, 1)} {
			w.Add(r)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if data, err = os.ReadFile(path); err != nil {
			t.Fatal(err)
		}
		want := head + row(1, 1).String()
		if cut == 0 {
			want += row(2, 1).String() // which is told again below
		}
		want += row(2, 1).String() + row(2, 2).String() + row(3, 2).String()
		if string(data) != want {
			t.Fatalf("cut by %d bytes and gone on:\n%swant\n%s", cut, data, want)
		}
		if last, err := verify(string(data)); last != 3 || err != nil {
			t.Errorf("verified up to step %d: %v", last, err)
		}
	}
}

// fullFile takes the first bytes of what it is given and then says that the disk is full, until it has room.
type fullFile struct {
	file
	room bool
}

func (f *fullFile) WriteAt(b []byte, at int64) (int, error) {
	if f.room {
		return f.file.WriteAt(b, at)
	}
	n, err := f.file.WriteAt(b[:min(len(b), 7)], at)
	return n, errors.Join(err, syscall.ENOSPC)
}

// Rows that found the disk full are written once it is not, and none is torn.
func TestWriterOutlivesAFullDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), Name)
	w, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	w.Add(row(1, 1))
	full := &fullFile{file: w.file}
	w.file = full
	w.Add(row(2, 1))
	w.Add(row(3, 1))
	if err := w.Sync(); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("Sync with rows that were not written: %v", err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if last, err := verify(string(data)); last != 1 || err != nil {
		t.Errorf("while the disk is full: step %d, %v", last, err)
	}
	full.room = true
	w.Add(row(4, 1))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if data, err = os.ReadFile(path); err != nil {
		t.Fatal(err)
	}
	if last, err := verify(string(data)); last != 4 || err != nil {
		t.Errorf("with room again: step %d, %v\n%s", last, err, data)
	}
}

func TestVerifyFindsWhatIsWrong(t *testing.T) {
	whole := head + row(1, 1).String() + row(2, 1).String() + row(3, 1).String()
	for _, c := range []struct{ name, text, says string }{
		{"a step is missing", head + row(1, 1).String() + row(3, 1).String(), "step 2 of 3 is missing"},
		{"other samples", strings.Replace(whole, "2,1,64,2,2", "2,1,64,9,2", 1), "step 2 was made of other samples"},
		{"fewer images", strings.Replace(whole, "3,1,64", "3,1,63", 1), "step 3 was made of 63 images"},
		{"done again with other samples", whole + "2,2,64,9,2,3,4\n", "step 2 was made of other samples"},
		{"step 0", whole + "0,1,64,0,2,3,4\n", "line 5"},
		{"no row", whole + "nonsense\n", "line 5"},
		{"another file", "a,b\n", "line 1"},
		{"a line without end", head + strings.Repeat("1", 1000), "longer than"},
	} {
		if _, err := verify(c.text); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", c.name, err, c.says)
		}
	}
	if last, err := verify(head + row(2, 1).String()); last != -1 || err != nil {
		t.Errorf("a ledger that begins at step 2: %d, %v", last, err)
	}
	if last, err := verify(whole + "4,1,64,4"); last != 3 || err != nil {
		t.Errorf("a torn last row: step %d, %v", last, err)
	}
}

func FuzzRead(f *testing.F) {
	f.Add(head + row(1, 1).String())
	f.Add(head + "1,2,3\n")
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		whole, err := Read(strings.NewReader(text), func(int, Row) error { return nil })
		if whole > int64(len(text)) || err == nil && whole > 0 && !strings.HasPrefix(text, head) {
			t.Fatalf("%d bytes of %q, %v", whole, text, err)
		}
	})
}
