package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lockstep-ml/lockstep/shard/pack"
)

// packed packs a data set and gives the folder.
func packed(t *testing.T, src string, more ...string) (string, packReport) {
	t.Helper()
	out := filepath.Join(t.TempDir(), "packed")
	var r packReport
	lockstep(t, 0, append([]string{"data", "pack", src, out, "--json"}, more...)...).lastLine(&r)
	return out, r
}

// TestPackedTrains: training on a packed set gives the same weights as on what it was packed from, wherever its samples lie.
func TestPackedTrains(t *testing.T) {
	t.Parallel()
	want := uninterrupted(t, 6)
	for _, more := range [][]string{nil, {"--shuffle-seed", "5", "--shard-size", "64KiB"}} {
		out, r := packed(t, shared.images(), more...)
		if r.Train != 60 || r.Test != 15 || r.Kept != 0 || len(r.LeftOut) != 0 || r.Bytes == 0 {
			t.Errorf("pack %v: %+v", more, r)
		}
		if got := lockstep(t, 0, train(6, "--data", out, "--workers", "2")...).report(); got.Hash != want {
			t.Errorf("packed with %v: hash %s, want %s", more, got.Hash, want)
		}
	}
}

// TestPackedBuiltinTrains is the same for the sample of CIFAR-10 in the binary, by several shards.
func TestPackedBuiltinTrains(t *testing.T) {
	t.Parallel()
	out, r := packed(t, "builtin", "--shard-size", "4MiB")
	if r.Train != 5000 || r.Test != 1000 || r.Shards < 5 {
		t.Errorf("report %+v", r)
	}
	run := func(data string) runReport {
		return lockstep(t, 0, "train", "--json", "--arch", "cifar-resnet8", "--batch", "64", "--steps", "4", "--data", data).report()
	}
	want, got := run("builtin"), run(out)
	if got.Hash != want.Hash || *got.TestLoss != *want.TestLoss {
		t.Errorf("packed %+v, built in %+v", got, want)
	}
	if s := lockstep(t, 0, "data", "verify", out).stdout.String(); !strings.Contains(s, "good: 6000 images") {
		t.Errorf("verify says %s", s)
	}
}

// TestPackStopped kills packing, or interrupts it, with several shards done, and goes on: they are kept, and every byte is as if nothing
// had happened.
func TestPackStopped(t *testing.T) {
	t.Parallel()
	args := []string{"--split", "val", "--shard-size", "64KiB", "--shorter-side", "24", "--json"}
	ref, want := packed(t, "builtin", args...)
	for _, c := range []struct {
		signal syscall.Signal
		code   int
	}{{syscall.SIGKILL, -1}, {syscall.SIGINT, exitInterrupted}} {
		out := filepath.Join(t.TempDir(), "packed")
		p := begin(t, nil, append([]string{"data", "pack", "builtin", out}, args...)...)
		third := filepath.Join(out, filepath.FromSlash(pack.ShardName("val", 2)))
		deadline := time.Now().Add(patience)
		for tick := time.NewTicker(time.Millisecond); !isFile(third); <-tick.C {
			if time.Now().After(deadline) {
				t.Fatalf("no third shard within %v:\n%s", patience, p.stderr())
			}
		}
		p.signal(c.signal)
		p.wait(c.code)
		if c.code == exitInterrupted {
			p.says(out, "the same command goes on")
		}
		lockstep(t, 1, "data", "pack", "builtin", out, "--split", "val").says(out, "other data or options")
		var r packReport
		lockstep(t, 0, append([]string{"data", "pack", "builtin", out}, args...)...).lastLine(&r)
		if r.Kept < 1 || r.Kept >= r.Shards || r.Hash != want.Hash {
			t.Errorf("%v: kept %d of %d shards, hash %s, want %s", c.signal, r.Kept, r.Shards, r.Hash, want.Hash)
		}
		if got, want := folderBytes(t, out), folderBytes(t, ref); !bytes.Equal(got, want) {
			t.Errorf("%v: %d bytes, want the same %d as without it", c.signal, len(got), len(want))
		}
	}
}

// folderBytes is names and contents of all files below a folder, in the order of their names.
func folderBytes(t *testing.T, dir string) []byte {
	t.Helper()
	var all []byte
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(p)
		all = append(fmt.Append(all, strings.TrimPrefix(p, dir), len(b)), b...)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestPackDamaged(t *testing.T) {
	t.Parallel()
	src := filepath.Join(t.TempDir(), "images.tar")
	archive(t, src, func(name string, data []byte) []byte {
		if name == "train/rings/007.jpg" {
			clear(data[len(data)/3:])
		}
		return data
	})
	out := filepath.Join(t.TempDir(), "packed")
	lockstep(t, 1, "data", "pack", src, out).says("train/rings/007.jpg", "--skip-damaged")
	var r packReport
	p := lockstep(t, 0, "data", "pack", src, out, "--skip-damaged", "1", "--json")
	p.says("left out: train/rings/007.jpg").lastLine(&r)
	if r.Train != 59 || len(r.LeftOut) != 1 || r.LeftOut[0] != "train/rings/007.jpg" {
		t.Errorf("report %+v", r)
	}
	var ls lsReport
	lockstep(t, 0, "data", "ls", out, "--json", "--classes", "--samples", "2").lastLine(&ls)
	if ls.Packed == nil || len(ls.Packed.LeftOut) != 1 || ls.Packed.Hash != r.Hash || len(ls.Samples) != 2 || ls.PerClass[1] != (classSize{"rings", 19, 5}) {
		t.Errorf("ls %+v", ls)
	}
	if s := ls.Samples[1]; s.Name != "train/checks/001.jpg" || s.Width != 32 || s.Height != 32 || s.Shard != "train/train-000000.tar" || s.Offset == 0 {
		t.Errorf("sample %+v", s)
	}
	text := lockstep(t, 0, "data", "ls", out, "--classes", "--samples", "1").stdout.String()
	for _, want := range []string{"train/checks/000.jpg", "32 x 32", "rings", "1 damaged samples left out", r.Hash} {
		if !strings.Contains(text, want) {
			t.Errorf("ls does not say %q:\n%s", want, text)
		}
	}
}

func TestVerify(t *testing.T) {
	t.Parallel()
	var r verifyReport
	lockstep(t, 0, "data", "verify", shared.images(), "--json").lastLine(&r)
	if !r.Good || r.Packed || r.Images != 75 || len(r.Damaged) != 0 || r.Bytes == 0 {
		t.Errorf("good images: %+v", r)
	}
	src := filepath.Join(t.TempDir(), "images.tar")
	archive(t, src, func(name string, data []byte) []byte {
		if name == "train/rings/007.jpg" || name == "test/stripes/023.jpg" {
			clear(data[len(data)/3:])
		}
		return data
	})
	p := lockstep(t, 1, "data", "verify", src, "--json").says("damaged: "+src, "train/rings/007.jpg", "test/stripes/023.jpg", "2 damaged places")
	p.lastLine(&r)
	if r.Good || len(r.Damaged) != 2 || r.Damaged[0].Sample != "train/rings/007.jpg" || r.Damaged[0].Offset == 0 {
		t.Errorf("damaged images: %+v", r)
	}
	out, _ := packed(t, shared.images())
	name := filepath.Join(out, "train", "train-000000.tar")
	b := read(t, name)
	b[len(b)/2] ^= 1
	write(t, name, b)
	lockstep(t, 1, "data", "verify", out, "--json").says("damaged: "+name, "1 damaged place").lastLine(&r)
	if r.Good || !r.Packed || len(r.Damaged) != 1 || r.Damaged[0].Shard != name || r.Damaged[0].Sample == "" {
		t.Errorf("a damaged shard: %+v", r)
	}
	// Packing again mends it, and says so.
	var again packReport
	lockstep(t, 0, "data", "pack", shared.images(), out, "--json").says("made again: " + name).lastLine(&again)
	if again.Kept != again.Shards-1 {
		t.Errorf("packed again: %+v", again)
	}
	lockstep(t, 0, "data", "verify", out)
	write(t, filepath.Join(out, pack.IndexName), read(t, filepath.Join(out, pack.IndexName))[:100])
	lockstep(t, 1, "data", "verify", out).says(pack.IndexName, "cut short")
}

// TestTrainOnDamagedShard: a sample that is not what was packed ends the run, with its place, and is never passed over: on another
// machine it may be whole.
func TestTrainOnDamagedShard(t *testing.T) {
	t.Parallel()
	out, _ := packed(t, shared.images())
	name := filepath.Join(out, "train", "train-000000.tar")
	var ls lsReport
	lockstep(t, 0, "data", "ls", out, "--json", "--samples", "31").lastLine(&ls)
	s := ls.Samples[30]
	b := read(t, name)
	b[s.Offset+s.Bytes/2] ^= 1
	write(t, name, b)
	lockstep(t, 1, train(4, "--data", out, "--skip-damaged", "--workers", "1")...).says(name, s.Name, fmt.Sprintf("bytes %d to %d", s.Offset, s.Offset+s.Bytes), "lockstep data verify")
}

func TestPackRefuses(t *testing.T) {
	t.Parallel()
	out := filepath.Join(t.TempDir(), "packed")
	lockstep(t, 1, "data", "pack", shared.images(), out, "--shard-size", "many").says("--shard-size", "many", "512MiB")
	lockstep(t, 1, "data", "pack", shared.images(), out, "--shard-size", "1KB", "--quality", "200").says("1000 bytes", "quality 200")
	lockstep(t, 1, "data", "pack", shared.images(), out, "--split", "dev").says("--split dev")
	lockstep(t, 1, "data", "pack", out+"-nowhere", out).says("no such data", "nowhere")
	lockstep(t, 1, "data", "pack", shared.images(), shared.images()).says("the folder is taken", "choose an empty folder")
}

func TestBytes(t *testing.T) {
	t.Parallel()
	for n, want := range map[int64]string{0: "0 B", 999: "999 B", 1000: "1.00 kB", 61_736_960: "61.7 MB", 123e9: "123 GB"} {
		if got := formatBytes(n); got != want {
			t.Errorf("%d is %q, want %q", n, got, want)
		}
	}
}

// TestMeter: the rate leaves out what cost no time, and the time left follows from it.
func TestMeter(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	m := newMeter(&b, "images")
	at := m.started
	m.now = func() time.Time { return at }
	m.show(150, 400, 100, 2e6) // too early for a line
	at = at.Add(10 * time.Second)
	m.show(200, 400, 100, 3e6)
	m.show(201, 400, 100, 3e6) // and again
	m.event("odd")
	at = at.Add(10 * time.Second)
	m.show(400, 400, 100, 6e6)
	m.end()
	want := strings.Repeat("█", 12) + strings.Repeat("░", 12) + "  50 %  200 of 400 images  3.00 MB  10 images/s  20s left\nodd\n" +
		strings.Repeat("█", 24) + " 100 %  400 of 400 images  6.00 MB  15 images/s\n"
	if b.String() != want {
		t.Errorf("wrote\n%swant\n%s", b.String(), want)
	}
	m = newMeter(&b, "")
	if got := m.text(5e6, 0, 0, 0, 2*time.Second); got != "5.00 MB  2.50 MB/s" {
		t.Errorf("of unknown length: %q", got)
	}
}
