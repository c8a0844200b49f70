package shard

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/lockstep-ml/lockstep/shard/raster"
	"github.com/lockstep-ml/lockstep/shard/source"
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
	// Path is a folder, an archive, a pattern of shards (shard-{000..146}.tar) or Builtin; all but the last may be a URL. What it is is
	// found by content, not by name.
	Path string
	// ValPath is where the test split lies, where it is not in Path: "test" and "val" then mean the training split of what is there.
	ValPath string
	// Split is "train", "test", "val" or "all"; empty means "train". Where just one of test and val exists it serves both names.
	// A set without split folders serves "train" and "all".
	Split string
	// ClassNames are the classes that labels number, in their order; nil means those that the set has. A test split opened by itself
	// needs those of train where it lacks some.
	ClassNames []string
	// SkipDamaged replaces an image that cannot be decoded by the next good one (index+1, wrapping), and lists it in Damaged.
	SkipDamaged bool
	// MaxMemory bounds, in bytes, what an archive that must be held in memory (.tar.gz, .tar.zst) may take; 0 means DefaultMaxMemory.
	MaxMemory int64
	// Source says how files are read, and cached.
	Source source.Options

	opener *source.Opener // of this set, while it is open
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
	errs = append(errs, o.Source.Validate())
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

// Dataset is one split of a data set, in a fixed order that depends on its content alone: by class name, then file name
// (torchvision's ImageFolder rule); CIFAR binary files in the order of their records, WebDatasets in that of shards and then of files.
// Safe for concurrent use.
type Dataset struct {
	index
	path        string
	split       string
	classes     []string
	encoding    Encoding
	hashed      bool
	contents    string // fingerprint of all that is in it, where the set brings one
	skipDamaged bool
	store       store
	opener      *source.Opener
	copies      bool // store.read copies into the buffer it is given

	mu      sync.Mutex
	damaged map[int]struct{}
	closed  bool
}

// Open finds out what is at o.Path and indexes the wanted split. It goes through an archive to its end once, so a cut or damaged one is
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
	if o.ValPath != "" && canonicalSplit(o.Split) == "test" {
		return openValPath(ctx, o)
	}
	opener, err := source.NewOpener(o.Source)
	if err != nil {
		return nil, err
	}
	o.opener = opener
	ds, err := openSplit(ctx, o, true)
	if errors.Is(err, errLeftOut) {
		ds, err = openSplit(ctx, o, false)
	}
	if err != nil {
		return nil, errors.Join(err, opener.Close())
	}
	return ds, nil
}

// openValPath opens the place of the test split, with the labels of train's classes.
func openValPath(ctx context.Context, o Options) (*Dataset, error) {
	wanted := o.Split
	if o.ClassNames == nil {
		train := o
		train.Split, train.ValPath = "train", ""
		ds, err := Open(ctx, train)
		if err != nil {
			return nil, err
		}
		o.ClassNames = ds.Classes()
		if err := ds.Close(); err != nil {
			return nil, err
		}
	}
	o.Path, o.ValPath = o.ValPath, ""
	ds, err := Open(ctx, o)
	if errors.Is(err, ErrNoSplit) { // it holds nothing else
		o.Split = "train"
		ds, err = Open(ctx, o)
	}
	if err == nil {
		ds.split = wanted
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
	ds.done()
	ds.path, ds.split, ds.skipDamaged, ds.store, ds.opener = source.Clean(o.Path), o.Split, o.SkipDamaged, tree.store, o.opener
	_, inMemory := tree.store.(*memStore)
	ds.copies, ds.damaged = !inMemory, map[int]struct{}{}
	return ds, nil
}

func openTree(ctx context.Context, o Options, guess bool) (*tree, error) {
	if o.Path == Builtin {
		return openBuiltin()
	}
	if IsSynthetic(o.Path) {
		return openSynthetic(o.Path)
	}
	if source.HasPattern(o.Path) && !exists(o.Path) {
		return openPattern(ctx, o)
	}
	return openPath(ctx, o, guess)
}

// exists says whether there is something on this machine, a folder with braces in its name, say.
func exists(location string) bool {
	_, err := os.Stat(location)
	return err == nil
}

// isFolder says whether a location is a folder of this machine.
func isFolder(location string) bool {
	info, err := os.Stat(strings.TrimPrefix(location, "file://"))
	return err == nil && info.IsDir()
}

// Len is the number of images.
func (d *Dataset) Len() int { return len(d.samples) }

// Classes lists the class names; a label is an index into it. The caller must not change it.
func (d *Dataset) Classes() []string { return d.classes }

// Label is the class of image i.
func (d *Dataset) Label(i int) int { return int(d.samples[i].label) }

// Name is the path of image i inside the folder or archive.
func (d *Dataset) Name(i int) string { return d.name(i) }

// Encoding says what Read returns.
func (d *Dataset) Encoding() Encoding { return d.encoding }

// Split is the split that was asked for.
func (d *Dataset) Split() string { return d.split }

// Read returns the stored bytes of image i. It uses buf when the bytes have to be copied, and else returns memory of the data set,
// which must not be changed. It may run concurrently, with a buf for each caller.
func (d *Dataset) Read(ctx context.Context, i int, buf []byte) ([]byte, error) {
	b, err := d.store.read(ctx, &d.index, i, buf)
	if err != nil {
		return nil, fmt.Errorf("%s: read %s: %w", d.path, d.name(i), err)
	}
	return b, nil
}

// Load decodes image i into dst. An image that cannot be decoded is a *DamagedError; another error is one of reading. It may run
// concurrently, with a Decoder and an Image for each caller.
func (d *Dataset) Load(ctx context.Context, dec *Decoder, dst *raster.Image, i int) error {
	b, err := d.store.read(ctx, &d.index, i, dec.buf)
	if err != nil {
		return fmt.Errorf("%s: read %s: %w", d.path, d.name(i), err)
	}
	if d.copies {
		dec.buf = b
	}
	return d.decode(dec, dst, b, i)
}

// decode decodes the bytes of image i.
func (d *Dataset) decode(dec *Decoder, dst *raster.Image, b []byte, i int) error {
	if err := dec.Decode(dst, b, d.encoding); err != nil {
		return &DamagedError{Archive: d.path, Member: d.name(i), Offset: d.samples[i].offset, Err: err}
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
		str(d.name(i))
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
		names[k] = d.name(i)
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
	return errors.Join(d.store.Close(), d.opener.Close())
}
