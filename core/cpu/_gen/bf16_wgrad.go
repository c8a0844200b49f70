package main

import "fmt"

// bfWgradShapes lists the kernels of a gradient of weights: as in float32, but taps side by side each have a pointer of their own.
func bfWgradShapes(f family) []wgradShape {
	out := []wgradShape{
		{name: "bfWgrad", taps: 1, lanes: 16, blocks: 1},
		{name: "bfWgradPair", taps: 1, lanes: 8, blocks: 2},
		{name: "bfWgradRow", taps: 3, lanes: 8, blocks: 1},
	}
	for taps := 1; taps <= 4; taps++ {
		for blocks := 1; blocks <= 2; blocks++ {
			out = append(out, wgradShape{name: fmt.Sprintf("bfWgradImage%dx%d", taps, blocks), taps: taps, lanes: 3, blocks: blocks})
		}
	}
	return out
}

// bfWgradKernel writes sums over rows of pairs of pixels: of each block's vector of pairs of dy times each tap's and lane's broadcast
// pair of x. Where pixels are widened, a pair takes two turns.
func bfWgradKernel(g *gen, f family, s wgradShape) {
	const arg = "bfWgradArgs"
	g.fn(s.name+"_"+f.name, arg)
	k := wgradKern{g, f, s, 1}
	for i := range k.sums() {
		g.p("VXORPS %s, %s, %s", f.v(i), f.v(i), f.v(i))
	}
	taps := []string{"SI", "DI", "R8", "R9"}[:s.taps]
	for t, reg := range taps {
		g.p("MOVQ %s_x+%d(AX), %s", arg, 8*t, reg)
	}
	g.field(arg, "dy", "DX")
	if s.blocks > 1 {
		g.field(arg, "dyBlock", "R10")
		g.p("ADDQ DX, R10")
	}
	g.flush(f)
	g.field(arg, "images", "CX")
	g.field(arg, "xRow", "R12")
	g.field(arg, "dyRow", "R13")
	g.field(arg, "pairs", "R15")
	g.p("SHLQ $%d, R15", map[bfKind]int{dotBF: 6, fmaBF: 7}[f.bf])
	g.at("image")
	g.field(arg, "rows", "R11")
	g.at("row")
	g.p("XORQ BX, BX")
	g.at("pair")
	k.bfStep(taps)
	g.p("ADDQ $64, BX")
	g.p("CMPQ BX, R15")
	g.p("JLT pair")
	dys := []string{"DX", "R10"}[:s.blocks]
	advance := func(x, dy string) {
		for _, reg := range taps {
			g.p("ADDQ %s, %s", x, reg)
		}
		for _, reg := range dys {
			g.p("ADDQ %s, %s", dy, reg)
		}
	}
	advance("R12", "R13")
	g.p("DECQ R11")
	g.p("JNZ row")
	g.field(arg, "xSkip", "BX")
	g.field(arg, "dySkip", "R11")
	advance("BX", "R11")
	g.p("DECQ CX")
	g.p("JNZ image")
	g.keep(f)
	k.store()
	g.ret()
}

// bfStep adds the products of one vector of dy.
func (k wgradKern) bfStep(taps []string) {
	dy := k.sums()
	k.p("VMOVUPS (DX)(BX*1), %s", k.f.v(dy))
	if k.s.blocks > 1 {
		k.p("VMOVUPS (R10)(BX*1), %s", k.f.v(dy+1))
	}
	at := 0
	for _, x := range taps {
		for l := range k.s.lanes {
			mem := fmt.Sprintf("%d(%s)(BX*1)", 4*l, x)
			if k.s.blocks == 1 {
				k.mac(k.f, true, mem, dy, at)
				at++
				continue
			}
			value := dy + 2 + l%2
			k.p("VBROADCASTSS %s, %s", mem, k.f.v(value))
			k.mac(k.f, false, k.f.v(dy), value, at)
			k.mac(k.f, false, k.f.v(dy+1), value, at+1)
			at += 2
		}
	}
}

// bfPairKernel writes the preparation of a gradient of weights: of rows of pixels, pairs of neighbours. The last of an odd number has zeros
// beside it. As pairs for VDPBF16PS: [pair][16 lanes][2]; widened, the pair's second pixel comes first: [pair][2][16 lanes].
func bfPairKernel(g *gen, f family) {
	const arg = "bfPairArgs"
	g.fn("bfPair_"+f.name, arg)
	g.field(arg, "src", "SI")
	g.field(arg, "dst", "DI")
	g.field(arg, "rows", "R8")
	if f.bf == dotBF {
		g.p("VMOVDQU32 bfpairs<>(SB), Z31")
	} else {
		g.p("VPXORD Z31, Z31, Z31")
	}
	pair := map[bfKind]int{dotBF: 64, fmaBF: 128}[f.bf]
	g.at("row")
	g.p("MOVQ SI, BX")
	g.p("MOVQ DI, DX")
	g.field(arg, "pixels", "CX")
	g.p("SUBQ $2, CX")
	g.p("JLT odd")
	g.at("pair")
	if f.bf == dotBF {
		g.p("VPERMW (BX), Z31, Z0")
		g.p("VMOVDQU32 Z0, (DX)")
	} else {
		g.widen("32(BX)", 0)
		g.widen("(BX)", 1)
		g.p("VMOVUPS Z0, (DX)")
		g.p("VMOVUPS Z1, 64(DX)")
	}
	g.p("ADDQ $64, BX")
	g.p("ADDQ $%d, DX", pair)
	g.p("SUBQ $2, CX")
	g.p("JGE pair")
	g.at("odd")
	g.p("CMPQ CX, $-1")
	g.p("JNE done")
	if f.bf == dotBF {
		g.p("VMOVDQU (BX), Y0") // clears the upper half
		g.p("VPERMW Z0, Z31, Z0")
		g.p("VMOVDQU32 Z0, (DX)")
	} else {
		g.widen("(BX)", 1)
		g.p("VMOVUPS Z31, (DX)")
		g.p("VMOVUPS Z1, 64(DX)")
	}
	g.at("done")
	g.p("ADDQ %s_srcRow(AX), SI", arg)
	g.p("ADDQ %s_dstRow(AX), DI", arg)
	g.p("DECQ R8")
	g.p("JNZ row")
	g.ret()
}

// bfWeightKernel writes the laying out of weights: float32 vectors [pair][2][16] become [pair][16][2], or, rounded but as wide as before,
// [pair][2][16] with the second vector first.
func bfWeightKernel(g *gen, f family) {
	const arg = "bfWeightArgs"
	g.fn("bfWeights_"+f.name, arg)
	g.field(arg, "src", "SI")
	g.field(arg, "dst", "DI")
	g.field(arg, "pairs", "CX")
	g.p("TESTQ CX, CX")
	g.p("JZ done")
	g.at("pair")
	for i := range 2 {
		g.p("VMOVUPS %d(SI), Z0", 64*i)
		if f.bf == dotBF {
			g.emit(vcvtneps2bf16, false, "Z0", 0, narrowed)
			g.p("VPMOVZXWD Y%d, Z%d", narrowed, 1+i)
			continue
		}
		g.round(0, 1, false)
		g.p("VPSRLD $16, Z1, Z1")
		g.p("VPSLLD $16, Z1, Z1")
		g.p("VMOVUPS Z1, %d(DI)", 64*(1-i))
	}
	if f.bf == dotBF {
		g.p("VPSLLD $16, Z2, Z2")
		g.p("VPORD Z1, Z2, Z1")
		g.p("VMOVDQU32 Z1, (DI)")
		g.p("ADDQ $64, DI")
	} else {
		g.p("ADDQ $128, DI")
	}
	g.p("ADDQ $128, SI")
	g.p("DECQ CX")
	g.p("JNZ pair")
	g.at("done")
	g.ret()
}
