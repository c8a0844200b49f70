package packer

import (
	"errors"
	"fmt"
	"slices"

	"github.com/lockstep-ml/lockstep/internal/vfs"
	"github.com/lockstep-ml/lockstep/shard"
	"github.com/lockstep-ml/lockstep/shard/pack"
)

// A Split is one split to pack.
type Split struct {
	Name string // train or val
	Data *shard.Dataset
}

// Config says what to pack, and how.
type Config struct {
	// Splits to pack, in the order of their names.
	Splits []Split
	// Out is the folder that becomes the set. It must be new, empty, or what an interrupted Pack of the same data and options left.
	Out string
	// ShardBytes is the size that shards come close to: exactly below it where images are copied; where they are encoded again it is
	// estimated from some of them.
	ShardBytes int64
	// ShorterSide resizes images whose shorter side is longer to this many pixels, and encodes them as JPEG; 0 leaves sizes alone.
	ShorterSide int
	// Quality of the JPEG encoder, 1 to 100, with chroma at half the resolution (4:2:0). 0 means DefaultQuality for images that are
	// resized. Given without ShorterSide, all images are encoded again.
	Quality int
	// Shuffle puts samples into shards in an order drawn from ShuffleSeed, for readers that go through shards front to end. The set's own
	// order stays that of the source.
	Shuffle     bool
	ShuffleSeed uint64
	// SkipDamaged is how many samples that cannot be decoded may be left out.
	SkipDamaged int
	// Workers is how many shards are written at a time. Each holds one image in memory.
	Workers int
	// FS is where the set is written; nil means the operating system's.
	FS vfs.FS
	// Progress is told of each sample, by one goroutine at a time; nil for nobody.
	Progress func(Progress)
	// Log is told, as Progress is, of what a person should know: a finished shard that was damaged and is made again, a sample left out.
	Log func(string)
}

// DefaultQuality is what resized images are encoded with: the artefacts of 90 are below those that ImageNet's own files have.
const DefaultQuality = 90

// DefaultShardBytes: large enough that a far store's latency is nothing against a shard's transfer, small enough that ImageNet is
// hundreds of shards to share out, and that little is lost with one.
const DefaultShardBytes = 256 << 20

const (
	minShardBytes = 64 << 10
	maxShardBytes = 64 << 30
	maxSide       = 1 << 14
)

// A Progress says how far packing is.
type Progress struct {
	Images, Total int   // samples done, of how many
	Kept          int   // of those, in shards that were finished before
	Bytes         int64 // of images in the shards so far
	LeftOut       int
}

// Validate reports every fault of the configuration at once.
func (c *Config) Validate() error {
	var errs []error
	add := func(bad bool, format string, args ...any) {
		if bad {
			errs = append(errs, fmt.Errorf("pack: "+format, args...))
		}
	}
	add(c.Out == "", "no folder to write to")
	add(c.ShardBytes < minShardBytes || c.ShardBytes > maxShardBytes, "shards of %d bytes: want %d to %d", c.ShardBytes, minShardBytes, int64(maxShardBytes))
	add(c.ShorterSide < 0 || c.ShorterSide > maxSide, "a shorter side of %d pixels: want 0 to %d", c.ShorterSide, maxSide)
	add(c.Quality < 0 || c.Quality > 100, "quality %d: want 1 to 100", c.Quality)
	add(c.SkipDamaged < 0, "%d damaged samples to skip: want 0 or more", c.SkipDamaged)
	add(c.Workers < 1, "%d workers: want at least 1", c.Workers)
	add(len(c.Splits) == 0, "no split to pack")
	for i, s := range c.Splits {
		add(s.Name != "train" && s.Name != "val", "split %q: want train or val", s.Name)
		add(i > 0 && s.Name <= c.Splits[i-1].Name, "split %q behind %q: want them in order", s.Name, c.Splits[max(i, 1)-1].Name)
		add(s.Data.Len() == 0, "split %q is empty", s.Name)
		add(len(s.Data.Classes()) > pack.MaxClasses, "%d classes: %v", len(s.Data.Classes()), pack.ErrTooLarge)
		add(!slices.Equal(s.Data.Classes(), c.Splits[0].Data.Classes()), "the splits have different classes")
	}
	return errors.Join(errs...)
}

// quality is what the encoder gets.
func (c *Config) quality() int {
	if c.Quality == 0 {
		return DefaultQuality
	}
	return c.Quality
}

// copies says whether images go into the set as they are.
func (c *Config) copies(s Split) bool {
	return c.ShorterSide == 0 && c.Quality == 0 && s.Data.Encoding() == shard.EncodedFile
}
