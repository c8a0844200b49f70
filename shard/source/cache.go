package source

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/lockstep-ml/lockstep/internal/vfs"
)

const (
	// chunkSize is the unit of caching, and of fetching where there is a cache: an image is in one or two, and reading it costs one
	// or two requests. Smaller ones make too many files of 138 GB, larger ones fetch too much where the cache is smaller than the data.
	chunkSize = 1 << 20
	// minCacheSize holds what a few decoders read at a time.
	minCacheSize = 64 << 20
	// touchAfter is how old an entry's time of use may be before a use renews it: less would write a time for each image.
	touchAfter = time.Minute
)

// A cacheID names the file that chunks belong to: location, version and size.
type cacheID [sha256.Size]byte

func cacheKey(location string, a attributes) cacheID {
	return sha256.Sum256(fmt.Appendf(nil, "%q %q %d", location, a.version, a.size))
}

// A cache is a folder of chunks, FOLDER/aa/HEX-CHUNK. Entries appear complete or not at all and are checked when read, so that
// processes share it without speaking; what is evicted while another reads it stays readable there. Each process looks
// through the whole folder when it has written a sixteenth of the bound, so the bound may be passed by that much for each.
// A database beside the files was rejected: it would have to be locked, and repaired.
type cache struct {
	dir  string
	size int64
	warn func(error)
	now  func() time.Time

	mu       sync.Mutex
	fetching map[chunkID]*fetch
	unseen   int64 // bytes that may be written before the folder is looked through
	evicting bool
}

type chunkID struct {
	file  cacheID
	index int64
}

// A fetch is a chunk on its way, for all who wait for it.
type fetch struct {
	done chan struct{} //bounded: closed when the one who fetches returns, whose attempts are bounded
	data []byte
	err  error
}

func newCache(dir string, size int64, warn func(error)) (*cache, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("cache folder: %w", err)
	}
	return &cache{dir: dir, size: size, warn: warn, now: time.Now, fetching: map[chunkID]*fetch{}}, nil
}

func (c *cache) path(id chunkID) string {
	name := hex.EncodeToString(id.file[:])
	return filepath.Join(c.dir, name[:2], fmt.Sprintf("%s-%d", name, id.index))
}

// A cached is a remote file whose chunks are kept.
type cached struct {
	*remote
	cache *cache
	key   cacheID
}

// ReadAt reads chunk after chunk, from the cache where it has them.
func (f *cached) ReadAt(ctx context.Context, p []byte, off int64) error {
	if err := f.check(p, off); err != nil {
		return err
	}
	for len(p) > 0 {
		id := chunkID{f.key, off / chunkSize}
		from := off % chunkSize
		n := min(int64(len(p)), chunkSize-from)
		if err := f.chunk(ctx, id, p[:n], from); err != nil {
			return err
		}
		p, off = p[n:], off+n
	}
	return nil
}

// chunk copies a part of a chunk.
func (f *cached) chunk(ctx context.Context, id chunkID, p []byte, from int64) error {
	for {
		if f.cache.read(id, p, from) {
			return ctx.Err()
		}
		w, mine := f.cache.claim(id)
		if mine {
			w.data, w.err = f.load(ctx, id)
			f.cache.settle(id, w)
		}
		select {
		case <-w.done:
		case <-ctx.Done():
			return f.fail(context.Cause(ctx), id.index*chunkSize+from, id.index*chunkSize+from+int64(len(p)))
		}
		if w.err == nil {
			copy(p, w.data[from:])
			return nil
		}
		// Another's ctx may have ended its fetch; then this one tries itself.
		if mine || ctx.Err() != nil || !errors.Is(w.err, context.Canceled) && !errors.Is(w.err, context.DeadlineExceeded) {
			return w.err
		}
	}
}

// load fetches a chunk and keeps it. A cache that cannot be written to makes reading slow, not wrong.
func (f *cached) load(ctx context.Context, id chunkID) ([]byte, error) {
	start := id.index * chunkSize
	data := make([]byte, min(chunkSize, f.size-start))
	if err := f.remote.ReadAt(ctx, data, start); err != nil {
		return nil, err
	}
	if err := f.cache.write(id, data); err != nil {
		f.cache.warn(fmt.Errorf("cache: %w", err))
	}
	return data, nil
}

// claim gives the fetch of a chunk, and whether the caller has to do it.
func (c *cache) claim(id chunkID) (w *fetch, mine bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if w, ok := c.fetching[id]; ok {
		return w, false
	}
	w = &fetch{done: make(chan struct{})}
	c.fetching[id] = w
	return w, true
}

func (c *cache) settle(id chunkID, w *fetch) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.fetching, id)
	close(w.done)
}

// read copies a part of an entry, and says whether it could. An entry that is damaged is removed.
func (c *cache) read(id chunkID, p []byte, from int64) bool {
	f, err := os.Open(c.path(id))
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			c.warn(fmt.Errorf("cache: %w", err))
		}
		return false
	}
	err = readEntry(f, id, p, from)
	if err == nil {
		c.touch(f)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		c.warn(fmt.Errorf("cache: %s: %w; it is removed and fetched again", f.Name(), err))
		c.remove(f.Name())
		return false
	}
	return true
}

// touch renews an entry's time of use.
func (c *cache) touch(f *os.File) {
	now := c.now()
	info, err := f.Stat()
	if err == nil && now.Sub(info.ModTime()) > touchAfter {
		err = os.Chtimes(f.Name(), now, now)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // evicted meanwhile
		c.warn(fmt.Errorf("cache: %w", err))
	}
}

func (c *cache) remove(name string) {
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		c.warn(fmt.Errorf("cache: %w", err))
	}
}

// write keeps a chunk, and makes room when it is time to.
func (c *cache) write(id chunkID, data []byte) error {
	p := c.path(id)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		return err
	}
	head := entryHeader(id, data)
	err := vfs.WriteAtomic(vfs.OS{}, p, 0o644, func(w io.Writer) error {
		if _, err := w.Write(head); err != nil {
			return err
		}
		_, err := w.Write(data)
		return err
	})
	if err != nil {
		return err
	}
	return c.wrote(int64(len(head) + len(data)))
}
