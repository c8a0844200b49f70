package source

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lockstep-ml/lockstep/internal/vfs"
)

func writeFile(t *testing.T, name string, b []byte) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, b, 0o644)); err != nil {
		t.Fatal(err)
	}
}

// entries gives the files of a cache.
func entries(t *testing.T, dir string) (out []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && d.Name() != "lock" {
			out = append(out, p)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestCacheKeeps(t *testing.T) {
	data := content(2*chunkSize + 1000)
	s := serve(t, data)
	dir := t.TempDir()
	p, _ := opener(t, Options{Cache: dir})
	f := mustOpen(t, p, s.URL)
	mustRead(t, f, data, chunkSize-50, 100) // two chunks
	mustRead(t, f, data, 2*chunkSize+900, 100)
	asked := len(s.asked())
	if asked != 4 {
		t.Errorf("%d requests, want one to open and one for each chunk", asked)
	}
	mustRead(t, f, data, 0, len(data))
	q, _ := opener(t, Options{Cache: dir}) // another process
	mustRead(t, mustOpen(t, q, s.URL), data, 0, len(data))
	if n := len(s.asked()); n != asked+1 {
		t.Errorf("%d more requests, want one to open", n-asked)
	}
	s.change(content(500), `"two"`)
	mustRead(t, mustOpen(t, q, s.URL), content(500), 0, 500)
}

// TestCacheOnce: many who want one chunk make one request.
func TestCacheOnce(t *testing.T) {
	data := content(100_000)
	s := serve(t, data)
	p, _ := opener(t, Options{Cache: t.TempDir()})
	f := mustOpen(t, p, s.URL)
	var wg sync.WaitGroup
	for i := range 30 {
		wg.Go(func() { mustRead(t, f, data, i*1000, 50_000) })
	}
	wg.Wait()
	if n := len(s.asked()); n != 2 {
		t.Errorf("%d requests, want 2", n)
	}
}

// TestCacheDamage: whatever is wrong with an entry, it is fetched again.
func TestCacheDamage(t *testing.T) {
	data := content(300_000)
	s := serve(t, data)
	dir := t.TempDir()
	p, n := opener(t, Options{Cache: dir})
	f := mustOpen(t, p, s.URL)
	mustRead(t, f, data, 0, 1000)
	name := entries(t, dir)[0]
	good, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	flip := func(at int) []byte {
		b := bytes.Clone(good)
		b[at] ^= 1
		return b
	}
	for i, bad := range [][]byte{nil, good[:50], good[:entryHeadSz], good[:200_000], flip(0), flip(20), flip(45), flip(50), flip(60), flip(100), flip(126), flip(entryHeadSz + 150_000)} {
		writeFile(t, name, bad)
		asked := len(s.asked())
		mustRead(t, f, data, 140_000, 100_000)
		if len(n.warned) != i+1 || !errors.Is(n.warned[i], errEntry) || !strings.Contains(n.warned[i].Error(), name) || len(s.asked()) != asked+1 {
			t.Fatalf("damage %d: warned of %v, %d more requests", i, n.warned, len(s.asked())-asked)
		}
	}
	writeFile(t, name, flip(entryHeadSz+290_000)) // in a block that is not read
	mustRead(t, f, data, 0, 1000)
}

// TestCacheCannotWrite: reading goes on, and somebody is told.
func TestCacheCannotWrite(t *testing.T) {
	data := content(1000)
	s := serve(t, data)
	dir := t.TempDir()
	p, n := opener(t, Options{Cache: dir})
	f := mustOpen(t, p, s.URL).(*cached)
	name := f.cache.path(chunkID{f.key, 0})
	writeFile(t, filepath.Dir(name), nil) // a file where a folder should be
	mustRead(t, f, data, 0, 1000)
	if len(n.warned) == 0 || !strings.Contains(n.warned[0].Error(), "cache") {
		t.Errorf("warned of %v", n.warned)
	}
}

// TestCacheEvicts: the bound holds, and what was used last stays.
func TestCacheEvicts(t *testing.T) {
	c, err := newCache(t.TempDir(), 10<<20, func(err error) { t.Error(err) })
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().Add(-1000 * time.Hour) // what was just written is the newest
	c.now = func() time.Time { return now }
	data := content(1 << 20)
	b := make([]byte, 100)
	first := chunkID{index: 0}
	for i := range 30 {
		id := chunkID{index: int64(i)}
		if err := c.write(id, data); err != nil {
			t.Fatal(err)
		}
		now = now.Add(2 * touchAfter)
		if err := os.Chtimes(c.path(id), now, now); err != nil {
			t.Fatal(err)
		}
		now = now.Add(2 * touchAfter)
		if !c.read(first, b, 0) {
			t.Fatalf("the entry that is always used went after %d", i)
		}
		if _, total, err := c.scan(); err != nil || total > c.size+c.size/16+1<<20 {
			t.Fatalf("%d bytes, %v", total, err)
		}
	}
	if !c.read(chunkID{index: 29}, b, 0) || c.read(chunkID{index: 1}, b, 0) {
		t.Error("not what was used longest ago went")
	}
	left := filepath.Join(filepath.Dir(c.path(first)), ".x.tmp-0123456789abcdef")
	writeFile(t, left, nil)
	if !vfs.IsTemp(filepath.Base(left)) {
		t.Fatal("the test's leftover is none")
	}
	now = time.Now().Add(2 * abandoned)
	if err := c.makeRoom(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(left); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a dead writer's leftover stays: %v", err)
	}
}

// TestCacheOthersEvict: while another process makes room, this one goes on.
func TestCacheOthersEvict(t *testing.T) {
	dir := t.TempDir()
	c, err := newCache(dir, minCacheSize, func(err error) { t.Error(err) })
	if err != nil {
		t.Fatal(err)
	}
	lock, err := vfs.Lock(filepath.Join(dir, "lock"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(c.write(chunkID{}, content(10)), lock.Close(), c.makeRoom()); err != nil {
		t.Error(err)
	}
}

// TestCacheManyProcesses: two caches of one folder, written, read and evicted from at the same time.
func TestCacheManyProcesses(t *testing.T) {
	dir := t.TempDir()
	data := content(300_000)
	var wg sync.WaitGroup
	for range 2 {
		c, err := newCache(dir, 2<<20, func(err error) { t.Error(err) })
		if err != nil {
			t.Fatal(err)
		}
		for g := range 3 {
			wg.Go(func() {
				b := make([]byte, 1000)
				for i := range 40 {
					id := chunkID{index: int64((i*7 + g) % 20)}
					if c.read(id, b, 100_000) && !bytes.Equal(b, data[100_000:101_000]) {
						t.Error("an entry holds something else")
					}
					if err := c.write(id, data); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
	wg.Wait()
}

func TestKept(t *testing.T) {
	dir := t.TempDir()
	p, n := opener(t, Options{Cache: dir})
	if p.Kept("a") != nil {
		t.Error("something is kept before")
	}
	if err := p.Keep("a", []byte("what was found")); err != nil {
		t.Fatal(err)
	}
	if got := p.Kept("a"); string(got) != "what was found" || p.Kept("b") != nil {
		t.Errorf("kept %q", got)
	}
	name := entries(t, dir)[0]
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []int{0, 10, 41, len(b) - 1} {
		bad := bytes.Clone(b)
		bad[at] ^= 1
		writeFile(t, name, bad)
		if got := p.Kept("a"); got != nil {
			t.Errorf("flipped at %d: %q", at, got)
		}
		if _, err := os.Stat(name); !errors.Is(err, fs.ErrNotExist) {
			t.Error("what is damaged stays")
		}
	}
	if len(n.warned) != 4 {
		t.Errorf("warned of %v", n.warned)
	}
	q, _ := opener(t, Options{})
	if err := q.Keep("a", nil); err != nil || q.Kept("a") != nil || q.Caches() {
		t.Errorf("without a cache: %v", err)
	}
}

// FuzzEntry: no bytes make an entry panic, or give others than were checked.
func FuzzEntry(f *testing.F) {
	id := chunkID{index: 3}
	data := content(300) // longer ones leave the fuzzer no time
	good := append(entryHeader(id, data), data...)
	f.Add(good, 100, 200)
	f.Add(good[:300], 0, 100)
	f.Fuzz(func(t *testing.T, b []byte, from, n int) {
		if from < 0 || from > chunkSize || n < 0 || n > chunkSize-from {
			return
		}
		p := make([]byte, n)
		if err := readEntry(bytes.NewReader(b), id, p, int64(from)); err == nil && !bytes.Equal(p, b[entryHeadSz+from:][:n]) {
			t.Fatal("other bytes than the entry's")
		}
	})
}

func FuzzKept(f *testing.F) {
	f.Add([]byte(keptMagic + "12345678901234567890123456789012" + "\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var id [32]byte
		if len(b) > 40 {
			copy(id[:], b[8:])
		}
		if got, err := parseKept(b, id); err == nil && len(got) != len(b)-keptHeadSz {
			t.Fatalf("%d bytes", len(got))
		}
	})
}
