package source

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
)

// A faulty puts a server's answers off: each request takes the next fault, until there are none.
type faulty struct {
	http.Handler
	mu     sync.Mutex
	faults []func(w http.ResponseWriter, r *http.Request) bool
	asked  int
}

func (f *faulty) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	f.asked++
	var fault func(w http.ResponseWriter, r *http.Request) bool
	if len(f.faults) > 0 {
		fault, f.faults = f.faults[0], f.faults[1:]
	}
	f.mu.Unlock()
	if fault == nil || !fault(w, r) {
		f.Handler.ServeHTTP(w, r)
	}
}

func (f *faulty) fail(faults ...func(w http.ResponseWriter, r *http.Request) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults = append(f.faults, faults...)
}

// s3Server is an S3 server with a bucket "data". It gives the parameters that a location needs.
func s3Server(t *testing.T) (backend *s3mem.Backend, f *faulty, params string) {
	t.Setenv("AWS_ACCESS_KEY_ID", "id")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "key")
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	backend = s3mem.New()
	if err := backend.CreateBucket("data"); err != nil {
		t.Fatal(err)
	}
	f = &faulty{Handler: gofakes3.New(backend).Server()}
	s := httptest.NewServer(f)
	t.Cleanup(s.Close)
	return backend, f, "?region=eu-north-1&use_path_style=true&endpoint=" + s.URL
}

func put(t *testing.T, b *s3mem.Backend, key string, data []byte) {
	t.Helper()
	if _, err := b.PutObject("data", key, nil, bytes.NewReader(data), int64(len(data)), nil); err != nil {
		t.Fatal(err)
	}
}

func TestS3Reads(t *testing.T) {
	backend, f, params := s3Server(t)
	data := content(50_000)
	put(t, backend, "dir/a b.tar", data)
	put(t, backend, "dir/empty", nil)
	p, n := opener(t, Options{PartSize: 20_000})
	file := mustOpen(t, p, Join("s3://data/dir"+params, "a b.tar"))
	mustRead(t, file, data, 0, len(data))
	mustRead(t, file, data, 1234, 4321)
	mustRead(t, mustOpen(t, p, "s3://data/dir/empty"+params), nil, 0, 0)
	f.fail(status(503), status(500), func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Content-Length", "1000")
		w.Header().Set("Content-Range", "bytes 0-999/50000")
		w.WriteHeader(206)
		return true
	})
	if err := file.ReadAt(limit(t), make([]byte, 1000), 0); !errors.Is(err, ErrChanged) {
		t.Errorf("an answer without the version: %v", err)
	}
	if len(n.pauses) != 2 {
		t.Errorf("%d pauses, want 2", len(n.pauses))
	}
	_, err := p.Open(limit(t), "s3://data/nothing"+params)
	wantError(t, err, fs.ErrNotExist, "s3://data/nothing", "spelling")
	f.fail(status(403))
	_, err = p.Open(limit(t), "s3://data/dir/empty"+params)
	wantError(t, err, fs.ErrPermission, "403", "AWS_ACCESS_KEY_ID", "anonymous=true")
}

func TestS3Changes(t *testing.T) {
	backend, _, params := s3Server(t)
	put(t, backend, "a", content(1000))
	p, _ := opener(t, Options{})
	file := mustOpen(t, p, "s3://data/a"+params)
	put(t, backend, "a", bytes.Repeat([]byte("x"), 1000))
	wantError(t, file.ReadAt(limit(t), make([]byte, 100), 100), ErrChanged, "bytes 100 to 200 of 1000", "start again")
}

// TestS3Dies: a server that stalls, breaks off and then answers nothing.
func TestS3Dies(t *testing.T) {
	backend, f, params := s3Server(t)
	data := content(1000)
	put(t, backend, "a", data)
	p, n := opener(t, Options{Attempts: 3, Stall: 100 * time.Millisecond})
	file := mustOpen(t, p, "s3://data/a"+params)
	stall := func(_ http.ResponseWriter, r *http.Request) bool {
		<-r.Context().Done()
		return true
	}
	abort := func(http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) }
	f.fail(stall, abort)
	mustRead(t, file, data, 0, 1000)
	if len(n.pauses) != 2 || !errors.Is(n.warned[0], ErrStalled) {
		t.Errorf("pauses %v, warned %v", n.pauses, n.warned)
	}
	f.fail(slices.Repeat([]func(http.ResponseWriter, *http.Request) bool{abort}, 10)...) // the transport tries once more by itself
	wantError(t, file.ReadAt(limit(t), make([]byte, 100), 100), nil, "s3://data/a", "bytes 100 to 200 of 1000", "after 3 attempts")
}

// TestS3NoCredentials says where they come from.
func TestS3NoCredentials(t *testing.T) {
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	for _, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_REGION"} {
		t.Setenv(name, "")
	}
	t.Setenv("HOME", t.TempDir())
	p, _ := opener(t, Options{Attempts: 1})
	for _, l := range []string{"s3://data/x?region=eu-north-1", "s3://data/x"} {
		_, err := p.Open(limit(t), l)
		wantError(t, err, nil, l, "AWS_ACCESS_KEY_ID", "?region=", "anonymous=true")
	}
}

// listAll gives what a listing finds, sorted.
func listAll(t *testing.T, p *Opener, location string) (out []Entry) {
	t.Helper()
	err := p.List(limit(t), location, func(e Entry) error {
		out = append(out, e)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(out, func(a, b Entry) int { return strings.Compare(a.Name, b.Name) })
	return out
}

func TestS3Lists(t *testing.T) {
	backend, f, params := s3Server(t)
	var want []string
	for i := range 1100 { // more than a page
		name := fmt.Sprintf("c%d/%04d x.jpg", i%3, i)
		put(t, backend, "set/"+name, content(i%7))
		want = append(want, name)
	}
	put(t, backend, "setting/other", nil)
	put(t, backend, "set/", nil)
	slices.Sort(want)
	p, _ := opener(t, Options{})
	f.fail(status(500), works, status(500)) // each page's first attempt
	got := listAll(t, p, "s3://data/set"+params)
	if len(got) != len(want) {
		t.Fatalf("%d objects, want %d", len(got), len(want))
	}
	for i, e := range got {
		var n int
		fmt.Sscanf(e.Name, "c%d/%d", new(int), &n)
		if e.Name != want[i] || e.Size != int64(n%7) {
			t.Fatalf("entry %d: %+v, want %s of %d bytes", i, e, want[i], n%7)
		}
	}
	asked := f.asked
	file, err := p.OpenEntry(limit(t), got[5])
	if err != nil {
		t.Fatal(err)
	}
	if f.asked != asked {
		t.Error("opening a listed object asks the server")
	}
	var n int
	fmt.Sscanf(got[5].Name, "c%d/%d", new(int), &n)
	mustRead(t, file, content(n%7), 0, n%7)
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	stop := errors.New("enough")
	if err := p.List(limit(t), "s3://data/set"+params, func(Entry) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("visit's error is lost: %v", err)
	}
}

// gcsServer answers as Google Cloud Storage does, for a bucket "data" of two pages.
func gcsServer(t *testing.T, objects map[string][]byte) *faulty {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /storage/v1/b/data/o", func(w http.ResponseWriter, r *http.Request) {
		var names []string
		for n := range objects {
			if strings.HasPrefix(n, r.FormValue("prefix")) {
				names = append(names, n)
			}
		}
		slices.Sort(names)
		page := map[string]any{}
		if half := len(names) / 2; r.FormValue("pageToken") == "next" {
			names = names[half:]
		} else {
			names, page["nextPageToken"] = names[:half], "next"
		}
		page["items"] = items(names, objects)
		json.NewEncoder(w).Encode(page)
	})
	mux.HandleFunc("GET /data/{key...}", func(w http.ResponseWriter, r *http.Request) {
		data, ok := objects[r.PathValue("key")]
		if !ok {
			http.NotFound(w, r)
			return
		}
		if g := r.Header.Get("x-goog-if-generation-match"); g != "" && g != generation(data) {
			w.WriteHeader(http.StatusPreconditionFailed)
			return
		}
		w.Header().Set("x-goog-generation", generation(data))
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
	})
	f := &faulty{Handler: mux}
	s := httptest.NewServer(f)
	t.Cleanup(s.Close)
	t.Setenv("STORAGE_EMULATOR_HOST", s.Listener.Addr().String())
	return f
}

func generation(data []byte) string { return fmt.Sprint(1000 + len(data)) }

func items(names []string, objects map[string][]byte) (out []map[string]string) {
	for _, n := range names {
		out = append(out, map[string]string{"name": n, "size": fmt.Sprint(len(objects[n])), "generation": generation(objects[n])})
	}
	return out
}

func TestGCS(t *testing.T) {
	data := content(5000)
	objects := map[string][]byte{"set/a.tar": data, "set/b c.tar": data[:100], "set/d": nil, "other": nil}
	f := gcsServer(t, objects)
	p, n := opener(t, Options{})
	f.fail(status(503))
	got := listAll(t, p, "gs://data/set")
	if len(got) != 3 || got[1].Name != "b c.tar" || len(n.pauses) != 1 {
		t.Fatalf("%d objects after %d pauses", len(got), len(n.pauses))
	}
	for _, e := range got {
		file, err := p.OpenEntry(limit(t), e)
		if err != nil {
			t.Fatal(err)
		}
		mustRead(t, file, objects["set/"+e.Name], 0, int(e.Size))
	}
	file := mustOpen(t, p, "gs://data/set/a.tar")
	mustRead(t, file, data, 1000, 3000)
	objects["set/a.tar"] = data[:4000]
	wantError(t, file.ReadAt(limit(t), make([]byte, 100), 0), ErrChanged)
	_, err := p.Open(limit(t), "gs://data/nothing")
	wantError(t, err, fs.ErrNotExist, "gs://data/nothing")
	f.fail(func(w http.ResponseWriter, _ *http.Request) bool {
		w.Write([]byte(`{"items":[{"name":"x","size":"-3"}]}`))
		return true
	})
	wantError(t, p.List(limit(t), "gs://data/set", func(Entry) error { return nil }), nil, "size")
}

// TestGCSNoCredentials says how to get some.
func TestGCSNoCredentials(t *testing.T) {
	t.Setenv("STORAGE_EMULATOR_HOST", "")
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", t.TempDir()+"/nothing.json")
	p, _ := opener(t, Options{})
	_, err := p.Open(limit(t), "gs://data/x")
	wantError(t, err, nil, "gcloud auth", "anonymous=true")
}

func FuzzGCSPage(f *testing.F) {
	f.Add([]byte(`{"items":[{"name":"a","size":"1","generation":"2"}],"nextPageToken":"x"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		page, _, err := parseGCSPage(b)
		for _, l := range page {
			if err == nil && l.size < 0 {
				t.Fatalf("%+v", l)
			}
		}
	})
}

func TestLocal(t *testing.T) {
	ctx := limit(t)
	dir := t.TempDir()
	p, _ := opener(t, Options{})
	data := content(1000)
	writeFile(t, dir+"/sub/a", data)
	writeFile(t, dir+"/b", nil)
	got := listAll(t, p, dir)
	if len(got) != 2 || got[1].Name != "sub/a" || got[1].Size != 1000 {
		t.Errorf("listed %+v", got)
	}
	f := mustOpen(t, p, "file://"+dir+"/sub/a")
	mustRead(t, f, data, 100, 900)
	wantError(t, f.ReadAt(ctx, make([]byte, 10), 995), nil, "bytes 1000 to 1005 of 1000")
	writeFile(t, dir+"/sub/a", data[:10])
	wantError(t, f.ReadAt(ctx, make([]byte, 10), 900), ErrChanged, "/sub/a")
	ended, cancel := context.WithCancel(ctx)
	cancel()
	wantError(t, f.ReadAt(ended, make([]byte, 1), 0), context.Canceled)
	wantError(t, p.List(ended, dir, nil), context.Canceled)
	_, err := p.Open(ctx, dir)
	wantError(t, err, nil, "folder")
}
