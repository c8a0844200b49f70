package main

import "fmt"

// bfKind says how a family computes with bf16.
//
// VDPBF16PS adds, lane by lane, the product of a pair's second values and then that of its first ones, each sum rounded to nearest
// even, with denormals taken and given as zero. Two fused multiply-adds under MXCSR's FTZ and DAZ give the same bits: products of
// two bf16 are exact in float32. So the second kind needs no AVX512_BF16; it reads values that were widened before.
type bfKind int

const (
	notBF bfKind = iota
	dotBF        // VDPBF16PS on pairs; VCVTNEPS2BF16
	fmaBF        // VFMADD231PS on values widened to float32, in the order of VDPBF16PS; rounding by integers
)

var bfFamilies = []family{{"dot", "Z", 64, 16, dotBF}, {"fma", "Z", 64, 16, fmaBF}}

func (f family) convArgs() string {
	if f.bf != notBF {
		return "bfConvArgs"
	}
	return "convArgs"
}

func (f family) wgradArgs() string {
	if f.bf != notBF {
		return "bfWgradArgs"
	}
	return wg
}

// pixel is the bytes of a pixel in a tensor.
func (f family) pixel() int {
	if f.bf != notBF {
		return 32
	}
	return 64
}

// sourcePixel is the bytes of a pixel that a convolution reads.
func (f family) sourcePixel() int {
	if f.bf == dotBF {
		return 32
	}
	return 64
}

// mac adds products of 32 bits of memory, broadcast, or of a register, with register a to register sum.
func (g *gen) mac(f family, bcst bool, src string, a, sum int) {
	switch {
	case f.bf == dotBF:
		g.emit(vdpbf16ps, bcst, src, a, sum)
	case bcst:
		g.p("VFMADD231PS.BCST %s, %s, %s", src, f.v(a), f.v(sum))
	default:
		g.p("VFMADD231PS %s, %s, %s", src, f.v(a), f.v(sum))
	}
}

// Registers that rounding spoils, beside K1.
const (
	narrowed = 30
	bfTemp   = 31
)

// A constant of rounding is broadcast from memory, or held in a register by the passes.
const (
	bfExponent = iota
	bfSign
	bfLast // the last bit that bf16 keeps
	bfHalf // rounds to nearest, but for a tie
	bfOne
	bfNaNs // VFIXUPIMMPS: any NaN becomes the indefinite one, whose low bits cannot carry
	bfScalars
	// Vectors, in registers only.
	bfHighs  = iota - 1 // VPERMT2W: the high words of two registers
	bfSpread            // VPERMW: words to high words
)

// bfHeld is the register of the first constant, where they are held.
const bfHeld = 16

var bfScalar = [bfScalars]uint32{0x7f800000, 0x80000000, 0x00010000, 0x00007fff, 1, 0x33}

// bfConstants writes the constants as data.
func bfConstants(g *gen) {
	g.raw("\n")
	for i, v := range bfScalar {
		g.raw(fmt.Sprintf("DATA bfc<>+%d(SB)/4, $%#08x\n", 4*i, v))
	}
	g.raw(fmt.Sprintf("GLOBL bfc<>(SB), RODATA|NOPTR, $%d\n", 4*bfScalars))
	g.words("bfpairs", func(i int) int { return i/2 + i%2*16 })
	g.words("bfhighs", func(i int) int { return 2*i + 1 })
	g.words("bfspread", func(i int) int { return i / 2 })
}

// words writes a vector of 32 words.
func (g *gen) words(name string, word func(i int) int) {
	g.raw("\n")
	for i := 0; i < 32; i += 4 {
		g.raw(fmt.Sprintf("DATA %s<>+%d(SB)/8, $0x%04x%04x%04x%04x\n", name, 2*i, word(i+3), word(i+2), word(i+1), word(i)))
	}
	g.raw(fmt.Sprintf("GLOBL %s<>(SB), RODATA|NOPTR, $64\n", name))
}

// hold loads the constants of a pass.
func (g *gen) hold(f family) {
	if f.bf == fmaBF {
		for i := range bfScalars {
			g.p("VPBROADCASTD bfc<>+%d(SB), Z%d", 4*i, bfHeld+i)
		}
		g.p("VMOVDQU32 bfhighs<>(SB), Z%d", bfHeld+bfHighs)
	}
	g.p("VMOVDQU32 bfspread<>(SB), Z%d", bfHeld+bfSpread)
	g.p("MOVL $0xaaaaaaaa, CX")
	g.p("KMOVD CX, K2")
}

// widen loads 16 bf16 as float32.
func (g *gen) widen(mem string, r int) {
	g.p("VPMOVZXWD %s, Z%d", mem, r)
	g.p("VPSLLD $16, Z%d, Z%d", r, r)
}

// widenHeld does so where constants are held, with one instruction less that computes.
func (g *gen) widenHeld(mem string, r int) {
	g.p("VBROADCASTI64X4 %s, Z%d", mem, r)
	g.p("VPERMW.Z Z%d, Z%d, K2, Z%d", r, bfHeld+bfSpread, r)
}

// round leaves the bf16 nearest to register r's values in the high words of register to: a tie goes to the even one, a NaN stays one, denormals
// become zero. r is spoilt.
func (g *gen) round(r, to int, held bool) {
	op := func(name string, constant int, rest ...any) {
		src := fmt.Sprintf("Z%d", bfHeld+constant)
		if !held {
			name, src = name+".BCST", fmt.Sprintf("bfc<>+%d(SB)", 4*constant)
		}
		if name[:2] == "VF" {
			src = "$0, " + src
		}
		g.p("%s %s, %s", name, src, fmt.Sprintf(rest[0].(string), rest[1:]...))
	}
	op("VFIXUPIMMPS", bfNaNs, "Z%d, Z%d", r, r)
	op("VPTESTNMD", bfExponent, "Z%d, K1", r)
	op("VPANDD", bfSign, "Z%d, K1, Z%d", r, r)
	op("VPTESTMD", bfLast, "Z%d, K1", r)
	op("VPADDD", bfHalf, "Z%d, Z%d", r, to)
	op("VPADDD", bfOne, "Z%d, K1, Z%d", to, to)
}

// narrow stores register r, which it spoils, as 16 bf16.
func (g *gen) narrow(f family, r int, mem string, held bool) {
	if f.bf == dotBF {
		g.emit(vcvtneps2bf16, false, f.v(r), 0, narrowed)
		g.p("VMOVUPS Y%d, %s", narrowed, mem)
		return
	}
	g.round(r, narrowed, held)
	g.p("VPSRLD $16, Z%d, Z%d", narrowed, narrowed)
	g.p("VPMOVDW Z%d, %s", narrowed, mem)
}

// flush makes the fused multiply-adds treat denormals as VDPBF16PS does; keep ends that. The frame of 8 bytes holds MXCSR.
func (g *gen) flush(f family) {
	if f.bf == fmaBF {
		g.p("STMXCSR 0(SP)")
		g.p("MOVL 0(SP), CX")
		g.p("ORL $0x8040, CX")
		g.p("MOVL CX, 4(SP)")
		g.p("LDMXCSR 4(SP)")
	}
}

func (g *gen) keep(f family) {
	if f.bf == fmaBF {
		g.p("LDMXCSR 0(SP)")
	}
}

func bfKernels(g *gen, f family) {
	bfConstants(g)
	g.frame = 8
	for _, s := range tileShapes(f) {
		bfConvKernel(g, f, s)
	}
	for _, s := range bfWgradShapes(f) {
		bfWgradKernel(g, f, s)
	}
	bfPairKernel(g, f)
	bfWeightKernel(g, f)
	g.frame = 0
	for _, p := range bfPasses(f) {
		k := &kern{gen: g, f: f}
		k.write(p)
	}
}

func bfDeclarations() []byte {
	g := &gen{}
	for _, f := range bfFamilies {
		bfKernels(g, f)
	}
	return goFile(g, bfFamilies...)
}

// bfConvKernel writes the kernel of a tile: for every tap and every pair of input lanes, one vector of weights for each block times
// each pixel's broadcast pair. Sums stay in registers over all taps: float32 is far finer than what they become.
func bfConvKernel(g *gen, f family, s tileShape) {
	const arg = "bfConvArgs"
	g.fn(s.name(f), arg)
	sums := s.rows * s.cols * s.blocks
	for i := range sums {
		g.p("VXORPS %s, %s, %s", f.v(i), f.v(i), f.v(i))
	}
	g.field(arg, "in", "SI")
	g.field(arg, "w", "DX")
	g.field(arg, "taps", "R8")
	g.field(arg, "pairs", "R10")
	if f.bf == fmaBF {
		g.p("ADDQ R10, R10")
	}
	if s.rows > 1 {
		g.field(arg, "inRow", "R11")
	}
	if s.blocks > 1 {
		g.field(arg, "wBlock", "R15")
	}
	g.flush(f)
	g.field(arg, "ntaps", "R9")
	g.p("TESTQ R9, R9")
	g.p("JZ sum")
	convTaps(g, f, s)
	g.at("sum")
	g.keep(f)
	bfConvStore(g, f, s)
	g.ret()
}

// bfConvStore writes the sums. K3 is full where they are added to what is there, and empty otherwise: nothing is read then.
func bfConvStore(g *gen, f family, s tileShape) {
	const arg = "bfConvArgs"
	if s.blocks > 1 {
		g.field(arg, "outBlock", "R9")
	}
	g.field(arg, "add", "CX")
	g.p("NEGQ CX")
	g.p("KMOVW CX, K3")
	each := func(do func(r int, mem string)) {
		eachPixel(g, arg, s, func(i int) {
			for b := range s.blocks {
				do(i*s.blocks+b, []string{"(DI)", "(DI)(R9*1)"}[b])
			}
		})
	}
	g.p("CMPQ bfConvArgs_wide(AX), $0")
	g.p("JNE wide")
	each(func(r int, mem string) {
		g.p("VPMOVZXWD.Z %s, K3, Z%d", mem, narrowed)
		g.p("VPSLLD $16, Z%d, Z%d", narrowed, narrowed)
		g.p("VADDPS Z%d, Z%d, K3, Z%d", narrowed, r, r)
		g.narrow(f, r, mem, false)
	})
	g.ret()
	g.at("wide")
	each(func(r int, mem string) {
		g.p("VADDPS %s, Z%d, K3, Z%d", mem, r, r)
		g.p("VMOVUPS Z%d, %s", r, mem)
	})
}
