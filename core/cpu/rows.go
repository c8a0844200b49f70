package cpu

import "unsafe"

// rows is a piece of a channel block, some rows of pixels, as float32s: the tensor's own memory or, where that holds bf16, a thread's
// room. What is rare, or bound by other things than arithmetic, is written once, for rows.
type rows struct {
	n, cols, row int            // row: bytes from one row to the next
	p            unsafe.Pointer // the first pixel
	stored       unsafe.Pointer // that of the tensor
	storedRow    int
}

// take gives a piece of the thread's room, until the item's end. The compiler has seen to there being enough of it.
func (s *scratch) take(bytes int) unsafe.Pointer {
	p := unsafe.Pointer(&s.room[s.used/4])
	s.used += (bytes + 63) &^ 63
	if s.used > 4*len(s.room) {
		panic("cpu: a thread's room is too small for a piece of work")
	}
	return p
}

// floats takes n values.
func (s *scratch) floats(n int) []float32 { return unsafe.Slice((*float32)(s.take(4*n)), n) }

// rows gives n rows of a block, from row y on. They hold nothing yet where they are in room; see load.
func (s *scratch) rows(t *tensor, image, block, y, n int) rows {
	r := rows{n: n, cols: t.w, row: t.row, storedRow: t.row}
	r.stored = unsafe.Add(t.at(image, block), y*t.row)
	r.p = r.stored
	if t.px != pixelBytes {
		r.row = t.w * pixelBytes
		r.p = s.take(n * r.row)
	}
	return r
}

// load brings the tensor's values to the rows.
func (s *scratch) load(r rows) rows {
	if r.p != r.stored {
		s.ew = ewArgs{rows: r.n, cols: r.cols, y: r.stored, yRow: r.storedRow, out: r.p, outRow: r.row}
		s.bf.widen(&s.ew)
	}
	return r
}

// store brings the rows' values to the tensor.
func (s *scratch) store(r rows) {
	if r.p != r.stored {
		s.ew = ewArgs{rows: r.n, cols: r.cols, y: r.p, yRow: r.row, out: r.stored, outRow: r.storedRow}
		s.bf.narrow(&s.ew)
	}
}

func (r rows) pixel(y, x int) *vector { return vec(r.p, y*r.row+x*pixelBytes) }

// roomForRows is what n rows of each tensor may take of a thread's room.
func roomForRows(n int, ts ...*tensor) (bytes int) {
	for _, t := range ts {
		if t != nil && t.px != pixelBytes {
			bytes += n * (t.w*pixelBytes + 64)
		}
	}
	return bytes
}
