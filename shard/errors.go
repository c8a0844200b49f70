package shard

import (
	"errors"
	"fmt"

	"github.com/lockstep-ml/lockstep/shard/raster"
)

// Sentinels for errors.Is. The errors that carry them name the path and say what to do.
var (
	// ErrNoData: there is nothing at the path.
	ErrNoData = errors.New("no such data")
	// ErrFormat: what is at the path is neither a folder of images nor an archive this package reads.
	ErrFormat = errors.New("not a data set")
	// ErrNoImages: the folder or archive was read to its end and holds no image in a class folder.
	ErrNoImages = errors.New("no images")
	// ErrNoSplit: the data set holds no such split.
	ErrNoSplit = errors.New("no such split")
	// ErrTooLarge: a bound on memory, bytes or pixels would be passed.
	ErrTooLarge = raster.ErrTooLarge
	// ErrClosed: the Dataset, Loader or Eval was closed, or its Run has ended.
	ErrClosed = errors.New("closed")
)

const accepted = "accepted are a folder, a .tar, .tar.gz or .tar.zst, holding train/CLASS/*.jpg (ImageFolder) or the CIFAR binary files; WebDataset shards " +
	"(shard-{000..146}.tar, or their folder); a folder with ILSVRC2012_img_train.tar; each also as a URL (https, s3, gs); and the word builtin"

// A TruncatedError tells of an archive that ends too early, or whose compressed stream breaks off.
type TruncatedError struct {
	File   string // the archive
	Offset int64  // bytes of the archive (after decompression, for a .tar.gz) that could be read
	Err    error  // what the reader met there
}

func (e *TruncatedError) Error() string {
	return fmt.Sprintf("%s: archive is cut short or damaged at byte %d: %v; copy or download it again (`tar tf` should list it to the end)", e.File, e.Offset, e.Err)
}

func (e *TruncatedError) Unwrap() error { return e.Err }

// A DamagedError tells of one image that cannot be decoded.
type DamagedError struct {
	Archive string // the data set's path
	Member  string // the image's name inside it
	Offset  int64  // of its first byte in its file
	Err     error
}

func (e *DamagedError) Error() string {
	return fmt.Sprintf("%s: damaged image %s (at byte %d): %v; replace it, or let the run go on without it with --skip-damaged", e.Archive, e.Member, e.Offset, e.Err)
}

func (e *DamagedError) Unwrap() error { return e.Err }
