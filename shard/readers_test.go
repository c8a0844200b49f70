package shard

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
	"github.com/klauspost/compress/zstd"

	"github.com/lockstep-ml/lockstep/shard/source"
)

func zstdBytes(t testing.TB, b []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return errors2(w.EncodeAll(b, nil), w.Close(), t)
}

func errors2(b []byte, err error, t testing.TB) []byte {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// wdFiles are n samples with labels; every third has its label in a .json.
func wdFiles(t testing.TB, first, n int) []file {
	var out []file
	for i := first; i < first+n; i++ {
		key := fmt.Sprintf("s%04d", i)
		label := file{key + ".cls", []byte(fmt.Sprintf("%d\n", i%5))}
		if i%3 == 0 {
			label = file{key + ".json", []byte(fmt.Sprintf(`{"label": %d, "words": "x"}`, i%5))}
		}
		out = append(out, label, file{key + ".jpg", picture(t, i)})
	}
	return out
}

// wdShards writes three shards of a split into dir.
func wdShards(t testing.TB, dir, prefix string, first int) {
	t.Helper()
	for s := range 3 {
		name := filepath.Join(dir, fmt.Sprintf("%s-%03d.tar", prefix, s))
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, tarBytes(t, wdFiles(t, first+4*s, 4)), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
}

func wdNames(prefix string, first int) (out []string) {
	for i := range 12 {
		out = append(out, fmt.Sprintf("%s-%03d.tar/s%04d.jpg=%d", prefix, i/4, first+i, (first+i)%5))
	}
	return out
}

func TestWebDataset(t *testing.T) {
	dir := t.TempDir()
	wdShards(t, dir, "train", 0)
	wdShards(t, dir, "in1k-validation", 100)
	ds := open(t, Options{Path: dir + "/train-{000..002}.tar"})
	if got, want := names(ds), wdNames("train", 0); !slices.Equal(got, want) {
		t.Errorf("samples %v, want %v", got, want)
	}
	if got := ds.Classes(); !slices.Equal(got, []string{"0", "1", "2", "3", "4"}) {
		t.Errorf("classes %v", got)
	}
	if b, err := ds.Read(limit(t), 7, nil); err != nil || !bytes.Equal(b, picture(t, 7)) {
		t.Errorf("sample 7: %d bytes, %v", len(b), err)
	}
	if got := open(t, Options{Path: dir}).Fingerprint(); got != ds.Fingerprint() {
		t.Error("folder and pattern are two data sets")
	}
	for _, o := range []Options{{Path: dir, Split: "val"}, {Path: dir, Split: "test"}, {Path: dir + "/train-{000..002}.tar", ValPath: dir + "/in1k-validation-{000..002}.tar", Split: "test"}} {
		if got, want := names(open(t, o)), wdNames("in1k-validation", 100); !slices.Equal(got, want) {
			t.Errorf("%+v: samples %v, want %v", o, got, want)
		}
	}
	if n := open(t, Options{Path: dir, Split: "all"}).Len(); n != 24 {
		t.Errorf("%d samples in all", n)
	}
	wantError(t, Options{Path: dir + "/train-{000..002}.tar", Split: "test"}, ErrNoSplit, "without train and test")
	wantError(t, Options{Path: dir + "/train-{000..003}.tar"}, ErrNoData, "train-003.tar", "missing")
	classes := []string{"a", "b", "c", "d", "e"}
	if got := open(t, Options{Path: dir, ClassNames: classes}).Classes(); !slices.Equal(got, classes) {
		t.Errorf("classes %v", got)
	}
	wantError(t, Options{Path: dir, ClassNames: classes[:3]}, ErrFormat, "s0003.jpg (byte ", "has class 3 of 3")
	// One shard alone, plain and packed.
	b := tarBytes(t, wdFiles(t, 0, 4))
	for _, b := range [][]byte{b, gzipBytes(t, b), zstdBytes(t, b)} {
		ds := open(t, Options{Path: writeFile(t, "x.tar", b)})
		if got := names(ds); !slices.Equal(got, []string{"s0000.jpg=0", "s0001.jpg=1", "s0002.jpg=2", "s0003.jpg=3"}) {
			t.Errorf("samples %v", got)
		}
	}
}

func TestWebDatasetErrors(t *testing.T) {
	good := wdFiles(t, 0, 4)
	shard := func(files ...file) Options { return Options{Path: writeFile(t, "s.tar", tarBytes(t, files))} }
	with := func(extra ...file) Options { return shard(append(slices.Clone(good), extra...)...) }
	img := picture(t, 1)
	wantError(t, with(file{"x.jpg", img}, file{"x.cls", []byte("cat")}), ErrFormat, "x.cls (byte ", `"cat" is no number`)
	wantError(t, with(file{"x.jpg", img}, file{"x.cls", []byte("-1")}), ErrFormat, "x.cls")
	wantError(t, with(file{"x.jpg", img}, file{"x.cls", []byte("99999999999")}), ErrFormat, "x.cls")
	wantError(t, with(file{"x.jpg", img}, file{"x.cls", []byte("2000000")}), ErrFormat, "class 2000000, want less")
	wantError(t, with(file{"x.jpg", img}, file{"x.cls", bytes.Repeat([]byte("1"), 100)}), ErrFormat, "100 bytes")
	wantError(t, with(file{"x.jpg", img}, file{"x.cls", make([]byte, 2<<20)}), ErrTooLarge, "x.cls")
	wantError(t, with(file{"x.jpg", img}, file{"x.json", []byte(`{"label": "cat"}`)}), ErrFormat, "x.json")
	wantError(t, with(file{"x.jpg", img}, file{"x.json", []byte(`{"labels": 3}`)}), ErrFormat, "neither")
	wantError(t, with(file{"x.jpg", img}, file{"x.json", []byte(`{`)}), ErrFormat, "x.json")
	wantError(t, with(file{"x.jpg", img}), ErrFormat, "x.jpg", "no label: want x.cls or x.json")
	wantError(t, with(file{"x.cls", []byte("1")}), ErrFormat, "x.cls (byte ", "has a label but no image")
	wantError(t, with(file{"x.jpg", img}, file{"x.png", img}, file{"x.cls", []byte("1")}), ErrFormat, "x.jpg and x.png", "one sample")
	wantError(t, with(file{"x.cls", []byte("1")}, file{"x.cls", []byte("1")}, file{"x.jpg", img}), ErrFormat, "x.cls and x.cls")
	wantError(t, with(good[:2]...), ErrFormat, "s0000.jpg occurs twice")
	dir := t.TempDir()
	wdShards(t, dir, "a", 0)
	if err := os.WriteFile(dir+"/a-001.tar", gzipBytes(t, tarBytes(t, good)), 0o644); err != nil {
		t.Fatal(err)
	}
	wantError(t, Options{Path: dir}, ErrFormat, "a-001.tar", "plain .tar")
	if err := os.WriteFile(dir+"/a-001.tar", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	wantError(t, Options{Path: dir}, nil, "a-001.tar", "cut short", "empty")
	if err := os.WriteFile(dir+"/a-001.tar", tarBytes(t, good)[:3000], 0o644); err != nil {
		t.Fatal(err)
	}
	wantError(t, Options{Path: dir}, nil, "a-001.tar", "cut short", "byte 3000")
	wantError(t, Options{Path: dir + "/{}{"}, nil, "braces")
}

// TestSidecars: a .json beside an image in a class folder is not its label.
func TestSidecars(t *testing.T) {
	files := append(pictures(t, "train/a/x.jpg", "train/b/y.jpg"), file{"train/a/x.json", []byte(`{"size": 3}`)}, file{"meta.json", []byte(`{"label": 3}`)})
	for kind, p := range threeWays(t, files) {
		if got := names(open(t, Options{Path: p})); !slices.Equal(got, []string{"train/a/x.jpg=0", "train/b/y.jpg=1"}) {
			t.Errorf("%s: %v", kind, got)
		}
	}
}

// TestTarsOfSplits: train.tar and val.tar with class folders.
func TestTarsOfSplits(t *testing.T) {
	dir := t.TempDir()
	for name, files := range map[string][]file{"train.tar": pictures(t, "a/1.jpg", "b/2.jpg", "c/3.jpg"), "val.tar": pictures(t, "c/4.jpg", "a/5.jpg")} {
		if err := os.WriteFile(filepath.Join(dir, name), tarBytes(t, files), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got := names(open(t, Options{Path: dir})); !slices.Equal(got, []string{"train/a/1.jpg=0", "train/b/2.jpg=1", "train/c/3.jpg=2"}) {
		t.Errorf("train: %v", got)
	}
	if got := names(open(t, Options{Path: dir, Split: "test"})); !slices.Equal(got, []string{"val/a/5.jpg=0", "val/c/4.jpg=2"}) {
		t.Errorf("val: %v", got)
	}
	o := Options{Path: dir + "/train.tar", ValPath: dir + "/val.tar", Split: "val"}
	if got := names(open(t, o)); !slices.Equal(got, []string{"a/5.jpg=0", "c/4.jpg=2"}) {
		t.Errorf("--val: %v", got)
	}
}

func TestZstd(t *testing.T) {
	plain := tarBytes(t, pictures(t, mixed...))
	whole := zstdBytes(t, plain)
	ds := open(t, Options{Path: writeFile(t, "x", whole)})
	if got := open(t, Options{Path: writeFile(t, "x", gzipBytes(t, plain))}); got.Fingerprint() != ds.Fingerprint() {
		t.Error(".tar.gz and .tar.zst are two data sets")
	}
	pzstd := append([]byte{0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4}, whole...)
	if n := open(t, Options{Path: writeFile(t, "x", pzstd)}).Len(); n != ds.Len() {
		t.Errorf("pzstd: %d images", n)
	}
	for n := 4; n < len(whole); n += 97 {
		_, err := Open(limit(t), Options{Path: writeFile(t, "x", whole[:n])})
		var cut *TruncatedError
		if !errors.As(err, &cut) {
			t.Fatalf("cut to %d of %d bytes: %v", n, len(whole), err)
		}
	}
	wantError(t, Options{Path: writeFile(t, "x", whole), MaxMemory: 1000}, ErrTooLarge, "unzstd")
}

// TestHugeClaims: sizes in headers are not believed.
func TestHugeClaims(t *testing.T) {
	for _, size := range []int64{1 << 20, 1 << 40, 1 << 62} {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		if err := w.WriteHeader(&tar.Header{Name: "train/a/x.jpg", Typeflag: tar.TypeReg, Size: size, Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		b.Write(make([]byte, 4096))
		for _, b := range [][]byte{b.Bytes(), gzipBytes(t, b.Bytes()), zstdBytes(t, b.Bytes())} {
			_, err := Open(limit(t), Options{Path: writeFile(t, "x", b)})
			var cut *TruncatedError
			if !errors.As(err, &cut) && !errors.Is(err, ErrTooLarge) {
				t.Errorf("%d bytes claimed: %v", size, err)
			}
		}
	}
}

// A slowServer counts requests and bytes.
type counter struct {
	requests, bytes atomic.Int64
	http.Handler
}

func (c *counter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.requests.Add(1)
	c.Handler.ServeHTTP(&countingWriter{w, c}, r)
}

type countingWriter struct {
	http.ResponseWriter
	c *counter
}

func (w *countingWriter) Write(p []byte) (int, error) {
	w.c.bytes.Add(int64(len(p)))
	return w.ResponseWriter.Write(p)
}

// serveFolder serves a folder over HTTP, with tags.
func serveFolder(t *testing.T, dir string) (*counter, string) {
	files := http.FileServer(http.Dir(dir))
	c := &counter{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"fixed"`)
		files.ServeHTTP(w, r)
	})}
	s := httptest.NewServer(c)
	t.Cleanup(s.Close)
	return c, s.URL
}

// TestRemoteIsLocal: every kind of data set is the same behind HTTP and in S3.
func TestRemoteIsLocal(t *testing.T) {
	dir := t.TempDir()
	plain := tarBytes(t, pictures(t, mixed...))
	for name, b := range map[string][]byte{"a.tar": plain, "a.tar.gz": gzipBytes(t, plain), "a.tar.zst": zstdBytes(t, plain), "c.tar": tarBytes(t, cifarFiles("c/", cifarKinds[0], 2))} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	wdShards(t, dir+"/wd", "train", 0)
	for _, f := range append(pictures(t, mixed...), cifarFiles("cifar/", cifarKinds[0], 2)...) {
		p := filepath.Join(dir, "folder", f.name)
		if strings.HasPrefix(f.name, "cifar/") {
			p = filepath.Join(dir, f.name)
		}
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, f.data, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	makeILSVRC(t, filepath.Join(dir, "ilsvrc"), ilsvrcOptions{})
	_, url := serveFolder(t, dir)
	s3, params := s3Folder(t, dir)
	for _, name := range []string{"a.tar", "a.tar.gz", "a.tar.zst", "c.tar", "wd/train-{000..002}.tar", "wd", "folder", "cifar", "ilsvrc"} {
		here := open(t, Options{Path: filepath.Join(dir, name)})
		var there []Options
		if strings.Contains(name, ".tar") {
			there = append(there, Options{Path: url + "/" + name})
		}
		there = append(there, Options{Path: s3 + "/" + name + params}, Options{Path: s3 + "/" + name + params, Source: source.Options{Cache: t.TempDir()}})
		for _, o := range there {
			sameSet(t, here, open(t, o), o.Path)
		}
	}
}

func sameSet(t *testing.T, here, there *Dataset, what string) {
	t.Helper()
	if there.Fingerprint() != here.Fingerprint() {
		t.Errorf("%s: %v, here %v", what, names(there), names(here))
	}
	for i := range here.Len() {
		a, err := here.Read(limit(t), i, nil)
		if err != nil {
			t.Fatal(err)
		}
		b, err := there.Read(limit(t), i, nil)
		if err != nil || !bytes.Equal(a, b) {
			t.Fatalf("%s: %s: %d bytes, here %d: %v", what, there.Name(i), len(b), len(a), err)
		}
	}
}

// s3Folder puts a folder into a bucket, and gives the bucket's location and parameters.
func s3Folder(t *testing.T, dir string) (location, params string) {
	t.Setenv("AWS_ACCESS_KEY_ID", "id")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "key")
	backend := s3mem.New()
	if err := backend.CreateBucket("data"); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		key, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		_, err = backend.PutObject("data", filepath.ToSlash(key), nil, bytes.NewReader(b), int64(len(b)), nil)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(gofakes3.New(backend).Server())
	t.Cleanup(s.Close)
	return "s3://data", "?region=eu-north-1&use_path_style=true&endpoint=" + s.URL
}

// TestRemoteIndexReadsHeaders: long bodies are skipped, and the second start asks for nothing at all.
func TestRemoteIndexReadsHeaders(t *testing.T) {
	dir := t.TempDir()
	var files []file
	for i := range 40 {
		files = append(files, file{fmt.Sprintf("train/a/%02d.jpg", i), append(picture(t, i), make([]byte, 200_000)...)})
	}
	b := tarBytes(t, files)
	if err := os.WriteFile(dir+"/a.tar", b, 0o644); err != nil {
		t.Fatal(err)
	}
	c, url := serveFolder(t, dir)
	open(t, Options{Path: url + "/a.tar"})
	if n := c.bytes.Load(); n > int64(len(b))/10 || c.requests.Load() > 90 {
		t.Errorf("%d requests and %d bytes for the index of %d", c.requests.Load(), n, len(b))
	}
	cache := source.Options{Cache: t.TempDir()}
	first := open(t, Options{Path: url + "/a.tar", Source: cache})
	before, read := c.requests.Load(), c.bytes.Load()
	second := open(t, Options{Path: url + "/a.tar", Source: cache})
	if n := c.requests.Load() - before; n > 2 || first.Fingerprint() != second.Fingerprint() {
		t.Errorf("%d requests, %d bytes to open it again", n, c.bytes.Load()-read)
	}
	// Many short members take few requests.
	files = nil
	for i := range 500 {
		files = append(files, file{fmt.Sprintf("train/a/%03d.jpg", i), make([]byte, 700)})
	}
	if err := os.WriteFile(dir+"/b.tar", tarBytes(t, files), 0o644); err != nil {
		t.Fatal(err)
	}
	before = c.requests.Load()
	open(t, Options{Path: url + "/b.tar"})
	if n := c.requests.Load() - before; n > 14 {
		t.Errorf("%d requests for the index of 500 short members", n)
	}
}

// TestRemoteTrouble: what goes wrong with a server has the file's place in it.
func TestRemoteTrouble(t *testing.T) {
	whole := tarBytes(t, pictures(t, "train/a/x.jpg", "train/b/y.jpg"))
	var broken atomic.Bool
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if broken.Load() {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		w.Header().Set("ETag", `"one"`)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(whole))
	}))
	t.Cleanup(s.Close)
	o := Options{Path: s.URL + "/a.tar", Source: source.Options{Attempts: 2, BackoffMin: 1, BackoffMax: 1}}
	ds := open(t, o)
	broken.Store(true)
	_, err := ds.Read(limit(t), 1, nil)
	for _, part := range []string{s.URL + "/a.tar", "train/b/y.jpg", "bytes ", "500", "after 2 attempts", "in trouble"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("error %v does not say %q", err, part)
		}
	}
	wantError(t, o, nil, "500", "after 2 attempts")
	var cut *TruncatedError
	if errors.As(err, &cut) {
		t.Error("the archive is blamed for the server")
	}
	wantError(t, Options{Path: s.URL[:len(s.URL)-2] + "1/x", Source: o.Source}, nil, "/x")
}

// TestRemoteDiesWhileIndexed: the server's error comes out, not one of a cut archive.
func TestRemoteDiesWhileIndexed(t *testing.T) {
	plain := tarBytes(t, []file{{"train/a/x.jpg", make([]byte, 300_000)}, {"train/b/y.jpg", make([]byte, 300_000)}})
	for _, b := range [][]byte{plain, gzipBytes(t, append(plain, 1)), zstdBytes(t, plain)} {
		for after := range 3 {
			var asked atomic.Int64
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if asked.Add(1) > int64(after+1) {
					w.WriteHeader(http.StatusBadGateway)
					return
				}
				w.Header().Set("ETag", `"one"`)
				http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b))
			}))
			ds, err := Open(limit(t), Options{Path: s.URL + "/a.tar", Source: source.Options{Attempts: 1, PartSize: 100}})
			s.Close()
			var cut *TruncatedError
			if err == nil {
				err = ds.Close()
			} else if errors.As(err, &cut) || !strings.Contains(err.Error(), "502") {
				t.Errorf("after %d requests: %v", after, err)
			}
			if err != nil && !strings.Contains(err.Error(), s.URL) {
				t.Errorf("no place in %v", err)
			}
		}
	}
}
