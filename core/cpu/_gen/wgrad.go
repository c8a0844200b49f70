package main

import "fmt"

const wg = "wgradArgs"

// wgradShape is the piece of a weights' gradient that one kernel keeps in registers: some taps side by side, some lanes of one input
// block, some output blocks.
type wgradShape struct {
	name                string
	taps, lanes, blocks int
	roll                bool // the taps are three columns of a window: what one pixel of x gives to each is found by rolling dy on
}

// wgradShapes lists the kernels of a family. AVX2 has registers for one: the others are made of it.
func wgradShapes(f family) []wgradShape {
	if f.lanes == 8 {
		return []wgradShape{{name: "wgrad", taps: 1, lanes: 4, blocks: 1}}
	}
	out := []wgradShape{
		{name: "wgrad", taps: 1, lanes: 16, blocks: 1},
		{name: "wgradPair", taps: 1, lanes: 8, blocks: 2},
		{name: "wgradRow", taps: 3, lanes: 8, blocks: 1, roll: true},
	}
	for taps := 1; taps <= 4; taps++ {
		for blocks := 1; blocks <= 2; blocks++ {
			out = append(out, wgradShape{name: fmt.Sprintf("wgradImage%dx%d", taps, blocks), taps: taps, lanes: 3, blocks: blocks})
		}
	}
	return out
}

func wgradKernels(g *gen, f family) {
	for _, s := range wgradShapes(f) {
		wgradKernel(g, f, s)
	}
}

// wgradKernel writes sums over the pixels of some rows of some images: of each block's vector of dy times each tap's and lane's
// broadcast value of x.
func wgradKernel(g *gen, f family, s wgradShape) {
	g.fn(s.name+"_"+f.name, wg)
	k := wgradKern{g, f, s, 16 / f.lanes}
	for i := range k.sums() {
		g.p("VXORPS %s, %s, %s", f.v(i), f.v(i), f.v(i))
	}
	g.field(wg, "x", "SI")
	g.field(wg, "dy", "DI")
	g.field(wg, "images", "R8")
	g.field(wg, "xRow", "R9")
	g.field(wg, "dyRow", "R10")
	g.field(wg, "cols", "R11")
	if s.blocks > 1 {
		g.p("MOVQ %s_dyBlock(AX), R10", wg) // dyRow is added from memory
	}
	g.at("image")
	g.p("MOVQ SI, BX")
	g.p("MOVQ DI, DX")
	g.field(wg, "rows", "R12")
	g.at("row")
	g.p("MOVQ BX, R13")
	g.p("MOVQ DX, R15")
	g.p("MOVQ R11, CX")
	if s.roll {
		k.rollRow()
	} else {
		g.at("pixel")
		k.pixel()
		g.p("ADDQ $64, R13")
		g.p("ADDQ $64, R15")
		g.p("DECQ CX")
		g.p("JNZ pixel")
	}
	g.p("ADDQ R9, BX")
	g.p("ADDQ %s_dyRow(AX), DX", wg)
	g.p("DECQ R12")
	g.p("JNZ row")
	g.p("ADDQ %s_xImage(AX), SI", wg)
	g.p("ADDQ %s_dyImage(AX), DI", wg)
	g.p("DECQ R8")
	g.p("JNZ image")
	k.store()
	g.ret()
}

// wgradKern is a kernel being written. Sum (tap, lane, block, half) is in register ((tap*lanes + lane)*blocks + block)*per + half.
type wgradKern struct {
	*gen
	f   family
	s   wgradShape
	per int // registers of a block's 16 lanes
}

func (k wgradKern) sums() int { return k.s.taps * k.s.lanes * k.s.blocks * k.per }

// pixel adds one pixel's products.
func (k wgradKern) pixel() {
	dy := k.sums()
	x := dy + k.s.blocks*k.per
	for h := range k.per {
		k.p("VMOVUPS %d(R15), %s", h*k.f.width, k.f.v(dy+h))
	}
	if k.s.blocks > 1 {
		k.p("VMOVUPS (R15)(R10*1), %s", k.f.v(dy+1))
	}
	at := 0
	for t := range k.s.taps {
		for l := range k.s.lanes {
			mem := fmt.Sprintf("%d(R13)", 64*t+4*l)
			if k.s.blocks == 1 && k.per == 1 {
				k.p("VFMADD231PS.BCST %s, %s, %s", mem, k.f.v(dy), k.f.v(at))
				at++
				continue
			}
			value := x
			if k.per == 1 {
				value += l % 2
			}
			k.p("VBROADCASTSS %s, %s", mem, k.f.v(value))
			for i := range k.s.blocks * k.per {
				k.p("VFMADD231PS %s, %s, %s", k.f.v(dy+i), k.f.v(value), k.f.v(at))
				at++
			}
		}
	}
}

// rollRow treats a row of three taps whose window hangs over by one pixel of zeros at either end: x pixel q meets dy pixels
// q+1, q and q-1 under taps 0, 1 and 2, and those outside the row are zero.
func (k wgradKern) rollRow() {
	after, here, before := k.sums(), k.sums()+1, k.sums()+2
	products := func(first int) {
		for l := range k.s.lanes {
			value := k.f.v(k.sums() + 3 + l%2)
			k.p("VBROADCASTSS %d(R13), %s", 4*l, value)
			for t := first; t < 3; t++ {
				k.p("VFMADD231PS %s, %s, %s", k.f.v(after+t), value, k.f.v(t*k.s.lanes+l))
			}
		}
	}
	k.p("ADDQ $64, R13")
	k.p("VXORPS %s, %s, %s", k.f.v(before), k.f.v(before), k.f.v(before))
	k.p("VMOVUPS (R15), %s", k.f.v(here))
	k.p("DECQ CX")
	k.p("JZ last")
	k.at("pixel")
	k.p("ADDQ $64, R15")
	k.p("VMOVUPS (R15), %s", k.f.v(after))
	products(0)
	k.p("VMOVAPS %s, %s", k.f.v(here), k.f.v(before))
	k.p("VMOVAPS %s, %s", k.f.v(after), k.f.v(here))
	k.p("ADDQ $64, R13")
	k.p("DECQ CX")
	k.p("JNZ pixel")
	k.at("last")
	products(1)
}

// store writes the sums, or adds them to what is there.
func (k wgradKern) store() {
	k.field(k.f.wgradArgs(), "dw", "DI")
	k.field(k.f.wgradArgs(), "add", "CX")
	if k.s.blocks > 1 {
		k.field(k.f.wgradArgs(), "dwBlock", "R10")
	}
	k.field(k.f.wgradArgs(), "dwTap", "R9")
	each := func(do func(reg, mem string)) {
		at := 0
		for t := range k.s.taps {
			if t == 0 {
				k.p("MOVQ DI, SI")
			} else {
				k.p("ADDQ R9, SI")
			}
			for l := range k.s.lanes {
				for b := range k.s.blocks {
					for h := range k.per {
						index := ""
						if b > 0 {
							index = "(R10*1)"
						}
						do(k.f.v(at), fmt.Sprintf("%d(SI)%s", l*64+h*k.f.width, index))
						at++
					}
				}
			}
		}
	}
	k.p("TESTQ CX, CX")
	k.p("JZ store")
	each(func(reg, mem string) {
		k.p("VADDPS %s, %s, %s", mem, reg, reg)
		k.p("VMOVUPS %s, %s", reg, mem)
	})
	k.ret()
	k.at("store")
	each(func(reg, mem string) { k.p("VMOVUPS %s, %s", reg, mem) })
}
