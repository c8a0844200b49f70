package jpeg

// A job is one block to transform: the coefficients, in natural order, the component that they belong to, and where in its strip the samples
// go. Assembly reads it.
type job struct {
	coef *[64]int16
	comp *component
	at   int
}

// out is the strip from the block's first sample on.
func (j *job) out() []byte { return j.comp.pix[j.at:] }

// A queue collects blocks of one size, so that a call into assembly is worth its price, and has pairs to work on.
type queue struct {
	n    int
	list [queueLen]job
	coef [queueLen][64]int16 // room for coefficients that are not kept
}

// queueLen: 16 blocks of 128 bytes stay in the first-level cache beside tables and samples. A call takes about a microsecond.
const queueLen = 16

// The queues of a decoder, by the size of their blocks. A block of one sample is done at once.
const (
	queue8 = iota
	queue4
	queue2
	queues
)

// room returns a cleared block for the next job.
func (q *queue) room() *[64]int16 {
	c := &q.coef[q.n&(queueLen-1)]
	*c = [64]int16{}
	return c
}

// place is where in the strip the first block of row by goes.
func (l *layer) place(by int) int { return by * l.size % l.ring * l.stride }

// add queues the transform of a block of component c to place at, or does it at once where it is nothing but its mean. last is the place in
// zigzag order of the last coefficient that is not zero, or a greater one.
func (d *Decoder) add(c *component, coef *[64]int16, at, last int) error {
	if last == 0 || c.size == 1 {
		dc := int32(coef[0]) * int32(c.quant[0])
		if dc <= -coefLimit || dc >= coefLimit {
			return errRange
		}
		flat(c.pix[at:], c.stride, c.size, level(dc))
		return nil
	}
	q := &d.queue[c.queue]
	j := &q.list[q.n&(queueLen-1)]
	j.coef, j.comp, j.at = coef, c, at
	if q.n++; q.n == queueLen {
		return d.flush()
	}
	return nil
}

// flush does what is queued.
func (d *Decoder) flush() error {
	ok := true
	for i := range d.queue {
		q := &d.queue[i]
		if q.n == 0 {
			continue
		}
		jobs := q.list[:q.n]
		q.n = 0
		switch i {
		case queue8:
			ok = d.k.idct(jobs) && ok
		case queue4:
			ok = d.k.idct4(jobs) && ok
		default:
			ok = idct2(jobs) && ok
		}
	}
	if !ok {
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
