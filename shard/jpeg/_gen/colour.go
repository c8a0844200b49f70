package main

import "fmt"

// colour writes the kernels of rows. Each does whole steps of its width; what is left is the caller's.
func colour(g *gen) {
	widen(g)
	weigh(g)
	spread(g, 1, 2, 1, 2)
	spread(g, 4, 4, 8, 7)
	mix(g)
	rgb(g)
	grey(g)
}

// rowKernel writes a function that repeats body so often as its last parameter, in CX, says. Each parameter begins in its register.
func (g *gen) rowKernel(name, args string, params [][2]string, body func()) {
	g.fn(name, args+")", 0, 8*len(params))
	for i, p := range params {
		g.p("MOVQ %s+%d(FP), %s", p[0], 8*i, p[1])
	}
	g.at("loop")
	body()
	g.p("DECQ CX")
	g.p("JNZ loop")
	g.ret()
}

func widen(g *gen) {
	g.rowKernel("widen_avx2", "out *int16, in *byte, steps int", [][2]string{{"out", "DI"}, {"in", "SI"}, {"steps", "CX"}}, func() {
		g.p("VPMOVZXBW (SI), Y0")
		g.p("VMOVDQU Y0, (DI)")
		g.p("ADDQ $16, SI")
		g.p("ADDQ $32, DI")
	})
}

func weigh(g *gen) {
	g.rowKernel("weigh_avx2", "out *int16, near, far *byte, steps int", [][2]string{{"out", "DI"}, {"near", "SI"}, {"far", "DX"}, {"steps", "CX"}}, func() {
		g.p("VPMOVZXBW (SI), Y0")
		g.p("VPMOVZXBW (DX), Y1")
		g.op("VPADDW", y(1), y(1), y(0))
		g.op("VPADDW", y(0), y(0), y(0))
		g.op("VPADDW", y(0), y(0), y(1))
		g.p("VMOVDQU Y0, (DI)")
		g.p("ADDQ $16, SI")
		g.p("ADDQ $16, DX")
		g.p("ADDQ $32, DI")
	})
}

// spread: 16 values between two neighbours become 32 samples.
func spread(g *gen, scale, shift, biasLeft, biasRight int) {
	left, right := g.words(fmt.Sprintf("left%d", scale), biasLeft), g.words(fmt.Sprintf("right%d", scale), biasRight)
	g.rowKernel(fmt.Sprintf("spread%d_avx2", scale), "out *byte, in *int16, steps int", [][2]string{{"out", "DI"}, {"in", "SI"}, {"steps", "CX"}}, func() {
		g.p("VMOVDQU 2(SI), Y0")
		g.op("VPADDW", y(1), y(0), y(0))
		g.op("VPADDW", y(0), y(0), y(1))
		g.p("VPADDW (SI), Y0, Y1")
		g.p("VPADDW 4(SI), Y0, Y2")
		g.op("VPADDW", y(1), y(1), left)
		g.op("VPADDW", y(2), y(2), right)
		g.p("VPSRLW $%d, Y1, Y1", shift)
		g.p("VPSRLW $%d, Y2, Y2", shift)
		g.p("VPSLLW $8, Y2, Y2")
		g.op("VPOR", y(1), y(1), y(2))
		g.p("VMOVDQU Y1, (DI)")
		g.p("ADDQ $32, SI")
		g.p("ADDQ $32, DI")
	})
}

func mix(g *gen) {
	g.fn("mix_avx2", "out, near, far *byte, bias, steps int)", 0, 40)
	for i, p := range [][2]string{{"out", "DI"}, {"near", "SI"}, {"far", "DX"}, {"bias", "AX"}, {"steps", "CX"}} {
		g.p("MOVQ %s+%d(FP), %s", p[0], 8*i, p[1])
	}
	g.p("MOVQ AX, X3")
	g.p("VPBROADCASTW X3, Y3")
	g.at("loop")
	g.p("VPMOVZXBW (SI), Y0")
	g.p("VPMOVZXBW (DX), Y1")
	g.op("VPADDW", y(1), y(1), y(3))
	g.op("VPADDW", y(1), y(1), y(0))
	g.op("VPADDW", y(0), y(0), y(0))
	g.op("VPADDW", y(0), y(0), y(1))
	g.p("VPSRLW $2, Y0, Y0")
	g.p("VEXTRACTI128 $1, Y0, X1")
	g.op("VPACKUSWB", x(0), x(0), x(1))
	g.p("VMOVDQU X0, (DI)")
	g.p("ADDQ $16, SI")
	g.p("ADDQ $16, DX")
	g.p("ADDQ $16, DI")
	g.p("DECQ CX")
	g.p("JNZ loop")
	g.ret()
}

// rgb: 32 pixels a step. Factors beyond 16 bits are split into a whole number, which is added, and a fraction.
func rgb(g *gen) {
	g.rowKernel("rgb_avx2", "out, luma, cb, cr *byte, steps int", [][2]string{{"out", "DI"}, {"luma", "SI"}, {"cb", "DX"}, {"cr", "BX"}, {"steps", "CX"}}, func() {
		g.op("VPXOR", y(15), y(15), y(15))
		g.p("VMOVDQU (SI), Y0")
		g.p("VMOVDQU (DX), Y1")
		g.p("VMOVDQU (BX), Y2")
		for half, unpack := range []string{"VPUNPCKLBW", "VPUNPCKHBW"} {
			to := [3]int{3 + 3*half, 4 + 3*half, 5 + 3*half}
			g.op(unpack, y(12), y(0), y(15))
			g.op(unpack, y(13), y(1), y(15))
			g.op(unpack, y(14), y(2), y(15))
			g.op("VPSUBW", y(13), y(13), g.words("centre", 128))
			g.op("VPSUBW", y(14), y(14), g.words("centre", 128))
			pixels(g, to)
		}
		for c := range 3 {
			g.op("VPACKUSWB", y(c), y(3+c), y(6+c))
		}
		g.interleave3(0, 1, 2)
		g.p("ADDQ $32, SI")
		g.p("ADDQ $32, DX")
		g.p("ADDQ $32, BX")
		g.p("ADDQ $96, DI")
	})
}

// pixels computes red, green and blue of 16 pixels, as words that may lie outside of 0..255, from luma in register 12 and chroma in 13, 14.
func pixels(g *gen, to [3]int) {
	// 91881 = 2^16 + 26345, 116130 = 2*2^16 - 14942, 46802 = 2^16 - 18734. Half of the upper word of twice a product is rounded as the
	// generic form rounds the product.
	one := g.words("one", 1)
	g.op("VPADDW", y(9), y(14), y(14))
	g.op("VPMULHW", y(9), y(9), g.words("redOfCr", 26345))
	g.op("VPADDW", y(10), y(13), y(13))
	g.op("VPMULHW", y(11), y(10), g.words("blueOfCb", -14942))
	for _, v := range []int{9, 11} {
		g.op("VPADDW", y(v), y(v), one)
		g.p("VPSRAW $1, Y%d, Y%d", v, v)
		g.op("VPADDW", y(v), y(v), y(12))
	}
	g.op("VPADDW", y(to[0]), y(9), y(14))
	g.op("VPADDW", y(to[2]), y(11), y(10))
	g.op("VPUNPCKLWD", y(9), y(13), y(14))
	g.op("VPUNPCKHWD", y(10), y(13), y(14))
	for _, v := range []int{9, 10} {
		g.op("VPMADDWD", y(v), y(v), g.words("green", -22554, 18734))
		g.op("VPADDD", y(v), y(v), g.dwords("half", 1<<15))
		g.p("VPSRAD $16, Y%d, Y%d", v, v)
	}
	g.op("VPACKSSDW", y(9), y(9), y(10))
	g.op("VPSUBW", y(9), y(9), y(14))
	g.op("VPADDW", y(to[1]), y(9), y(12))
}

// interleave3 stores registers r, gr and b, 32 bytes each, byte by byte in turn.
func (g *gen) interleave3(r, gr, b int) {
	for k := range 3 { // the k-th 16 bytes of what each half gives
		for c, from := range []int{r, gr, b} {
			var mask [16]byte
			for j := range mask {
				mask[j] = 0x80
				if at := 16*k + j; at%3 == c {
					mask[j] = byte(at / 3)
				}
			}
			to := 3 + k
			if c > 0 {
				to = 6
			}
			g.op("VPSHUFB", y(to), y(from), g.bytes32(fmt.Sprintf("take%d%d", k, c), mask[:]...))
			if c > 0 {
				g.op("VPOR", y(3+k), y(3+k), y(6))
			}
		}
	}
	g.storeThrice()
}

// storeThrice stores registers 3, 4, 5, whose lower halves come first.
func (g *gen) storeThrice() {
	g.p("VPERM2I128 $0x20, Y4, Y3, Y6") // lower of 3, lower of 4
	g.p("VPERM2I128 $0x30, Y3, Y5, Y7") // lower of 5, upper of 3
	g.p("VPERM2I128 $0x31, Y5, Y4, Y8") // upper of 4, upper of 5
	for i := range 3 {
		g.p("VMOVDQU Y%d, %d(DI)", 6+i, 32*i)
	}
}

func grey(g *gen) {
	g.rowKernel("grey_avx2", "out, luma *byte, steps int", [][2]string{{"out", "DI"}, {"luma", "SI"}, {"steps", "CX"}}, func() {
		g.p("VMOVDQU (SI), Y0")
		for k := range 3 {
			var mask [16]byte
			for j := range mask {
				mask[j] = byte((16*k + j) / 3)
			}
			g.op("VPSHUFB", y(3+k), y(0), g.bytes32(fmt.Sprintf("each%d", k), mask[:]...))
		}
		g.storeThrice()
		g.p("ADDQ $32, SI")
		g.p("ADDQ $96, DI")
	})
}
