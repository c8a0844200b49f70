package main

import "fmt"

// chains is how many partial sums a reduction keeps for each lane: pixel j of a row goes to chain j mod chains.
const chains = 4

const ew = "ewArgs"

// pass is a kernel over the pixels of one channel block.
type pass struct {
	name string
	// pointers of ewArgs that the pass walks, with the register of each; the stride of field x is xRow.
	ptrs []ptr
	// init runs once a call: loads coefficients, clears sums. body treats one pixel at disp(reg)(BX*1).
	init, finish func(k *kern)
	body         func(k *kern, chain int, at func(field string) string)
}

type ptr struct {
	field, reg string
	wide       bool // pixels of float32 in a pass over bf16
}

// scale is how much larger the pointer's pixels are than the others.
func (q ptr) scale() int {
	if q.wide {
		return 2
	}
	return 1
}

// kern is a pass being written for one family.
type kern struct {
	*gen
	f family
	// Of pixels in bf16 that are stored two at a time: the first's place, once it waits.
	twos  bool
	first string
}

func (k *kern) op(name string, regs ...int) {
	s := name + " "
	for i, r := range regs {
		if i > 0 {
			s += ", "
		}
		s += k.f.v(r)
	}
	k.p("%s", s)
}

// coef loads coefficient vector i into register r. R13 points at the coefficients.
func (k *kern) coef(i, r int) { k.p("VMOVUPS %d(R13), %s", i*64, k.f.v(r)) }

func (k *kern) zero(r int) { k.op("VXORPS", r, r, r) }

// load brings a pixel to register r; bf16 is widened.
func (k *kern) load(mem string, r int) {
	if k.f.bf != notBF {
		k.widenHeld(mem, r)
		return
	}
	k.p("VMOVUPS %s, %s", mem, k.f.v(r))
}

// store writes register r, which it leaves alone; what is bf16 in memory is rounded.
func (k *kern) store(r int, mem string) {
	if k.f.bf != notBF {
		k.storeBF(r, mem)
		return
	}
	k.p("VMOVUPS %s, %s", k.f.v(r), mem)
}

// add adds a pixel in memory to register r; tmp is spoilt where memory holds bf16.
func (k *kern) add(mem string, r, tmp int) {
	if k.f.bf != notBF {
		k.widenHeld(mem, tmp)
		mem = k.f.v(tmp)
	}
	k.p("VADDPS %s, %s, %s", mem, k.f.v(r), k.f.v(r))
}

// maskPositive clears the lanes of g where z is not above zero; zero is a register that holds 0, tmp is spoilt.
func (k *kern) maskPositive(z, g, zero, tmp int) {
	const greater = 0x1e // GT_OQ: false for NaN
	if k.f.lanes == 16 {
		k.p("VCMPPS $%d, %s, %s, K1", greater, k.f.v(zero), k.f.v(z))
		k.p("VMOVAPS.Z %s, K1, %s", k.f.v(g), k.f.v(g))
		return
	}
	k.p("VCMPPS $%d, %s, %s, %s", greater, k.f.v(zero), k.f.v(z), k.f.v(tmp))
	k.op("VANDPS", tmp, g, g)
}

// results stores sums of chains: registers first..first+chains-1, added as (0+1)+(2+3), to result vector i. R12 points there.
func (k *kern) result(first, i int) {
	k.op("VADDPS", first+1, first, first)
	k.op("VADDPS", first+3, first+2, first+2)
	k.op("VADDPS", first+2, first, first)
	k.p("VMOVUPS %s, %d(R12)", k.f.v(first), i*64)
}

func elementwiseKernels(g *gen, f family) {
	for _, p := range passes() {
		k := &kern{gen: g, f: f}
		k.write(p)
	}
	sgdKernel(g, f)
}

// write emits the loops round a pass: rows, pixels in steps of chains, then the odd pixels. AVX2 goes over the
// block twice, once for each half of its lanes.
func (k *kern) write(p pass) {
	k.fn(p.name+"_"+k.f.name, ew)
	half := k.f.lanes == 8
	if half {
		k.p("XORQ R15, R15")
		k.at("half")
	}
	for _, q := range p.ptrs {
		k.field(ew, q.field, q.reg)
	}
	k.field(ew, "coef", "R13")
	k.field(ew, "res", "R12")
	k.field(ew, "rows", "R11")
	if half {
		for _, q := range append(p.ptrs, ptr{reg: "R13"}, ptr{reg: "R12"}) {
			k.p("ADDQ R15, %s", q.reg)
		}
	}
	if k.f.bf != notBF {
		k.hold(k.f)
	}
	if p.init != nil {
		p.init(k)
	}
	k.rows(p)
	if p.finish != nil {
		p.finish(k)
	}
	if half {
		k.p("ADDQ $32, R15")
		k.p("CMPQ R15, $64")
		k.p("JLT half")
	}
	k.ret()
}

func (k *kern) rows(p pass) {
	pixel := k.f.pixel()
	at := func(disp int) func(string) string {
		return func(field string) string {
			for _, q := range p.ptrs {
				if q.field == field {
					return fmt.Sprintf("%d(%s)(BX*%d)", disp*q.scale(), q.reg, q.scale())
				}
			}
			panic("pass " + p.name + " does not walk " + field)
		}
	}
	k.at("row")
	k.field(ew, "cols", "CX")
	k.p("XORQ BX, BX")
	k.p("SUBQ $%d, CX", chains)
	k.p("JLT odd")
	k.at("pixels")
	k.twos = k.f.bf == fmaBF
	for c := range chains {
		p.body(k, c, at(pixel*c))
	}
	k.twos = false
	k.p("ADDQ $%d, BX", pixel*chains)
	k.p("SUBQ $%d, CX", chains)
	k.p("JGE pixels")
	k.at("odd")
	k.p("ADDQ $%d, CX", chains)
	for c := range chains - 1 {
		k.p("JZ rowdone")
		p.body(k, c, at(0))
		k.p("ADDQ $%d, BX", pixel)
		k.p("DECQ CX")
	}
	k.at("rowdone")
	for _, q := range p.ptrs {
		k.p("ADDQ %s_%sRow(AX), %s", ew, q.field, q.reg)
	}
	k.p("DECQ R11")
	k.p("JNZ row")
}

// Coefficient vectors of a channel block, in the order of coefs in the package.
const (
	cScale = iota
	cShift
	cMean
	cA
	cB
	cC
)

func passes() []pass {
	y, a, gr, out := ptr{field: "y", reg: "SI"}, ptr{field: "a", reg: "R9"}, ptr{field: "g", reg: "R10"}, ptr{field: "out", reg: "DI"}
	ps := []pass{statsPass(y)}
	for _, relu := range []bool{false, true} {
		for _, add := range []bool{false, true} {
			ps = append(ps, applyPass(relu, add, y, a, out))
		}
	}
	ps = append(ps, reducePass("reduce", y, gr), reducePass("reduceZ", y, gr), reducePass("reduceA", y, gr, a),
		dxPass("dx", y, gr, out), dxPass("dxZ", y, gr, out))
	ps = append(ps, pass{name: "accumulate", ptrs: []ptr{a, out}, body: func(k *kern, _ int, at func(string) string) {
		k.load(at("out"), 0)
		k.add(at("a"), 0, 1)
		k.store(0, at("out"))
	}})
	return ps
}

// statsPass sums a block's values and their squares, less the first pixel's.
func statsPass(y ptr) pass {
	return pass{name: "stats", ptrs: []ptr{y},
		init: func(k *kern) {
			k.load("(SI)", 12)
			k.p("VMOVUPS %s, (R12)", k.f.v(12))
			for r := range 2 * chains {
				k.zero(r)
			}
		},
		body: func(k *kern, c int, at func(string) string) {
			k.load(at("y"), 8+c%2)
			k.op("VSUBPS", 12, 8+c%2, 8+c%2)
			k.op("VADDPS", 8+c%2, c, c)
			k.op("VFMADD231PS", 8+c%2, 8+c%2, chains+c)
		},
		finish: func(k *kern) { k.result(0, 1); k.result(chains, 2) },
	}
}

// applyPass normalises: out = y*scale + shift, plus the shortcut, then ReLU.
func applyPass(relu, add bool, y, a, out ptr) pass {
	p := pass{name: "apply", ptrs: []ptr{y, out}}
	if add {
		p.name, p.ptrs = p.name+"Add", []ptr{y, a, out}
	}
	if relu {
		p.name += "ReLU"
	}
	p.init = func(k *kern) { k.coef(cScale, 8); k.coef(cShift, 9); k.zero(10) }
	p.body = func(k *kern, c int, at func(string) string) {
		k.load(at("y"), c)
		k.op("VFMADD213PS", 9, 8, c)
		if add {
			k.add(at("a"), c, 4+c)
		}
		if relu {
			k.op("VMAXPS", c, 10, c) // second source first: a NaN stays
		}
		k.store(c, at("out"))
	}
	return p
}

// reducePass sums g and g*(y-mean), g masked where ReLU was shut: reduceZ finds that out from y, reduceA from the
// output a, and leaves the masked g in place.
func reducePass(name string, ptrs ...ptr) pass {
	return pass{name: name, ptrs: ptrs,
		init: func(k *kern) {
			for r := range 2 * chains {
				k.zero(r)
			}
			k.coef(cMean, 8)
			k.zero(9)
			if name == "reduceZ" {
				k.coef(cScale, 10)
				k.coef(cShift, 11)
			}
		},
		body: func(k *kern, c int, at func(string) string) {
			k.load(at("y"), 12)
			k.load(at("g"), 13)
			switch name {
			case "reduceZ":
				k.op("VMOVAPS", 12, 14)
				k.op("VFMADD213PS", 11, 10, 14)
				k.maskPositive(14, 13, 9, 15)
			case "reduceA":
				k.load(at("a"), 14)
				k.maskPositive(14, 13, 9, 15)
				k.store(13, at("g"))
			}
			k.op("VSUBPS", 8, 12, 12)
			k.op("VADDPS", 13, c, c)
			k.op("VFMADD231PS", 12, 13, chains+c)
		},
		finish: func(k *kern) { k.result(0, 0); k.result(chains, 1) },
	}
}

// dxPass writes the gradient of the normalisation's input: A*g + (B*(y-mean) + C).
func dxPass(name string, ptrs ...ptr) pass {
	return pass{name: name, ptrs: ptrs,
		init: func(k *kern) {
			k.coef(cMean, 8)
			k.coef(cA, 9)
			k.coef(cB, 10)
			k.coef(cC, 11)
			if name == "dxZ" {
				k.coef(cScale, 12)
				k.coef(cShift, 13)
				k.zero(14)
			}
		},
		body: func(k *kern, c int, at func(string) string) {
			v, g := 2*(c%2), 2*(c%2)+1
			k.load(at("y"), v)
			k.load(at("g"), g)
			if name == "dxZ" {
				k.op("VMOVAPS", v, 4+c%2)
				k.op("VFMADD213PS", 13, 12, 4+c%2)
				k.maskPositive(4+c%2, g, 14, 15)
			}
			k.op("VSUBPS", 8, v, v)
			k.op("VFMADD213PS", 11, 10, v)
			k.op("VFMADD231PS", 9, g, v)
			k.store(v, at("out"))
		},
	}
}

// sgdKernel updates whole vectors of weights: t = wd*w + g; v = momentum*v + t; w = w - lr*v, every product fused.
func sgdKernel(g *gen, f family) {
	const arg = "sgdArgs"
	g.fn("sgd_"+f.name, arg)
	g.field(arg, "w", "SI")
	g.field(arg, "v", "DI")
	g.field(arg, "g", "DX")
	g.field(arg, "n", "CX")
	g.p("VBROADCASTSS %s_decay(AX), %s", arg, f.v(5))
	g.p("VBROADCASTSS %s_momentum(AX), %s", arg, f.v(6))
	g.p("VBROADCASTSS %s_negLR(AX), %s", arg, f.v(7))
	g.p("XORQ BX, BX")
	g.p("SUBQ $%d, CX", f.lanes)
	g.p("JLT done")
	g.at("loop")
	g.p("VMOVUPS (SI)(BX*1), %s", f.v(0))
	g.p("VMOVUPS (DX)(BX*1), %s", f.v(1))
	g.p("VMOVUPS (DI)(BX*1), %s", f.v(2))
	g.p("VFMADD231PS %s, %s, %s", f.v(0), f.v(5), f.v(1))
	g.p("VFMADD213PS %s, %s, %s", f.v(1), f.v(6), f.v(2))
	g.p("VFMADD231PS %s, %s, %s", f.v(2), f.v(7), f.v(0))
	g.p("VMOVUPS %s, (SI)(BX*1)", f.v(0))
	g.p("VMOVUPS %s, (DI)(BX*1)", f.v(2))
	g.p("ADDQ $%d, BX", f.width)
	g.p("SUBQ $%d, CX", f.lanes)
	g.p("JGE loop")
	g.at("done")
	g.ret()
}
