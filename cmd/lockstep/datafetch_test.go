package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
)

// imagesTarGz is the tests' data set as a .tar.gz.
func imagesTarGz(t *testing.T) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "x.tar")
	archive(t, path, func(_ string, data []byte) []byte { return data })
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	z.Write(read(t, path)) // to memory
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestFetch kills a download in its middle; the next goes on from there, and what has come trains.
func TestFetch(t *testing.T) {
	t.Parallel()
	data := imagesTarGz(t)
	half := len(data) / 2
	var mu sync.Mutex
	var asked []string
	sent := make(chan struct{}, 10)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		asked = append(asked, r.Header.Get("Range"))
		first := len(asked) == 1
		mu.Unlock()
		w.Header().Set("ETag", `"a"`)
		if !first {
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
			return
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(data)))
		w.Write(data[:half]) // fails only with the connection
		w.(http.Flusher).Flush()
		sent <- struct{}{}
		<-r.Context().Done() // until it is killed
	}))
	defer s.Close()
	dir := filepath.Join(t.TempDir(), "data")
	sum := sha256.Sum256(data)
	args := []string{"data", "fetch", "imagenette", dir, "--url", s.URL + "/imagenette2-160.tgz", "--sha256", hex.EncodeToString(sum[:]), "--json"}
	p := begin(t, nil, args...)
	select {
	case <-sent:
	case <-time.After(patience):
		t.Fatalf("nothing was asked for within %v:\n%s", patience, p.stderr())
	}
	file := filepath.Join(dir, "imagenette2-160.tgz")
	deadline := time.Now().Add(patience)
	for tick := time.NewTicker(time.Millisecond); ; <-tick.C {
		if isFile(file+".part") && len(read(t, file+".part")) == half {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("half of it has not come within %v:\n%s", patience, p.stderr())
		}
	}
	p.signal(syscall.SIGKILL)
	p.wait(-1)
	var r fetchReport
	lockstep(t, 0, args...).lastLine(&r)
	if r.Path != file || r.Bytes != int64(len(data)) || !r.Checked || !r.Fetched || !bytes.Equal(read(t, file), data) {
		t.Errorf("report %+v", r)
	}
	mu.Lock()
	if want := fmt.Sprintf("bytes=%d-", half); len(asked) != 2 || asked[1] != want {
		t.Errorf("asked for %q, want %q", asked, want)
	}
	mu.Unlock()
	lockstep(t, 0, args...).lastLine(&r)
	if r.Fetched || !r.Checked {
		t.Errorf("again: %+v", r)
	}
	if got, want := lockstep(t, 0, train(6, "--data", file, "--workers", "1")...).report().Hash, uninterrupted(t, 6); got != want {
		t.Errorf("trains to %s, want %s", got, want)
	}
}

func TestFetchRefuses(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/gone") {
			http.NotFound(w, r)
			return
		}
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader("<html>sign in</html>"))
	}))
	defer s.Close()
	lockstep(t, 1, "data", "fetch", "imagenet").says("imagenet", "cifar10, cifar100, imagenette, imagewoof")
	lockstep(t, 1, "data", "fetch", "imagewoof", "--size", "200").says("200", "160, 320, full")
	lockstep(t, 1, "data", "fetch", "cifar10", "--url", s.URL+"/gone").says(s.URL, "404", "--url")
	lockstep(t, 1, "data", "fetch", "cifar10", "--url", s.URL+"/x").says("wrong checksum", "c32a1d4ab5d03f1284b67883e8d87530", "mirror")
	lockstep(t, 1, "data", "fetch", "imagenette", "--url", "http://192.0.2.1/x").says("https", "SHA-256")
	lockstep(t, 1, "data", "fetch", "cifar10", "--url", "s3://bucket/x").says("https://")
}
