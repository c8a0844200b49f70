package packer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/jpeg"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/lockstep-ml/lockstep/internal/vfs"
	"github.com/lockstep-ml/lockstep/internal/vfs/errorfs"
	"github.com/lockstep-ml/lockstep/shard"
	"github.com/lockstep-ml/lockstep/shard/pack"
	"github.com/lockstep-ml/lockstep/shard/source"
)

func open(ctx context.Context, location string) (source.File, error) {
	return source.Open(ctx, location, source.Options{})
}

// picture is a JPEG of w x h pixels, told apart by n.
func picture(w, h, n int) []byte {
	img := image.NewRGBA(image.Rect(0, 0, w, h))
	for y := range h {
		for x := range w {
			img.Set(x, y, color.RGBA{uint8(n * 37), uint8(3*x + n), uint8(3 * y), 255})
		}
	}
	var b bytes.Buffer
	if err := jpeg.Encode(&b, img, nil); err != nil {
		panic(err)
	}
	return b.Bytes()
}

// folder is a data set of three classes: 90 images to train on, 9 others, of several sizes.
var folder = sync.OnceValue(func() map[string][]byte {
	files := map[string][]byte{}
	for class, name := range []string{"ant", "bee", "cat"} {
		for i := range 33 {
			split := "train"
			if i >= 30 {
				split = "val"
			}
			files[fmt.Sprintf("%s/%s/%02d.JPEG", split, name, i)] = picture(40+i, 90-i, 40*class+i)
		}
	}
	return files
})

func writeFolder(t *testing.T, change func(name string, b []byte) []byte) string {
	t.Helper()
	dir := t.TempDir()
	for name, b := range folder() { // any order: files of their own
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, change(name, b), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func unchanged(_ string, b []byte) []byte { return b }

func dataset(t *testing.T, path, split string) *shard.Dataset {
	t.Helper()
	d, err := shard.Open(t.Context(), shard.Options{Path: path, Split: split})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

func config(t *testing.T, source string) Config {
	t.Helper()
	return Config{Splits: []Split{{"train", dataset(t, source, "train")}, {"val", dataset(t, source, "val")}}, Out: filepath.Join(t.TempDir(), "out"),
		ShardBytes: minShardBytes, Workers: 2}
}

func mustPack(t *testing.T, c Config) *Report {
	t.Helper()
	r, err := Pack(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// files reads all files below a folder.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(p)
		rel, _ := filepath.Rel(dir, p) // both are below dir
		out[rel] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func sameFiles(t *testing.T, got, want map[string]string) {
	t.Helper()
	for name, b := range want { // any order: each stands for itself
		if got[name] != b {
			t.Errorf("%s has %d bytes that are not the %d wanted", name, len(got[name]), len(b))
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d files, want %d", len(got), len(want))
	}
}

// verified opens the set and checks every byte.
func verified(t *testing.T, dir string) *pack.Set {
	t.Helper()
	set, err := pack.Open(t.Context(), dir, open)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := set.Close(); err != nil {
			t.Error(err)
		}
	})
	found, err := set.Verify(t.Context(), pack.VerifyConfig{Workers: 2})
	if err != nil || len(found) > 0 {
		t.Fatalf("damage %v, %v", found, err)
	}
	return set
}

// TestSameSamples: a packed set is to its users what the source is: classes, order, names, labels, bytes.
func TestSameSamples(t *testing.T) {
	src := writeFolder(t, unchanged)
	c := config(t, src)
	c.Shuffle, c.ShuffleSeed = true, 7 // which must not show
	r := mustPack(t, c)
	if r.Images["train"] != 90 || r.Images["val"] != 9 || r.Shards < 5 || r.Kept != 0 {
		t.Errorf("report %+v", r)
	}
	verified(t, c.Out)
	for i, split := range []string{"train", "test"} {
		want, got := c.Splits[i].Data, dataset(t, c.Out, split)
		if got.Len() != want.Len() || fmt.Sprint(got.Classes()) != fmt.Sprint(want.Classes()) {
			t.Fatalf("%d images of %v", got.Len(), got.Classes())
		}
		for k := range want.Len() {
			a, err := want.Read(t.Context(), k, nil)
			b, err2 := got.Read(t.Context(), k, nil)
			if err := errors.Join(err, err2); err != nil || !bytes.Equal(a, b) || want.Label(k) != got.Label(k) || want.Name(k) != got.Name(k) {
				t.Fatalf("image %d is %s of class %d, want %s of %d; %v", k, got.Name(k), got.Label(k), want.Name(k), want.Label(k), err)
			}
		}
	}
	if n := dataset(t, c.Out, "all").Len(); n != 99 {
		t.Errorf("all are %d", n)
	}
}

// TestAnyNumberOfWorkers: the bytes of all files are the same.
func TestAnyNumberOfWorkers(t *testing.T) {
	src := writeFolder(t, unchanged)
	for name, change := range map[string]func(*Config){
		"copied": func(*Config) {}, "shuffled": func(c *Config) { c.Shuffle, c.ShuffleSeed = true, 3 },
		"resized": func(c *Config) { c.ShorterSide, c.Quality = 48, 80 },
	} {
		t.Run(name, func(t *testing.T) {
			var want map[string]string
			for _, workers := range []int{1, 3} {
				c := config(t, src)
				change(&c)
				c.Workers = workers
				mustPack(t, c)
				got := files(t, c.Out)
				if want == nil {
					want = got
				}
				sameFiles(t, got, want)
			}
		})
	}
}

// TestLayoutDoesNotShow: the set's hash, and so the fingerprint, does not depend on shards; it does on what is encoded again.
func TestLayoutDoesNotShow(t *testing.T) {
	src := writeFolder(t, unchanged)
	hash := func(change func(*Config)) string {
		c := config(t, src)
		change(&c)
		r := mustPack(t, c)
		return r.Hash + dataset(t, c.Out, "train").Fingerprint() + dataset(t, c.Out, "val").Fingerprint()
	}
	want := hash(func(*Config) {})
	if hash(func(c *Config) { c.Shuffle, c.ShardBytes = true, 1<<20 }) != want {
		t.Error("the layout shows")
	}
	if hash(func(c *Config) { c.Quality = 50 }) == want {
		t.Error("another quality does not")
	}
}

func TestResize(t *testing.T) {
	src := writeFolder(t, unchanged)
	c := config(t, src)
	c.ShorterSide, c.Quality = 50, 85
	mustPack(t, c)
	train := verified(t, c.Out).Split("train")
	d := dataset(t, c.Out, "train")
	resized := 0
	for i := range train.Len() {
		e := train.Entry(i)
		b, err := d.Read(t.Context(), i, nil)
		if err != nil {
			t.Fatal(err)
		}
		cfg, err := jpeg.DecodeConfig(bytes.NewReader(b))
		if err != nil || cfg.Width != e.W || cfg.Height != e.H {
			t.Fatalf("%s is %d x %d, the index says %d x %d; %v", e.Name, cfg.Width, cfg.Height, e.W, e.H, err)
		}
		w, h := 40+i%30, 90-i%30
		if min(w, h) > 50 {
			resized++
			w, h = w*50/min(w, h), h*50/min(w, h)
		} else if before, err := c.Splits[0].Data.Read(t.Context(), i, nil); err != nil || !bytes.Equal(before, b) {
			t.Fatalf("%s is small and was changed; %v", e.Name, err)
		}
		if e.W != w || e.H != h {
			t.Fatalf("%s is %d x %d, want %d x %d", e.Name, e.W, e.H, w, h)
		}
	}
	if resized == 0 {
		t.Error("nothing was resized")
	}
}

func TestDamagedSamples(t *testing.T) {
	src := writeFolder(t, func(name string, b []byte) []byte {
		if strings.HasSuffix(name, "bee/07.JPEG") || strings.HasSuffix(name, "cat/09.JPEG") {
			return b[:len(b)/3]
		}
		return b
	})
	c := config(t, src)
	c.SkipDamaged = 1
	_, err := Pack(t.Context(), c)
	if err == nil || !strings.Contains(err.Error(), "/0") || !strings.Contains(err.Error(), "--skip-damaged") {
		t.Fatalf("two damaged ones, one allowed: %v", err)
	}
	if _, err := os.Stat(filepath.Join(c.Out, pack.IndexName)); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("an index was written: %v", err)
	}
	c.SkipDamaged = 2
	r := mustPack(t, c)
	if r.Images["train"] != 88 || len(r.LeftOut) != 2 || r.LeftOut[0].Name != "train/bee/07.JPEG" || r.LeftOut[1].Name != "train/cat/09.JPEG" {
		t.Errorf("report %+v", r)
	}
	verified(t, c.Out)
	d := dataset(t, c.Out, "train")
	if d.Len() != 88 || d.Name(36) != "train/bee/06.JPEG" || d.Name(37) != "train/bee/08.JPEG" {
		t.Errorf("%d images, %s, %s", d.Len(), d.Name(36), d.Name(37))
	}
	c.SkipDamaged = 1 // finished shards that left too much out count as well
	if _, err := Pack(t.Context(), c); err == nil || !strings.Contains(err.Error(), "--skip-damaged") {
		t.Errorf("again with one allowed: %v", err)
	}
}

// TestGoesOn interrupts packing after each number of samples, and goes on: finished shards are kept, and all bytes are as if nothing had
// happened.
func TestGoesOn(t *testing.T) {
	src := writeFolder(t, unchanged)
	ref := config(t, src)
	shards := mustPack(t, ref).Shards
	want := files(t, ref.Out)
	c := config(t, src)
	kept := 0
	for stop := 5; ; stop += 20 {
		ctx, cancel := context.WithCancel(t.Context())
		c.Progress = func(p Progress) {
			if p.Images-p.Kept >= stop {
				cancel()
			}
		}
		r, err := Pack(ctx, c)
		cancel()
		if err == nil {
			kept = r.Kept
			break
		}
		if !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	}
	if kept == 0 {
		t.Error("no shard was kept")
	}
	sameFiles(t, files(t, c.Out), want)
	// A set that is whole is kept whole, and one with a damaged shard is mended.
	spoiled := filepath.Join(c.Out, filepath.FromSlash(pack.ShardName("train", 1)))
	b := []byte(want["train/train-000001.tar"])
	b[len(b)/2] ^= 1
	if err := os.WriteFile(spoiled, b, 0o644); err != nil {
		t.Fatal(err)
	}
	var said []string
	c.Log = func(s string) { said = append(said, s) }
	if r := mustPack(t, c); r.Kept != shards-1 || len(said) != 1 || !strings.Contains(said[0], spoiled) {
		t.Errorf("kept %d of %d shards; said %q", r.Kept, shards, said)
	}
	sameFiles(t, files(t, c.Out), want)
}

func TestOtherOptions(t *testing.T) {
	src := writeFolder(t, unchanged)
	c := config(t, src)
	mustPack(t, c)
	before := files(t, c.Out)
	for name, change := range map[string]func(*Config){
		"shard size": func(c *Config) { c.ShardBytes *= 2 }, "quality": func(c *Config) { c.Quality = 70 },
		"seed": func(c *Config) { c.Shuffle = true }, "splits": func(c *Config) { c.Splits = c.Splits[:1] },
	} {
		other := c
		change(&other)
		if _, err := Pack(t.Context(), other); !errors.Is(err, ErrOther) {
			t.Errorf("another %s: %v", name, err)
		}
	}
	sameFiles(t, files(t, c.Out), before)
	c.Out = src
	if _, err := Pack(t.Context(), c); !errors.Is(err, ErrOther) || !strings.Contains(err.Error(), "train") {
		t.Errorf("into a folder of other things: %v", err)
	}
}

// TestWhateverFails makes each operation of the file system fail in turn: the error says so, there is no set, and the next call makes it.
func TestWhateverFails(t *testing.T) {
	src := writeFolder(t, unchanged)
	ref := config(t, src)
	ref.Workers = 1
	mustPack(t, ref)
	want := files(t, ref.Out)
	for _, fault := range []errorfs.Fault{{Err: syscall.ENOSPC, Short: true}, {Err: syscall.EIO, Dead: true}} {
		k := 0
		for ; ; k++ {
			c := config(t, src)
			c.Workers = 1
			fault.At = k
			faulty := errorfs.New(vfs.OS{}, fault)
			c.FS = faulty
			_, err := Pack(t.Context(), c)
			if !faulty.Injected() {
				if err != nil {
					t.Fatal(err)
				}
				break
			}
			if !errors.Is(err, fault.Err) {
				t.Fatalf("operation %d, %s, failed and the error is %v", k, faulty.Ops()[k], err)
			}
			c.FS = nil
			mustPack(t, c)
			sameFiles(t, files(t, c.Out), want)
		}
		if k < 20 {
			t.Errorf("only %d operations were made to fail", k)
		}
	}
}

// fullFS has little room.
type fullFS struct{ vfs.OS }

func (fullFS) Free(string) (int64, error) { return 10000, nil }

func TestNoRoom(t *testing.T) {
	c := config(t, writeFolder(t, unchanged))
	c.FS = fullFS{}
	if _, err := Pack(t.Context(), c); !errors.Is(err, ErrSpace) {
		t.Error(err)
	}
	for name := range files(t, c.Out) {
		if strings.HasSuffix(name, ".tar") {
			t.Errorf("%s was begun", name)
		}
	}
}

func TestInUse(t *testing.T) {
	c := config(t, writeFolder(t, unchanged))
	if err := os.MkdirAll(c.Out, 0o755); err != nil {
		t.Fatal(err)
	}
	lock, err := vfs.Lock(filepath.Join(c.Out, lockName))
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close() // nothing was written
	if _, err := Pack(t.Context(), c); !errors.Is(err, vfs.ErrLocked) {
		t.Error(err)
	}
}

func TestValidate(t *testing.T) {
	c := Config{ShardBytes: 1, ShorterSide: -1, Quality: 101, SkipDamaged: -1}
	err := c.Validate()
	for _, want := range []string{"no folder", "shards of 1 bytes", "shorter side", "quality 101", "-1 damaged", "0 workers", "no split"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
}
