package fetch

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/lockstep-ml/lockstep/internal/vfs"
	"github.com/lockstep-ml/lockstep/internal/vfs/errorfs"
)

// payload is what is fetched: several times what counts as useful, and not a whole number of buffers.
var payload = sync.OnceValue(func() []byte {
	rng := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, 1_000_003)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
})

func md5Of(b []byte) string    { s := md5.Sum(b); return hex.EncodeToString(s[:]) }
func sha256Of(b []byte) string { s := sha256.Sum256(b); return hex.EncodeToString(s[:]) }

// A server gives the payload, as bad as the test wants it: misbehave is asked before each request, by its number from 0, and says whether
// it has answered.
type server struct {
	*httptest.Server
	mu        sync.Mutex
	requests  []string // their Range headers
	etag      string
	misbehave func(n int, w http.ResponseWriter, r *http.Request) bool
}

func serve(t *testing.T, misbehave func(n int, w http.ResponseWriter, r *http.Request) bool) *server {
	s := &server{etag: `"one"`, misbehave: misbehave}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	n := len(s.requests)
	s.requests = append(s.requests, r.Header.Get("Range"))
	etag := s.etag
	s.mu.Unlock()
	if s.misbehave != nil && s.misbehave(n, w, r) {
		return
	}
	w.Header().Set("ETag", etag)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(payload()))
}

// ranges is what was asked for.
func (s *server) ranges() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.requests...)
}

// cut sends the head of a whole answer, some of the body, and then breaks the connection.
func cut(w http.ResponseWriter, from, to int) {
	w.Header().Set("ETag", `"one"`)
	w.Header().Set("Content-Length", fmt.Sprint(len(payload())-from))
	if from > 0 {
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(payload())-1, len(payload())))
		w.WriteHeader(http.StatusPartialContent)
	}
	w.Write(payload()[from:to]) // fails only with the connection
	w.(http.Flusher).Flush()
	panic(http.ErrAbortHandler)
}

func config(t *testing.T, s *server) Config {
	return Config{URL: s.URL + "/x.tar.gz", Path: filepath.Join(t.TempDir(), "x.tar.gz"), MD5: md5Of(payload()), MaxBytes: 2 << 20, Attempts: 3,
		Pause: func(ctx context.Context, _ int) error { return ctx.Err() }}
}

// arrived checks that the file is there, whole and alone.
func arrived(t *testing.T, c Config) {
	t.Helper()
	b, err := os.ReadFile(c.Path)
	if err != nil || !bytes.Equal(b, payload()) {
		t.Fatalf("%d bytes have arrived, %v", len(b), err)
	}
	entries, err := os.ReadDir(filepath.Dir(c.Path))
	if err != nil || len(entries) != 1 {
		t.Errorf("beside it are %v, %v", entries, err)
	}
}

func TestGet(t *testing.T) {
	s := serve(t, nil)
	c := config(t, s)
	var done, total int64
	c.Progress = func(d, n int64) { done, total = d, n }
	r, err := Get(t.Context(), c)
	if err != nil || r.SHA256 != sha256Of(payload()) || !r.Checked || r.WasThere || done != int64(len(payload())) || total != done {
		t.Fatalf("%+v, %v; %d of %d", r, err, done, total)
	}
	arrived(t, c)
	if r, err = Get(t.Context(), c); err != nil || !r.WasThere || len(s.ranges()) != 1 {
		t.Errorf("again: %+v, %v, requests %q", r, err, s.ranges())
	}
	c.MD5 = md5Of(nil)
	if _, err = Get(t.Context(), c); !errors.Is(err, ErrChecksum) || !strings.Contains(err.Error(), "remove it") {
		t.Errorf("another file is there: %v", err)
	}
	arrived(t, c)
}

// TestCut: an answer that breaks off goes on where it stopped, as often as it brings something.
func TestCut(t *testing.T) {
	s := serve(t, func(n int, w http.ResponseWriter, _ *http.Request) bool {
		if n < 9 {
			cut(w, n*100_000, (n+1)*100_000)
		}
		return false
	})
	c := config(t, s)
	if _, err := Get(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	arrived(t, c)
	if got := s.ranges(); len(got) != 10 || got[9] != "bytes=900000-" {
		t.Errorf("asked for %q", got)
	}
}

// TestCutAtOnePlace: a server that never gets further is given up, and what is there is kept for the next call.
func TestCutAtOnePlace(t *testing.T) {
	good := false
	s := serve(t, func(n int, w http.ResponseWriter, r *http.Request) bool {
		if !good {
			from := 0
			fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from)
			cut(w, from, 500_000)
		}
		return false
	})
	c := config(t, s)
	if _, err := Get(t.Context(), c); err == nil || !strings.Contains(err.Error(), "500000 bytes") {
		t.Fatalf("error %v", err)
	}
	if n := len(s.ranges()); n != 3 {
		t.Errorf("%d attempts", n)
	}
	good = true
	if _, err := Get(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	arrived(t, c)
	if got := s.ranges(); got[len(got)-1] != "bytes=500000-" {
		t.Errorf("asked for %q", got)
	}
}

func TestStall(t *testing.T) {
	release := make(chan struct{}) //bounded: closed at the test's end
	s := serve(t, func(n int, w http.ResponseWriter, r *http.Request) bool {
		if n == 0 {
			w.Header().Set("ETag", `"one"`)
			w.Header().Set("Content-Length", fmt.Sprint(len(payload())))
			w.Write(payload()[:300_000]) // fails only with the connection
			w.(http.Flusher).Flush()
		}
		if n < 2 { // the second does not even answer
			select {
			case <-release:
			case <-r.Context().Done():
			}
			panic(http.ErrAbortHandler)
		}
		return false
	})
	defer close(release)
	c := config(t, s)
	c.Stall = 200 * time.Millisecond
	var said []string
	c.Log = func(s string) { said = append(said, s) }
	if _, err := Get(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	arrived(t, c)
	if len(said) != 2 || !strings.Contains(said[0], "no byte for") || !strings.Contains(said[1], "byte 300000") {
		t.Errorf("said %q", said)
	}
}

// TestChangedFile: when the server has another file by now, nothing of the old one stays.
func TestChangedFile(t *testing.T) {
	s := serve(t, func(n int, w http.ResponseWriter, _ *http.Request) bool {
		if n == 0 {
			w.Header().Set("ETag", `"zero"`)
			w.Header().Set("Content-Length", "1000003")
			w.Write(make([]byte, 700_000)) // fails only with the connection
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}
		return false
	})
	c := config(t, s)
	if _, err := Get(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	arrived(t, c)
}

// TestLies: answers that are not what was asked for end in an error, or in the right file; never in another one.
func TestLies(t *testing.T) {
	answer := func(code int, body []byte, headers ...string) func(int, http.ResponseWriter, *http.Request) bool {
		return func(_ int, w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("ETag", `"one"`)
			for i := 0; i < len(headers); i += 2 {
				w.Header().Set(headers[i], headers[i+1])
			}
			w.WriteHeader(code)
			w.Write(body) // fails only with the connection
			return true
		}
	}
	other := bytes.Clone(payload())
	other[77777] ^= 1
	for _, c := range []struct {
		name  string
		lie   func(int, http.ResponseWriter, *http.Request) bool
		want  error
		asked int
	}{
		{"another file", answer(200, other), ErrChecksum, 1},
		{"a login page", answer(200, []byte("<html>please sign in</html>")), ErrChecksum, 1},
		{"nothing", answer(200, nil), nil, 3},
		{"too much, and says so", answer(200, nil, "Content-Length", "3000000"), ErrTooLarge, 1},
		{"too much, and does not say so", answer(200, make([]byte, 3<<20), "Transfer-Encoding", "chunked"), ErrTooLarge, 1},
		{"part that was not asked for", answer(206, payload()[5:], "Content-Range", "bytes 5-1000002/1000003"), ErrRefused, 1},
		{"not there", answer(404, nil), ErrRefused, 1},
		{"in trouble", answer(503, nil), nil, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := serve(t, c.lie)
			cfg := config(t, s)
			_, err := Get(t.Context(), cfg)
			if err == nil || c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), s.URL) {
				t.Errorf("error %v", err)
			}
			if n := len(s.ranges()); n != c.asked {
				t.Errorf("asked %d times", n)
			}
			if _, err := os.Stat(cfg.Path); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("there is a file: %v", err)
			}
		})
	}
}

// TestLiesAboutRanges: a part is never put at the wrong place.
func TestLiesAboutRanges(t *testing.T) {
	for name, lie := range map[string]string{"from elsewhere": "bytes 0-1000002/1000003", "of another size": "bytes 400000-1000002/1000009", "nonsense": "words"} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, func(n int, w http.ResponseWriter, r *http.Request) bool {
				switch n {
				case 0:
					cut(w, 0, 400_000)
				case 1:
					w.Header().Set("Content-Range", lie)
					w.WriteHeader(http.StatusPartialContent)
					w.Write(payload()[:600_003]) // fails only with the connection
					return true
				case 2:
					if r.Header.Get("Range") != "" {
						t.Error("went on with a part that the server disowned")
					}
				}
				return false
			})
			c := config(t, s)
			if _, err := Get(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			arrived(t, c)
		})
	}
}

// TestSpoiledPart: what an earlier call left is wrong inside. The checksum tells, and all is fetched once more.
func TestSpoiledPart(t *testing.T) {
	s := serve(t, func(n int, w http.ResponseWriter, r *http.Request) bool {
		if n == 0 {
			cut(w, 0, 600_000)
		}
		return false
	})
	c := config(t, s)
	c.Attempts = 1
	if _, err := Get(t.Context(), c); err == nil {
		t.Fatal("no error")
	}
	part, err := os.OpenFile(c.Path+partSuffix, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = part.WriteAt([]byte("spoiled"), 1000)
	if err := errors.Join(err, part.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := Get(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	arrived(t, c)
	if got := strings.Join(s.ranges(), " "); got != " bytes=600000- " {
		t.Errorf("asked for %q", got)
	}
}

// TestWhateverFails makes each operation of the file system fail in turn; the next call brings the file.
func TestWhateverFails(t *testing.T) {
	s := serve(t, func(n int, w http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("Range") == "" {
			cut(w, 0, 500_000)
		}
		return false
	})
	k := 0
	for ; ; k++ {
		c := config(t, s)
		faulty := errorfs.New(vfs.OS{}, errorfs.Fault{At: k, Err: syscall.EIO, Short: true})
		c.FS = faulty
		_, err := Get(t.Context(), c)
		if !faulty.Injected() {
			if err != nil {
				t.Fatal(err)
			}
			break
		}
		if !errors.Is(err, syscall.EIO) {
			t.Fatalf("operation %d, %s, failed and the error is %v", k, faulty.Ops()[k], err)
		}
		c.FS = nil
		if _, err := Get(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(c.Path)
		if err != nil || !bytes.Equal(b, payload()) {
			t.Fatalf("operation %d: %d bytes, %v", k, len(b), err)
		}
	}
	if k < 15 {
		t.Errorf("only %d operations were made to fail", k)
	}
}

func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	s := serve(t, func(n int, w http.ResponseWriter, r *http.Request) bool {
		if n > 0 {
			cancel()
			<-r.Context().Done() //bounded: the client has gone
			panic(http.ErrAbortHandler)
		}
		cut(w, 0, 400_000)
		return true
	})
	c := config(t, s)
	if _, err := Get(ctx, c); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if info, err := os.Stat(c.Path + partSuffix); err != nil || info.Size() != 400_000 {
		t.Errorf("what had arrived: %v, %v", info, err)
	}
}

func TestDowngrade(t *testing.T) {
	plain := serve(t, nil)
	secure := httptest.NewTLSServer(http.RedirectHandler(plain.URL, http.StatusFound))
	defer secure.Close()
	c := config(t, plain)
	c.URL = secure.URL
	c.Client = secure.Client()
	c.Client.CheckRedirect = checkRedirect
	if _, err := Get(t.Context(), c); err == nil || !strings.Contains(err.Error(), "redirected from https") {
		t.Error(err)
	}
}

func TestValidate(t *testing.T) {
	for _, c := range []struct {
		change func(*Config)
		want   string
	}{
		{func(c *Config) { c.URL = "ftp://h/x" }, "https://"},
		{func(c *Config) { c.URL = "http://example.org/x"; c.MD5 = "" }, "https"},
		{func(c *Config) { c.MD5 = "12" }, "MD5"},
		{func(c *Config) { c.SHA256 = strings.Repeat("x", 64) }, "SHA-256"},
		{func(c *Config) { c.MaxBytes = 0 }, "bound"},
		{func(c *Config) { c.Path = "" }, "no file"},
		{func(c *Config) { c.Attempts = -1 }, "attempts"},
	} {
		cfg := Config{URL: "https://example.org/x", Path: "x", MD5: md5Of(nil), MaxBytes: 1}
		if err := cfg.Validate(); err != nil {
			t.Fatal(err)
		}
		c.change(&cfg)
		if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q is not in: %v", c.want, err)
		}
	}
}

func FuzzContentRange(f *testing.F) {
	f.Add("bytes 5-9/10")
	f.Add("bytes */10")
	f.Add("bytes 5-/")
	f.Fuzz(func(t *testing.T, s string) {
		if from, size, ok := contentRange(s); ok && (from < 0 || from >= size) {
			t.Errorf("%q gives %d of %d", s, from, size)
		}
	})
}
