package jpeg

// A job is one block to transform. Assembly reads it: see kernels.
type job struct {
	coef   *[64]int16  // in natural order
	quant  *[64]uint16 // likewise
	out    []byte      // from the block's first sample on
	stride int         // from row to row of out
	size   int         // samples on a side
}

// A queue collects blocks, so that a call into assembly is worth its price, and has pairs to work on.
type queue struct {
	n    int
	list [queueLen]job
	coef [queueLen][64]int16 // room for coefficients that are not kept
}

// queueLen: even, for pairs; 16 blocks of 128 bytes stay in the first-level cache beside tables and samples. A call takes about a microsecond.
const queueLen = 16

// room returns a cleared block for the next job.
func (q *queue) room() *[64]int16 {
	c := &q.coef[q.n]
	*c = [64]int16{}
	return c
}

// add queues the transform of component c's block in column bx and row by, or does it at once where it is nothing but its mean. last is
// the place in zigzag order of the last coefficient that is not zero, or a greater one.
func (d *Decoder) add(c *component, coef *[64]int16, bx, by, last int) error {
	y := by * c.size % c.ring
	out := c.pix[y*c.stride+bx*c.size:]
	if last == 0 {
		dc := int32(coef[0]) * int32(c.quant[0])
		if dc <= -coefLimit || dc >= coefLimit {
			return errRange
		}
		flat(out, c.stride, c.size, level(dc))
		return nil
	}
	q := &d.queue
	q.list[q.n] = job{coef: coef, quant: c.quant, out: out, stride: c.stride, size: c.size}
	if q.n++; q.n == queueLen {
		return d.flush()
	}
	return nil
}

// flush does what is queued.
func (d *Decoder) flush() error {
	q := &d.queue
	jobs := q.list[:q.n]
	q.n = 0
	whole := 0
	for i := range jobs {
		switch j := &jobs[i]; j.size {
		case 8:
			jobs[whole] = *j
			whole++
		default:
			if !reduced(j) {
				return errRange
			}
		}
	}
	if whole > 0 && !d.k.idct(jobs[:whole]) {
		return errRange
	}
	return nil
}

// level is the sample of a block that is flat: an eighth of its first coefficient, rounded, around 128.
func level(dc int32) byte { return clip((dc+4)>>3 + 128) }

// flat fills a block of so many samples on a side.
func flat(out []byte, stride, size int, v byte) {
	for y := range size {
		row := out[y*stride : y*stride+size]
		for x := range row {
			row[x] = v
		}
	}
}

// clip brings v to 0..255.
func clip(v int32) byte {
	if uint32(v) > 255 {
		return byte(^(v >> 31)) // 0 below, 255 above
	}
	return byte(v)
}
