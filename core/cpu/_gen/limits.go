package main

// peakChains is how many sums the peak kernel keeps going: more than any core has places for in its pipelines, and few enough for the
// registers of AVX2.
const peakChains = 14

// peakKernel multiplies and adds in registers alone, as fast as the core can: each sum becomes half of itself plus one, so it stays near
// two and nothing is denormal.
func peakKernel(g *gen, f family) {
	const arg = "peakArgs"
	g.fn("peak_"+f.name, arg)
	g.field(arg, "rounds", "CX")
	g.p("VBROADCASTSS %s_half(AX), %s", arg, f.v(14))
	g.p("VBROADCASTSS %s_one(AX), %s", arg, f.v(15))
	for i := range peakChains {
		g.p("VMOVUPS %s, %s", f.v(15), f.v(i))
	}
	g.at("loop")
	for i := range peakChains {
		g.p("VFMADD213PS %s, %s, %s", f.v(15), f.v(14), f.v(i))
	}
	g.p("DECQ CX")
	g.p("JNZ loop")
	g.ret()
}
