package jpeg

import "slices"

// finished tells whether all wanted rows are written.
func (d *Decoder) finished() bool { return d.nextRow >= d.region.Y+d.region.H }

// emit writes the rows of pixels for which the samples are there once row my of MCUs is.
func (d *Decoder) emit(my int) {
	limit := (my+1)*d.mcuRows - d.lag
	if my == d.mcuH-1 {
		limit = d.outH
	}
	for limit = min(limit, d.region.Y+d.region.H); d.nextRow < limit; d.nextRow++ {
		var rows [maxComponents][]byte
		for i := range d.n {
			rows[i] = d.fullRow(i, d.nextRow)
		}
		n := 3 * d.region.W
		at := (d.nextRow - d.region.Y) * n
		d.convert(d.dst.Pix[at:at+n:at+n], &rows)
	}
}

// fullRow returns the wanted part of row y of component i at full size, upsampled as libjpeg does by default, so that images look the same
// to a network as they did to the one it was trained on: the "fancy" triangle filter for halved chroma (each output is 3/4 the nearer and
// 1/4 the further sample, with alternating rounding), replication for other ratios and for components under three samples wide.
func (d *Decoder) fullRow(i, y int) []byte {
	c := &d.comp[i]
	x, w := d.region.X, d.region.W
	near := c.row(y / c.vs)
	if c.method == none {
		return near[x : x+w]
	}
	from, to := x/c.hs, (x+w-1)/c.hs+1
	n := (to - from) * c.hs
	d.full[i] = slices.Grow(d.full[i][:0], n)[:n]
	out := d.full[i]
	switch c.method {
	case fancyH, fancyHV:
		d.fancyRow(out, c, y, from, to)
	case fancyV:
		far := c.row(further(y, c.rows))
		d.k.mix(out, near[from:to], far[from:to], int32(1+y%2))
	default:
		for k := range out {
			out[k] = near[from+k/c.hs]
		}
	}
	return out[x-from*c.hs:][:w]
}

// further is the second nearest sample row to pixel row y of a component of halved height, at the edges the nearest itself.
func further(y, rows int) int {
	if y%2 == 0 {
		return max(y/2-1, 0)
	}
	return min(y/2+1, rows-1)
}

// fancyRow brings samples from..to-1 to twice the width. At the component's edges they are their own neighbours.
func (d *Decoder) fancyRow(out []byte, c *component, y, from, to int) {
	n := to - from + 2
	d.sums = slices.Grow(d.sums[:0], n)[:n]
	sums := d.sums
	lo, hi := max(from-1, 0), min(to+1, c.cols)
	inner, near := sums[lo-from+1:][:hi-lo], c.row(y / c.vs)[lo:hi]
	if c.method == fancyH {
		d.k.widen(inner, near)
	} else {
		d.k.weigh(inner, near, c.row(further(y, c.rows))[lo:hi])
	}
	if from == 0 {
		sums[0] = sums[1]
	}
	if to == c.cols {
		sums[n-1] = sums[n-2]
	}
	if c.method == fancyH {
		d.k.spread1(out, sums)
	} else {
		d.k.spread4(out, sums)
	}
}

// convert makes pixels of one row of samples.
func (d *Decoder) convert(out []byte, rows *[maxComponents][]byte) {
	switch d.space {
	case grey:
		d.k.grey(out, rows[0])
	case ycbcr:
		d.k.rgb(out, rows[0], rows[1], rows[2])
	case rgb:
		for x, r := range rows[0] {
			p := out[3*x : 3*x+3 : 3*x+3]
			p[0], p[1], p[2] = r, rows[1][x], rows[2][x]
		}
	case ycck:
		d.k.rgb(out, rows[0], rows[1], rows[2])
		for i := range out { // the inverses of the stored inks
			out[i] = 255 - out[i]
		}
		overprint(out, out, rows[3])
	case cmyk:
		for x := range rows[0] {
			p := out[3*x : 3*x+3 : 3*x+3]
			p[0], p[1], p[2] = rows[0][x], rows[1][x], rows[2][x]
		}
		overprint(out, out, rows[3])
	}
}

// overprint makes RGB of inks that are stored inverted, as Pillow's convert("RGB") does.
func overprint(out, inks, black []byte) {
	for x, k := range black {
		p, c := out[3*x:3*x+3:3*x+3], inks[3*x:3*x+3:3*x+3]
		for i := range p {
			p[i] = underBlack(255-c[i], 255-k)
		}
	}
}

// underBlack is (1 - ink) * (1 - black), of 255, in Pillow's rounding.
func underBlack(ink, black byte) byte {
	rest := 255 - int32(black)
	v := int32(ink)*rest + 128
	return clip(rest - (v>>8+v)>>8)
}
