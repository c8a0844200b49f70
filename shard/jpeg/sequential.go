package jpeg

import (
	"errors"
	"fmt"
)

// A unit is one block of an MCU.
type unit struct {
	comp   int
	dx, dy int // its place among the component's blocks of the MCU
	dc, ac *huffman
	wanted bool // in the row of MCUs at hand
	at     int  // in that row, where in the strip the block of the first MCU goes
}

// maxUnits bounds the blocks of an MCU (T.81, B.2.3).
const maxUnits = 10

// scanHeader ties the components of a scan to their tables. body is what headers returned.
func (d *Decoder) scanHeader(body []byte) error {
	if d.n == 0 {
		return errors.New("JPEG has image data before its frame header")
	}
	n := 0
	if len(body) > 0 {
		n = int(body[0])
	}
	if n < 1 || n > d.n || len(body) != 4+2*n {
		return errors.New("JPEG scan header is damaged")
	}
	s := &d.scan
	s.n, s.units = n, s.units[:0]
	s.ss, s.se, s.ah, s.al = int(body[1+2*n]), int(body[2+2*n]), uint(body[3+2*n]>>4), uint(body[3+2*n]&15)
	for i := range n {
		id, td, ta := int(body[1+2*i]), body[2+2*i]>>4, body[2+2*i]&15
		k := 0
		for k < d.n && d.comp[k].id != id {
			k++
		}
		if k == d.n || td > 3 || ta > 3 || i > 0 && k <= s.comp[i-1] {
			return errors.New("JPEG scan header is damaged")
		}
		s.comp[i] = k
		if err := d.addUnits(k, n, &d.huff[0][td], &d.huff[1][ta]); err != nil {
			return err
		}
	}
	return d.checkScan()
}

// addUnits lists the blocks that component k has in an MCU of a scan of n components, and settles its quantisation table.
func (d *Decoder) addUnits(k, n int, dc, ac *huffman) error {
	c, s := &d.comp[k], &d.scan
	if c.quant == nil {
		if !d.hasQuant[c.tq] {
			return fmt.Errorf("JPEG lacks quantisation table %d", c.tq)
		}
		d.latched[k] = d.quant[c.tq] // a later definition is for later components
		c.quant = &d.latched[k]
	}
	h, v := c.h, c.v
	if n == 1 {
		h, v = 1, 1
	}
	if len(s.units)+h*v > maxUnits {
		return errors.New("JPEG scan header is damaged: more than 10 blocks to a unit")
	}
	for dy := range v {
		for dx := range h {
			s.units = append(s.units, unit{comp: k, dx: dx, dy: dy, dc: dc, ac: ac})
		}
	}
	return nil
}

// checkScan holds the scan to what its process allows, and to having its tables.
func (d *Decoder) checkScan() error {
	s := &d.scan
	if d.progressive {
		return d.checkProgression()
	}
	if s.ss != 0 || s.se != 63 || s.ah != 0 || s.al != 0 {
		return errors.New("JPEG scan header is damaged: a sequential scan codes all coefficients at once")
	}
	for i := range s.n {
		have := &d.missing[s.comp[i]]
		if have[0] == 0 {
			return errors.New("JPEG scan codes a component a second time")
		}
		*have = [64]int8{}
	}
	for _, u := range s.units {
		if !u.dc.defined || !u.ac.defined {
			return errors.New("JPEG lacks a Huffman table")
		}
	}
	return nil
}

// A scan is the state of one scan.
type scan struct {
	n        int
	comp     [maxComponents]int
	units    []unit
	ss, se   int  // coefficients first and last
	ah, al   uint // bits still missing before and after
	pred     [maxComponents]int32
	eobRun   int32
	data     []byte // from the interval at hand on
	left     int    // MCUs until a restart marker is due, -1 for never
	restarts int    // markers met
}

// begin takes b, which begins with the entropy-coded data, and reads its first interval.
func (d *Decoder) begin(b []byte) {
	s := &d.scan
	s.pred, s.eobRun, s.restarts = [maxComponents]int32{}, 0, 0
	s.left = -1
	if d.restart > 0 {
		s.left = d.restart
	}
	s.data = b[d.bits.unstuff(b):]
}

// next counts MCU number n and reads the restart marker that may be due before it.
func (d *Decoder) next(n int) error {
	s := &d.scan
	if s.left < 0 {
		return nil
	}
	if s.left == 0 {
		if d.bits.unread() {
			return errSurplus
		}
		at := 0
		for at+1 < len(s.data) && s.data[at] == 0xff && s.data[at+1] == 0xff {
			at++
		}
		want := byte(mRestart0 + s.restarts%8)
		if at+1 >= len(s.data) || s.data[at] != 0xff || s.data[at+1] != want {
			return fmt.Errorf("JPEG restart marker %02x is missing at unit %d", want, n)
		}
		at += 2
		s.data = s.data[at+d.bits.unstuff(s.data[at:]):]
		s.restarts++
		s.left = d.restart
		s.pred, s.eobRun = [maxComponents]int32{}, 0
	}
	s.left--
	return nil
}

// errSurplus refuses image data that goes on behind the last block: the codes ran out of step somewhere. libjpeg only warns, and
// gives a picture with a wrong part; this finds about half of the damage that leaves every code valid.
var errSurplus = errors.New("JPEG image data goes on after the last block: some of it is damaged")

var (
	errHuffman = errors.New("invalid Huffman code")
	errEarly   = errors.New("the data ends too early")
	errRange   = errors.New("a coefficient is out of range")
)

// place adds to err where in a scan of w x h units it happened.
func place(err error, x, y, w, h int) error {
	return fmt.Errorf("JPEG image data, column %d and row %d of %d x %d units: %w", x, y, w, h, err)
}

// stream decodes the one scan of a sequential file, a row of MCUs at a time, as far down as anything is wanted.
func (d *Decoder) stream(b []byte) error {
	d.begin(b)
	for my := range d.mcuH {
		if d.finished() {
			return nil
		}
		if err := d.streamRow(my); err != nil {
			return err
		}
		d.emit(my)
	}
	if d.bits.unread() {
		return errSurplus
	}
	return nil
}

func (d *Decoder) streamRow(my int) error {
	s := &d.scan
	for i := range s.units {
		u := &s.units[i]
		c := &d.comp[u.comp]
		by := my*c.v + u.dy
		u.wanted, u.at = c.wants(by), c.place(by)+u.dx*c.size
	}
	for mx := range d.mcuW {
		if err := d.next(my*d.mcuW + mx); err != nil {
			return err
		}
		if err := d.streamMCU(mx); err != nil {
			return place(err, mx, my, d.mcuW, d.mcuH)
		}
	}
	if err := d.flush(); err != nil {
		return fmt.Errorf("JPEG image data, row %d of %d units: %w", my, d.mcuH, err)
	}
	return nil
}

func (d *Decoder) streamMCU(mx int) error {
	s := &d.scan
	for i := range s.units {
		u := &s.units[i]
		c := &d.comp[u.comp]
		x, pred := (mx*c.h+u.dx)*c.size, &s.pred[u.comp]
		if !u.wanted || x >= c.x1 || x+c.size <= c.x0 {
			if _, err := d.block(u, pred, &d.junk); err != nil {
				return err
			}
			continue
		}
		coef := d.queue[c.queue].room()
		last, err := d.block(u, pred, coef)
		if err == nil {
			err = d.add(c, coef, u.at+mx*c.h*c.size, last)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// block reads one block's coefficients, and returns the place in zigzag order of the last that was coded.
func (d *Decoder) block(u *unit, pred *int32, coef *[64]int16) (last int, err error) {
	r := &d.bits
	r.fill()
	diff, ok := r.dc(u.dc)
	if !ok {
		return 0, errHuffman
	}
	*pred += diff
	if uint32(*pred+coefLimit-1) > 2*coefLimit-2 {
		return 0, errRange
	}
	coef[0] = int16(*pred)
	last, ok = d.k.ac(r, u.ac, coef)
	switch {
	case r.overrun():
		return 0, errEarly
	case !ok:
		return 0, errHuffman
	}
	return last, nil
}
