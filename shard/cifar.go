package shard

import (
	"context"
	"fmt"
	"hash/crc32"
	"path"
	"slices"
	"strings"

	"github.com/lockstep-ml/lockstep/shard/raster"
)

const (
	cifarPixels = 3 * 32 * 32
	// cifarMaxRecords bounds one file's records: the real ones have 10,000 or 50,000.
	cifarMaxRecords = 1 << 20
	// maxMemberBytes is the most that is read whole while a data set is opened: a batch of that many records of CIFAR-100.
	maxMemberBytes = cifarMaxRecords * (2 + cifarPixels)
)

// A cifarKind is one of the two binary formats of https://www.cs.toronto.edu/~kriz/cifar.html. A record is labels bytes of labels,
// the last of which counts, then the red, green and blue planes of 1024 bytes.
type cifarKind struct {
	name   string
	labels int
	train  []string
	test   []string
	meta   string // one class name a line
}

var cifarKinds = []*cifarKind{
	{"CIFAR-10", 1, []string{"data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"},
		[]string{"test_batch.bin"}, "batches.meta.txt"},
	{"CIFAR-100", 2, []string{"train.bin"}, []string{"test.bin"}, "fine_label_names.txt"},
}

func isCIFARFile(base string) bool {
	return slices.ContainsFunc(cifarKinds, func(k *cifarKind) bool {
		return base == k.meta || slices.Contains(k.train, base) || slices.Contains(k.test, base)
	})
}

// cifarKind recognises a CIFAR binary set by its class list together with at least one batch beside it.
func (t *tree) cifarKind() *cifarKind {
	for _, k := range cifarKinds {
		meta := t.find(func(m *member) bool { return path.Base(m.name) == k.meta })
		if meta == nil {
			continue
		}
		dir := path.Dir(meta.name)
		for _, f := range slices.Concat(k.train, k.test) {
			if t.find(func(m *member) bool { return m.name == path.Join(dir, f) }) != nil {
				return k
			}
		}
	}
	return nil
}

func (t *tree) find(is func(*member) bool) *member {
	for i := range t.members {
		if is(&t.members[i]) {
			return &t.members[i]
		}
	}
	return nil
}

// cifar reads the wanted batches once, for the labels and the checksums of the records; the pixels stay where they are.
func (t *tree) cifar(ctx context.Context, k *cifarKind, split string) (*Dataset, error) {
	meta := t.find(func(m *member) bool { return path.Base(m.name) == k.meta })
	classes, err := t.cifarClasses(ctx, k, meta)
	if err != nil {
		return nil, err
	}
	files := map[string][]string{"train": k.train, "test": k.test, "val": k.test, "all": slices.Concat(k.train, k.test)}[split]
	ds := &Dataset{classes: classes, encoding: RawPlanar32, hashed: true}
	for _, f := range files {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		name := path.Join(path.Dir(meta.name), f)
		m := t.find(func(m *member) bool { return m.name == name })
		if m == nil {
			return nil, fmt.Errorf("%s: %w %q: %s set has no %s; download it again", t.what, ErrNoSplit, split, k.name, name)
		}
		if err := t.cifarBatch(ctx, ds, k, m); err != nil {
			return nil, err
		}
	}
	if len(ds.samples) == 0 {
		return nil, fmt.Errorf("%s: %w: the %s files of split %q are empty", t.what, ErrNoImages, k.name, split)
	}
	return ds, nil
}

func (t *tree) cifarClasses(ctx context.Context, k *cifarKind, meta *member) ([]string, error) {
	if meta.size > 1<<16 {
		return nil, fmt.Errorf("%s: %s has %d bytes: %w for a list of classes", t.what, meta.name, meta.size, ErrTooLarge)
	}
	b, err := t.readMember(ctx, meta)
	if err != nil {
		return nil, err
	}
	classes := strings.Fields(string(b))
	if len(classes) == 0 || len(classes) > 256 {
		return nil, fmt.Errorf("%s: %w: %s lists %d classes, a %s set has 1 to 256", t.what, ErrFormat, meta.name, len(classes), k.name)
	}
	return classes, nil
}

func (t *tree) cifarBatch(ctx context.Context, ds *Dataset, k *cifarKind, m *member) error {
	record := int64(k.labels + cifarPixels)
	if m.size%record != 0 {
		return &TruncatedError{File: t.what, Offset: m.size, Err: fmt.Errorf("%s has %d bytes, not a multiple of the %d of a record", m.name, m.size, record)}
	}
	if m.size/record > cifarMaxRecords {
		return fmt.Errorf("%s: %s has %d records: %w, at most %d", t.what, m.name, m.size/record, ErrTooLarge, cifarMaxRecords)
	}
	b, err := t.readMember(ctx, m)
	if err != nil {
		return err
	}
	for i := int64(0); i < m.size/record; i++ {
		label := b[i*record+int64(k.labels)-1]
		if int(label) >= len(ds.classes) {
			return fmt.Errorf("%s: %w: record %d of %s (byte %d) has label %d of %d classes; download it again",
				t.what, ErrFormat, i, m.name, i*record, label, len(ds.classes))
		}
		start := i*record + int64(k.labels)
		err := ds.add(fmt.Sprintf("%s#%05d", m.name, i), sample{size: cifarPixels, offset: m.offset + start, file: m.file, label: int32(label),
			crc: crc32.Checksum(b[start:start+cifarPixels], castagnoli)})
		if err != nil {
			return err
		}
	}
	return nil
}

func (t *tree) readMember(ctx context.Context, m *member) ([]byte, error) {
	if m.leftOut {
		return nil, errLeftOut
	}
	if m.size > maxMemberBytes {
		return nil, fmt.Errorf("%s: %s has %d bytes: %w, want at most %d", t.nameOf(m), m.name, m.size, ErrTooLarge, maxMemberBytes)
	}
	var one index
	if err := one.add(m.name, sample{size: uint32(m.size), offset: m.offset, file: m.file}); err != nil {
		return nil, err
	}
	b, err := t.store.read(ctx, &one, 0, nil)
	if err != nil {
		return nil, fmt.Errorf("%s: read %s: %w", t.nameOf(m), m.name, err)
	}
	return b, nil
}

// planarToRGB interleaves the three 1024-byte planes of a record.
func planarToRGB(src []byte, dst *raster.Image) error {
	if len(src) != cifarPixels {
		return fmt.Errorf("record has %d bytes, want %d", len(src), cifarPixels)
	}
	dst.Resize(32, 32)
	r, g, b := src[:1024], src[1024:2048], src[2048:3072]
	for i := range r {
		p := dst.Pix[3*i : 3*i+3 : 3*i+3]
		p[0], p[1], p[2] = r[i], g[i], b[i]
	}
	return nil
}
