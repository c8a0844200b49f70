package jpeg

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/lockstep-ml/lockstep/shard/raster"
)

// errOtherJPEG marks a JPEG that the standard library has to decode: progressive, several scans, CMYK, RGB, odd sampling.
var errOtherJPEG = errors.New("not a sequential YCbCr or grey JPEG")

// A baseline decodes sequential Huffman-coded JPEGs (ITU-T T.81, SOF0 and SOF1, 8 bits, one scan, grey or YCbCr), which is what
// data sets are made of. The standard library would do, but three things speak for a decoder of our own: its arithmetic is
// libjpeg's to the bit, so published weights see the pixels that they were trained on; the bits do not change with the Go release;
// and it keeps its tables and planes from image to image, which for small images is most of the time.
type baseline struct {
	quant    [4][64]int32 // in natural order
	hasQuant [4]bool
	huff     [2][4]huffman // DC, AC
	comp     [3]component
	n        int // components
	w, h     int
	restart  int // MCUs between restart markers, 0 for none
	bits     bitReader
	coef     [64]int32
	outside  uint32 // not zero when a coefficient of the last block was outside of -coefLimit..coefLimit-1
}

// coefLimit: a transform of 8-bit samples has no coefficient beyond 1024, and rounding to a multiple of the table's entry at most
// doubles it. More is damage.
const coefLimit = 4096

type component struct {
	id, h, v, tq int
	dc, ac       *huffman
	pred         int32
	plane
}

// decode reads b. Afterwards the planes are valid until the next call. errOtherJPEG means that b may be a good JPEG of another kind.
func (d *baseline) decode(b []byte) error {
	d.hasQuant = [4]bool{}
	for c := range d.huff {
		for i := range d.huff[c] {
			d.huff[c][i].defined = false
		}
	}
	d.n, d.restart = 0, 0
	at := 2
	for {
		marker, body, next, err := segment(b, at)
		if err != nil {
			return err
		}
		at = next
		switch {
		case marker == 0xc4:
			err = d.defineHuffman(body)
		case marker == 0xdb:
			err = d.defineQuant(body)
		case marker == 0xc0 || marker == 0xc1:
			err = d.frame(body)
		case marker == 0xdd && len(body) >= 2:
			d.restart = int(binary.BigEndian.Uint16(body))
		case marker == 0xee && len(body) >= 12 && bytes.HasPrefix(body, []byte("Adobe")) && body[11] != 1:
			err = errOtherJPEG // no YCbCr
		case marker == 0xda:
			if err := d.scanHeader(body); err != nil {
				return err
			}
			return d.scan(b[at:])
		case marker >= 0xe0 || marker == 0xdd: // application data, comments
		default:
			err = errOtherJPEG
		}
		if err != nil {
			return err
		}
	}
}

// segment finds the next marker and its parameters.
func segment(b []byte, at int) (marker byte, body []byte, next int, err error) {
	for at < len(b) && b[at] != 0xff {
		at++
	}
	for at < len(b) && b[at] == 0xff {
		at++
	}
	if at+3 > len(b) {
		return 0, nil, 0, fmt.Errorf("JPEG ends at byte %d, before its image data", len(b))
	}
	size := int(binary.BigEndian.Uint16(b[at+1:]))
	if size < 2 || at+1+size > len(b) {
		return 0, nil, 0, fmt.Errorf("JPEG segment %02x at byte %d has length %d, %d bytes are left", b[at], at, size, len(b)-at-1)
	}
	return b[at], b[at+3 : at+1+size], at + 1 + size, nil
}

func (d *baseline) defineQuant(b []byte) error {
	for len(b) > 0 {
		wide, id := b[0]>>4, b[0]&15
		size := 64 << wide
		if wide > 1 || id > 3 || len(b) < 1+size {
			return errors.New("JPEG quantisation table is damaged")
		}
		for k, at := range zigzag {
			if wide == 1 {
				d.quant[id][at] = int32(binary.BigEndian.Uint16(b[1+2*k:]))
			} else {
				d.quant[id][at] = int32(b[1+k])
			}
		}
		d.hasQuant[id] = true
		b = b[1+size:]
	}
	return nil
}

func (d *baseline) defineHuffman(b []byte) error {
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

func (d *baseline) frame(b []byte) error {
	if d.n != 0 {
		return errOtherJPEG
	}
	if len(b) < 6 || b[0] != 8 || len(b) < 6+3*int(b[5]) {
		return errOtherJPEG
	}
	d.h, d.w, d.n = int(binary.BigEndian.Uint16(b[1:])), int(binary.BigEndian.Uint16(b[3:])), int(b[5])
	if d.h == 0 || d.n != 1 && d.n != 3 {
		return errOtherJPEG
	}
	if err := raster.CheckPixels(d.w, d.h); err != nil {
		return err
	}
	for i := range d.n {
		p := b[6+3*i:]
		c := &d.comp[i]
		c.id, c.h, c.v, c.tq = int(p[0]), int(p[1]>>4), int(p[1]&15), int(p[2])
		if c.h < 1 || c.h > 4 || c.v < 1 || c.v > 4 || c.tq > 3 {
			return errors.New("JPEG frame header is damaged")
		}
	}
	if d.n == 1 {
		d.comp[0].h, d.comp[0].v = 1, 1 // one component's blocks are not grouped, whatever its factors say
		return nil
	}
	y, cb, cr := &d.comp[0], &d.comp[1], &d.comp[2]
	if cb.h != cr.h || cb.v != cr.v || y.h%cb.h != 0 || y.v%cb.v != 0 || y.id == 'R' && cb.id == 'G' && cr.id == 'B' {
		return errOtherJPEG
	}
	return nil
}

// scanHeader ties the components to their tables and takes memory for the planes.
func (d *baseline) scanHeader(b []byte) error {
	if d.n == 0 {
		return errors.New("JPEG has image data before its frame header")
	}
	if len(b) != 4+2*d.n || int(b[0]) != d.n || b[1+2*d.n] != 0 || b[2+2*d.n] != 63 || b[3+2*d.n] != 0 {
		return errOtherJPEG
	}
	mw, mh := d.mcus()
	for i := range d.n {
		c := &d.comp[i]
		td, ta := b[2+2*i]>>4, b[2+2*i]&15
		if int(b[1+2*i]) != c.id || td > 3 || ta > 3 || !d.huff[0][td].defined || !d.huff[1][ta].defined || !d.hasQuant[c.tq] {
			return errOtherJPEG
		}
		c.dc, c.ac = &d.huff[0][td], &d.huff[1][ta]
		c.stride = mw * c.h * 8
		n := c.stride * mh * c.v * 8
		c.pix = slices.Grow(c.pix[:0], n)[:n]
	}
	return nil
}

// mcus is the number of minimum coded units across and down.
func (d *baseline) mcus() (w, h int) {
	mw, mh := 8*d.comp[0].h, 8*d.comp[0].v
	return (d.w + mw - 1) / mw, (d.h + mh - 1) / mh
}

func (d *baseline) scan(b []byte) error {
	d.bits = bitReader{b: b}
	mw, mh := d.mcus()
	for i := range d.n {
		d.comp[i].pred = 0
	}
	left := d.restart
	for my := range mh {
		for mx := range mw {
			if d.restart > 0 {
				if left == 0 {
					if err := d.resync(my*mw + mx); err != nil {
						return err
					}
					left = d.restart
				}
				left--
			}
			if err := d.mcu(mx, my); err != nil {
				return fmt.Errorf("JPEG image data, column %d and row %d of %d x %d blocks: %w", mx, my, mw, mh, err)
			}
		}
	}
	return d.checkEnd()
}

// checkEnd refuses image data that goes on behind the last block: the codes ran out of step somewhere. libjpeg only warns, and
// gives a picture with a wrong part; this finds about half of the damage that leaves every code valid.
func (d *baseline) checkEnd() error {
	r := &d.bits
	if r.n-r.padded >= 8 || r.at+1 < len(r.b) && (r.b[r.at] != 0xff || r.b[r.at+1] == 0) {
		return errors.New("JPEG image data goes on after the last block: some of it is damaged")
	}
	return nil
}

// resync reads the restart marker due before MCU n.
func (d *baseline) resync(n int) error {
	r := &d.bits
	for r.at+1 < len(r.b) && r.b[r.at] == 0xff && r.b[r.at+1] == 0xff {
		r.at++
	}
	want := 0xd0 + byte((n/d.restart-1)%8)
	if r.at+1 >= len(r.b) || r.b[r.at] != 0xff || r.b[r.at+1] != want {
		return fmt.Errorf("JPEG restart marker %02x is missing at block %d", want, n)
	}
	*r = bitReader{b: r.b, at: r.at + 2}
	for i := range d.n {
		d.comp[i].pred = 0
	}
	return nil
}

func (d *baseline) mcu(mx, my int) error {
	for i := range d.n {
		c := &d.comp[i]
		for v := range c.v {
			for h := range c.h {
				last, err := d.block(c)
				if err != nil {
					return err
				}
				out := c.pix[8*((my*c.v+v)*c.stride+mx*c.h+h):]
				if d.outside != 0 {
					return errors.New("a coefficient is out of range")
				}
				if last == 0 {
					idctDC(out, c.stride, d.coef[0])
				} else {
					idct(out, c.stride, &d.coef)
				}
			}
		}
	}
	if d.bits.overrun() {
		return errors.New("the data ends too early")
	}
	return nil
}

var errHuffman = errors.New("invalid Huffman code")

// block reads one block's coefficients, dequantised, and returns the place in zigzag order of the last that was coded.
func (d *baseline) block(c *component) (last int, err error) {
	q := &d.quant[c.tq]
	d.coef = [64]int32{}
	r := &d.bits
	r.fill()
	s := r.symbol(c.dc)
	if s > 15 {
		return 0, errHuffman
	}
	c.pred += r.extend(uint(s))
	d.coef[0] = c.pred * q[0]
	outside := uint32(d.coef[0] + coefLimit)
	for k := 1; k < 64; k++ {
		if r.n < 32 {
			r.fill()
		}
		rs := r.symbol(c.ac)
		if rs < 0 {
			return 0, errHuffman
		}
		run, size := rs>>4, rs&15
		if size == 0 {
			if run != 15 {
				break
			}
			k += 15
			continue
		}
		if k += run; k > 63 {
			return 0, errHuffman
		}
		at := zigzag[k]
		v := r.extend(uint(size)) * q[at]
		outside |= uint32(v + coefLimit)
		d.coef[at] = v
		last = k
	}
	d.outside = outside &^ (2*coefLimit - 1)
	return last, nil
}

// ycc describes the decoded planes for colour conversion.
func (d *baseline) ycc() ycc {
	y, cb, cr := &d.comp[0], &d.comp[1], &d.comp[2]
	return ycc{w: d.w, h: d.h, hs: y.h / cb.h, vs: y.v / cb.v, y: y.plane, cb: cb.plane, cr: cr.plane}
}

// toRGB writes the decoded image to dst.
func (d *baseline) toRGB(dst *raster.Image, up *upsampler) {
	dst.Resize(d.w, d.h)
	if d.n == 3 {
		p := d.ycc()
		up.toRGB(dst, &p)
		return
	}
	for y := range d.h {
		row := dst.Pix[3*y*d.w : 3*(y+1)*d.w]
		for x, v := range d.comp[0].row(y, d.w) {
			row[3*x], row[3*x+1], row[3*x+2] = v, v, v
		}
	}
}
