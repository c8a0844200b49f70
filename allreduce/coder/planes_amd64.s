#include "textflag.h"

// VPERMQ's order that undoes what packing and unpacking by halves does: 0, 2, 1, 3.
#define EVEN_ODD $0xd8

// func splitAVX2(lo, hi, src *byte, n int)
// n values, a multiple of 32 above zero.
TEXT ·splitAVX2(SB), NOSPLIT, $0-32
	MOVQ lo+0(FP), DI
	MOVQ hi+8(FP), DX
	MOVQ src+16(FP), SI
	MOVQ n+24(FP), CX
	VPCMPEQB Y7, Y7, Y7
	VPSRLW $8, Y7, Y7 // the low byte of each value

split:
	VMOVDQU (SI), Y0
	VMOVDQU 32(SI), Y1
	VPAND Y7, Y0, Y2
	VPAND Y7, Y1, Y3
	VPACKUSWB Y3, Y2, Y2
	VPERMQ EVEN_ODD, Y2, Y2
	VMOVDQU Y2, (DI)
	VPSRLW $8, Y0, Y0
	VPSRLW $8, Y1, Y1
	VPACKUSWB Y1, Y0, Y0
	VPERMQ EVEN_ODD, Y0, Y0
	VMOVDQU Y0, (DX)
	ADDQ $64, SI
	ADDQ $32, DI
	ADDQ $32, DX
	SUBQ $32, CX
	JNZ split
	VZEROUPPER
	RET

// func mergeAVX2(dst, lo, hi *byte, n int)
// n values, a multiple of 32 above zero.
TEXT ·mergeAVX2(SB), NOSPLIT, $0-32
	MOVQ dst+0(FP), DI
	MOVQ lo+8(FP), SI
	MOVQ hi+16(FP), DX
	MOVQ n+24(FP), CX

merge:
	VPERMQ EVEN_ODD, (SI), Y0
	VPERMQ EVEN_ODD, (DX), Y1
	VPUNPCKLBW Y1, Y0, Y2
	VPUNPCKHBW Y1, Y0, Y3
	VMOVDQU Y2, (DI)
	VMOVDQU Y3, 32(DI)
	ADDQ $32, SI
	ADDQ $32, DX
	ADDQ $64, DI
	SUBQ $32, CX
	JNZ merge
	VZEROUPPER
	RET
