package main

import "fmt"

// moveKernels writes the kernels that move values from one layout to another, and those of max-pooling.
func moveKernels(g *gen, f family) {
	k := &kern{gen: g, f: f}
	k.transposeKernel()
	k.imageKernel()
	k.pixelKernel("copyPixels", false)
	k.pixelKernel("addPixels", true)
	k.maxPoolKernel()
	k.maxPoolGradientKernel()
}

// halves calls do for each register of a block's 16 lanes.
func (k *kern) halves(do func(h int)) {
	for h := range 16 / k.f.lanes {
		do(h)
	}
}

// transposeKernel turns 16 rows of 16 values into 16 columns, in squares as wide as a register. Every 128 bits of a register are
// loaded from a row of their own, so that the shuffles need not cross them.
func (k *kern) transposeKernel() {
	const arg = "transposeArgs"
	k.fn("transpose_"+k.f.name, arg)
	k.field(arg, "in", "SI")
	k.field(arg, "out", "DI")
	k.field(arg, "rowAt", "R8")
	k.field(arg, "colAt", "R9")
	for row := 0; row < 16; row += k.f.lanes {
		for col := 0; col < 16; col += k.f.lanes {
			k.square(row, col)
		}
	}
	k.ret()
}

// square treats a square that starts at a row and a column. Register 4*c + i holds rows i, i+4, ... of columns 4*c to 4*c+3.
func (k *kern) square(row, col int) {
	for r := range k.f.lanes {
		k.p("MOVQ %d(R8), BX", 8*(row+r))
		for c := range k.f.lanes / 4 {
			mem, reg := fmt.Sprintf("%d(SI)(BX*1)", 4*(col+4*c)), 4*c+r%4
			switch {
			case r < 4:
				k.p("VMOVUPS %s, X%d", mem, reg)
			case k.f.lanes == 16:
				k.p("VINSERTF32X4 $%d, %s, %s, %s", r/4, mem, k.f.v(reg), k.f.v(reg))
			default:
				k.p("VINSERTF128 $%d, %s, %s, %s", r/4, mem, k.f.v(reg), k.f.v(reg))
			}
		}
	}
	for c := range k.f.lanes / 4 {
		k.transposeFour(4*c, k.f.lanes)
		for i := range 4 {
			k.p("MOVQ %d(R9), BX", 8*(col+4*c+i))
			k.store(k.f.lanes+4+i, fmt.Sprintf("%d(DI)(BX*1)", 4*row))
		}
	}
}

// transposeFour transposes 4x4 values in each 128 bits of four registers, from register a on. It spoils registers t to t+3 and leaves
// the columns in t+4 to t+7.
func (k *kern) transposeFour(a, t int) {
	k.op("VUNPCKLPS", a+1, a, t)
	k.op("VUNPCKHPS", a+1, a, t+1)
	k.op("VUNPCKLPS", a+3, a+2, t+2)
	k.op("VUNPCKHPS", a+3, a+2, t+3)
	k.op("VUNPCKLPD", t+2, t, t+4)
	k.op("VUNPCKHPD", t+2, t, t+5)
	k.op("VUNPCKLPD", t+3, t+1, t+6)
	k.op("VUNPCKHPD", t+3, t+1, t+7)
}

// imageKernel writes pixels of three channels, each of which has a plane of its own.
func (k *kern) imageKernel() {
	const arg = "imageArgs"
	k.fn("image_"+k.f.name, arg)
	k.field(arg, "in", "SI")
	k.field(arg, "out", "DI")
	k.field(arg, "plane", "R8")
	k.field(arg, "rows", "R11")
	k.field(arg, "cols", "R12")
	k.field(arg, "outRow", "R13")
	k.zero(1)
	k.p("LEAQ (SI)(R8*1), R9")
	k.p("LEAQ (SI)(R8*2), R10")
	k.p("XORQ BX, BX")
	k.at("row")
	k.p("MOVQ DI, DX")
	k.p("MOVQ R12, CX")
	k.at("pixel")
	k.p("VMOVSS (SI)(BX*4), X0")
	k.p("VINSERTPS $0x10, (R9)(BX*4), X0, X0")
	k.p("VINSERTPS $0x20, (R10)(BX*4), X0, X0")
	k.halves(func(h int) { k.store(h, fmt.Sprintf("%d(DX)", h*k.f.width)) })
	k.p("ADDQ $64, DX")
	k.p("INCQ BX")
	k.p("DECQ CX")
	k.p("JNZ pixel")
	k.p("ADDQ R13, DI")
	k.p("DECQ R11")
	k.p("JNZ row")
	k.ret()
}

// pixelKernel copies or adds pixels that lie apart. AVX2 also offers halves of pixels.
func (k *kern) pixelKernel(name string, add bool) {
	for lanes := k.f.lanes; lanes <= 16; lanes += k.f.lanes {
		const arg = "pixelArgs"
		k.fn(fmt.Sprintf("%s%d_%s", name, lanes, k.f.name), arg)
		k.field(arg, "in", "SI")
		k.field(arg, "out", "DI")
		k.field(arg, "inPix", "R8")
		k.field(arg, "outPix", "R9")
		k.field(arg, "rows", "R11")
		k.at("row")
		k.p("MOVQ SI, BX")
		k.p("MOVQ DI, DX")
		k.field(arg, "cols", "CX")
		k.at("pixel")
		for h := range lanes / k.f.lanes {
			k.load(fmt.Sprintf("%d(BX)", h*k.f.width), h)
			if add {
				k.p("VADDPS %d(DX), %s, %s", h*k.f.width, k.f.v(h), k.f.v(h))
			}
			k.store(h, fmt.Sprintf("%d(DX)", h*k.f.width))
		}
		k.p("ADDQ R8, BX")
		k.p("ADDQ R9, DX")
		k.p("DECQ CX")
		k.p("JNZ pixel")
		k.p("ADDQ %s_inRow(AX), SI", arg)
		k.p("ADDQ %s_outRow(AX), DI", arg)
		k.p("DECQ R11")
		k.p("JNZ row")
		k.ret()
	}
}

const mp = "poolArgs"

// maxPoolKernel takes the largest value of each window of a row.
func (k *kern) maxPoolKernel() {
	const unordered = 3
	k.fn("maxPool_"+k.f.name, mp)
	k.field(mp, "in", "SI")
	k.field(mp, "out", "DI")
	k.field(mp, "inRow", "R8")
	k.field(mp, "step", "R9")
	k.field(mp, "n", "R10")
	k.field(mp, "cols", "DX")
	k.p("SHLQ $6, DX")
	k.at("pixel")
	k.halves(func(h int) { k.load(fmt.Sprintf("%d(SI)", h*k.f.width), h) })
	k.p("MOVQ SI, R12")
	k.field(mp, "rows", "BX")
	k.window(func() {
		k.halves(func(h int) {
			top, v := h, 2+h
			k.load(fmt.Sprintf("%d(R12)(CX*1)", h*k.f.width), v)
			k.op("VMAXPS", top, v, top) // the first of equal values stays, and so does a NaN
			if k.f.lanes == 16 {
				k.p("VCMPPS $%d, %s, %s, K1", unordered, k.f.v(v), k.f.v(v))
				k.p("VMOVAPS %s, K1, %s", k.f.v(v), k.f.v(top))
				return
			}
			k.p("VCMPPS $%d, %s, %s, %s", unordered, k.f.v(v), k.f.v(v), k.f.v(4+h))
			k.op("VBLENDVPS", 4+h, v, top, top)
		})
	}, "ADDQ R8, R12")
	k.halves(func(h int) { k.store(h, fmt.Sprintf("%d(DI)", h*k.f.width)) })
	k.p("ADDQ $64, DI")
	k.p("ADDQ R9, SI")
	k.p("DECQ R10")
	k.p("JNZ pixel")
	k.ret()
}

// window writes the loops over BX rows of a window: CX counts bytes of a row up to DX, next goes to the next row.
func (k *kern) window(body func(), next ...string) {
	k.at("row")
	k.p("XORQ CX, CX")
	k.at("col")
	body()
	k.p("ADDQ $64, CX")
	k.p("CMPQ CX, DX")
	k.p("JLT col")
	for _, s := range next {
		k.p("%s", s)
	}
	k.p("DECQ BX")
	k.p("JNZ row")
}

// maxPoolGradientKernel gives each window's gradient to the first pixel that equals the window's maximum: what was given is zeroed.
func (k *kern) maxPoolGradientKernel() {
	const equal = 0
	k.fn("maxPoolGradient_"+k.f.name, mp)
	k.field(mp, "in", "SI")
	k.field(mp, "dIn", "DI")
	k.field(mp, "inRow", "R8")
	k.field(mp, "dInRow", "R9")
	k.field(mp, "out", "R10")
	k.field(mp, "dOut", "R11")
	k.field(mp, "n", "R15")
	k.field(mp, "cols", "DX")
	k.p("SHLQ $6, DX")
	k.at("pixel")
	k.halves(func(h int) {
		k.load(fmt.Sprintf("%d(R10)", h*k.f.width), h)
		k.load(fmt.Sprintf("%d(R11)", h*k.f.width), 2+h)
	})
	k.p("MOVQ SI, R12")
	k.p("MOVQ DI, R13")
	k.field(mp, "rows", "BX")
	k.window(func() {
		k.halves(func(h int) {
			top, g, d, sum := k.f.v(h), k.f.v(2+h), k.f.v(4+h), k.f.v(6+h)
			in, to := fmt.Sprintf("%d(R12)(CX*1)", h*k.f.width), fmt.Sprintf("%d(R13)(CX*1)", h*k.f.width)
			k.load(to, 4+h)
			if k.f.lanes == 16 {
				k.p("VCMPPS $%d, %s, %s, K1", equal, in, top)
				k.p("VADDPS %s, %s, K1, %s", g, d, d)
				k.p("VXORPS %s, %s, K1, %s", g, g, g)
			} else {
				mask := k.f.v(8 + h)
				k.p("VCMPPS $%d, %s, %s, %s", equal, in, top, mask)
				k.p("VADDPS %s, %s, %s", g, d, sum)
				k.p("VBLENDVPS %s, %s, %s, %s", mask, sum, d, d)
				k.p("VANDNPS %s, %s, %s", g, mask, g)
			}
			k.store(4+h, to)
		})
	}, "ADDQ R8, R12", "ADDQ R9, R13")
	k.p("ADDQ $64, R10")
	k.p("ADDQ $64, R11")
	k.p("ADDQ %s_step(AX), SI", mp)
	k.p("ADDQ %s_step(AX), DI", mp)
	k.p("DECQ R15")
	k.p("JNZ pixel")
	k.ret()
}
