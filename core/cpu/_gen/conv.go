package main

import (
	"bytes"
	"fmt"
)

// maxPixels is how many pixels of one channel block a tile may have. AVX-512 has registers for 28 or more, but with
// more than 14 the store queue fills when a chunk's sums go to memory, and that costs more than loading the
// weights again; AVX2's registers hold 6 pairs (two more hold weights, one a pixel's value).
func maxPixels(f family) int {
	if f.lanes == 16 {
		return 14
	}
	return 6
}

// maxRows is how many rows a tile may have: one base register each.
func maxRows(f family) int {
	if f.lanes == 16 {
		return 4
	}
	return 1
}

func tileName(f family, rows, cols int) string {
	return fmt.Sprintf("conv%dx%d_%s", rows, cols, f.name)
}

// eachTile calls do for every tile shape of a family.
func eachTile(f family, do func(rows, cols int)) {
	for rows := 1; rows <= maxRows(f); rows++ {
		for cols := 1; rows*cols <= maxPixels(f); cols++ {
			do(rows, cols)
		}
	}
}

func convKernels(g *gen, f family) {
	eachTile(f, func(rows, cols int) { convKernel(g, f, rows, cols) })
}

// convKernel writes the kernel of a tile of rows x cols pixels: for every tap and every input lane of it, one
// vector of weights times each pixel's broadcast value. Every chunk taps the sums so far go to memory and the
// accumulators start again from zero: sums of sums round less than one long sum.
func convKernel(g *gen, f family, rows, cols int) {
	g.fn(tileName(f, rows, cols), "convArgs")
	g.field("convArgs", "in", "SI")
	g.field("convArgs", "w", "DX")
	g.field("convArgs", "taps", "R8")
	g.field("convArgs", "ntaps", "R15")
	g.field("convArgs", "lanes", "R10")
	if rows > 1 {
		g.field("convArgs", "inRow", "R11")
	}
	per := 16 / f.lanes
	g.at("chunk")
	for i := range rows * cols * per {
		g.p("VXORPS %s, %s, %s", f.v(i), f.v(i), f.v(i))
	}
	g.field("convArgs", "chunk", "R9")
	g.p("CMPQ R15, R9")
	g.p("CMOVQLT R15, R9")
	g.p("SUBQ R9, R15")
	g.p("TESTQ R9, R9")
	g.p("JZ sum")
	convTaps(g, f, rows, cols)
	g.at("sum")
	g.field("convArgs", "add", "CX")
	g.p("TESTQ CX, CX")
	g.p("JZ store")
	eachPixel(g, rows, cols, func(i int) {
		for h := range per {
			g.p("VADDPS %d(DI), %s, %s", h*f.width, f.v(i*per+h), f.v(i*per+h))
		}
	})
	g.at("store")
	eachPixel(g, rows, cols, func(i int) {
		for h := range per {
			g.p("VMOVUPS %s, %d(DI)", f.v(i*per+h), h*f.width)
		}
	})
	g.p("MOVQ $1, convArgs_add(AX)")
	g.p("TESTQ R15, R15")
	g.p("JNZ chunk")
	g.ret()
}

// convTaps writes the loop over R9 taps.
func convTaps(g *gen, f family, rows, cols int) {
	per := 16 / f.lanes
	g.at("tap")
	base := []string{"BX", "R12", "R13", "DI"}
	g.p("MOVQ (R8), BX")
	g.p("ADDQ SI, BX")
	for r := 1; r < rows; r++ {
		g.p("LEAQ (%s)(R11*1), %s", base[r-1], base[r])
	}
	g.p("XORQ CX, CX")
	g.at("lane")
	weight := rows * cols * per
	for h := range per {
		g.p("VMOVUPS %d(DX), %s", h*f.width, f.v(weight+h))
	}
	for r := range rows {
		for c := range cols {
			acc := (r*cols + c) * per
			if per == 1 {
				g.p("VFMADD231PS.BCST %d(%s)(CX*4), %s, %s", c*64, base[r], f.v(weight), f.v(acc))
				continue
			}
			g.p("VBROADCASTSS %d(%s)(CX*4), %s", c*64, base[r], f.v(weight+2))
			g.p("VFMADD231PS %s, %s, %s", f.v(weight), f.v(weight+2), f.v(acc))
			g.p("VFMADD231PS %s, %s, %s", f.v(weight+1), f.v(weight+2), f.v(acc+1))
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

// eachPixel walks DI over the tile's output pixels. It uses BX and R12.
func eachPixel(g *gen, rows, cols int, do func(i int)) {
	g.field("convArgs", "out", "DI")
	g.field("convArgs", "outPix", "BX")
	if rows > 1 {
		g.field("convArgs", "outRow", "R12")
		g.p("MOVQ DI, R13")
	}
	for r := range rows {
		for c := range cols {
			do(r*cols + c)
			if c < cols-1 {
				g.p("ADDQ BX, DI")
			}
		}
		if r < rows-1 {
			g.p("ADDQ R12, R13")
			g.p("MOVQ R13, DI")
		}
	}
}

// tileTable declares the kernels of a family by shape.
func tileTable(b *bytes.Buffer, f family) {
	fmt.Fprintf(b, "// conv%s holds the kernel of every tile shape: [rows][cols].\nvar conv%s = [%d][%d]func(*convArgs){\n", f.name, f.name, maxRows(f)+1, maxPixels(f)+1)
	for rows := 1; rows <= maxRows(f); rows++ {
		fmt.Fprintf(b, "\t%d: {\n", rows)
		for cols := 1; rows*cols <= maxPixels(f); cols++ {
			fmt.Fprintf(b, "\t\t%d: %s,\n", cols, tileName(f, rows, cols))
		}
		b.WriteString("\t},\n")
	}
	b.WriteString("}\n\n")
}

// wgradKernels writes the gradient of one 16x16 block of weights: per pixel one vector of output gradients times
// each input lane's broadcast value. AVX2 takes four input lanes a call, for want of registers.
func wgradKernels(g *gen, f family) {
	lanes := 16
	if f.lanes == 8 {
		lanes = 4
	}
	per := 16 / f.lanes
	const arg = "wgradArgs"
	g.fn("wgrad_"+f.name, arg)
	for i := range lanes * per {
		g.p("VXORPS %s, %s, %s", f.v(i), f.v(i), f.v(i))
	}
	dy, x := lanes*per, lanes*per+per
	g.field(arg, "x", "SI")
	g.field(arg, "dy", "DI")
	g.field(arg, "images", "R8")
	g.field(arg, "xRow", "R9")
	g.field(arg, "dyRow", "R10")
	g.field(arg, "cols", "R11")
	g.at("image")
	g.p("MOVQ SI, BX")
	g.p("MOVQ DI, DX")
	g.field(arg, "rows", "R12")
	g.at("row")
	g.p("MOVQ BX, R13")
	g.p("MOVQ DX, R15")
	g.p("MOVQ R11, CX")
	g.at("pixel")
	for h := range per {
		g.p("VMOVUPS %d(R15), %s", h*f.width, f.v(dy+h))
	}
	for i := range lanes {
		if per == 1 {
			g.p("VFMADD231PS.BCST %d(R13), %s, %s", 4*i, f.v(dy), f.v(i))
			continue
		}
		g.p("VBROADCASTSS %d(R13), %s", 4*i, f.v(x))
		for h := range per {
			g.p("VFMADD231PS %s, %s, %s", f.v(dy+h), f.v(x), f.v(i*per+h))
		}
	}
	g.p("ADDQ $64, R13")
	g.p("ADDQ $64, R15")
	g.p("DECQ CX")
	g.p("JNZ pixel")
	g.p("ADDQ R9, BX")
	g.p("ADDQ R10, DX")
	g.p("DECQ R12")
	g.p("JNZ row")
	g.p("ADDQ %s_xImage(AX), SI", arg)
	g.p("ADDQ %s_dyImage(AX), DI", arg)
	g.p("DECQ R8")
	g.p("JNZ image")
	g.field(arg, "dw", "DI")
	g.field(arg, "add", "CX")
	g.p("TESTQ CX, CX")
	g.p("JZ store")
	for i := range lanes * per {
		g.p("VADDPS %d(DI), %s, %s", i*f.width, f.v(i), f.v(i))
	}
	g.at("store")
	for i := range lanes * per {
		g.p("VMOVUPS %s, %d(DI)", f.v(i), i*f.width)
	}
	g.ret()
}
