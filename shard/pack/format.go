package pack

import (
	"errors"
	"fmt"
)

const (
	// IndexName is the set's index, at the root of the set: what tells that a folder is one. It is written last.
	IndexName = "lockstep.index"
	// shardIndexName is the last member of each shard. It has no dot, so that to WebDataset it belongs to no sample, and the underscores
	// by which WebDataset marks what is not data.
	shardIndexName = "__lockstep_index__"

	magic       = "LSPACK\r\n" // a transfer that rewrites line ends spoils it at once
	footerMagic = "LSPKEND\n"
	version     = 1
	frameBytes  = 32
	footerBytes = 16
	// restartEvery is the distance of names that are written out whole: finding a name reads this many at most.
	restartEvery = 16
)

// The kinds of index.
const (
	kindShard = 1
	kindSet   = 2
)

// Bounds on what an index may claim. They are far above ImageNet's 1,281,167 images, 1,000 classes and 15 MB for the largest file.
const (
	// MaxImageBytes bounds one image's file.
	MaxImageBytes = 64 << 20
	// MaxShardBytes bounds a shard, so that an offset in blocks fits 32 bits.
	MaxShardBytes = 1 << 40
	// MaxClasses bounds the classes of a set: a label fits 16 bits.
	MaxClasses = 1 << 16

	maxIndexBytes  = 1 << 30
	maxShards      = 1 << 20
	maxName        = 4096
	maxClassName   = 1024
	maxRecipe      = 1 << 16
	maxReason      = 1024
	minSampleBytes = 14 // an entry's least: ten varints of a byte and the checksum
)

// Sentinels for errors.Is.
var (
	// ErrFormat: the bytes are not an index, or are damaged.
	ErrFormat = errors.New("not a good index of packed data")
	// ErrVersion: an index of a later format.
	ErrVersion = errors.New("the packed data are of another version of the format")
	// ErrTooLarge: a bound would be passed.
	ErrTooLarge = errors.New("too large for packed data")
)

// ImageKind says what an image's bytes are.
type ImageKind uint8

// The kinds of image, as they are numbered in the index.
const (
	JPEG ImageKind = iota
	PNG
	imageKinds
)

// extension is what the members' names end in.
func (k ImageKind) extension() string { return [imageKinds]string{"jpg", "png"}[k] }

// An Entry is a sample: where its image lies, and what it is.
type Entry struct {
	Ordinal int    // its number in the split it was packed from; it names the members: OOOOOOOOO.jpg and OOOOOOOOO.cls
	Shard   int    // number of the shard
	Offset  int64  // of the image's first byte in the shard; a multiple of 512
	Size    int64  // bytes of the image
	Label   int    // index into the classes
	W, H    int    // pixels
	CRC     uint32 // CRC-32C of the image's bytes
	Kind    ImageKind
	Name    string // its name in the source
}

// A LeftOut is a sample of the source that was damaged and is not in the set.
type LeftOut struct {
	Ordinal int
	Shard   int
	Name    string
	Reason  string
}

// ShardName is the path of a shard below the root of its set, with slashes.
func ShardName(split string, number int) string {
	return fmt.Sprintf("%s/%s-%06d.tar", split, split, number)
}

// A ChecksumError tells of a sample whose bytes are not those that were packed.
type ChecksumError struct {
	Shard     string // the shard's location
	Sample    string // the sample's name in the source
	Offset    int64  // of its image in the shard
	Size      int64
	Got, Want uint32 // CRC-32C
}

func (e *ChecksumError) Error() string {
	return fmt.Sprintf("%s: %s, bytes %d to %d: CRC-32C is %08x, want %08x: the shard is damaged; `lockstep data verify` lists all damage; copy the shard again, or pack it again",
		e.Shard, e.Sample, e.Offset, e.Offset+e.Size, e.Got, e.Want)
}
