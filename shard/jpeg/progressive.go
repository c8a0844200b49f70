package jpeg

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// checkProgression holds a progressive scan (T.81, G.1.1.1.1) to the order in which coefficients may come: each bit once. That also
// bounds the scans, and with them the time that a small file can take.
func (d *Decoder) checkProgression() error {
	s := &d.scan
	if s.ss > s.se || s.se > 63 || s.ss == 0 && s.se != 0 || s.ss > 0 && s.n != 1 || s.al > 13 || s.ah != 0 && s.ah != s.al+1 {
		return errors.New("JPEG scan header is damaged: no such progression")
	}
	for i := range s.n {
		have := &d.missing[s.comp[i]]
		if s.ss > 0 && have[0] < 0 {
			return errors.New("JPEG scan codes a component whose first coefficients have not come yet")
		}
		for k := s.ss; k <= s.se; k++ {
			if want := max(have[k], 0); int(s.ah) != int(want) || have[k] == 0 {
				return fmt.Errorf("JPEG scan codes bits %d to %d of coefficient %d, of which %d are missing", s.ah, s.al, k, have[k])
			}
			have[k] = int8(s.al)
		}
	}
	for _, u := range s.units {
		if s.ss == 0 && s.ah == 0 && !u.dc.defined || s.ss > 0 && !u.ac.defined {
			return errors.New("JPEG lacks a Huffman table")
		}
	}
	return nil
}

// dcFirst reads a block's first coefficient, but for the lowest al bits.
func (d *Decoder) dcFirst(u *unit, coef *[64]int16) error {
	r, s := &d.bits, &d.scan
	r.fill()
	diff, ok := r.dc(u.dc)
	if !ok {
		return errHuffman
	}
	p := &s.pred[u.comp]
	*p += diff
	if v := *p << s.al; uint32(*p+coefLimit-1) <= 2*coefLimit-2 && uint32(v+coefLimit-1) <= 2*coefLimit-2 {
		coef[0] = int16(v)
		return nil
	}
	return errRange
}

// dcRefine adds one bit to it.
func (d *Decoder) dcRefine(coef *[64]int16) {
	r := &d.bits
	if r.n < 1 {
		r.fill()
	}
	coef[0] |= int16(r.take(1) << d.scan.al)
}

// acFirst reads coefficients ss to se, but for the lowest al bits (T.81, G.1.2.2).
func (d *Decoder) acFirst(h *huffman, coef *[64]int16) error {
	r, s := &d.bits, &d.scan
	if s.eobRun > 0 {
		s.eobRun--
		return nil
	}
	for k := s.ss; k <= s.se; k++ {
		if r.n < 32 {
			r.fill()
		}
		symbol := r.symbol(h)
		if symbol < 0 {
			return errHuffman
		}
		run, size := symbol>>4, symbol&15
		if size == 0 {
			if run < 15 {
				s.eobRun = 1<<run - 1 + r.take(run)
				return nil
			}
			k += 15
			continue
		}
		if k += run; k > s.se {
			return errHuffman
		}
		v := extend(r.take(size), uint32(size)) << s.al
		if uint32(v+coefLimit-1) > 2*coefLimit-2 {
			return errRange
		}
		coef[zigzag[k&127]&63] = int16(v)
	}
	return nil
}

// acRefine adds one bit to the coefficients ss to se that are not zero yet, and reads those that come to be so (T.81, G.1.2.3).
func (d *Decoder) acRefine(h *huffman, coef *[64]int16) error {
	r, s := &d.bits, &d.scan
	k, one := s.ss, int16(1)<<s.al
	if s.eobRun == 0 {
		for k <= s.se {
			if r.n < 32 {
				r.fill()
			}
			symbol := r.symbol(h)
			if symbol < 0 || symbol&15 > 1 {
				return errHuffman
			}
			run, v := symbol>>4, int16(0)
			if symbol&15 == 1 {
				v = one
				if r.take(1) == 0 {
					v = -one
				}
			} else if run < 15 {
				s.eobRun = 1<<run + r.take(run)
				break
			}
			if k = r.refine(coef, k, s.se, run, one); v != 0 {
				if k > s.se {
					return errHuffman
				}
				coef[zigzag[k&127]&63] = v
			}
			k++
		}
	}
	if s.eobRun > 0 {
		r.refine(coef, k, s.se, 64, one)
		s.eobRun--
	}
	return nil
}

// refine reads a bit for every coefficient from k to se that is not zero, and passes by run of those that are. It returns the number of
// the zero behind them, se+1 if there is none. Before it, coefficients are multiples of 2*one (checkProgression), so the bit is free.
func (r *bitReader) refine(coef *[64]int16, k, se, run int, one int16) int {
	buf, at, acc, n := r.buf, r.at, r.acc, r.n
	for ; k <= se; k++ {
		c := &coef[zigzag[k&127]&63]
		v := *c
		if v == 0 {
			if run == 0 {
				break
			}
			run--
			continue
		}
		if n < 1 {
			acc |= binary.BigEndian.Uint64(buf[at:]) >> (n & 63)
			at += (63 - n) >> 3
			n |= 56
		}
		sign, set := v>>15, int16(int64(acc)>>63)
		*c = v + (one^sign-sign)&set // away from zero
		acc <<= 1
		n--
	}
	r.at, r.acc, r.n = at, acc, n
	return k
}
