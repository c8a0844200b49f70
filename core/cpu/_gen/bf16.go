package main

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

// Registers that rounding spoils, beside K1, and constants that it reads from memory.
const (
	narrowed = 30
	bfTemp   = 31
)

const bfConstants = `
// Float32: the exponent, the sign, the bit that makes a NaN quiet, what bf16 keeps; what rounds to nearest but for a tie.
DATA bfc<>+0(SB)/4, $0x7f800000
DATA bfc<>+4(SB)/4, $0x80000000
DATA bfc<>+8(SB)/4, $0x00400000
DATA bfc<>+12(SB)/4, $0xffff0000
DATA bfc<>+16(SB)/4, $0x00000001
DATA bfc<>+20(SB)/4, $0x00007fff
GLOBL bfc<>(SB), RODATA|NOPTR, $24

// How the words of two pixels become pairs: lane i of the first, lane i of the second.
DATA bfpairs<>+0(SB)/8, $0x0011000100100000
DATA bfpairs<>+8(SB)/8, $0x0013000300120002
DATA bfpairs<>+16(SB)/8, $0x0015000500140004
DATA bfpairs<>+24(SB)/8, $0x0017000700160006
DATA bfpairs<>+32(SB)/8, $0x0019000900180008
DATA bfpairs<>+40(SB)/8, $0x001b000b001a000a
DATA bfpairs<>+48(SB)/8, $0x001d000d001c000c
DATA bfpairs<>+56(SB)/8, $0x001f000f001e000e
GLOBL bfpairs<>(SB), RODATA|NOPTR, $64
`

// widen loads 16 bf16 as float32.
func (g *gen) widen(mem string, r int) {
	g.p("VPMOVZXWD %s, Z%d", mem, r)
	g.p("VPSLLD $16, Z%d, Z%d", r, r)
}

// round leaves register r's values as bf16 in the words of register narrowed: to nearest even, a NaN quiet, denormals as zero.
func (g *gen) round(f family, r int) {
	if f.bf == dotBF {
		g.emit(vcvtneps2bf16, false, f.v(r), 0, narrowed)
		return
	}
	const t, u = narrowed, bfTemp
	g.p("VMOVAPS Z%d, Z%d", r, u)
	g.p("VPTESTNMD.BCST bfc<>+0(SB), Z%d, K1", u)
	g.p("VPANDD.BCST bfc<>+4(SB), Z%d, K1, Z%d", u, u)
	g.p("VCMPPS $3, Z%d, Z%d, K1", u, u)
	g.p("VPORD.BCST bfc<>+8(SB), Z%d, K1, Z%d", u, u)
	g.p("VPANDD.BCST bfc<>+12(SB), Z%d, K1, Z%d", u, u) // so that adding does not carry
	g.p("VPSRLD $16, Z%d, Z%d", u, t)
	g.p("VPANDD.BCST bfc<>+16(SB), Z%d, Z%d", t, t)
	g.p("VPADDD.BCST bfc<>+20(SB), Z%d, Z%d", t, t)
	g.p("VPADDD Z%d, Z%d, Z%d", u, t, t)
	g.p("VPSRLD $16, Z%d, Z%d", t, t)
}

// narrow stores register r as 16 bf16.
func (g *gen) narrow(f family, r int, mem string) {
	g.round(f, r)
	if f.bf == dotBF {
		g.p("VMOVUPS Y%d, %s", narrowed, mem)
		return
	}
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
	g.raw(bfConstants)
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
		k := &kern{g, f}
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
		g.narrow(f, r, mem)
	})
	g.ret()
	g.at("wide")
	each(func(r int, mem string) {
		g.p("VADDPS %s, Z%d, K3, Z%d", mem, r, r)
		g.p("VMOVUPS Z%d, %s", r, mem)
	})
}
