package fetch

import (
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/lockstep-ml/lockstep/internal/vfs"
)

// Sentinels for errors.Is. The errors that carry them name the address or the file, and say what to do.
var (
	// ErrChecksum: the file is whole and not the one that was wanted.
	ErrChecksum = errors.New("wrong checksum")
	// ErrTooLarge: the file passes MaxBytes.
	ErrTooLarge = errors.New("too large")
	// ErrRefused: the server will not give the file, however often it is asked.
	ErrRefused = errors.New("refused")
	// ErrStalled: the server sent nothing for too long.
	ErrStalled = errors.New("stalled")
	// ErrSpace: the file system has too little room.
	ErrSpace = errors.New("not enough room")
)

// A Result says what is at Path now.
type Result struct {
	Bytes    int64
	SHA256   string // hex
	WasThere bool   // before, and nothing was fetched
	Checked  bool   // against a checksum that the caller gave
}

// useful is how much more than ever before an attempt must bring to count as one that brought something: else a server that breaks off
// at the same place each time would be asked for ever.
const useful = 64 << 10

// A fetching is one call of Get.
type fetching struct {
	Config
	f     vfs.EditFile // Path.part
	have  int64        // its size
	state state
	best  int64 // the most that have ever was
	old   bool  // some of it is of an earlier call
}

// Get makes the file. What fails keeps what has arrived for the next call.
func Get(ctx context.Context, c Config) (r *Result, err error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	c.complete()
	if r, err := there(&c); r != nil || err != nil {
		return r, err
	}
	lock, err := vfs.Lock(c.Path + lockSuffix)
	if err != nil {
		return nil, fmt.Errorf("fetch %s: %w", c.Path, err)
	}
	defer func() { err = errors.Join(err, remove(c.FS, c.Path+lockSuffix), lock.Close()) }()
	for {
		g := &fetching{Config: c}
		r, err := g.get(ctx)
		if !errors.Is(err, ErrChecksum) || !g.old {
			return r, err
		}
		c.Log(fmt.Sprintf("%v; a part of it was of an earlier attempt: all of it once more", err))
	}
}

// there looks whether the file is there already.
func there(c *Config) (r *Result, err error) {
	f, err := c.FS.Open(c.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	r, err = c.check(f)
	if err != nil {
		return nil, fmt.Errorf("%s is there already: %w; remove it to fetch it anew", c.Path, err)
	}
	r.WasThere = true
	return r, nil
}

// check reads a file whole and compares it with the checksums.
func (c *Config) check(f io.Reader) (*Result, error) {
	m, s := md5.New(), sha256.New()
	n, err := io.Copy(io.MultiWriter(m, s), f)
	if err != nil {
		return nil, err
	}
	r := &Result{Bytes: n, SHA256: hex.EncodeToString(s.Sum(nil)), Checked: c.MD5 != "" || c.SHA256 != ""}
	if got := hex.EncodeToString(m.Sum(nil)); c.MD5 != "" && !strings.EqualFold(got, c.MD5) {
		return nil, fmt.Errorf("%w: MD5 of its %d bytes is %s, want %s", ErrChecksum, n, got, c.MD5)
	}
	if c.SHA256 != "" && !strings.EqualFold(r.SHA256, c.SHA256) {
		return nil, fmt.Errorf("%w: SHA-256 of its %d bytes is %s, want %s", ErrChecksum, n, r.SHA256, c.SHA256)
	}
	return r, nil
}

// get fetches until the part is whole, and makes it the file.
func (g *fetching) get(ctx context.Context) (r *Result, err error) {
	if err := g.openPart(); err != nil {
		return nil, err
	}
	err = g.attempts(ctx)
	if err == nil {
		r, err = g.checkPart()
	}
	if err == nil {
		err = g.f.Sync()
	}
	if err = errors.Join(err, g.f.Close()); err != nil {
		if errors.Is(err, ErrChecksum) || errors.Is(err, ErrTooLarge) {
			err = errors.Join(err, g.dropPart())
		}
		return nil, err
	}
	if err := g.FS.Rename(g.Path+partSuffix, g.Path); err != nil {
		return nil, err
	}
	if err := remove(g.FS, g.Path+stateSuffix); err != nil {
		return nil, err
	}
	return r, g.FS.SyncDir(filepath.Dir(g.Path))
}

func (g *fetching) checkPart() (*Result, error) {
	r, err := g.check(io.NewSectionReader(g.f, 0, g.have))
	if err != nil {
		return nil, fmt.Errorf("%s: %w; the server, or a proxy on the way, does not give the published file: try another mirror with --url", g.URL, err)
	}
	return r, nil
}

// attempts asks until the file is whole, or too often in vain.
func (g *fetching) attempts(ctx context.Context) error {
	for vain := 0; ; {
		err := g.attempt(ctx)
		if err == nil {
			return nil
		}
		var lasting *lastingError
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.As(err, &lasting):
			return fmt.Errorf("%s: %w", g.URL, lasting.err)
		}
		if vain++; g.have >= g.best+useful {
			vain, g.best = 1, g.have
		}
		if vain >= g.Attempts {
			return fmt.Errorf("%s: %d attempts brought nothing new, the last: %w; what is there (%d bytes) is kept: the same command goes on", g.URL, vain, err, g.have)
		}
		g.Log(fmt.Sprintf("%s: byte %d: %v; trying again", g.URL, g.have, err))
		if err := g.Pause(ctx, vain); err != nil {
			return err
		}
	}
}

// remove removes a file if it is there.
func remove(fsys vfs.FS, name string) error {
	if err := fsys.Remove(name); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
