package source

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// mustRead reads and compares.
func mustRead(t *testing.T, f File, data []byte, off, n int) {
	t.Helper()
	got := make([]byte, n)
	if err := f.ReadAt(limit(t), got, int64(off)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, data[off:off+n]) {
		t.Fatalf("bytes %d to %d are others", off, off+n)
	}
}

func mustOpen(t *testing.T, p *Opener, location string) File {
	t.Helper()
	f, err := p.Open(limit(t), location)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(f.Close(), f.Close()); err != nil {
			t.Error(err)
		}
	})
	return f
}

// wantError compares an error with a sentinel and with what it must say.
func wantError(t *testing.T, err, is error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Error("no error")
		return
	}
	if is != nil && !errors.Is(err, is) {
		t.Errorf("error %q is not %q", err, is)
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("error %q does not say %q", err, p)
		}
	}
}

func TestWebReads(t *testing.T) {
	data := content(100_000)
	s := serve(t, data)
	p, _ := opener(t, Options{PartSize: 30_000})
	f := mustOpen(t, p, s.URL+"/a.tar")
	if f.Size() != int64(len(data)) || f.Name() != s.URL+"/a.tar" {
		t.Errorf("size %d, name %s", f.Size(), f.Name())
	}
	mustRead(t, f, data, 0, len(data))
	mustRead(t, f, data, 99_999, 1)
	mustRead(t, f, data, 100_000, 0)
	want := []string{"bytes=0-0", "bytes=0-29999", "bytes=30000-59999", "bytes=60000-89999", "bytes=90000-99999", "bytes=99999-99999"}
	if got := s.asked(); !slices.Equal(got, want) {
		t.Errorf("asked for %q, want %q", got, want)
	}
	err := f.ReadAt(limit(t), make([]byte, 2), 99_999)
	wantError(t, err, io.ErrUnexpectedEOF, "bytes 99999 to 100001 of 100000")
	wantError(t, f.ReadAt(limit(t), make([]byte, 2), -1), io.ErrUnexpectedEOF)
}

func TestWebEmptyFile(t *testing.T) {
	s := serve(t, nil)
	p, _ := opener(t, Options{})
	f := mustOpen(t, p, s.URL)
	mustRead(t, f, nil, 0, 0)
	if f.Size() != 0 {
		t.Errorf("size %d", f.Size())
	}
}

// TestWebPatience: what may pass is tried again, from where it broke off.
func TestWebPatience(t *testing.T) {
	data := content(10_000)
	s := serve(t, data)
	p, n := opener(t, Options{Stall: 100 * time.Millisecond, Attempts: 7})
	f := mustOpen(t, p, s.URL)
	s.fail(status(500), status(503, "Retry-After", "3"), s.part(4000, cut), s.part(100, s.stall), status(429), works)
	mustRead(t, f, data, 1000, 8000)
	want := []string{"bytes=0-0", "bytes=1000-8999", "bytes=1000-8999", "bytes=1000-8999", "bytes=5000-8999", "bytes=5100-8999", "bytes=5100-8999"}
	if got := s.asked(); !slices.Equal(got, want) {
		t.Errorf("asked for %q, want %q", got, want)
	}
	if len(n.pauses) != 5 || n.pauses[1] != 3*time.Second {
		t.Errorf("pauses %v, want 5, the second of the 3 s that the server asked for", n.pauses)
	}
	if len(n.warned) != 5 || !errors.Is(n.warned[3], ErrStalled) {
		t.Errorf("warned of %v", n.warned)
	}
}

func TestWebPatienceEnds(t *testing.T) {
	s := serve(t, content(1000))
	p, n := opener(t, Options{Stall: 50 * time.Millisecond, Attempts: 3, BackoffMin: time.Second, BackoffMax: 2 * time.Second})
	f := mustOpen(t, p, s.URL)
	s.fail(s.part(10, s.stall), s.part(10, s.stall), s.part(10, s.stall))
	err := f.ReadAt(limit(t), make([]byte, 100), 0)
	wantError(t, err, ErrStalled, s.URL, "bytes 30 to 100 of 1000", "after 3 attempts", "look at the network")
	if len(n.pauses) != 2 || n.pauses[0] < time.Second/2 || n.pauses[0] > time.Second || n.pauses[1] < time.Second || n.pauses[1] > 2*time.Second {
		t.Errorf("pauses %v", n.pauses)
	}
	s.fail(status(502), status(502), status(502))
	wantError(t, f.ReadAt(limit(t), make([]byte, 100), 0), nil, "502", "after 3 attempts", "server is in trouble")
}

// TestWebFinal: what will not pass is not tried again.
func TestWebFinal(t *testing.T) {
	for _, c := range []struct {
		fault func(w http.ResponseWriter, r *http.Request) bool
		is    error
		parts []string
	}{
		{status(404), fs.ErrNotExist, []string{"404", "spelling"}},
		{status(410), fs.ErrNotExist, nil},
		{status(403), fs.ErrPermission, []string{"403", "credentials"}},
		{status(401), fs.ErrPermission, nil},
		{status(400), nil, []string{"400"}},
		{status(416), nil, []string{"416"}},
		{status(206, "Content-Range", "bytes 0-0/x"), ErrNoRanges, []string{"Content-Range"}},
		{status(200, "Content-Length", "5"), ErrNoRanges, []string{"206", "download"}},
		{status(206, "Content-Encoding", "gzip"), nil, []string{"gzip", "switch that off"}},
	} {
		s := serve(t, content(1000))
		p, n := opener(t, Options{})
		s.fail(c.fault)
		_, err := p.Open(limit(t), s.URL+"/x")
		wantError(t, err, c.is, append(c.parts, s.URL+"/x")...)
		if len(n.pauses) > 0 {
			t.Errorf("%v: tried again", err)
		}
	}
}

// TestWebChanges: a file that is another one, in any way that shows, is an error.
func TestWebChanges(t *testing.T) {
	data := content(1000)
	for name, change := range map[string]func(s *webServer){
		"content": func(s *webServer) { s.change(data, `"two"`) },
		"longer":  func(s *webServer) { s.change(content(2000), `"one"`) },
		"shorter": func(s *webServer) { s.change(data[:400], `"one"`) },
		"weak":    func(s *webServer) { s.change(data, `W/"two"`) },
		"412":     func(s *webServer) { s.fail(status(412)) },
		"no tag":  func(s *webServer) { s.change(data, "") },
		"gone to 200": func(s *webServer) {
			s.fail(status(200, "ETag", `"two"`))
		},
	} {
		s := serve(t, data)
		p, n := opener(t, Options{})
		f := mustOpen(t, p, s.URL)
		change(s)
		err := f.ReadAt(limit(t), make([]byte, 200), 500)
		wantError(t, err, ErrChanged, "bytes 500 to 700 of 1000", "start again")
		if len(n.pauses) > 0 {
			t.Errorf("%s: tried again", name)
		}
	}
}

// TestWebChangesUnderWay: the part that was read and the rest are of two versions.
func TestWebChangesUnderWay(t *testing.T) {
	data := content(1000)
	s := serve(t, data)
	p, _ := opener(t, Options{})
	f := mustOpen(t, p, s.URL)
	s.fail(s.part(100, func(r *http.Request) {
		s.change(content(1000), `"two"`)
		cut(r)
	}))
	wantError(t, f.ReadAt(limit(t), make([]byte, 1000), 0), ErrChanged, "was \"one\", is \"two\"")
}

// TestWebOtherPart: a server that gives another part than it was asked for.
func TestWebOtherPart(t *testing.T) {
	s := serve(t, content(1000))
	p, _ := opener(t, Options{})
	f := mustOpen(t, p, s.URL)
	s.fail(status(206, "ETag", `"one"`, "Content-Range", "bytes 0-99/1000", "Content-Length", "100"))
	wantError(t, f.ReadAt(limit(t), make([]byte, 100), 100), ErrNoRanges, "bytes 0 to 99")
}

func TestWebRedirects(t *testing.T) {
	data := content(1000)
	s := serve(t, data)
	var hops atomic.Int32
	from := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hops.Add(1)
		http.Redirect(w, r, map[string]string{"/a": s.URL + "/b", "/loop": "/loop", "/out": "http://192.0.2.1/x"}[r.URL.Path], http.StatusFound)
	}))
	t.Cleanup(from.Close)
	p, _ := opener(t, Options{Attempts: 1})
	mustRead(t, mustOpen(t, p, from.URL+"/a"), data, 10, 500)
	_, err := p.Open(limit(t), from.URL+"/loop")
	wantError(t, err, nil, "redirects")
	_, err = p.Open(limit(t), from.URL+"/out")
	wantError(t, err, ErrPlain, "192.0.2.1", "https")
}

// TestPlainHTTP: nothing leaves this machine in clear unless that is allowed.
func TestPlainHTTP(t *testing.T) {
	p, _ := opener(t, Options{})
	for _, l := range []string{"http://192.0.2.1/x", "http://example.invalid/x", "s3://b/k?endpoint=http://192.0.2.1&region=r&anonymous=true"} {
		_, err := p.Open(limit(t), l)
		wantError(t, err, ErrPlain, "https")
	}
}

// TestWebCancel: a read ends when its context does, while it waits for bytes, for a slot and between attempts.
func TestWebCancel(t *testing.T) {
	s := serve(t, content(1000))
	p, _ := opener(t, Options{Requests: 1})
	f := mustOpen(t, p, s.URL)
	ctx, cancel := context.WithCancel(limit(t))
	s.fail(s.part(10, func(r *http.Request) {
		cancel()
		s.stall(r)
	}))
	wantError(t, f.ReadAt(ctx, make([]byte, 100), 0), context.Canceled)
	p.slots <- struct{}{} // all are taken
	wantError(t, f.ReadAt(ctx, make([]byte, 100), 0), context.Canceled)
	<-p.slots
	ctx, cancel = context.WithCancel(limit(t))
	p.pause = func(ctx context.Context, _ time.Duration) error {
		cancel()
		return pause(ctx, time.Hour)
	}
	s.fail(status(500))
	wantError(t, f.ReadAt(ctx, make([]byte, 100), 0), context.Canceled)
}

// TestRequestsUnderWay: no more than the bound, over all files.
func TestRequestsUnderWay(t *testing.T) {
	data := content(1000)
	var now, most atomic.Int32
	var once sync.Once
	full := make(chan struct{}) // closed when three requests are in
	s := serve(t, data)
	p, _ := opener(t, Options{Requests: 3})
	a, b := mustOpen(t, p, s.URL+"/a"), mustOpen(t, p, s.URL+"/b")
	for range 40 {
		s.fail(func(w http.ResponseWriter, r *http.Request) bool {
			n := now.Add(1)
			defer now.Add(-1)
			most.Store(max(most.Load(), n))
			if n == 3 {
				once.Do(func() { close(full) })
			}
			select {
			case <-full:
			case <-r.Context().Done():
			}
			return false
		})
	}
	var wg sync.WaitGroup
	for i := range 40 {
		f := a
		if i%2 == 1 {
			f = b
		}
		wg.Go(func() {
			if err := f.ReadAt(limit(t), make([]byte, 100), 0); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if most.Load() != 3 {
		t.Errorf("%d requests at a time, want 3", most.Load())
	}
}

func TestClosed(t *testing.T) {
	s := serve(t, content(1000))
	p, _ := opener(t, Options{})
	f := mustOpen(t, p, s.URL)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	wantError(t, f.ReadAt(limit(t), make([]byte, 1), 0), ErrClosed)
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := p.Open(limit(t), s.URL)
	wantError(t, err, ErrClosed)
}

func TestBadLocations(t *testing.T) {
	p, _ := opener(t, Options{})
	for l, part := range map[string]string{"ftp://h/x": "scheme", "http://": "URL", "s3://": "URL", "s3://bucket?region=r&anonymous=true": "bucket", "gs://b/k?color=red": "anonymous",
		"s3://b/k?region=r&color=red": "color", "file://host/x": "file:///", "/nowhere/at/all": "nowhere", "s3://b/k?use_path_style=maybe": "true or false"} {
		_, err := p.Open(limit(t), l)
		wantError(t, err, nil, part)
	}
	wantError(t, p.List(limit(t), "https://h/d", nil), ErrNoListing, "train-{000000..000146}.tar")
}

func TestOptionsValidate(t *testing.T) {
	err := Options{Attempts: -1, AttemptTimeout: -1, Stall: -1, BackoffMin: 3, BackoffMax: 2, Requests: -1, PartSize: -1, CacheSize: 1}.Validate()
	wantError(t, err, nil, "attempts", "timeout", "stall", "back-off", "requests", "bytes", "cache size")
	if err := DefaultOptions().Validate(); err != nil {
		t.Error(err)
	}
}

func FuzzContentRange(f *testing.F) {
	f.Add("bytes 0-1/2")
	f.Add("bytes */2")
	f.Fuzz(func(t *testing.T, s string) {
		first, last, size, err := contentRange(s)
		if err == nil && !(0 <= first && first <= last && last < size) {
			t.Fatalf("%q: %d-%d/%d", s, first, last, size)
		}
	})
}
