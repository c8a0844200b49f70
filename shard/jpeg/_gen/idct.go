package main

import (
	"fmt"
	"slices"
)

// The numbers of idct_generic.go. A sum of two products with one factor each is VPMADDWD's one step, so factors are added up here where the
// generic form adds the values first.
const (
	cos0298, cos0390, cos0541, cos0765 = 2446, 3196, 4433, 6270
	cos0899, cos1175, cos1501, cos1847 = 7373, 9633, 12299, 15137
	cos1961, cos2053, cos2562, cos3072 = 16069, 16819, 20995, 25172
)

// rows says which register holds which row.
type rows [8]int

// free lists the registers besides those of r and 15, which collects what is out of range.
func (r rows) free() (out []int) {
	for i := range 15 {
		if !slices.Contains(r[:], i) {
			out = append(out, i)
		}
	}
	return out
}

// pairs writes a function that transforms pairs of blocks: one in the lower half of every register, one in the upper. Values are 16 bits wide,
// products and sums 32. The bounds that the generic form checks (coefLimit, middleLimit) are those that keep these widths exact.
func pairs(g *gen, name string, frame int, rowsUsed []int, body func()) {
	g.fn(name, "jobs *job, pairs int) (outside uint32)", frame, 20)
	g.p("MOVQ jobs+0(FP), AX")
	g.p("MOVQ pairs+8(FP), CX")
	g.op("VPXOR", y(15), y(15), y(15))
	g.at("loop")
	g.p("MOVQ job_coef(AX), SI")
	g.p("MOVQ job_comp(AX), DI")
	g.p("MOVQ component_quant(DI), DI")
	g.p("MOVQ (job__size+job_coef)(AX), R8")
	g.p("MOVQ (job__size+job_comp)(AX), R9")
	g.p("MOVQ component_quant(R9), R9")
	for _, row := range rowsUsed {
		dequantise(g, row)
	}
	body()
	g.p("ADDQ $(2*job__size), AX")
	g.p("DECQ CX")
	g.p("JNZ loop")
	g.p("XORL AX, AX")
	g.p("VPTEST Y15, Y15")
	g.p("SETNE AL")
	g.p("MOVL AX, outside+16(FP)")
	g.ret()
}

func idct(g *gen) {
	r := rows{0, 1, 2, 3, 4, 5, 6, 7}
	pairs(g, "idctPairs_avx2", 8*32, r[:], func() {
		r := transform(g, r, "first", 1<<10, 11)
		checkMiddle(g, r[:], r.free()[0])
		r = transform(g, transpose(g, r), "second", 1<<17+128<<18, 18)
		store(g, r)
	})
	idct4(g)
}

// checkMiddle notes values between the passes that are out of range. t is a free register.
func checkMiddle(g *gen, r []int, t int) {
	for _, row := range r {
		g.op("VPABSW", y(t), y(row))
		g.op("VPAND", y(t), y(t), g.words("middle", 0xc000)) // middleLimit and beyond
		g.op("VPOR", y(15), y(15), y(t))
	}
}

// dequantise loads a row of both blocks into register row, times the table's entries: as magnitudes, so that what leaves 12 bits is seen.
func dequantise(g *gen, row int) {
	at := 16 * row
	g.p("VMOVDQU %d(SI), X8", at)
	g.p("VMOVDQU %d(DI), X9", at)
	g.p("VINSERTI128 $1, %d(R8), Y8, Y8", at)
	g.p("VINSERTI128 $1, %d(R9), Y9, Y9", at)
	g.op("VPABSW", y(10), y(8))
	g.op("VPMULHUW", y(11), y(10), y(9))
	g.op("VPMULLW", y(10), y(10), y(9))
	g.op("VPAND", y(12), y(10), g.words("coefficient", 0xf000)) // coefLimit and beyond
	g.op("VPOR", y(15), y(15), y(11))
	g.op("VPOR", y(15), y(15), y(12))
	g.op("VPSIGNW", y(row), y(10), y(8))
}

// unpacks are the instructions for the two halves of a result.
var unpacks = [2]string{"VPUNPCKLWD", "VPUNPCKHWD"}

// transform is the one-dimensional transform, with half added and divided by 2^shift.
func transform(g *gen, r rows, pass string, half, shift int) rows {
	f := r.free()
	evens(g, r, f, g.dwords(pass+"Half", half))
	low, high := [4]int{f[0], f[1], f[2], f[3]}, [4]int{r[0], r[2], r[4], r[6]}
	odds(g, 0, r, low, f[4:])
	odds(g, 1, r, high, f[4:])
	var out rows
	sum, diff, other := f[4], f[5], f[6]
	for k := range 4 {
		out[k], out[7-k] = low[k], r[2*k+1]
		g.p("VMOVDQU %s, Y%d", evenAt(k, 0), sum)
		g.p("VMOVDQU %s, Y%d", evenAt(k, 1), other)
		g.op("VPSUBD", y(diff), y(sum), y(low[k]))
		g.op("VPADDD", y(sum), y(sum), y(low[k]))
		g.op("VPSUBD", y(out[7-k]), y(other), y(high[k]))
		g.op("VPADDD", y(other), y(other), y(high[k]))
		for _, v := range []int{sum, other, diff, out[7-k]} {
			g.p("VPSRAD $%d, Y%d, Y%d", shift, v, v)
		}
		g.op("VPACKSSDW", y(out[k]), y(sum), y(other))
		g.op("VPACKSSDW", y(out[7-k]), y(diff), y(out[7-k]))
	}
	return out
}

func evenAt(k, half int) string { return fmt.Sprintf("%d(SP)", 32*(2*k+half)) }

// evens leaves the four sums of the even rows on the stack, while the odd ones need the registers.
func evens(g *gen, r rows, f []int, round string) {
	sum, diff, zero, a0, a1, a2, a3 := f[0], f[1], f[2], f[3], f[4], f[5], f[6]
	g.op("VPADDW", y(sum), y(r[0]), y(r[4]))
	g.op("VPSUBW", y(diff), y(r[0]), y(r[4]))
	g.op("VPXOR", y(zero), y(zero), y(zero))
	for half, unpack := range unpacks {
		for _, v := range [][2]int{{a0, sum}, {a1, diff}} {
			g.op(unpack, y(v[0]), y(zero), y(v[1])) // times 2^16
			g.p("VPSRAD $3, Y%d, Y%d", v[0], v[0])  // times 2^13
			g.op("VPADDD", y(v[0]), y(v[0]), round)
		}
		g.op(unpack, y(a2), y(r[2]), y(r[6]))
		g.op("VPMADDWD", y(a3), y(a2), g.words("even3", cos0541+cos0765, cos0541))
		g.op("VPMADDWD", y(a2), y(a2), g.words("even2", cos0541, cos0541-cos1847))
		for k, e := range []struct {
			op   string
			a, b int
		}{{"VPADDD", a0, a3}, {"VPADDD", a1, a2}, {"VPSUBD", a1, a2}, {"VPSUBD", a0, a3}} {
			g.op(e.op, y(r[0]), y(e.a), y(e.b)) // row 0 is not needed any more
			g.p("VMOVDQU Y%d, %s", r[0], evenAt(k, half))
		}
	}
}

// odds computes one half of the four sums of the odd rows. f are three free registers.
func odds(g *gen, half int, r rows, o [4]int, f []int) {
	unpack, z3, z4, t := unpacks[half], f[0], f[1], f[2]
	g.op("VPADDW", y(z3), y(r[7]), y(r[3]))
	g.op("VPADDW", y(z4), y(r[5]), y(r[1]))
	g.op(unpack, y(z4), y(z3), y(z4))
	g.op("VPMADDWD", y(z3), y(z4), g.words("z3", cos1175-cos1961, cos1175))
	g.op("VPMADDWD", y(z4), y(z4), g.words("z4", cos1175, cos1175-cos0390))
	g.op(unpack, y(t), y(r[7]), y(r[1]))
	g.op("VPMADDWD", y(o[3]), y(t), g.words("odd3", cos0298-cos0899, -cos0899))
	g.op("VPMADDWD", y(o[0]), y(t), g.words("odd0", -cos0899, cos1501-cos0899))
	g.op(unpack, y(t), y(r[5]), y(r[3]))
	g.op("VPMADDWD", y(o[2]), y(t), g.words("odd2", cos2053-cos2562, -cos2562))
	g.op("VPMADDWD", y(o[1]), y(t), g.words("odd1", -cos2562, cos3072-cos2562))
	g.op("VPADDD", y(o[3]), y(o[3]), y(z3))
	g.op("VPADDD", y(o[0]), y(o[0]), y(z4))
	g.op("VPADDD", y(o[2]), y(o[2]), y(z4))
	g.op("VPADDD", y(o[1]), y(o[1]), y(z3))
}

// interleave makes the lower and the upper interleaving of registers a and b, and returns their registers and one that is free then.
func interleave(g *gen, unit string, a, b, free int) (lower, upper, left int) {
	g.op("VPUNPCKL"+unit, y(free), y(a), y(b))
	g.op("VPUNPCKH"+unit, y(a), y(a), y(b))
	return free, a, b
}

// transpose exchanges rows and columns of 8 x 8 words, in each half of the registers.
func transpose(g *gen, r rows) rows {
	f := r.free()[0]
	var a, b, out rows // after the steps
	for i := 0; i < 8; i += 2 {
		a[i], a[i+1], f = interleave(g, "WD", r[i], r[i+1], f)
	}
	for i := 0; i < 8; i += 4 {
		b[i], b[i+1], f = interleave(g, "DQ", a[i], a[i+2], f) // two columns of four rows each
		b[i+2], b[i+3], f = interleave(g, "DQ", a[i+1], a[i+3], f)
	}
	for i := range 4 {
		out[2*i], out[2*i+1], f = interleave(g, "QDQ", b[i], b[i+4], f)
	}
	return out
}

// outOf has DI point to where one block of the pair goes, and DX hold the distance to the next row.
func outOf(g *gen, block int) {
	g.p("MOVQ (%d*job__size+job_comp)(AX), DX", block)
	g.p("MOVQ (component_layer+layer_pix)(DX), DI")
	g.p("MOVQ (component_layer+layer_stride)(DX), DX")
	g.p("ADDQ (%d*job__size+job_at)(AX), DI", block)
}

// store writes columns of samples as rows of bytes.
func store(g *gen, c rows) {
	f := c.free()[0]
	for i := 0; i < 8; i += 4 { // into c[0] columns 0 and 2, c[1] 1 and 3, c[4] 4 and 6, c[5] 5 and 7
		g.op("VPACKUSWB", y(c[i]), y(c[i]), y(c[i+2]))
		g.op("VPACKUSWB", y(c[i+1]), y(c[i+1]), y(c[i+3]))
	}
	var a, b, out [4]int
	a[0], a[1], f = interleave(g, "BW", c[0], c[1], f) // columns 0 1, 2 3
	a[2], a[3], f = interleave(g, "BW", c[4], c[5], f)
	b[0], b[1], f = interleave(g, "WD", a[0], a[1], f) // columns 0 to 3 of rows 0 to 3, of rows 4 to 7
	b[2], b[3], f = interleave(g, "WD", a[2], a[3], f)
	out[0], out[1], f = interleave(g, "DQ", b[0], b[2], f) // rows 0 1, 2 3
	out[2], out[3], f = interleave(g, "DQ", b[1], b[3], f)
	for block := range 2 {
		outOf(g, block)
		for i, v := range out {
			if block == 1 {
				g.p("VEXTRACTI128 $1, Y%d, X%d", v, v)
			}
			g.p("VMOVQ X%d, (DI)", v)
			g.p("VMOVHPS X%d, (DI)(DX*1)", v)
			if i < 3 {
				g.p("LEAQ (DI)(DX*2), DI")
			}
		}
	}
	_ = f
}
