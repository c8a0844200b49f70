#include "go_asm.h"
#include "textflag.h"

// A weight of 23 bits is an upper part of 15 and a lower of 8 (see weights.pack), and two taps are multiplied and added by one
// VPMADDWD with each. With H the sum of products of upper parts and L that of the lower ones, the exact sum is 256*H + L, and
//
//	(256*H + L + 2^21) >> 22  =  (H + (L >> 8) + 2^13) >> 14
//
// since 2^21 is a multiple of 256.

// Two shuffles that make pairs of words of pixels 0, 1 and of 2, 3: red, green, blue, nothing; in both lanes.
DATA first2<>+0(SB)/8, $0x8004800180038000
DATA first2<>+8(SB)/8, $0x8080808080058002
DATA first2<>+16(SB)/8, $0x8004800180038000
DATA first2<>+24(SB)/8, $0x8080808080058002
GLOBL first2<>(SB), RODATA|NOPTR, $32

DATA next2<>+0(SB)/8, $0x800a800780098006
DATA next2<>+8(SB)/8, $0x80808080800b8008
DATA next2<>+16(SB)/8, $0x800a800780098006
DATA next2<>+24(SB)/8, $0x80808080800b8008
GLOBL next2<>(SB), RODATA|NOPTR, $32

// Of four pixels of 4 bytes, 3 each.
DATA close3<>+0(SB)/8, $0x0908060504020100
DATA close3<>+8(SB)/8, $0x808080800e0d0c0a
DATA close3<>+16(SB)/8, $0x0908060504020100
DATA close3<>+24(SB)/8, $0x808080800e0d0c0a
GLOBL close3<>(SB), RODATA|NOPTR, $32

DATA half14<>+0(SB)/4, $0x2000
GLOBL half14<>(SB), RODATA|NOPTR, $4

// Registers of the kernels of rows:
//
//	R8..R11  the four source rows           DI, SI, R12, R13  the four output rows, R14 bytes done
//	DX  where taps begin                    BX  weights
//	CX  groups to do                        AX  where this output's taps begin
//	Y13, Y14  the shuffles                  Y15 2^13

#define ROWSBEGIN \
	MOVQ a+0(FP), AX; \
	MOVQ (rowsArgs_src+0)(AX), R8; \
	MOVQ (rowsArgs_src+8)(AX), R9; \
	MOVQ (rowsArgs_src+16)(AX), R10; \
	MOVQ (rowsArgs_src+24)(AX), R11; \
	MOVQ (rowsArgs_dst+0)(AX), DI; \
	MOVQ (rowsArgs_dst+8)(AX), SI; \
	MOVQ (rowsArgs_dst+16)(AX), R12; \
	MOVQ (rowsArgs_dst+24)(AX), R13; \
	MOVQ rowsArgs_at(AX), DX; \
	MOVQ rowsArgs_weights(AX), BX; \
	MOVQ rowsArgs_groups(AX), CX; \
	XORL R14, R14; \
	VMOVDQU first2<>(SB), Y13; \
	VMOVDQU next2<>(SB), Y14

// LOAD leaves pixels 0, 1 of the rows in Y2 (rows 0 and 1) and Y3 (rows 2 and 3), pixels 2, 3 in Y0 and Y1.
#define LOAD \
	VMOVDQU     (R8)(AX*1), X0; \
	VINSERTI128 $1, (R9)(AX*1), Y0, Y0; \
	VMOVDQU     (R10)(AX*1), X1; \
	VINSERTI128 $1, (R11)(AX*1), Y1, Y1; \
	VPSHUFB     Y13, Y0, Y2; \
	VPSHUFB     Y14, Y0, Y0; \
	VPSHUFB     Y13, Y1, Y3; \
	VPSHUFB     Y14, Y1, Y1

// ROUND makes values of the sums.
#define ROUND(h, l) \
	VPSRLD $8, l, l; \
	VPADDD l, h, h; \
	VPADDD Y15, h, h; \
	VPSRLD $14, h, h

// SINGLE makes one output of four taps: rows 0, 1 in a and rows 2, 3 in b.
#define SINGLE(k, a, b) \
	MOVLQZX      (4*k)(DX), AX; \
	LOAD; \
	VPBROADCASTD (16*k)(BX), Y4; \
	VPBROADCASTD (16*k+8)(BX), Y5; \
	VPMADDWD     Y4, Y2, a; \
	VPMADDWD     Y4, Y3, b; \
	VPMADDWD     Y5, Y0, Y4; \
	VPADDD       Y4, a, a; \
	VPMADDWD     Y5, Y1, Y4; \
	VPADDD       Y4, b, b; \
	VPBROADCASTD (16*k+4)(BX), Y4; \
	VPBROADCASTD (16*k+12)(BX), Y5; \
	VPMADDWD     Y4, Y2, Y2; \
	VPMADDWD     Y4, Y3, Y3; \
	VPMADDWD     Y5, Y0, Y0; \
	VPMADDWD     Y5, Y1, Y1; \
	VPADDD       Y0, Y2, Y2; \
	VPADDD       Y1, Y3, Y3; \
	ROUND(a, Y2); \
	ROUND(b, Y3)

// STORE writes four outputs of each row; of rows 0, 1 the first two are in Y9 and the others in Y11; of rows 2, 3 in Y10 and Y12.
#define STORE \
	VPACKUSWB    Y11, Y9, Y9; \
	VPACKUSWB    Y12, Y10, Y10; \
	VPSHUFB      close3<>(SB), Y9, Y9; \
	VPSHUFB      close3<>(SB), Y10, Y10; \
	VMOVDQU      X9, (DI)(R14*1); \
	VEXTRACTI128 $1, Y9, (SI)(R14*1); \
	VMOVDQU      X10, (R12)(R14*1); \
	VEXTRACTI128 $1, Y10, (R13)(R14*1); \
	ADDQ         $12, R14; \
	ADDQ         $16, DX

// func rowsSingleAVX2(a *rowsArgs)
TEXT ·rowsSingleAVX2(SB), NOSPLIT, $0-8
	ROWSBEGIN
	VPBROADCASTD half14<>(SB), Y15

group:
	SINGLE(0, Y9, Y10)
	SINGLE(1, Y11, Y12)
	VPACKUSDW Y11, Y9, Y9
	VPACKUSDW Y12, Y10, Y10
	SINGLE(2, Y11, Y12)
	SINGLE(3, Y6, Y7)
	VPACKUSDW Y6, Y11, Y11
	VPACKUSDW Y7, Y12, Y12
	STORE
	ADDQ      $64, BX
	DECQ      CX
	JNZ       group
	VZEROUPPER
	RET

// ADD adds the products of two taps, for one pair of rows.
#define ADD(weights, pixels, sum) \
	VPMADDWD weights, pixels, Y5; \
	VPADDD   Y5, sum, sum

// OUTPUT makes one output of many taps: rows 0, 1 in Y6 and rows 2, 3 in Y7, with Y8 and Y15 for the lower parts. R15 counts the
// chunks, of which there are chunks-0(SP).
#define OUTPUT(k, loop) \
	MOVLQZX      (4*k)(DX), AX; \
	MOVQ         chunks-8(SP), R15; \
	VPXOR        Y6, Y6, Y6; \
	VPXOR        Y7, Y7, Y7; \
	VPXOR        Y8, Y8, Y8; \
	VPXOR        Y15, Y15, Y15; \
loop: \
	LOAD; \
	VPBROADCASTD 0(BX), Y4; \
	ADD(Y4, Y2, Y6); \
	ADD(Y4, Y3, Y7); \
	VPBROADCASTD 4(BX), Y4; \
	ADD(Y4, Y2, Y8); \
	ADD(Y4, Y3, Y15); \
	VPBROADCASTD 8(BX), Y4; \
	ADD(Y4, Y0, Y6); \
	ADD(Y4, Y1, Y7); \
	VPBROADCASTD 12(BX), Y4; \
	ADD(Y4, Y0, Y8); \
	ADD(Y4, Y1, Y15); \
	ADDQ         $12, AX; \
	ADDQ         $16, BX; \
	DECQ         R15; \
	JNZ          loop; \
	VPSRLD       $8, Y8, Y8; \
	VPSRLD       $8, Y15, Y15; \
	VPBROADCASTD half14<>(SB), Y4; \
	VPADDD       Y8, Y6, Y6; \
	VPADDD       Y15, Y7, Y7; \
	VPADDD       Y4, Y6, Y6; \
	VPADDD       Y4, Y7, Y7; \
	VPSRLD       $14, Y6, Y6; \
	VPSRLD       $14, Y7, Y7

// func rowsAVX2(a *rowsArgs)
TEXT ·rowsAVX2(SB), NOSPLIT, $8-8
	MOVQ a+0(FP), AX
	MOVQ rowsArgs_chunks(AX), R15
	MOVQ R15, chunks-8(SP)
	ROWSBEGIN

group:
	OUTPUT(0, output0)
	VMOVDQA   Y6, Y9
	VMOVDQA   Y7, Y10
	OUTPUT(1, output1)
	VPACKUSDW Y6, Y9, Y9
	VPACKUSDW Y7, Y10, Y10
	OUTPUT(2, output2)
	VMOVDQA   Y6, Y11
	VMOVDQA   Y7, Y12
	OUTPUT(3, output3)
	VPACKUSDW Y6, Y11, Y11
	VPACKUSDW Y7, Y12, Y12
	STORE
	DECQ      CX
	JNZ       group
	VZEROUPPER
	RET

// func columnAVX2(dst *byte, n int, src *byte, stride int, weights *uint32, pairs int)
//
//	DI, SI  output and source rows          CX  bytes to do, AX  bytes done
//	DX  stride                              R8, R9, R10  source, weights and pairs of the vector in hand
//	Y0..Y3  upper sums of 8 values each     Y4..Y7  lower sums
TEXT ·columnAVX2(SB), NOSPLIT, $0-48
	MOVQ  dst+0(FP), DI
	MOVQ  n+8(FP), CX
	MOVQ  src+16(FP), SI
	MOVQ  stride+24(FP), DX
	MOVQ  weights+32(FP), BX
	VPXOR Y15, Y15, Y15
	XORL  AX, AX
	SUBQ  $32, CX

vector:
	LEAQ         (SI)(AX*1), R8
	MOVQ         BX, R9
	MOVQ         pairs+40(FP), R10
	VPBROADCASTD half14<>(SB), Y0
	VMOVDQA      Y0, Y1
	VMOVDQA      Y0, Y2
	VMOVDQA      Y0, Y3
	VPXOR        Y4, Y4, Y4
	VPXOR        Y5, Y5, Y5
	VPXOR        Y6, Y6, Y6
	VPXOR        Y7, Y7, Y7

pair:
	VMOVDQU      (R8), Y8
	VMOVDQU      (R8)(DX*1), Y9
	VPBROADCASTD 0(R9), Y12
	VPBROADCASTD 4(R9), Y13
	VPUNPCKLBW   Y9, Y8, Y10
	VPUNPCKHBW   Y9, Y8, Y11
	VPUNPCKLBW   Y15, Y10, Y8
	VPUNPCKHBW   Y15, Y10, Y9
	VPUNPCKLBW   Y15, Y11, Y10
	VPUNPCKHBW   Y15, Y11, Y11
	VPMADDWD     Y12, Y8, Y14
	VPADDD       Y14, Y0, Y0
	VPMADDWD     Y12, Y9, Y14
	VPADDD       Y14, Y1, Y1
	VPMADDWD     Y12, Y10, Y14
	VPADDD       Y14, Y2, Y2
	VPMADDWD     Y12, Y11, Y14
	VPADDD       Y14, Y3, Y3
	VPMADDWD     Y13, Y8, Y8
	VPADDD       Y8, Y4, Y4
	VPMADDWD     Y13, Y9, Y9
	VPADDD       Y9, Y5, Y5
	VPMADDWD     Y13, Y10, Y10
	VPADDD       Y10, Y6, Y6
	VPMADDWD     Y13, Y11, Y11
	VPADDD       Y11, Y7, Y7
	LEAQ         (R8)(DX*2), R8
	ADDQ         $8, R9
	DECQ         R10
	JNZ          pair

	VPSRLD    $8, Y4, Y4
	VPSRLD    $8, Y5, Y5
	VPSRLD    $8, Y6, Y6
	VPSRLD    $8, Y7, Y7
	VPADDD    Y4, Y0, Y0
	VPADDD    Y5, Y1, Y1
	VPADDD    Y6, Y2, Y2
	VPADDD    Y7, Y3, Y3
	VPSRLD    $14, Y0, Y0
	VPSRLD    $14, Y1, Y1
	VPSRLD    $14, Y2, Y2
	VPSRLD    $14, Y3, Y3
	VPACKUSDW Y1, Y0, Y0
	VPACKUSDW Y3, Y2, Y2
	VPACKUSWB Y2, Y0, Y0
	VMOVDQU   Y0, (DI)(AX*1)
	CMPQ      AX, CX
	JEQ       done
	ADDQ      $32, AX
	CMPQ      AX, CX
	CMOVQGT   CX, AX               // the last vector lies over the one before
	JMP       vector

done:
	VZEROUPPER
	RET
