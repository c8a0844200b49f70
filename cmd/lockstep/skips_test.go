package main

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestSkipLimit(t *testing.T) {
	for text, want := range map[string]skipLimit{"all": allSkips, "true": allSkips, "false": 0, "0": 0, "7": 7} {
		var k, back skipLimit
		if err := k.Set(text); err != nil || k != want {
			t.Errorf("%q is %v, %v", text, k, err)
		}
		if err := back.Set(k.String()); err != nil || back != k {
			t.Errorf("%q comes back as %v, %v", k.String(), back, err)
		}
	}
	for _, bad := range []string{"-1", "some", "1.5", "99999999999"} {
		if err := new(skipLimit).Set(bad); err == nil || !strings.Contains(err.Error(), bad) {
			t.Errorf("%q: error %v", bad, err)
		}
	}
	for _, c := range [][2]string{
		{"train --skip-damaged 3 --json", "train --skip-damaged=3 --json"},
		{"train --skip-damaged --json", "train --skip-damaged --json"},
		{"train --skip-damaged all", "train --skip-damaged=all"},
		{"train --json --skip-damaged", "train --json --skip-damaged"},
		{"eval --skip-damaged=3 x", "eval --skip-damaged=3 x"},
	} {
		if got := joinCounts(strings.Fields(c[0])); !slices.Equal(got, strings.Fields(c[1])) {
			t.Errorf("%q becomes %q", c[0], got)
		}
	}
}

func TestByteSize(t *testing.T) {
	for text, want := range map[string]byteSize{"1": 1, "512MiB": 512 << 20, "2GiB": 2 << 30, "1.5 gib": 3 << 29, "10KB": 10000, "3GB": 3e9, "77B": 77} {
		var b, back byteSize
		if err := b.Set(text); err != nil || b != want {
			t.Errorf("%q is %d, %v", text, b, err)
		}
		if err := back.Set(b.String()); err != nil || back != b {
			t.Errorf("%q comes back as %d, %v", b.String(), back, err)
		}
	}
	for _, bad := range []string{"", "0", "-1", "NaN", "1e30GiB", "many", "MiB"} {
		if err := new(byteSize).Set(bad); err == nil {
			t.Errorf("%q passes", bad)
		}
	}
}

// spoilt is the data set with the named images damaged.
func spoilt(t *testing.T, names ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "images.tar")
	archive(t, path, func(name string, data []byte) []byte {
		if slices.Contains(names, name) {
			clear(data[len(data)/3:])
		}
		return data
	})
	return path
}

// TestSkipDamagedCounts: the images that a run passes over are listed, counted over all workers, and no more than allowed; which they are, and
// what stood in for them, is proved by the ledger.
func TestSkipDamagedCounts(t *testing.T) {
	t.Parallel()
	bad := []string{"test/stripes/023.jpg", "train/checks/019.jpg", "train/rings/007.jpg", "train/rings/008.jpg"}
	path := spoilt(t, bad...)
	dir := t.TempDir()
	hash := ""
	for _, workers := range []string{"1", "3"} {
		out := filepath.Join(dir, workers)
		r := lockstep(t, 0, train(8, "--data", path, "--workers", workers, "--skip-damaged", "4", "--out", out)...).report()
		if !slices.Equal(r.Skipped, bad) {
			t.Errorf("%s workers: skipped %v, want %v", workers, r.Skipped, bad)
		}
		if hash == "" {
			hash = r.Hash
		}
		if r.Hash != hash {
			t.Errorf("%s workers: hash %s, with 1 %s", workers, r.Hash, hash)
		}
		var l ledgerReport
		lockstep(t, 0, "data", "ledger", out, "--json").lastLine(&l)
		if l.Last != 8 || l.Damaged != 3 {
			t.Errorf("%s workers: ledger %+v, want 3 damaged training images in 8 steps", workers, l)
		}
		lockstep(t, 0, "data", "ledger", out)
	}

	for _, workers := range []string{"1", "3"} {
		out := filepath.Join(dir, "few"+workers)
		p := lockstep(t, 1, train(endless, "--data", path, "--workers", workers, "--skip-damaged=1", "--out", out)...)
		p.says("too many damaged images", "--skip-damaged 1", "train/", "--resume")
	}

	// Somebody who mends the list does not mend the ledger.
	list := filepath.Join(dir, "1", "damaged.jsonl")
	b := read(t, list)
	lines := strings.SplitAfter(string(b), "\n")
	write(t, list, []byte(strings.Join(slices.DeleteFunc(lines, func(l string) bool { return strings.Contains(l, "rings/007") }), "")))
	lockstep(t, 1, "data", "ledger", filepath.Join(dir, "1")).says("other samples than the plan's")
	write(t, list, []byte(strings.Replace(string(b), "train/checks/019", "train/checks/018", 1)))
	lockstep(t, 1, "data", "ledger", filepath.Join(dir, "1")).says(list, "train/checks/018.jpg")
}
