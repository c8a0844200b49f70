package torch

import (
	"errors"
	"fmt"
	"io"

	"github.com/lockstep-ml/lockstep/checkpoint"
	"github.com/lockstep-ml/lockstep/internal/vfs"
)

// ErrTorch is wrapped by every error about bytes that are not a sound file of tensors by torch.save.
var ErrTorch = errors.New("bad PyTorch file")

const (
	maxRank   = 8       // of a tensor; convolutions have 4
	maxValues = 1 << 40 // of a storage
)

// places says where in the file storages lie.
type places interface {
	// locate gives the offset of a storage's bytes, once they are known to be all there and as they were written.
	locate(s *storage) (int64, error)
}

// Is says whether a file that begins with these bytes (12 or more, unless it is shorter) may be one that torch.save wrote.
func Is(head []byte) bool { return isZip(head) || isLegacy(head) }

// Read reads the tensors of a state dict from a file of size bytes, in its order, with the names that it has there. Where the file
// holds other things beside the state dict, it is looked for under the keys that are customary. Floats of any width become float32,
// and integers of 64 bits int64; tensors of other types come without values. maxBytes bounds the memory that the values take.
func Read(r io.ReaderAt, size, maxBytes int64) ([]checkpoint.Array, error) {
	arrays, err := read(r, size, maxBytes)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrTorch, err)
	}
	return arrays, nil
}

func read(r io.ReaderAt, size, maxBytes int64) ([]checkpoint.Array, error) {
	head := make([]byte, min(size, int64(len(legacyHead))))
	if _, err := r.ReadAt(head, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	var root any
	var at places
	var err error
	switch {
	case isZip(head):
		root, at, err = openArchive(r, size)
	case isLegacy(head):
		root, at, err = openStream(r, size)
	default:
		return nil, fmt.Errorf("it begins with % x, neither as a zip archive nor as a pickle: %s", head, advice)
	}
	if err != nil {
		return nil, err
	}
	named, err := stateDict(root)
	if err != nil {
		return nil, err
	}
	return values(r, at, named, maxBytes)
}

// Load reads a file as Read does, and names it in errors.
func Load(fsys vfs.FS, path string, maxBytes int64) (arrays []checkpoint.Array, err error) {
	f, err := fsys.Open(path)
	if err != nil {
		return nil, err // it names the file
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if arrays, err = Read(f, info.Size(), maxBytes); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return arrays, nil
}
