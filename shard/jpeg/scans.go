package jpeg

import (
	"errors"
	"fmt"
	"slices"
)

// maxScans bounds the time that a small file can take: scans of nothing but zeros cost few bytes. Encoders write 10 or so; the standard
// allows some thousand.
const maxScans = 256

// gather decodes a file of several scans: all coefficients first, then the image. b[at:] begins with the first scan's data.
func (d *Decoder) gather(b []byte, at int) error {
	d.takeBlocks()
	for range maxScans {
		if err := d.gatherScan(b[at:]); err != nil {
			return err
		}
		body, next, err := d.headers(b, len(b)-len(d.scan.data))
		switch {
		case err == nil && body == nil || errors.Is(err, errEnd) && d.complete():
			return d.reconstruct()
		case err != nil:
			return err
		}
		if err := d.scanHeader(body); err != nil {
			return err
		}
		at = next
	}
	return fmt.Errorf("JPEG has more than %d scans", maxScans)
}

// complete tells whether every bit of every coefficient has come. A progressive file that says itself that it ends earlier is shown as far
// as it goes; one that just stops was cut off.
func (d *Decoder) complete() bool {
	for i := range d.n {
		for _, m := range d.missing[i] {
			if m != 0 {
				return false
			}
		}
	}
	return true
}

// takeBlocks takes memory for the coefficients of the whole image, 128 bytes a block.
func (d *Decoder) takeBlocks() {
	for i := range d.n {
		c := &d.comp[i]
		n := c.rowBlocks * c.v * d.mcuH
		d.blocks[i] = slices.Grow(d.blocks[i][:0], n)[:n]
		clear(d.blocks[i])
	}
}

// gatherScan reads one scan into the blocks.
func (d *Decoder) gatherScan(b []byte) error {
	d.begin(b)
	s := &d.scan
	w, h := d.mcuW, d.mcuH
	if s.n == 1 {
		c := &d.comp[s.comp[0]]
		w, h = c.bw, c.bh
	}
	for y := range h {
		for x := range w {
			err := d.next(y*w + x)
			if err == nil {
				err = d.gatherMCU(x, y)
			}
			if err == nil && d.bits.overrun() {
				err = errEarly
			}
			if err != nil {
				return place(err, x, y, w, h)
			}
		}
	}
	if d.bits.unread() {
		return errSurplus
	}
	return nil
}

func (d *Decoder) gatherMCU(x, y int) error {
	s := &d.scan
	for i := range s.units {
		u := &s.units[i]
		c := &d.comp[u.comp]
		bx, by := x, y
		if s.n > 1 {
			bx, by = x*c.h+u.dx, y*c.v+u.dy
		}
		if err := d.gatherBlock(u, &d.blocks[u.comp][by*c.rowBlocks+bx]); err != nil {
			return err
		}
	}
	return nil
}

func (d *Decoder) gatherBlock(u *unit, coef *[64]int16) (err error) {
	s := &d.scan
	switch {
	case !d.progressive:
		_, err = d.block(u, &s.pred[u.comp], coef)
	case s.ss == 0 && s.ah == 0:
		err = d.dcFirst(u, coef)
	case s.ss == 0:
		d.dcRefine(coef)
	case s.ah == 0:
		err = d.acFirst(u.ac, coef)
	default:
		err = d.acRefine(u.ac, coef)
	}
	return err
}

// reconstruct makes the image from the gathered coefficients.
func (d *Decoder) reconstruct() error {
	for i := range d.n {
		if d.missing[i][0] < 0 {
			return fmt.Errorf("JPEG ends without the image data of component %d", d.comp[i].id)
		}
	}
	for my := range d.mcuH {
		if d.finished() {
			break
		}
		for i := range d.n {
			c := &d.comp[i]
			for by := my * c.v; by < (my+1)*c.v; by++ {
				if err := d.transformRow(i, by); err != nil {
					return fmt.Errorf("JPEG image data, component %d, row %d of blocks: %w", c.id, by, err)
				}
			}
		}
		d.emit(my)
	}
	return nil
}

// transformRow transforms the wanted blocks of a row.
func (d *Decoder) transformRow(i, by int) error {
	c := &d.comp[i]
	if !c.wants(by) {
		return nil
	}
	at := c.place(by)
	for bx := c.x0 / c.size; bx*c.size < c.x1; bx++ {
		coef := &d.blocks[i][by*c.rowBlocks+bx]
		last := 0
		if !onlyDC(coef) {
			last = 63
		}
		if err := d.add(c, coef, at+bx*c.size, last); err != nil {
			return err
		}
	}
	return d.flush()
}

func onlyDC(coef *[64]int16) bool {
	var or int16
	for _, v := range coef[1:] {
		or |= v
	}
	return or == 0
}
