package main

// entropy reads the coefficients of a block behind the first, as bitReader.acGeneric does, with BMI2's shifts that need no particular register
// and leave the flags. It returns where it stands: the last coefficient's number, what it moved to (beyond 63 at an end of block), or 0 to have
// the caller decode a longer code and call again.
//
// The chain from one code to the next is what costs: shift, look-up, shift, and the new bits. It is kept free of branches; an entry's lowest six
// bits are the whole length of code and value for that.
func entropy(g *gen) {
	g.fn("ac_bmi2", "r *bitReader, h *huffman, coef *[64]int16, k int) (last, moved int)", 0, 48)
	g.lines("MOVQ r+0(FP), DX", "MOVQ h+8(FP), R8", "MOVQ coef+16(FP), DI", "MOVQ k+24(FP), R10",
		"MOVQ bitReader_acc(DX), AX", "MOVQ bitReader_n(DX), BX", "MOVQ bitReader_buf(DX), SI", "ADDQ bitReader_at(DX), SI",
		"LEAQ ·zigzag(SB), R9", "MOVQ R10, R11")
	g.at("loop")
	// Fill: the bits below the counted ones are the same ones again.
	g.lines("MOVQ (SI), R12", "BSWAPQ R12", "SHRXQ BX, R12, R12", "ORQ R12, AX",
		"MOVQ BX, R13", "XORQ $63, R13", "SHRQ $3, R13", "ADDQ R13, SI", "ORQ $56, BX",
		"MOVQ AX, R12", "SHRQ $(64-const_lookBits), R12", "MOVL huffman_look(R8)(R12*4), CX", "TESTL CX, CX", "JZ long")
	// The value: the last bits of code and value. Then where it goes, then its sign.
	g.lines("MOVL CX, R13", "NEGL R13", "SHRXQ R13, AX, R14", "SHLXQ CX, AX, AX",
		"MOVL CX, R15", "SHRL $const_entryMask, R15", "ANDL R15, R14",
		"MOVL CX, R13", "ANDL $const_entryBits, R13", "SUBQ R13, BX",
		"SHRL $const_entryMove, CX", "ANDL $127, CX", "ADDQ CX, R10",
		"LEAL (R14)(R14*1), R12", "CMPL R12, R15", "SBBL R12, R12", "ANDL R15, R12", "SUBL R12, R14",
		"CMPQ R10, $62", "JHI end",
		"MOVBLZX (R9)(R10*1), R12", "MOVW R14, (DI)(R12*2)", "MOVQ R10, R11", "JMP loop")
	g.at("end")
	g.lines("CMPQ R10, $63", "JNE out",
		"MOVBLZX (R9)(R10*1), R12", "MOVW R14, (DI)(R12*2)", "MOVQ R10, R11", "JMP out")
	g.at("long")
	g.lines("XORL R10, R10")
	g.at("out")
	g.lines("MOVQ AX, bitReader_acc(DX)", "MOVQ BX, bitReader_n(DX)", "SUBQ bitReader_buf(DX), SI", "MOVQ SI, bitReader_at(DX)",
		"MOVQ R11, last+32(FP)", "MOVQ R10, moved+40(FP)", "RET")
}

// lines writes instructions as they are.
func (g *gen) lines(instructions ...string) {
	for _, s := range instructions {
		g.p("%s", s)
	}
}
