package shard

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"sync"

	"github.com/lockstep-ml/lockstep/shard/raster"
)

const (
	// DefaultMaxMemory holds all of CIFAR and a 100-class subset of ImageNet; a full ImageNet .tar.gz (140 GB) must fail early and
	// with advice, not be killed by the system hours later.
	DefaultMaxMemory = 4 << 30
	// maxImageBytes bounds one image's file. ImageNet's largest is 15 MB.
	maxImageBytes = 64 << 20
)

// Builtin is the Path of the sample that is embedded in the binary.
const Builtin = "builtin"

// Options says what to open.
type Options struct {
	// Path is a folder, a .tar, a .tar.gz or Builtin. What it is is found by content, not by name.
	Path string
	// Split is "train", "test", "val" or "all"; empty means "train". Where just one of test and val exists it serves both names.
	// A set without split folders serves "train" and "all".
	Split string
	// SkipDamaged replaces an image that cannot be decoded by the next good one (index+1, wrapping), and lists it in Damaged.
	SkipDamaged bool
	// MaxMemory bounds, in bytes, what an archive that must be held in memory (.tar.gz) may take; 0 means DefaultMaxMemory.
	MaxMemory int64
}

// Validate reports every fault of the options at once.
func (o Options) Validate() error {
	var errs []error
	if o.Path == "" {
		errs = append(errs, fmt.Errorf("data path is empty: %s", accepted))
	}
	if !slices.Contains([]string{"", "train", "test", "val", "all"}, o.Split) {
		errs = append(errs, fmt.Errorf("split %q is unknown: want train, test, val or all", o.Split))
	}
	if o.MaxMemory < 0 {
		errs = append(errs, fmt.Errorf("memory bound of %d bytes is negative", o.MaxMemory))
	}
	return errors.Join(errs...)
}

// Encoding says what the bytes of a sample are.
type Encoding uint8

const (
	// EncodedFile is a whole JPEG or PNG file, told apart by content.
	EncodedFile Encoding = iota
	// RawPlanar32 is 3*32*32 bytes, the red, green and blue planes of a 32x32 image (the CIFAR binary format).
	RawPlanar32
)

// A sample is one labelled image: where its bytes are, and what it is called.
type sample struct {
	name   string
	size   int64
	offset int64 // in its store
	file   int32 // which file of the store
	label  int32
	crc    uint32 // CRC-32C of the bytes; 0 unless the data set is hashed
}

// A store hands out the bytes of samples. Reads may run concurrently.
type store interface {
	// read returns the sample's bytes, in buf when it has to copy them (growing it if needed), else in memory of the store, which
	// the caller must not change.
	read(s *sample, buf []byte) ([]byte, error)
	io.Closer
}

// Dataset is one split of a data set, in a fixed order that depends on its content alone: by class name, then file name
// (torchvision's ImageFolder rule); CIFAR binary files in the order of their records. Safe for concurrent use.
type Dataset struct {
	path        string
	split       string
	classes     []string
	samples     []sample
	encoding    Encoding
	hashed      bool
	contents    string // fingerprint of all that is in it, where the set brings one
	skipDamaged bool
	store       store
	copies      bool // store.read copies into the buffer it is given

	mu      sync.Mutex
	damaged map[int]struct{}
	closed  bool
}

// Open finds out what is at o.Path and indexes the wanted split. It reads an archive to its end once, so a cut or damaged one is
// found here (*TruncatedError) and not at step 10,000. Errors match ErrNoData, ErrFormat, ErrNoImages, ErrNoSplit or ErrTooLarge.
func Open(ctx context.Context, o Options) (*Dataset, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	if o.Split == "" {
		o.Split = "train"
	}
	if o.MaxMemory == 0 {
		o.MaxMemory = DefaultMaxMemory
	}
	ds, err := openSplit(ctx, o, true)
	if errors.Is(err, errLeftOut) {
		ds, err = openSplit(ctx, o, false)
	}
	return ds, err
}

// errLeftOut: the guess from names alone, which members the split cannot need, was wrong.
var errLeftOut = errors.New("the split needs a member that was left out")

// openSplit opens the data, and with guess leaves out of memory what by its name belongs to another split.
func openSplit(ctx context.Context, o Options, guess bool) (*Dataset, error) {
	tree, err := openTree(ctx, o, guess)
	if err != nil {
		return nil, err
	}
	ds, err := tree.dataset(ctx, o)
	if err != nil {
		return nil, errors.Join(err, tree.store.Close())
	}
	ds.path, ds.split, ds.skipDamaged, ds.store = o.Path, o.Split, o.SkipDamaged, tree.store
	_, inMemory := tree.store.(*memStore)
	ds.copies, ds.damaged = !inMemory, map[int]struct{}{}
	return ds, nil
}

func openTree(ctx context.Context, o Options, guess bool) (*tree, error) {
	if o.Path == Builtin {
		return openBuiltin()
	}
	info, err := os.Stat(o.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w: %s", o.Path, ErrNoData, accepted)
	}
	if err != nil {
		return nil, fmt.Errorf("open data: %w", err)
	}
	if info.IsDir() {
		if t, err := openPacked(ctx, o); t != nil || err != nil {
			return t, err
		}
		return openFolder(ctx, o.Path)
	}
	return openArchive(ctx, o, guess)
}

// Len is the number of images.
func (d *Dataset) Len() int { return len(d.samples) }

// Classes lists the class names; a label is an index into it. The caller must not change it.
func (d *Dataset) Classes() []string { return d.classes }

// Label is the class of image i.
func (d *Dataset) Label(i int) int { return int(d.samples[i].label) }

// Name is the path of image i inside the folder or archive.
func (d *Dataset) Name(i int) string { return d.samples[i].name }

// Encoding says what Read returns.
func (d *Dataset) Encoding() Encoding { return d.encoding }

// Split is the split that was asked for.
func (d *Dataset) Split() string { return d.split }

// Read returns the stored bytes of image i. It uses buf when the bytes have to be copied, and else returns memory of the data set,
// which must not be changed. It may run concurrently, with a buf for each caller.
func (d *Dataset) Read(i int, buf []byte) ([]byte, error) {
	b, err := d.store.read(&d.samples[i], buf)
	if err != nil {
		return nil, fmt.Errorf("%s: read %s: %w", d.path, d.samples[i].name, err)
	}
	return b, nil
}

// Load decodes image i into dst. An image that cannot be decoded is a *DamagedError; another error is one of reading. It may run
// concurrently, with a Decoder and an Image for each caller.
func (d *Dataset) Load(dec *Decoder, dst *raster.Image, i int) error {
	b, err := d.store.read(&d.samples[i], dec.buf)
	if err != nil {
		return fmt.Errorf("%s: read %s: %w", d.path, d.samples[i].name, err)
	}
	if d.copies {
		dec.buf = b
	}
	if err := dec.Decode(dst, b, d.encoding); err != nil {
		return &DamagedError{Archive: d.path, Member: d.samples[i].name, Err: err}
	}
	return nil
}

// Fingerprint is the hex SHA-256 of split, classes and every sample's name, size and label, and of the CRC-32C of its bytes where
// opening had to read them anyway (.tar.gz, CIFAR binary, builtin). Two machines that open the same file see the same fingerprint;
// a .tar and the .tar.gz of it do not. A packed set brings its own, of classes, names, labels and contents.
func (d *Dataset) Fingerprint() string {
	if d.contents != "" {
		return d.contents
	}
	h := sha256.New()
	var num [8]byte
	u64 := func(v uint64) {
		binary.LittleEndian.PutUint64(num[:], v)
		h.Write(num[:])
	}
	str := func(s string) {
		u64(uint64(len(s)))
		io.WriteString(h, s) // a hash never fails to write
	}
	str("lockstep data set 1")
	str(canonicalSplit(d.split))
	u64(uint64(d.encoding))
	u64(uint64(len(d.classes)))
	for _, c := range d.classes {
		str(c)
	}
	u64(uint64(len(d.samples)))
	for i := range d.samples {
		s := &d.samples[i]
		str(s.name)
		u64(uint64(s.size))
		u64(uint64(s.label))
		if d.hashed {
			u64(uint64(s.crc))
		}
	}
	return hex.EncodeToString(h.Sum(nil))
}

// canonicalSplit gives test and val one name, since either may be asked for where one exists.
func canonicalSplit(split string) string {
	if split == "val" {
		return "test"
	}
	return split
}

// Damaged lists, sorted by index, the images that could not be decoded so far and were replaced.
func (d *Dataset) Damaged() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	idx := make([]int, 0, len(d.damaged))
	for i := range d.damaged {
		idx = append(idx, i)
	}
	slices.Sort(idx)
	names := make([]string, len(idx))
	for k, i := range idx {
		names[k] = d.samples[i].name
	}
	return names
}

func (d *Dataset) markDamaged(i int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.damaged[i] = struct{}{}
}

// Close frees the files. It may be called twice; no Read may be running or follow.
func (d *Dataset) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	d.closed = true
	return d.store.Close()
}
