package jpeg

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/lockstep-ml/lockstep/shard/raster"
)

// maxComponents: grey, three colours, or four inks.
const maxComponents = 4

// Markers of T.81, table B.1, behind their 0xff.
const (
	mBaseline    = 0xc0
	mExtended    = 0xc1
	mProgressive = 0xc2
	mHuffman     = 0xc4
	mReserved    = 0xc8
	mArithmetic  = 0xcc
	mRestart0    = 0xd0
	mRestart7    = 0xd7
	mEnd         = 0xd9
	mScan        = 0xda
	mQuant       = 0xdb
	mRestarts    = 0xdd
	mApp0        = 0xe0
	mApp14       = 0xee
)

// A colourSpace says what the components are.
type colourSpace uint8

const (
	grey  colourSpace = iota
	ycbcr             // JFIF
	rgb               // Adobe's transform 0, or components named R, G and B
	cmyk              // Adobe's inks, stored inverted
	ycck              // the same, with the first three as YCbCr of their inverses
)

// A frame is what the frame header (T.81, B.2.2) says, and what follows from it for the wanted scale.
type frame struct {
	w, h        int
	n           int // components, 0 before the header
	comp        [maxComponents]component
	maxH, maxV  int
	mcuW, mcuH  int // MCUs across and down
	progressive bool
	quick       bool // set from outside: stop at the frame header
	jfif        bool
	adobe       int // transform of Adobe's marker, -1 for none
	space       colourSpace
	geometry
}

type component struct {
	id, h, v, tq int
	bw, bh       int // blocks that cover the component: what a scan of it alone codes
	rowBlocks    int // blocks of a row of whole MCUs
	quant        *[64]uint16
	layer
}

// segment finds the next marker and its parameters. Markers without any, restarts left over and the like, are passed by.
func segment(b []byte, at int) (marker byte, body []byte, next int, err error) {
	for {
		for at < len(b) && b[at] != 0xff {
			at++
		}
		for at < len(b) && b[at] == 0xff {
			at++
		}
		if at < len(b) && b[at] == mEnd {
			return mEnd, nil, at + 1, nil
		}
		if at+3 > len(b) {
			return 0, nil, 0, fmt.Errorf("JPEG ends at byte %d, before %w", len(b), errEnd)
		}
		if b[at] > 1 && (b[at] < mRestart0 || b[at] > mRestart7) {
			break
		}
		at++
	}
	size := int(binary.BigEndian.Uint16(b[at+1:]))
	if size < 2 || at+1+size > len(b) {
		return 0, nil, 0, fmt.Errorf("JPEG segment %02x at byte %d has length %d, %d bytes are left", b[at], at, size, len(b)-at-1)
	}
	return b[at], b[at+3 : at+1+size], at + 1 + size, nil
}

// errEnd: the file is cut off.
var errEnd = errors.New("its image data is complete")

// reset forgets the file before; tables are kept for comparison.
func (d *Decoder) reset() {
	d.hasQuant = [4]bool{}
	for c := range d.huff {
		for i := range d.huff[c] {
			d.huff[c][i].defined = false
		}
	}
	d.frame = frame{adobe: -1}
	d.restart = 0
	for i := range d.missing {
		for k := range d.missing[i] {
			d.missing[i][k] = -1
		}
	}
}

// headers reads segments from place at up to the next scan header, whose parameters it returns, or to the end marker: then body is
// nil. With quick set it stops behind the frame header.
func (d *Decoder) headers(b []byte, at int) (body []byte, next int, err error) {
	for {
		marker, body, next, err := segment(b, at)
		if err != nil {
			return nil, 0, err
		}
		if marker == mScan || marker == mEnd {
			return body, next, nil
		}
		if err := d.header(marker, body); err != nil {
			return nil, 0, err
		}
		if d.quick && d.n > 0 {
			return nil, next, nil
		}
		at = next
	}
}

func (d *Decoder) header(marker byte, body []byte) error {
	switch {
	case marker == mHuffman:
		return d.defineHuffman(body)
	case marker == mQuant:
		return d.defineQuant(body)
	case marker >= mBaseline && marker < mRestart0 && marker != mReserved && marker != mArithmetic:
		return d.frameHeader(marker, body)
	case marker == mRestarts && len(body) >= 2:
		d.restart = int(binary.BigEndian.Uint16(body))
	case marker == mApp0 && len(body) >= 12 && bytes.HasPrefix(body, []byte("JFIF\x00")):
		d.jfif = true
	case marker == mApp14 && len(body) >= 12 && bytes.HasPrefix(body, []byte("Adobe")):
		d.adobe = int(body[11])
	case marker >= mApp0 || marker == mArithmetic: // other applications' data, comments, tables for coding that is not used
	default:
		return fmt.Errorf("JPEG marker %02x is not one that an image may hold", marker)
	}
	return nil
}

func (d *Decoder) defineQuant(b []byte) error {
	for len(b) > 0 {
		wide, id := b[0]>>4, b[0]&15
		size := 64 << wide
		if wide > 1 || id > 3 || len(b) < 1+size {
			return errors.New("JPEG quantisation table is damaged")
		}
		for k, at := range zigzag[:64] {
			if wide == 1 {
				d.quant[id][at] = binary.BigEndian.Uint16(b[1+2*k:])
			} else {
				d.quant[id][at] = uint16(b[1+k])
			}
		}
		d.hasQuant[id] = true
		b = b[1+size:]
	}
	return nil
}

func (d *Decoder) defineHuffman(b []byte) error {
	for len(b) > 0 {
		if len(b) < 17 {
			return errors.New("JPEG Huffman table is cut short")
		}
		class, id, n := b[0]>>4, b[0]&15, 0
		for _, c := range b[1:17] {
			n += int(c)
		}
		if class > 1 || id > 3 || n > 256 || len(b) < 17+n {
			return errors.New("JPEG Huffman table is damaged")
		}
		if err := d.huff[class][id].define(b[1 : 17+n]); err != nil {
			return err
		}
		b = b[17+n:]
	}
	return nil
}

func (d *Decoder) frameHeader(marker byte, b []byte) error {
	if d.n != 0 {
		return errors.New("JPEG has a second frame header")
	}
	if len(b) < 6 || len(b) != 6+3*int(b[5]) {
		return errors.New("JPEG frame header is damaged")
	}
	d.h, d.w = int(binary.BigEndian.Uint16(b[1:])), int(binary.BigEndian.Uint16(b[3:]))
	if d.h == 0 {
		return errors.New("JPEG frame header leaves the height open (a DNL marker is to follow): write the file anew")
	}
	if err := raster.CheckPixels(d.w, d.h); err != nil {
		return err
	}
	if err := otherProcess(marker, b[0]); err != nil && !d.quick {
		return err
	}
	d.progressive = marker == mProgressive
	if n := int(b[5]); n != 1 && n != 3 && n != 4 {
		return fmt.Errorf("JPEG of %d components: grey has 1, colours have 3 or 4", n)
	}
	d.n = int(b[5])
	return d.components(b[6:])
}

// otherProcess tells of what is left to the standard library.
func otherProcess(marker, bits byte) error {
	switch {
	case marker >= 0xc9:
		return arithmetic
	case marker == 0xc3:
		return lossless
	case marker > mProgressive:
		return hierarchical
	case bits != 8:
		return twelveBits
	}
	return nil
}

// components reads the components' share of the frame header.
func (d *Decoder) components(b []byte) error {
	d.maxH, d.maxV = 1, 1
	for i := range d.n {
		p, c := b[3*i:], &d.comp[i]
		c.id, c.h, c.v, c.tq = int(p[0]), int(p[1]>>4), int(p[1]&15), int(p[2])
		if c.h < 1 || c.h > 4 || c.v < 1 || c.v > 4 || c.tq > 3 {
			return errors.New("JPEG frame header is damaged")
		}
		for _, other := range d.comp[:i] {
			if other.id == c.id {
				return fmt.Errorf("JPEG frame header names component %d twice", c.id)
			}
		}
		d.maxH, d.maxV = max(d.maxH, c.h), max(d.maxV, c.v)
	}
	if d.n == 1 { // one component's blocks are not grouped, whatever its factors say
		d.comp[0].h, d.comp[0].v, d.maxH, d.maxV = 1, 1, 1, 1
	}
	d.mcuW, d.mcuH = ceil(d.w, 8*d.maxH), ceil(d.h, 8*d.maxV)
	for i := range d.n {
		c := &d.comp[i]
		c.bw, c.bh = ceil(ceil(d.w*c.h, d.maxH), 8), ceil(ceil(d.h*c.v, d.maxV), 8)
		c.rowBlocks = d.mcuW * c.h
	}
	return nil
}

func ceil(a, b int) int { return (a + b - 1) / b }

// colours decides as libjpeg does what the components are: JFIF's marker first, then Adobe's, then their names.
func (f *frame) colours() colourSpace {
	ids := [3]int{f.comp[0].id, f.comp[1].id, f.comp[2].id}
	switch {
	case f.n == 1:
		return grey
	case f.n == 4 && f.adobe == 2:
		return ycck
	case f.n == 4:
		return cmyk
	case !f.jfif && (f.adobe == 0 || f.adobe < 0 && ids == [3]int{'R', 'G', 'B'}):
		return rgb
	}
	return ycbcr
}
