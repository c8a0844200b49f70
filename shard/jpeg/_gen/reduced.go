package main

// The numbers of reduced.go.
const (
	red0211, red0510, red0601, red1062 = 1730, 4176, 4926, 8697
	red1452, red2173                   = 11893, 17799
)

// idct4 is the transform to 4 x 4 samples, in pairs of blocks.
func idct4(g *gen) {
	pairs(g, "idct4Pairs_avx2", 0, []int{0, 1, 2, 3, 5, 6, 7}, func() {
		left := [4]int{4, 12, 13, 14}
		unpackRows(g, "VPUNPCKLWD")
		quarters(g, quarter{8, 12, 13, left}, g.dwords("firstQuarter", 1<<11), 12)
		unpackRows(g, "VPUNPCKHWD")
		right := [4]int{5, 7, 2, 6} // rows are not needed any more
		quarters(g, quarter{8, 0, 1, right}, g.dwords("firstQuarter", 1<<11), 12)
		for i := range 4 {
			g.op("VPACKSSDW", y(i), y(left[i]), y(right[i]))
		}
		checkMiddle(g, []int{0, 1, 2, 3}, 8)
		secondQuarter(g)
	})
}

// unpackRows brings half of the rows, columns 0 to 3 or 4 to 7, to where quarters wants them: in 8 to 11.
func unpackRows(g *gen, unpack string) {
	g.op("VPXOR", y(8), y(8), y(8))
	g.op(unpack, y(8), y(8), y(0))
	g.op(unpack, y(9), y(2), y(6))
	g.op(unpack, y(10), y(1), y(3))
	g.op(unpack, y(11), y(5), y(7))
}

// A quarter says in which registers quarters works: x0, times 2^16; two that are free; where the results go. The pairs x2 x6, x1 x3 and x5 x7
// are in 9, 10 and 11.
type quarter struct {
	x0, sum, t int
	to         [4]int
}

// quarters computes the four results of a row or column, with half added and divided by 2^shift.
func quarters(g *gen, q quarter, half string, shift int) {
	g.p("VPSRAD $2, Y%d, Y%d", q.x0, q.x0) // times 2^14
	g.op("VPADDD", y(q.x0), y(q.x0), half)
	g.op("VPMADDWD", y(9), y(9), g.words("quarterEven", cos1847, -cos0765))
	g.op("VPADDD", y(q.sum), y(q.x0), y(9))
	g.op("VPSUBD", y(q.x0), y(q.x0), y(9))
	g.op("VPMADDWD", y(9), y(10), g.words("outer13", cos2562, cos0899))
	g.op("VPMADDWD", y(q.t), y(11), g.words("outer57", -red0601, -red0510))
	g.op("VPADDD", y(9), y(9), y(q.t))
	g.op("VPMADDWD", y(10), y(10), g.words("inner13", red1062, -red2173))
	g.op("VPMADDWD", y(11), y(11), g.words("inner57", red1452, -red0211))
	g.op("VPADDD", y(10), y(10), y(11))
	g.op("VPADDD", y(q.to[0]), y(q.sum), y(9))
	g.op("VPSUBD", y(q.to[3]), y(q.sum), y(9))
	g.op("VPADDD", y(q.to[1]), y(q.x0), y(10))
	g.op("VPSUBD", y(q.to[2]), y(q.x0), y(10))
	for _, v := range q.to {
		g.p("VPSRAD $%d, Y%d, Y%d", shift, v, v)
	}
}

// secondQuarter transforms the rows in registers 0 to 3 and stores the samples.
func secondQuarter(g *gen) {
	f := 8
	var a, c [4]int
	a[0], a[1], f = interleave(g, "WD", 0, 1, f)
	a[2], a[3], f = interleave(g, "WD", 2, 3, f)
	c[0], c[1], f = interleave(g, "DQ", a[0], a[2], f) // columns 0 1, 2 3
	c[2], c[3], _ = interleave(g, "DQ", a[1], a[3], f) // columns 4 5, 6 7
	g.op("VPXOR", y(12), y(12), y(12))
	g.op("VPUNPCKLWD", y(12), y(12), y(c[0]))
	g.op("VPUNPCKLWD", y(9), y(c[1]), y(c[3]))
	g.op("VPUNPCKHWD", y(10), y(c[0]), y(c[1]))
	g.op("VPUNPCKHWD", y(11), y(c[2]), y(c[3]))
	quarters(g, quarter{12, 13, 14, [4]int{0, 1, 2, 3}}, g.dwords("secondQuarter", 1<<18+128<<19), 19)
	g.op("VPACKSSDW", y(0), y(0), y(1))
	g.op("VPACKSSDW", y(2), y(2), y(3))
	g.op("VPACKUSWB", y(0), y(0), y(2))
	g.op("VPSHUFB", y(0), y(0), g.bytes32("columnsToRows", 0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15))
	for block := range 2 {
		outOf(g, block)
		if block == 1 {
			g.p("VEXTRACTI128 $1, Y0, X0")
		}
		g.p("VMOVD X0, (DI)")
		g.p("VPEXTRD $1, X0, (DI)(DX*1)")
		g.p("LEAQ (DI)(DX*2), DI")
		g.p("VPEXTRD $2, X0, (DI)")
		g.p("VPEXTRD $3, X0, (DI)(DX*1)")
	}
}
