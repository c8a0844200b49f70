package jpeg

import (
	"bytes"
	"errors"
	"fmt"
	"image/jpeg"

	"github.com/lockstep-ml/lockstep/shard/raster"
)

// A Decoder turns JPEG files into RGB images. It keeps scratch memory, so each goroutine needs its own. The zero value is ready.
//
// What it keeps is as large as the largest file so far, and 128 bytes for each block of 8 x 8 samples of the largest progressive image: up
// to 6 bytes a pixel (8 with four inks), so 600 MiB (800) at raster.MaxPixels. Before it takes any of that it sees that the file is
// long enough to hold an image of the size that it claims, a bit for each block at least.
type Decoder struct {
	frame
	quant     [4][64]uint16 // in natural order
	hasQuant  [4]bool
	huff      [2][4]huffman // DC, AC
	latched   [maxComponents][64]uint16
	restart   int                        // MCUs between restart markers, 0 for none
	missing   [maxComponents][64]int8    // bits of each coefficient that have not come yet, -1 for all
	blocks    [maxComponents][][64]int16 // coefficients of images in several scans
	strips    [maxComponents][]byte
	full      [maxComponents][]byte // one row of each component at full size
	sums      []int16               // weighted sums of a row, with one more on either side
	bits      bitReader
	scan      scan
	queue     [queues]queue
	junk      [64]int16 // coefficients that nobody wants
	dst       *raster.Image
	k         *kernels
	fallbacks [kinds]int
}

// A View says what of an image is wanted.
type View struct {
	// Scale makes the image 1/1, 1/2, 1/4 or 1/8 of its size, rounded up, in the inverse transform; 0 means 1.
	Scale int
	// Region is the wanted part, in pixels of the scaled image; the zero Rect means all of it.
	Region raster.Rect
}

// Whole is the View of the whole image at its own size.
var Whole = View{}

// Is tells a JPEG file by its first bytes.
func Is(b []byte) bool { return bytes.HasPrefix(b, []byte{0xff, 0xd8}) }

// Size reads width and height out of the headers of b, and nothing else. Sizes beyond the bound are refused (raster.ErrTooLarge).
func (d *Decoder) Size(b []byte) (w, h int, err error) {
	if !Is(b) {
		return 0, 0, errNoJPEG
	}
	d.reset()
	d.quick = true
	body, _, err := d.headers(b, 2)
	if err != nil {
		return 0, 0, err
	}
	if d.n == 0 {
		return 0, 0, fmt.Errorf("JPEG has no frame header before its image data (%d bytes)", len(body))
	}
	return d.w, d.h, nil
}

var errNoJPEG = errors.New("not a JPEG file")

// Decode decodes the wanted view of b into dst, whose memory it reuses: the pixels are those that decoding the whole image at that scale
// and cutting it would give. An error says what is wrong with the bytes; it never panics on foreign data, and dst is then undefined.
//
// With a Region, a sequential file is read no further than the region's last row: damage below it is not noticed.
func (d *Decoder) Decode(dst *raster.Image, b []byte, v View) error {
	err := d.decode(dst, b, v)
	d.dst = nil
	if err == nil {
		return nil
	}
	var kind otherKind
	if !errors.As(err, &kind) {
		return err
	}
	d.fallbacks[kind]++
	return d.fallback(dst, b, v, kind)
}

func (d *Decoder) decode(dst *raster.Image, b []byte, v View) error {
	if !Is(b) {
		return errNoJPEG
	}
	d.reset()
	d.dst = dst
	for i := range d.queue {
		d.queue[i].n = 0 // a file may have ended in an error
	}
	if d.k == nil {
		d.k = chosen()
	}
	body, at, err := d.headers(b, 2)
	if err == nil {
		err = d.scanHeader(body)
	}
	if err == nil {
		err = d.plausible(len(b) - at)
	}
	if err == nil {
		d.space = d.colours()
		err = d.plan(v)
	}
	if err != nil {
		return err
	}
	dst.Resize(d.region.W, d.region.H)
	if d.progressive || d.scan.n < d.n {
		return d.gather(b, at)
	}
	return d.stream(b[at:])
}

// plausible refuses, before any memory is taken, files of n bytes of image data that cannot be whole: each block takes a bit at least.
func (d *Decoder) plausible(n int) error {
	blocks := 0
	for i := range d.n {
		blocks += d.comp[i].bw * d.comp[i].bh
	}
	if blocks > 8*n {
		return fmt.Errorf("JPEG of %d x %d pixels in %d bytes: %w", d.w, d.h, n, errEarly)
	}
	return nil
}

// An otherKind is a kind of JPEG that this package leaves to the standard library, which may know it one day.
type otherKind int

const (
	arithmetic otherKind = iota
	lossless
	hierarchical
	twelveBits
	oddSampling
	kinds int = iota
)

var kindNames = [kinds]string{"arithmetic coding", "lossless", "hierarchical", "12 bits a sample", "sampling factors that do not divide one another"}

func (k otherKind) Error() string { return "JPEG of a rare kind: " + kindNames[k] }

// Fallbacks counts the files that were left to the standard library, by what made them special: their pixels may change with the Go release.
func (d *Decoder) Fallbacks() map[string]int {
	out := map[string]int{}
	for k, n := range d.fallbacks {
		if n > 0 {
			out[kindNames[k]] = n
		}
	}
	return out
}

// fallback has the standard library decode b.
func (d *Decoder) fallback(dst *raster.Image, b []byte, v View, kind otherKind) error {
	if v.Scale > 1 {
		return fmt.Errorf("%w: it cannot be decoded at 1/%d of its size; convert it", kind, v.Scale)
	}
	m, err := jpeg.Decode(bytes.NewReader(b))
	if err != nil {
		return fmt.Errorf("%w, which the standard library does not know either (%w); convert it", kind, err)
	}
	dst.Convert(m)
	if r := v.Region; r != (raster.Rect{}) {
		if r.X < 0 || r.Y < 0 || r.W < 1 || r.H < 1 || r.W > dst.W-r.X || r.H > dst.H-r.Y {
			return fmt.Errorf("region of %d x %d pixels at (%d, %d) is not inside the image of %d x %d", r.W, r.H, r.X, r.Y, dst.W, dst.H)
		}
		dst.Crop(r)
	}
	return nil
}
