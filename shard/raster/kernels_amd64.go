package raster

import "github.com/lockstep-ml/lockstep/internal/simd"

const (
	// vectorBytes is the widest vector.
	vectorBytes = 64
	// overread is how far behind the last pixel of a row the kernel of rows may look.
	overread = 16
)

// rowsArgs asks for four rows to be resized: groups of four outputs, each of chunks of four taps.
type rowsArgs struct {
	src     [4]*byte
	dst     [4]*byte // 4 bytes behind the last output are overwritten
	at      *int32   // where an output's taps begin, in bytes
	weights *uint32  // packed
	groups  int
	chunks  int
}

// vector is Resample with vector kernels.
func (r *Resampler) vector(f simd.Family, dst *Image, src view, rows int) {
	r.horizontal.pack()
	r.vertical.pack()
	n := len(r.horizontal.at)
	stride := (3*n + 4 + vectorBytes - 1) &^ (vectorBytes - 1)
	r.tmp = resize(r.tmp, (rows+1)*stride) // an odd number of taps reads one row more, and weighs it with 0
	r.rows(src, rows, stride)
	width := 3 * dst.W
	v := &r.vertical
	for y := range dst.H {
		out := dst.Pix[y*width : (y+1)*width]
		in := r.tmp[int(v.first[y])*stride:]
		pairs := (int(v.count[y]) + 1) / 2
		switch {
		case f == simd.AVX512:
			columnAVX512(&out[0], width, &in[0], stride, &v.packed[y*v.size], pairs)
		case width >= 32:
			columnAVX2(&out[0], width, &in[0], stride, &v.packed[y*v.size], pairs)
		default:
			column(out, in, stride, v.values[y*v.size:y*v.size+int(v.count[y])])
		}
	}
}

// rows resizes rows horizontally, four at a time.
func (r *Resampler) rows(src view, rows, stride int) {
	w := &r.horizontal
	a := rowsArgs{at: &w.at[0], weights: &w.packed[0], groups: len(w.at) / 4, chunks: w.size / 4}
	single := a.chunks == 1
	last := len(w.first) - 1
	reach := 3*int(w.first[last]) + 12*a.chunks + overread
	for y := 0; y < rows; y += 4 {
		for k := range 4 {
			row := min(y+k, rows-1) // the last is made again: the same bytes
			a.src[k], a.dst[k] = r.safe(k, src.row(row), reach), &r.tmp[row*stride]
		}
		if single {
			rowsSingleAVX2(&a)
		} else {
			rowsAVX2(&a)
		}
	}
}

// safe points to the k-th row itself, or to a copy where the kernel would look behind the image's end.
func (r *Resampler) safe(k int, row []byte, reach int) *byte {
	if len(row) >= reach {
		return &row[0]
	}
	edge := resize(r.edge[k], reach)
	clear(edge[copy(edge, row):])
	r.edge[k] = edge
	return &edge[0]
}

// rowsAVX2 resizes four rows.
//
//go:noescape
func rowsAVX2(a *rowsArgs)

// rowsSingleAVX2 is rowsAVX2 for chunks = 1.
//
//go:noescape
func rowsSingleAVX2(a *rowsArgs)

// columnAVX2 makes n >= 32 bytes of one output row from pairs of rows.
//
//go:noescape
func columnAVX2(dst *byte, n int, src *byte, stride int, weights *uint32, pairs int)

// columnAVX512 makes n bytes of one output row from pairs of rows, which have whole vectors to read.
//
//go:noescape
func columnAVX512(dst *byte, n int, src *byte, stride int, weights *uint32, pairs int)
