package main

import (
	"bytes"
	"fmt"
)

// maxPixels is how many pixels a tile of one or two channel blocks may have: 28 registers of sums in AVX-512, and two of weights. In AVX2, 6
// pairs of registers hold sums, two more weights and one a pixel's value: no tile has two blocks there.
func maxPixels(f family, blocks int) int {
	switch {
	case f.lanes == 8 && blocks == 1:
		return 6
	case f.lanes == 8:
		return 0
	case blocks == 1:
		return 24
	}
	return 14
}

// maxRows is how many rows a tile may have: one base register each.
func maxRows(f family) int {
	if f.lanes == 16 {
		return 4
	}
	return 1
}

// maxCols bounds the columns of a tile, for the sake of the code's size.
const maxCols = 14

// tileShape is a tile of rows x cols pixels in one or two output blocks.
type tileShape struct{ rows, cols, blocks int }

func (s tileShape) name(f family) string {
	return fmt.Sprintf("conv%dx%dx%d_%s", s.rows, s.cols, s.blocks, f.name)
}

// tileShapes lists the tiles of a family.
func tileShapes(f family) (out []tileShape) {
	for blocks := 1; blocks <= 2; blocks++ {
		for rows := 1; rows <= maxRows(f); rows++ {
			for cols := 1; rows*cols <= maxPixels(f, blocks) && cols <= maxCols; cols++ {
				out = append(out, tileShape{rows, cols, blocks})
			}
		}
	}
	return out
}

func convKernels(g *gen, f family) {
	for _, s := range tileShapes(f) {
		convKernel(g, f, s)
	}
	for cols := 1; cols <= rowPixels(f); cols++ {
		convRowKernel(g, f, cols)
	}
}

// convKernel writes the kernel of a tile: for every tap and every input lane of it, one vector of weights for each block times
// each pixel's broadcast value. Every chunk taps the sums so far go to memory and the accumulators start again from zero: sums of
// sums round less than one long sum.
func convKernel(g *gen, f family, s tileShape) {
	g.fn(s.name(f), "convArgs")
	g.field("convArgs", "lanes", "R10")
	if s.rows > 1 {
		g.field("convArgs", "inRow", "R11")
	} else { // more rows leave no registers for it
		g.field("convArgs", "ahead", "R12")
		g.field("convArgs", "aheadStep", "R13")
	}
	if s.blocks > 1 {
		g.field("convArgs", "wBlock", "R15")
	}
	g.at("tile")
	g.field("convArgs", "in", "SI")
	g.field("convArgs", "w", "DX")
	g.field("convArgs", "taps", "R8")
	g.p("MOVQ convArgs_ntaps(AX), BX")
	g.p("MOVQ BX, convArgs_left(AX)")
	g.p("MOVQ convArgs_add(AX), BX")
	g.p("MOVQ BX, convArgs_adding(AX)")
	per := 16 / f.lanes
	sums := s.rows * s.cols * s.blocks * per
	g.at("chunk")
	for i := range sums {
		g.p("VXORPS %s, %s, %s", f.v(i), f.v(i), f.v(i))
	}
	g.field("convArgs", "left", "BX")
	g.field("convArgs", "chunk", "R9")
	g.p("CMPQ BX, R9")
	g.p("CMOVQLT BX, R9")
	g.p("SUBQ R9, BX")
	g.p("MOVQ BX, convArgs_left(AX)")
	g.p("TESTQ R9, R9")
	g.p("JZ sum")
	convTaps(g, f, s)
	g.at("sum")
	if s.blocks > 1 {
		g.field("convArgs", "outBlock", "R9")
	}
	// at is where half h of the pixel's block b goes.
	at := func(b, h int) string {
		if b == 0 {
			return fmt.Sprintf("%d(DI)", h*f.width)
		}
		return fmt.Sprintf("%d(DI)(R9*1)", h*f.width)
	}
	each := func(do func(reg, mem string)) {
		eachPixel(g, f.convArgs(), s, func(i int) {
			for b := range s.blocks {
				for h := range per {
					do(f.v((i*s.blocks+b)*per+h), at(b, h))
				}
			}
		})
	}
	g.field("convArgs", "adding", "CX")
	g.p("TESTQ CX, CX")
	g.p("JZ store")
	each(func(reg, mem string) {
		g.p("VADDPS %s, %s, %s", mem, reg, reg)
		g.p("VMOVUPS %s, %s", reg, mem)
	})
	g.p("JMP stored")
	g.at("store")
	each(func(reg, mem string) { g.p("VMOVUPS %s, %s", reg, mem) })
	g.at("stored")
	g.p("MOVQ $1, convArgs_adding(AX)")
	g.p("CMPQ convArgs_left(AX), $0")
	g.p("JNE chunk")
	nextTile(g)
	g.ret()
}

// nextTile goes on with the next of several tiles that are laid out evenly.
func nextTile(g *gen) {
	g.p("DECQ convArgs_tiles(AX)")
	g.p("JZ done")
	g.p("MOVQ convArgs_inTile(AX), BX")
	g.p("ADDQ BX, convArgs_in(AX)")
	g.p("MOVQ convArgs_wTile(AX), BX")
	g.p("ADDQ BX, convArgs_w(AX)")
	g.p("MOVQ convArgs_outTile(AX), BX")
	g.p("ADDQ BX, convArgs_out(AX)")
	g.p("JMP tile")
	g.at("done")
}

// convTaps writes the loop over R9 taps.
func convTaps(g *gen, f family, s tileShape) {
	per := 16 / f.lanes
	g.at("tap")
	base := []string{"BX", "R12", "R13", "DI"}
	g.p("MOVQ (R8), BX")
	g.p("ADDQ SI, BX")
	for r := 1; r < s.rows; r++ {
		g.p("LEAQ (%s)(R11*1), %s", base[r-1], base[r])
	}
	if s.rows == 1 {
		fetchBelow(g, "DI")
	}
	g.p("XORQ CX, CX")
	g.at("lane")
	weight := s.rows * s.cols * s.blocks * per
	for h := range per {
		g.p("VMOVUPS %d(DX), %s", h*f.width, f.v(weight+h))
	}
	if s.blocks > 1 {
		g.p("VMOVUPS (DX)(R15*1), %s", f.v(weight+1))
	}
	if s.rows == 1 {
		fetchAhead(g, "R12", "R13")
		fetchLine(g, "DI")
	}
	for r := range s.rows {
		for c := range s.cols {
			i := r*s.cols + c
			mem := fmt.Sprintf("%d(%s)(CX*4)", c*f.sourcePixel(), base[r])
			if per == 1 && s.blocks == 1 {
				g.mac(f, true, mem, weight, i)
				continue
			}
			value := weight + 2
			if per == 1 { // registers to spare: two values take turns
				value += i % 2
			}
			g.p("VBROADCASTSS %s, %s", mem, f.v(value))
			g.mac(f, false, f.v(weight), value, 2*i)
			g.mac(f, false, f.v(weight+1), value, 2*i+1)
		}
	}
	g.p("ADDQ $64, DX")
	g.p("INCQ CX")
	g.p("CMPQ CX, R10")
	g.p("JLT lane")
	g.p("ADDQ $8, R8")
	g.p("DECQ R9")
	g.p("JNZ tap")
}

// rowPixels is how many pixels of one row and block a kernel of whole window rows treats.
func rowPixels(f family) int {
	if f.lanes == 16 {
		return 16
	}
	return 6
}

func rowName(f family, cols int) string { return fmt.Sprintf("convRow%d_%s", cols, f.name) }

// convRowKernel writes the kernel of a 3-wide window over one row and one output block: the taps come in threes that read
// neighbouring pixels, and a lane's three products are added one after the other. With few output channels nothing else is left to
// share a pixel's broadcast value: each serves up to three sums.
func convRowKernel(g *gen, f family, cols int) {
	per := 16 / f.lanes
	g.fn(rowName(f, cols), "convArgs")
	g.field("convArgs", "outPix", "R11")
	g.field("convArgs", "ahead", "R10")
	g.field("convArgs", "aheadStep", "R15")
	g.at("tile")
	g.field("convArgs", "in", "SI")
	g.field("convArgs", "w", "DX")
	g.field("convArgs", "taps", "R8")
	g.field("convArgs", "ntaps", "R9")
	g.field("convArgs", "out", "DI")
	g.field("convArgs", "add", "R12")
	g.at("chunk")
	for i := range cols * per {
		g.p("VXORPS %s, %s, %s", f.v(i), f.v(i), f.v(i))
	}
	g.p("MOVQ (R8), BX")
	g.p("ADDQ SI, BX")
	fetchBelow(g, "R13")
	g.p("MOVQ $16, CX")
	g.at("lane")
	fetchAhead(g, "R10", "R15")
	fetchLine(g, "R13")
	if per == 1 {
		rowLane512(g, f, cols)
	} else {
		rowLane256(g, f, cols)
	}
	g.p("ADDQ $64, DX")
	g.p("ADDQ $4, BX")
	g.p("DECQ CX")
	g.p("JNZ lane")
	g.p("ADDQ $%d, DX", 2*16*64) // the weights of two more taps
	g.p("MOVQ DI, R13")
	g.p("TESTQ R12, R12")
	g.p("JZ store")
	rowOut(g, f, cols, func(reg, mem string) {
		g.p("VADDPS %s, %s, %s", mem, reg, reg)
		g.p("VMOVUPS %s, %s", reg, mem)
	})
	g.p("JMP stored")
	g.at("store")
	rowOut(g, f, cols, func(reg, mem string) { g.p("VMOVUPS %s, %s", reg, mem) })
	g.at("stored")
	g.p("MOVQ $1, R12")
	g.p("ADDQ $24, R8")
	g.p("SUBQ $3, R9")
	g.p("JNZ chunk")
	nextTile(g)
	g.ret()
}

// fetchAhead brings a line into the second-level cache that the next image's passes will read, at every input lane a bit further.
func fetchAhead(g *gen, at, step string) {
	g.p("PREFETCHT1 (%s)", at)
	g.p("ADDQ %s, %s", step, at)
}

// fetchBelow points at what the tap that begins at BX reads for the next tile; fetchLine brings one pixel of that into the first-level
// cache, at every input lane the next. Without them a tile's first lane waits for all its pixels.
func fetchBelow(g *gen, at string) {
	g.field("convArgs", "inTile", at)
	g.p("ADDQ BX, %s", at)
}

func fetchLine(g *gen, at string) {
	g.p("PREFETCHT0 (%s)", at)
	g.p("ADDQ $64, %s", at)
}

// rowLane512 adds one input lane's products: pixel q of the input meets weights 0, 1 and 2 for outputs q, q-1 and q-2.
func rowLane512(g *gen, f family, cols int) {
	for t := range 3 {
		g.p("VMOVUPS %d(DX), %s", t*16*64, f.v(cols+t))
	}
	for q := range cols + 2 {
		value := f.v(cols + 3 + q%2)
		g.p("VBROADCASTSS %d(BX), %s", q*64, value)
		for t := range 3 {
			if o := q - t; o >= 0 && o < cols {
				g.p("VFMADD231PS %s, %s, %s", f.v(cols+t), value, f.v(o))
			}
		}
	}
}

// rowLane256 does so tap by tap: AVX2 has no registers for three taps' weights.
func rowLane256(g *gen, f family, cols int) {
	w, value := 2*cols, f.v(2*cols+2)
	for t := range 3 {
		g.p("VMOVUPS %d(DX), %s", t*16*64, f.v(w))
		g.p("VMOVUPS %d(DX), %s", t*16*64+32, f.v(w+1))
		for o := range cols {
			g.p("VBROADCASTSS %d(BX), %s", (o+t)*64, value)
			g.p("VFMADD231PS %s, %s, %s", f.v(w), value, f.v(2*o))
			g.p("VFMADD231PS %s, %s, %s", f.v(w+1), value, f.v(2*o+1))
		}
	}
}

// rowOut walks R13 over the row's output pixels.
func rowOut(g *gen, f family, cols int, do func(reg, mem string)) {
	per := 16 / f.lanes
	for c := range cols {
		for h := range per {
			do(f.v(c*per+h), fmt.Sprintf("%d(R13)", h*f.width))
		}
		if c < cols-1 {
			g.p("ADDQ R11, R13")
		}
	}
}

// eachPixel walks DI over the tile's output pixels. It uses BX, R12 and R13.
func eachPixel(g *gen, arg string, s tileShape, do func(i int)) {
	g.field(arg, "out", "DI")
	g.field(arg, "outPix", "BX")
	if s.rows > 1 {
		g.field(arg, "outRow", "R12")
		g.p("MOVQ DI, R13")
	}
	for r := range s.rows {
		for c := range s.cols {
			do(r*s.cols + c)
			if c < s.cols-1 {
				g.p("ADDQ BX, DI")
			}
		}
		if r < s.rows-1 {
			g.p("ADDQ R12, R13")
			g.p("MOVQ R13, DI")
		}
	}
}

// tileTable declares the kernels of a family by shape.
func tileTable(b *bytes.Buffer, f family) {
	fmt.Fprintf(b, "// conv%s holds the kernel of every tile shape: [blocks-1][rows-1][cols-1].\nvar conv%s = [2][%d][%d]func(*%s){\n", f.name, f.name, maxRows(f), maxCols, f.convArgs())
	for _, s := range tileShapes(f) {
		if s.cols == 1 && s.rows == 1 {
			if s.blocks == 2 {
				b.WriteString("\t},\n")
			}
			fmt.Fprintf(b, "\t%d: {\n", s.blocks-1)
		}
		if s.cols == 1 {
			fmt.Fprintf(b, "\t\t%d: {", s.rows-1)
		}
		fmt.Fprintf(b, "%s", s.name(f))
		if s.last(f) {
			b.WriteString("},\n")
		} else {
			b.WriteString(", ")
		}
	}
	b.WriteString("\t},\n}\n\n")
	if f.bf != notBF {
		return
	}
	fmt.Fprintf(b, "// convRow%s holds the kernels of whole window rows: [cols-1].\nvar convRow%s = [...]func(*convArgs){", f.name, f.name)
	for cols := 1; cols <= rowPixels(f); cols++ {
		fmt.Fprintf(b, "%s, ", rowName(f, cols))
	}
	b.WriteString("}\n\n")
}

// last says whether no wider tile of as many rows and blocks exists.
func (s tileShape) last(f family) bool {
	return s.cols == maxCols || s.rows*(s.cols+1) > maxPixels(f, s.blocks)
}
