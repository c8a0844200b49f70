package main

// bfPasses lists the passes over bf16: those over float32, and what goes from one to the other.
func bfPasses(f family) []pass {
	ps := passes()
	for i := range ps {
		ps[i].name = "bf" + string(ps[i].name[0]-'a'+'A') + ps[i].name[1:]
	}
	y, out := ptr{field: "y", reg: "SI"}, ptr{field: "out", reg: "DI"}
	yWide, outWide := y, out
	yWide.wide, outWide.wide = true, true
	return append(ps,
		pass{name: "bfNarrow", ptrs: []ptr{yWide, out}, body: func(k *kern, c int, at func(string) string) {
			k.p("VMOVUPS %s, Z%d", at("y"), c)
			k.store(c, at("out"))
		}},
		pass{name: "bfWiden", ptrs: []ptr{y, outWide}, body: func(k *kern, c int, at func(string) string) {
			k.load(at("y"), c)
			k.p("VMOVUPS Z%d, %s", c, at("out"))
		}},
		pass{name: "bfSwap", ptrs: []ptr{y, outWide}, body: func(k *kern, c int, at func(string) string) {
			k.load(at("y"), c)
			k.p("VPSHUFD $0xb1, Z%d, Z%d", c, c)
			k.p("VMOVUPS Z%d, %s", c, at("out"))
		}},
	)
}

// storeBF stores register r, which it leaves alone, as bf16. Where it is called for two pixels side by side, it writes both at once.
func (k *kern) storeBF(r int, mem string) {
	const first = 29
	if k.f.bf == fmaBF {
		k.p("VMOVAPS Z%d, Z%d", r, bfTemp)
		r = bfTemp
	}
	switch {
	case !k.twos:
		k.narrow(k.f, r, mem, true)
	case k.first == "":
		k.round(r, first, true)
		k.first = mem
	default:
		k.round(r, narrowed, true)
		k.p("VPERMT2W Z%d, Z%d, Z%d", narrowed, bfHeld+bfHighs, first)
		k.p("VMOVDQU32 Z%d, %s", first, k.first)
		k.first = ""
	}
}
