package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// limit gives a test a context that ends long before the test binary would be killed.
func limit(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// content is n bytes that are not repeated.
func content(n int) []byte {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// opener makes an Opener whose pauses are noted and take no time.
func opener(t testing.TB, o Options) (*Opener, *notes) {
	t.Helper()
	n := &notes{}
	o.Warn = n.warn
	p, err := NewOpener(o)
	if err != nil {
		t.Fatal(err)
	}
	p.pause = func(ctx context.Context, d time.Duration) error {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.pauses = append(n.pauses, d)
		return ctx.Err()
	}
	t.Cleanup(func() {
		if err := errors.Join(p.Close(), p.Close()); err != nil {
			t.Error(err)
		}
	})
	return p, n
}

type notes struct {
	mu     sync.Mutex
	pauses []time.Duration
	warned []error
}

func (n *notes) warn(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.warned = append(n.warned, err)
}

// A webServer serves one file, and does wrong what its faults say, one request after another.
type webServer struct {
	*httptest.Server
	mu     sync.Mutex
	data   []byte
	etag   string
	faults []func(w http.ResponseWriter, r *http.Request) bool // true: the request is answered
	ranges []string                                            // of all requests
	gate   chan struct{}                                       // closed when the test ends: whoever stalls
}

func serve(t testing.TB, data []byte) *webServer {
	s := &webServer{data: data, etag: `"one"`, gate: make(chan struct{})}
	s.Server = httptest.NewServer(http.HandlerFunc(s.handle))
	t.Cleanup(func() {
		close(s.gate)
		s.Close()
	})
	return s
}

func (s *webServer) fail(f ...func(w http.ResponseWriter, r *http.Request) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, f...)
}

func (s *webServer) change(data []byte, etag string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.data, s.etag = data, etag
}

func (s *webServer) asked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.ranges...)
}

func (s *webServer) handle(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.ranges = append(s.ranges, r.Header.Get("Range"))
	data, etag := s.data, s.etag
	var fault func(w http.ResponseWriter, r *http.Request) bool
	if len(s.faults) > 0 {
		fault, s.faults = s.faults[0], s.faults[1:]
	}
	s.mu.Unlock()
	if fault != nil && fault(w, r) {
		return
	}
	w.Header().Set("ETag", etag)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
}

// Faults.

func works(http.ResponseWriter, *http.Request) bool { return false }

func status(code int, header ...string) func(w http.ResponseWriter, r *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		for i := 0; i+1 < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(code)
		return true
	}
}

// part answers rightly with the range that was asked for, up to n bytes of it, and then does what end does.
func (s *webServer) part(n int, end func(r *http.Request)) func(w http.ResponseWriter, r *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		var first, last int
		if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &first, &last); err != nil {
			panic(err)
		}
		w.Header().Set("ETag", s.etag)
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", first, last, len(s.data)))
		w.Header().Set("Content-Length", fmt.Sprint(last+1-first))
		w.WriteHeader(http.StatusPartialContent)
		w.Write(s.data[first:min(last+1, first+n)]) // the reader sees what is missing
		w.(http.Flusher).Flush()
		end(r)
		return true
	}
}

// stall waits until whoever asked has gone.
func (s *webServer) stall(r *http.Request) {
	select {
	case <-r.Context().Done():
	case <-s.gate:
	}
}

// cut breaks the connection.
func cut(*http.Request) { panic(http.ErrAbortHandler) }
