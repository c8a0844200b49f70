package main

import "fmt"

const wino = "winogradArgs"

// winogradKernels writes the transforms of Winograd's F(2x2, 3x3). All of them work down the columns first, then along the rows.
func winogradKernels(g *gen, f family) {
	k := &kern{gen: g, f: f}
	k.winogradInput()
	k.winogradOutput()
	k.winogradFilter()
	k.winogradError()
	k.winogradWeights()
}

// plane stores to one plane after the other, from BX on; R11 is the distance.
func (k *kern) plane(r, h int, last bool) {
	k.store(r, fmt.Sprintf("%d(BX)", h*k.f.width))
	if !last {
		k.p("ADDQ R11, BX")
	}
}

// winogradInput turns 4x4 pixels, of which neighbouring tiles share two columns, into 16 values: B'dB.
func (k *kern) winogradInput() {
	k.fn("winogradInput_"+k.f.name, wino)
	k.field(wino, "in", "SI")
	k.field(wino, "out", "DI")
	k.field(wino, "inRow", "R8")
	k.field(wino, "plane", "R11")
	k.field(wino, "n", "CX")
	k.p("LEAQ (R8)(R8*2), R9")
	k.at("tile")
	k.halves(func(h int) {
		mem := func(row, col int) string {
			return fmt.Sprintf("%d(SI)%s", col*64+h*k.f.width, [...]string{"", "(R8*1)", "(R8*2)", "(R9*1)"}[row])
		}
		k.p("MOVQ DI, BX")
		for i, rows := range [...][2]int{{0, 2}, {1, 2}, {2, 1}, {1, 3}} {
			for c := range 4 {
				k.load(mem(rows[0], c), c)
				if i == 1 {
					k.p("VADDPS %s, %s, %s", mem(rows[1], c), k.f.v(c), k.f.v(c))
				} else {
					k.p("VSUBPS %s, %s, %s", mem(rows[1], c), k.f.v(c), k.f.v(c))
				}
			}
			k.op("VSUBPS", 2, 0, 4)
			k.op("VADDPS", 2, 1, 5)
			k.op("VSUBPS", 1, 2, 6)
			k.op("VSUBPS", 3, 1, 7)
			for j := range 4 {
				k.plane(4+j, h, i == 3 && j == 3)
			}
		}
	})
	k.p("ADDQ $128, SI")
	k.p("ADDQ $64, DI")
	k.p("DECQ CX")
	k.p("JNZ tile")
	k.ret()
}

// winogradOutput turns 16 values into 2x2 pixels: A'mA.
func (k *kern) winogradOutput() {
	k.fn("winogradOutput_"+k.f.name, wino)
	k.field(wino, "in", "SI")
	k.field(wino, "out", "DI")
	k.field(wino, "outRow", "R8")
	k.field(wino, "plane", "R11")
	k.field(wino, "n", "CX")
	k.field(wino, "add", "R9")
	k.p("LEAQ (R11)(R11*2), R10")
	k.p("LEAQ (SI)(R11*4), R12")
	k.p("LEAQ (R12)(R11*4), R13")
	k.p("LEAQ (R13)(R11*4), BX")
	k.at("tile")
	k.halves(func(h int) {
		mem := func(row, col int) string {
			return fmt.Sprintf("%d(%s)%s", h*k.f.width, [...]string{"SI", "R12", "R13", "BX"}[row], [...]string{"", "(R11*1)", "(R11*2)", "(R10*1)"}[col])
		}
		const upper, lower, t = 0, 4, 8
		for c := range 4 {
			k.load(mem(0, c), upper+c)
			k.load(mem(1, c), lower+c)
			k.load(mem(2, c), t)
			k.sums(upper+c, lower+c, t, mem(3, c))
		}
		for r, first := range [...]int{upper, lower} {
			k.sums(first, first+1, first+2, k.f.v(first+3))
			for x := range 2 {
				k.outputPixel(first+x, fmt.Sprintf("%d(DI)%s", x*64+h*k.f.width, [...]string{"", "(R8*1)"}[r]), fmt.Sprintf("add%d%d%d", h, r, x))
			}
		}
	})
	for _, r := range []string{"SI", "R12", "R13", "BX"} {
		k.p("ADDQ $64, %s", r)
	}
	k.p("ADDQ $128, DI")
	k.p("DECQ CX")
	k.p("JNZ tile")
	k.ret()
}

// sums makes a+(b+c) of register a, and (b-c)-d of b.
func (k *kern) sums(a, b, c int, d string) {
	const t = 9
	k.op("VADDPS", c, b, t)
	k.op("VADDPS", t, a, a)
	k.op("VSUBPS", c, b, b)
	k.p("VSUBPS %s, %s, %s", d, k.f.v(b), k.f.v(b))
}

// outputPixel stores a pixel, or adds to it where R9 is not 0.
func (k *kern) outputPixel(r int, mem, label string) {
	k.p("TESTQ R9, R9")
	k.p("JZ %s", label)
	k.p("VADDPS %s, %s, %s", mem, k.f.v(r), k.f.v(r))
	k.at(label)
	k.store(r, mem)
}

// winogradFilter turns the 3x3 weights of a block's lanes into 16 values: GgG'.
func (k *kern) winogradFilter() {
	const half = 15
	k.fn("winogradFilter_"+k.f.name, wino)
	k.field(wino, "in", "SI")
	k.field(wino, "out", "DI")
	k.field(wino, "plane", "R11")
	k.field(wino, "n", "CX")
	k.p("VBROADCASTSS %s_half(AX), %s", wino, k.f.v(half))
	k.at("row")
	k.halves(func(h int) {
		mem := func(row, col int) string { return fmt.Sprintf("%d(SI)", (3*row+col)*1024+h*k.f.width) }
		k.p("MOVQ DI, BX")
		for i := range 4 {
			for c := range 3 {
				k.filterColumn(i, c, func(row int) string { return mem(row, c) })
			}
			k.op("VADDPS", 2, 0, 3)
			k.op("VADDPS", 1, 3, 4)
			k.op("VMULPS", half, 4, 4)
			k.op("VSUBPS", 1, 3, 5)
			k.op("VMULPS", half, 5, 5)
			for j, r := range [...]int{0, 4, 5, 2} {
				k.plane(r, h, i == 3 && j == 3)
			}
		}
	})
	k.p("ADDQ $64, SI")
	k.p("ADDQ $64, DI")
	k.p("DECQ CX")
	k.p("JNZ row")
	k.ret()
}

// filterColumn makes value i of a column of weights: the first, half the sum of all or of all with the middle one negative, the last.
func (k *kern) filterColumn(i, r int, mem func(row int) string) {
	const half = 15
	switch i {
	case 0, 3:
		k.load(mem(2*(i/3)), r)
		return
	}
	k.load(mem(0), r)
	k.p("VADDPS %s, %s, %s", mem(2), k.f.v(r), k.f.v(r))
	name := "VADDPS"
	if i == 2 {
		name = "VSUBPS"
	}
	k.p("%s %s, %s, %s", name, mem(1), k.f.v(r), k.f.v(r))
	k.op("VMULPS", half, r, r)
}

// winogradError turns the gradients of 2x2 outputs into those of their 16 sums, AeA', but for the signs of the last row and column: the
// sums over them are subtracted in winogradWeights.
func (k *kern) winogradError() {
	k.fn("winogradError_"+k.f.name, wino)
	k.field(wino, "in", "SI")
	k.field(wino, "out", "DI")
	k.field(wino, "inRow", "R8")
	k.field(wino, "plane", "R11")
	k.field(wino, "n", "CX")
	k.at("tile")
	k.halves(func(h int) {
		mem := func(row, col int) string {
			return fmt.Sprintf("%d(SI)%s", col*64+h*k.f.width, [...]string{"", "(R8*1)"}[row])
		}
		k.p("MOVQ DI, BX")
		for i := range 4 {
			for c := range 2 {
				k.load(mem(i/3, c), c)
				if i == 1 {
					k.p("VADDPS %s, %s, %s", mem(1, c), k.f.v(c), k.f.v(c))
				} else if i == 2 {
					k.p("VSUBPS %s, %s, %s", mem(1, c), k.f.v(c), k.f.v(c))
				}
			}
			k.op("VADDPS", 1, 0, 2)
			k.op("VSUBPS", 1, 0, 3)
			for j, r := range [...]int{0, 2, 3, 1} {
				k.plane(r, h, i == 3 && j == 3)
			}
		}
	})
	k.p("ADDQ $128, SI")
	k.p("ADDQ $64, DI")
	k.p("DECQ CX")
	k.p("JNZ tile")
	k.ret()
}

// winogradWeights turns the gradients of a filter's 16 values into those of its weights: G'uG.
func (k *kern) winogradWeights() {
	const half = 15
	k.fn("winogradWeights_"+k.f.name, wino)
	k.field(wino, "in", "SI")
	k.field(wino, "out", "DI")
	k.field(wino, "n", "CX")
	k.p("VBROADCASTSS %s_half(AX), %s", wino, k.f.v(half))
	k.at("row")
	k.halves(func(h int) {
		mem := func(row, col int) string { return fmt.Sprintf("%d(SI)", (4*row+col)*1024+h*k.f.width) }
		for i := range 3 {
			for c := range 4 {
				k.weightLine(i, c, func(row int) string { return mem(row, c) })
			}
			k.op("VADDPS", 2, 1, 4)
			k.op("VMULPS", half, 4, 4)
			k.op("VSUBPS", 2, 1, 5)
			k.op("VMULPS", half, 5, 5)
			k.op("VADDPS", 4, 0, 0)
			k.op("VSUBPS", 3, 4, 4)
			for j, r := range [...]int{0, 5, 4} {
				k.store(r, fmt.Sprintf("%d(DI)", (3*i+j)*1024+h*k.f.width))
			}
		}
	})
	k.p("ADDQ $64, SI")
	k.p("ADDQ $64, DI")
	k.p("DECQ CX")
	k.p("JNZ row")
	k.ret()
}

// weightLine makes value i of three of a column of four: the first and half the sum of the middle ones, half their difference, half
// their sum without the last.
func (k *kern) weightLine(i, r int, mem func(row int) string) {
	const half, t = 15, 6
	k.load(mem(1), r)
	name := "VADDPS"
	if i == 1 {
		name = "VSUBPS"
	}
	k.p("%s %s, %s, %s", name, mem(2), k.f.v(r), k.f.v(r))
	k.op("VMULPS", half, r, r)
	switch i {
	case 0:
		k.load(mem(0), t)
		k.op("VADDPS", r, t, r)
	case 2:
		k.p("VSUBPS %s, %s, %s", mem(3), k.f.v(r), k.f.v(r))
	}
}
