package main

import (
	"fmt"
	"strconv"
	"strings"
)

// instruction is one that Go's assembler lacks: EVEX, 512 bits, opcode map 0F38, W0.
type instruction struct {
	name   string
	prefix byte // EVEX.pp: 1 is 66, 2 is F3, 3 is F2
	opcode byte
	three  bool // has a second source, in vvvv
}

var (
	vdpbf16ps      = instruction{"VDPBF16PS", 2, 0x52, true}
	vcvtneps2bf16  = instruction{"VCVTNEPS2BF16", 2, 0x72, false}
	vcvtne2ps2bf16 = instruction{"VCVTNE2PS2BF16", 3, 0x72, true}
	vpdpwssd       = instruction{"VPDPWSSD", 1, 0x52, true} // Go has this one: the tests compare
)

var generalRegisters = strings.Fields("AX CX DX BX SP BP SI DI R8 R9 R10 R11 R12 R13 R14 R15")

// operand is a vector register, or memory at disp + base + index*scale.
type operand struct {
	reg         int // -1: memory
	base, index int // index -1: none
	scale, disp int
}

// parseOperand reads Go's syntax: Z3, (BX), 64(BX)(CX*4).
func parseOperand(s string) operand {
	if s[0] == 'Z' || s[0] == 'Y' {
		return operand{reg: number(s[1:])}
	}
	o := operand{reg: -1, index: -1, scale: 1}
	disp, rest, _ := strings.Cut(s, "(")
	if disp != "" {
		o.disp = number(disp)
	}
	base, rest, _ := strings.Cut(rest, ")")
	o.base = general(base)
	if rest != "" {
		index, scale, _ := strings.Cut(strings.Trim(rest, "()"), "*")
		o.index, o.scale = general(index), number(scale)
	}
	return o
}

func number(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		panic(err)
	}
	return n
}

func general(name string) int {
	for i, r := range generalRegisters {
		if r == name {
			return i
		}
	}
	panic("no register " + name)
}

// inverted gives bit n of a register's number, the other way round, as EVEX wants it.
func inverted(reg, n int) byte { return byte(^reg >> n & 1) }

// encode assembles an instruction of the last source, the second source (31 inverted where there is none) and the destination.
func (in instruction) encode(src operand, bcst bool, second, dst int) []byte {
	x, b, low := inverted(src.reg, 4), inverted(src.reg, 3), byte(src.reg&7)
	var tail []byte
	mod := byte(3)
	if src.reg < 0 {
		x, b = 1, inverted(src.base, 3)
		if src.index >= 0 {
			x = inverted(src.index, 3)
		}
		unit := 64 // a displacement of one byte counts in these
		if bcst {
			unit = 4
		}
		mod, low, tail = src.address(unit)
	}
	if !in.three {
		second = 0
	}
	p0 := inverted(dst, 3)<<7 | x<<6 | b<<5 | inverted(dst, 4)<<4 | 2
	p1 := byte(^second&15)<<3 | 1<<2 | in.prefix
	p2 := byte(2<<5) | inverted(second, 4)<<3
	if bcst {
		p2 |= 1 << 4
	}
	return append([]byte{0x62, p0, p1, p2, in.opcode, mod<<6 | byte(dst&7)<<3 | low}, tail...)
}

// address gives ModRM's mod and rm, and the bytes that follow ModRM.
func (o operand) address(unit int) (mod, rm byte, tail []byte) {
	rm = byte(o.base & 7)
	if o.index >= 0 || rm == 4 { // rm 4 says that a SIB byte follows
		index := byte(4) // none
		if o.index >= 0 {
			index = byte(o.index & 7)
		}
		log := map[int]byte{1: 0, 2: 1, 4: 2, 8: 3}[o.scale]
		tail = append(tail, log<<6|index<<3|rm)
		rm = 4
	}
	switch n := o.disp / unit; {
	case o.disp == 0 && o.base&7 != 5: // 5 without displacement means another thing
		return 0, rm, tail
	case o.disp%unit == 0 && n >= -128 && n < 128:
		return 1, rm, append(tail, byte(n))
	}
	d := uint32(int32(o.disp))
	return 2, rm, append(tail, byte(d), byte(d>>8), byte(d>>16), byte(d>>24))
}

// emit writes an instruction as data, operands in Go's order. second is ignored where the instruction has none.
func (g *gen) emit(in instruction, bcst bool, src string, second, dst int) {
	code := in.encode(parseOperand(src), bcst, second, dst)
	line := fmt.Sprintf("LONG $0x%02x%02x%02x%02x", code[3], code[2], code[1], code[0])
	for code = code[4:]; len(code) >= 4; code = code[4:] {
		line += fmt.Sprintf("; LONG $0x%02x%02x%02x%02x", code[3], code[2], code[1], code[0])
	}
	for ; len(code) >= 2; code = code[2:] {
		line += fmt.Sprintf("; WORD $0x%02x%02x", code[1], code[0])
	}
	for _, b := range code {
		line += fmt.Sprintf("; BYTE $0x%02x", b)
	}
	g.p("%s // %s", line, in.text(bcst, src, second, dst))
}

// text is the instruction as Go would write it.
func (in instruction) text(bcst bool, src string, second, dst int) string {
	name := in.name
	if bcst {
		name += ".BCST"
	}
	if in.three {
		return fmt.Sprintf("%s %s, Z%d, Z%d", name, src, second, dst)
	}
	return fmt.Sprintf("%s %s, Y%d", name, src, dst)
}
