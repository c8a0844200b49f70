package fetch

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"

	"github.com/lockstep-ml/lockstep/internal/vfs"
)

const (
	partSuffix  = ".part"
	stateSuffix = ".part.json"
	lockSuffix  = ".part.lock"
	maxState    = 1 << 16
)

// A state says what a part is a part of. A part without one is nothing.
type state struct {
	URL string `json:"url"`
	// Validator is the server's strong ETag, or else its Last-Modified: with it a request goes on only if the file is still the same.
	Validator string `json:"validator"`
	Size      int64  `json:"size"` // of the whole file; 0 where the server did not say
}

// openPart opens what an earlier call left, or begins.
func (g *fetching) openPart() error {
	f, err := g.FS.Edit(g.Path+partSuffix, 0o644)
	if err != nil {
		return err
	}
	g.f = f
	info, err := f.Stat()
	if err == nil {
		g.have = info.Size()
		g.state, err = g.readState()
	}
	if err == nil && (g.state.URL != g.URL || g.state.Validator == "" || g.state.Size > 0 && g.have > g.state.Size) {
		err = g.restart(state{})
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	g.best, g.old = g.have, g.have > 0
	return nil
}

// readState gives no state where the file is not there, or is not one.
func (g *fetching) readState() (s state, err error) {
	f, err := g.FS.Open(g.Path + stateSuffix)
	if errors.Is(err, fs.ErrNotExist) {
		return state{}, nil
	}
	if err != nil {
		return state{}, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	b, err := io.ReadAll(io.LimitReader(f, maxState))
	if err != nil {
		return state{}, err
	}
	if json.Unmarshal(b, &s) != nil || s.Size < 0 {
		return state{}, nil
	}
	return s, nil
}

// restart drops what is there: it is not of the file that s describes. The state goes first and comes last, so that no part is ever
// under a state that is not its own.
func (g *fetching) restart(s state) error {
	if err := remove(g.FS, g.Path+stateSuffix); err != nil {
		return err
	}
	if err := g.f.Truncate(0); err != nil {
		return err
	}
	g.have, g.old, g.state = 0, false, s
	if s.URL == "" {
		return nil
	}
	return vfs.WriteAtomic(g.FS, g.Path+stateSuffix, 0o644, func(w io.Writer) error { return json.NewEncoder(w).Encode(s) })
}

// dropPart removes what is there, so that the next call begins anew.
func (g *fetching) dropPart() error {
	return errors.Join(remove(g.FS, g.Path+stateSuffix), remove(g.FS, g.Path+partSuffix))
}

// add appends what has arrived.
func (g *fetching) add(b []byte) error {
	if g.have+int64(len(b)) > g.MaxBytes {
		return &lastingError{fmt.Errorf("%w: more than %d bytes have come", ErrTooLarge, g.MaxBytes)}
	}
	if _, err := g.f.WriteAt(b, g.have); err != nil {
		return &lastingError{err}
	}
	g.have += int64(len(b))
	g.Progress(g.have, g.state.Size)
	return nil
}

// room refuses a file that is too large, for the bound or for the disk.
func (g *fetching) room(size int64) error {
	if size > g.MaxBytes {
		return &lastingError{fmt.Errorf("%w: the server says %d bytes, at most %d are expected", ErrTooLarge, size, g.MaxBytes)}
	}
	free, err := g.FS.Free(filepath.Dir(g.Path))
	if err != nil {
		return &lastingError{err}
	}
	if need := size - g.have; free >= 0 && need > free {
		return &lastingError{fmt.Errorf("%w for %s: %d MB are still to come and %d MB are free", ErrSpace, g.Path, need/1e6, free/1e6)}
	}
	return nil
}
