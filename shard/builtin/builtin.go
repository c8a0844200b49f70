package builtin

import (
	"bytes"
	_ "embed"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
)

//go:embed sample.bin
var data []byte

// Data is the embedded container. The caller must not change it.
func Data() []byte { return data }

const (
	magic = "LSJPEG1\n"
	// maxHeader and maxString keep a damaged length from being believed.
	maxHeader = 1 << 16
	maxString = 1 << 10
)

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	// ErrFormat: the bytes are not a container, or are damaged.
	ErrFormat = errors.New("not a JPEG container")
)

// An Image is one image of a container: its JPEG file is Container.Header followed by Scan.
type Image struct {
	Split, Class int    // indices into Container.Splits and Container.Classes
	Number       int    // the file's number in its class folder, as in NNNN.jpg
	Scan         []byte // the entropy-coded data and the end mark
}

// A Container is a set of JPEG files that have every byte up to the scan in common.
type Container struct {
	Header  []byte
	Splits  []string
	Classes []string
	Images  []Image
}

// Name is the image's path as in the archive that it was cut from.
func (c *Container) Name(i int) string {
	m := &c.Images[i]
	return fmt.Sprintf("%s/%s/%04d.jpg", c.Splits[m.Split], c.Classes[m.Class], m.Number)
}

// Encode writes a container in the format that doc.go gives. It panics when a count does not fit its field: the caller is the
// generator, which made the counts.
func Encode(c *Container) []byte {
	b := []byte(magic)
	u16 := func(v int) {
		if v < 0 || v > math.MaxUint16 {
			panic(fmt.Sprintf("builtin: %d does not fit 16 bits", v))
		}
		b = binary.LittleEndian.AppendUint16(b, uint16(v))
	}
	list := func(names []string) {
		u16(len(names))
		for _, n := range names {
			u16(len(n))
			b = append(b, n...)
		}
	}
	u16(len(c.Header))
	b = append(b, c.Header...)
	list(c.Splits)
	list(c.Classes)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(c.Images)))
	for _, m := range c.Images {
		b = append(b, byte(m.Split), byte(m.Class))
		u16(m.Number)
		u16(len(m.Scan))
	}
	for _, m := range c.Images {
		b = append(b, m.Scan...)
	}
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// Decode reads a container. The images' scans are slices of b. Errors match ErrFormat.
func Decode(b []byte) (*Container, error) {
	if len(b) < len(magic)+4 || !bytes.HasPrefix(b, []byte(magic)) {
		return nil, fmt.Errorf("%w: magic missing", ErrFormat)
	}
	body, sum := b[:len(b)-4], binary.LittleEndian.Uint32(b[len(b)-4:])
	if got := crc32.Checksum(body, castagnoli); got != sum {
		return nil, fmt.Errorf("%w: checksum %08x, want %08x", ErrFormat, got, sum)
	}
	r := &reader{b: body, at: len(magic)}
	c := &Container{Header: r.take(r.u16(maxHeader)), Splits: r.list(), Classes: r.list()}
	n := int(r.u32())
	if r.err == nil && n > (len(body)-r.at)/6 {
		r.fail("%d images in %d bytes", n, len(body)-r.at)
	}
	if r.err != nil {
		return nil, r.err
	}
	if err := r.images(c, n); err != nil {
		return nil, err
	}
	return c, nil
}

// images reads the table of images and then their scans, up to the end.
func (r *reader) images(c *Container, n int) error {
	c.Images = make([]Image, n)
	size := make([]int, n)
	for i := range c.Images {
		p := r.take(2)
		m := &c.Images[i]
		m.Number, size[i] = r.u16(math.MaxUint16), r.u16(math.MaxUint16)
		if r.err != nil {
			return r.err
		}
		m.Split, m.Class = int(p[0]), int(p[1])
		if m.Split >= len(c.Splits) || m.Class >= len(c.Classes) {
			r.fail("image %d has split %d, class %d", i, m.Split, m.Class)
			return r.err
		}
	}
	for i := range c.Images {
		c.Images[i].Scan = r.take(size[i])
	}
	if r.err == nil && r.at != len(r.b) {
		r.fail("%d bytes left over", len(r.b)-r.at)
	}
	return r.err
}

// A reader walks the container; after the first fault it returns zeros.
type reader struct {
	b   []byte
	at  int
	err error
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: byte %d: %s", ErrFormat, r.at, fmt.Sprintf(format, args...))
	}
}

func (r *reader) take(n int) []byte {
	if r.err == nil && n > len(r.b)-r.at {
		r.fail("%d bytes wanted, %d left", n, len(r.b)-r.at)
	}
	if r.err != nil {
		return nil
	}
	p := r.b[r.at : r.at+n : r.at+n]
	r.at += n
	return p
}

func (r *reader) u16(limit int) int {
	p := r.take(2)
	if p == nil {
		return 0
	}
	v := int(binary.LittleEndian.Uint16(p))
	if v > limit {
		r.fail("length %d over the bound %d", v, limit)
		return 0
	}
	return v
}

func (r *reader) u32() uint32 {
	p := r.take(4)
	if p == nil {
		return 0
	}
	return binary.LittleEndian.Uint32(p)
}

func (r *reader) list() []string {
	n := r.u16(256)
	var out []string
	for range n {
		s := r.take(r.u16(maxString))
		if r.err != nil {
			return nil
		}
		out = append(out, string(s))
	}
	return out
}
