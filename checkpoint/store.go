package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/lockstep-ml/lockstep/internal/vfs"
)

// Options say where checkpoints live and how many.
type Options struct {
	// Dir is the folder; Open makes it unless ReadOnly.
	Dir string
	// Keep is how many checkpoints stay after a Save. Fewer than 2 leaves nothing to fall back to should the disk spoil one; each
	// takes 8 bytes a parameter.
	Keep int
	// MaxBytes bounds the memory that the tensors of one file may take when it is read.
	MaxBytes int64
	// ReadOnly leaves the folder as it is: no cleaning at Open, no Save. For everyone but the run's one writer.
	ReadOnly bool
	// FS is the file system; tests put faults into it.
	FS vfs.FS
}

// DefaultOptions keeps three checkpoints in dir.
func DefaultOptions(dir string) Options {
	return Options{Dir: dir, Keep: 3, MaxBytes: DefaultMaxBytes, FS: vfs.OS{}}
}

// Validate reports every fault at once, or nil.
func (o Options) Validate() error {
	var faults []error
	if o.Dir == "" {
		faults = append(faults, errors.New("checkpoint folder is not set"))
	}
	if o.Keep < 1 && !o.ReadOnly {
		faults = append(faults, fmt.Errorf("checkpoints to keep is %d, want 1 or more", o.Keep))
	}
	if o.MaxBytes < 1 {
		faults = append(faults, fmt.Errorf("largest checkpoint is %d bytes, want 1 or more", o.MaxBytes))
	}
	if o.FS == nil {
		faults = append(faults, errors.New("checkpoint file system is not set"))
	}
	return errors.Join(faults...)
}

// Store is a folder of checkpoints. One Store writes to a folder, one Save at a time; its other methods may run beside it.
type Store struct {
	o       Options
	cleaned []string
}

// Open prepares a folder: it makes it, and removes what a writer that crashed left unfinished, which Cleaned then lists. A ReadOnly
// store does neither.
func Open(o Options) (*Store, error) {
	if err := o.Validate(); err != nil {
		return nil, fmt.Errorf("checkpoint options: %w", err)
	}
	s := &Store{o: o}
	if o.ReadOnly {
		return s, nil
	}
	if err := o.FS.MkdirAll(o.Dir); err != nil {
		return nil, fmt.Errorf("make checkpoint folder: %w", err)
	}
	cleaned, err := vfs.CleanTemp(o.FS, o.Dir)
	if err != nil {
		return nil, fmt.Errorf("clean checkpoint folder: %w", err)
	}
	s.cleaned = cleaned
	return s, nil
}

// Cleaned lists the unfinished files that Open removed.
func (s *Store) Cleaned() []string { return s.cleaned }

// Entry is a checkpoint file, seen from outside.
type Entry struct {
	Path  string
	Step  uint64 // from its name
	Bytes int64
}

// FileName is the name of a step's checkpoint: twelve digits, so that names sort as steps do.
func FileName(step uint64) string { return fmt.Sprintf("step-%012d.ckpt", step) }

// parseName reads a step out of a name that FileName made.
func parseName(name string) (uint64, bool) {
	digits, ok := strings.CutPrefix(name, "step-")
	if !ok {
		return 0, false
	}
	digits, ok = strings.CutSuffix(digits, ".ckpt")
	if !ok {
		return 0, false
	}
	step, err := strconv.ParseUint(digits, 10, 64)
	return step, err == nil && FileName(step) == name
}

// List gives the folder's checkpoints, newest first, without opening them. A folder that is not there has none.
func (s *Store) List() ([]Entry, error) {
	entries, err := s.o.FS.ReadDir(s.o.Dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list checkpoints: %w", err)
	}
	var out []Entry
	for _, e := range entries {
		step, ok := parseName(e.Name())
		if !ok || e.IsDir() {
			continue
		}
		info, err := e.Info()
		if errors.Is(err, os.ErrNotExist) {
			continue // pruned since the folder was read
		}
		if err != nil {
			return nil, fmt.Errorf("list checkpoints: %w", err)
		}
		out = append(out, Entry{filepath.Join(s.o.Dir, e.Name()), step, info.Size()})
	}
	slices.SortFunc(out, func(a, b Entry) int {
		if a.Step > b.Step {
			return -1
		}
		return 1 // steps are distinct: the name is a function of the step
	})
	return out, nil
}

// Save writes c under its step's name and then removes old checkpoints beyond Keep. It returns the path when, and only when, the
// checkpoint is safe on the disk. On any failure before that the error is a *SaveError, the folder is as it was, and training can go
// on. Where only the removal of old ones failed, the path comes together with a *PruneError.
func (s *Store) Save(ctx context.Context, c *Checkpoint) (string, error) {
	path := filepath.Join(s.o.Dir, FileName(c.Step))
	if s.o.ReadOnly {
		return "", &SaveError{path, 0, -1, errors.New("the store was opened for reading only")}
	}
	if c.Created.IsZero() {
		c.Created = time.Now().UTC()
	}
	e, m, err := encode(ctx, c)
	if err != nil {
		return "", &SaveError{path, 0, -1, err}
	}
	write := func(w io.Writer) error { return e.writeTo(ctx, w) }
	if err := vfs.WriteAtomic(s.o.FS, path, 0o644, write); err != nil {
		return "", s.saveError(path, e.size, err)
	}
	c.Hash = m.Hash
	if err := s.prune(ctx, c.Step); err != nil {
		return path, &PruneError{path, err}
	}
	return path, nil
}

func (s *Store) saveError(path string, need int64, cause error) error {
	free := int64(-1)
	if isFull(cause) {
		if n, err := s.o.FS.Free(s.o.Dir); err == nil { // not knowing it only shortens the message
			free = n
		}
	}
	return &SaveError{path, need, free, cause}
}

// prune removes the oldest checkpoints below the one just saved. That one stays whatever happens, and nothing goes before it has been
// read back and verifies: so the folder never loses its only good checkpoint. Files of later steps, which a run that went back to an
// older checkpoint has passed over, are left until the run reaches their steps.
func (s *Store) prune(ctx context.Context, saved uint64) error {
	entries, err := s.List()
	if err != nil {
		return err
	}
	older := slices.DeleteFunc(entries, func(e Entry) bool { return e.Step >= saved })
	if len(older) < s.o.Keep {
		return nil
	}
	if _, err := s.Verify(ctx, filepath.Join(s.o.Dir, FileName(saved))); err != nil {
		return fmt.Errorf("the one just saved does not verify: %w", err)
	}
	for _, e := range older[s.o.Keep-1:] {
		if err := s.o.FS.Remove(e.Path); err != nil {
			return err
		}
	}
	return s.o.FS.SyncDir(s.o.Dir)
}

// Drop removes the checkpoints of all steps after that one.
func (s *Store) Drop(after uint64) error {
	entries, err := s.List()
	if err != nil {
		return err
	}
	gone := slices.DeleteFunc(entries, func(e Entry) bool { return e.Step <= after })
	for _, e := range gone {
		if err := s.o.FS.Remove(e.Path); err != nil {
			return err
		}
	}
	if len(gone) == 0 {
		return nil
	}
	return s.o.FS.SyncDir(s.o.Dir)
}

// Load reads and checks one checkpoint. A damaged one gives a *Damage.
func (s *Store) Load(ctx context.Context, path string) (*Checkpoint, error) {
	return visit(s.o.FS, path, func(f vfs.File, size int64) (*Checkpoint, error) {
		return Read(ctx, f, size, s.o.MaxBytes)
	})
}

// Verify reads and checks one checkpoint, keeping only its manifest. A damaged one gives a *Damage.
func (s *Store) Verify(ctx context.Context, path string) (*Manifest, error) {
	return visit(s.o.FS, path, func(f vfs.File, size int64) (*Manifest, error) {
		return check(ctx, f, size, s.o.MaxBytes)
	})
}

// Manifest reads what a checkpoint says of itself, checking header and manifest but not the tensors: quick, for listings.
func (s *Store) Manifest(path string) (*Manifest, error) {
	return visit(s.o.FS, path, func(f vfs.File, size int64) (*Manifest, error) {
		m, _, err := readHead(f, size, s.o.MaxBytes)
		return m, err
	})
}

// Latest loads the newest checkpoint that verifies. It also gives the damage of every newer one that it passed over, to be shown to
// the user. Without any good one the error wraps ErrNone and lists the damage. A file that cannot be opened, or that a newer program
// wrote, ends the search with its error: going back past it is for the user to decide.
func (s *Store) Latest(ctx context.Context) (*Checkpoint, []Damage, error) {
	entries, err := s.List()
	if err != nil {
		return nil, nil, err
	}
	var skipped []Damage
	for _, e := range entries {
		c, err := s.Load(ctx, e.Path)
		var d *Damage
		switch {
		case err == nil && c.Step != e.Step:
			skipped = append(skipped, Damage{e.Path, "manifest", headerBytes, fmt.Errorf("it holds step %d, its name says %d", c.Step, e.Step)})
		case err == nil:
			return c, skipped, nil
		case errors.Is(err, os.ErrNotExist):
			// pruned since the folder was listed: then there is a newer one, already tried
		case errors.As(err, &d):
			skipped = append(skipped, *d)
		default:
			return nil, skipped, err
		}
	}
	faults := make([]error, len(skipped))
	for i := range skipped {
		faults[i] = &skipped[i]
	}
	if len(faults) == 0 {
		return nil, nil, fmt.Errorf("%w in %s: it holds none", ErrNone, s.o.Dir)
	}
	return nil, skipped, fmt.Errorf("%w in %s: %w", ErrNone, s.o.Dir, errors.Join(faults...))
}

// visit opens a file, hands it to read, and names it in the error.
func visit[T any](fsys vfs.FS, path string, read func(f vfs.File, size int64) (T, error)) (T, error) {
	var zero T
	f, err := fsys.Open(path)
	if err != nil {
		return zero, err // it names the file
	}
	info, err := f.Stat()
	if err != nil {
		return zero, errors.Join(err, f.Close())
	}
	out, err := read(f, info.Size())
	if err := errors.Join(named(path, err), f.Close()); err != nil {
		return zero, err
	}
	return out, nil
}
