package checkpoint

import (
	"errors"
	"fmt"
	"io/fs"
)

var (
	// ErrDamaged is wrapped by the error of every file that is not what its writer wrote.
	ErrDamaged = errors.New("damaged checkpoint")
	// ErrVersion is wrapped when a file is of a format version that this program does not read.
	ErrVersion = errors.New("unknown format version")
	// ErrNone is wrapped by Latest when a folder has no checkpoint that verifies.
	ErrNone = errors.New("no usable checkpoint")
)

// Damage says which file is damaged, and where. It wraps ErrDamaged and the cause.
type Damage struct {
	Path   string
	Place  string // "header", "manifest", "checksum of the file", or the tensor
	Offset int64  // of that place in the file, in bytes
	Err    error
}

// Error names file, place and cause.
func (d *Damage) Error() string {
	return fmt.Sprintf("%s: damaged at %s (byte %d): %v", d.Path, d.Place, d.Offset, d.Err)
}

// Unwrap gives ErrDamaged and the cause.
func (d *Damage) Unwrap() []error { return []error{ErrDamaged, d.Err} }

// damage is a Damage whose file's name is not known yet.
type damage struct {
	place  string
	offset int64
	err    error
}

func (d *damage) Error() string { return fmt.Sprintf("%s (byte %d): %v", d.place, d.offset, d.err) }

func (d *damage) Unwrap() error { return d.err }

// named gives err with the file's name: a damage becomes a Damage, but a file of another format version is not damaged.
func named(path string, err error) error {
	var d *damage
	if errors.As(err, &d) && !errors.Is(err, ErrVersion) {
		return &Damage{Path: path, Place: d.place, Offset: d.offset, Err: d.err}
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}

// SaveError says why a checkpoint was not written. What was in the folder before is untouched.
type SaveError struct {
	Path string // the file that was to be
	Need int64  // bytes it takes
	Free int64  // bytes free on its file system after the failure, -1 if that is not known
	Err  error
}

// Error names the file, what it needs, and what to do.
func (e *SaveError) Error() string {
	cause := e.Err
	var op *fs.PathError
	if isFull(cause) && errors.As(cause, &op) {
		cause = op.Err // the path of a temporary file says nothing here
	}
	text := fmt.Sprintf("checkpoint %s not saved: %v", e.Path, cause)
	if isFull(e.Err) {
		text += fmt.Sprintf(": it needs %d bytes", e.Need)
		if e.Free >= 0 {
			text += fmt.Sprintf(", %d are free", e.Free)
		}
		text += "; free some space, keep fewer checkpoints, or choose a folder on another disk"
	}
	return text + " (older checkpoints are untouched)"
}

// Unwrap gives the cause.
func (e *SaveError) Unwrap() error { return e.Err }

// PruneError says that a checkpoint was saved, but old ones that should have gone stay.
type PruneError struct {
	Saved string // the file that was saved
	Err   error
}

// Error names the file saved and what could not be done.
func (e *PruneError) Error() string {
	return fmt.Sprintf("checkpoint %s is saved, but older ones could not be removed: %v", e.Saved, e.Err)
}

// Unwrap gives the cause.
func (e *PruneError) Unwrap() error { return e.Err }
