#include "go_asm.h"
#include "textflag.h"

// Shuffles that make integers of the red, green and blue bytes of 8 pixels, of which one lane holds the first 16 bytes and the other
// the last 16; the second three backwards, with the lanes changed.
DATA forwards<>+0(SB)/8, $0x8080800380808000
DATA forwards<>+8(SB)/8, $0x8080800980808006
DATA forwards<>+16(SB)/8, $0x8080800780808004
DATA forwards<>+24(SB)/8, $0x8080800d8080800a
DATA forwards<>+32(SB)/8, $0x8080800480808001
DATA forwards<>+40(SB)/8, $0x8080800a80808007
DATA forwards<>+48(SB)/8, $0x8080800880808005
DATA forwards<>+56(SB)/8, $0x8080800e8080800b
DATA forwards<>+64(SB)/8, $0x8080800580808002
DATA forwards<>+72(SB)/8, $0x8080800b80808008
DATA forwards<>+80(SB)/8, $0x8080800980808006
DATA forwards<>+88(SB)/8, $0x8080800f8080800c
GLOBL forwards<>(SB), RODATA|NOPTR, $96

DATA backwards<>+0(SB)/8, $0x8080800a8080800d
DATA backwards<>+8(SB)/8, $0x8080800480808007
DATA backwards<>+16(SB)/8, $0x8080800680808009
DATA backwards<>+24(SB)/8, $0x8080800080808003
DATA backwards<>+32(SB)/8, $0x8080800b8080800e
DATA backwards<>+40(SB)/8, $0x8080800580808008
DATA backwards<>+48(SB)/8, $0x808080078080800a
DATA backwards<>+56(SB)/8, $0x8080800180808004
DATA backwards<>+64(SB)/8, $0x8080800c8080800f
DATA backwards<>+72(SB)/8, $0x8080800680808009
DATA backwards<>+80(SB)/8, $0x808080088080800b
DATA backwards<>+88(SB)/8, $0x8080800280808005
GLOBL backwards<>(SB), RODATA|NOPTR, $96

// 1/255 to the nearest float32, and 255.
DATA inverse255<>+0(SB)/4, $0x3b808081
GLOBL inverse255<>(SB), RODATA|NOPTR, $4

DATA float255<>+0(SB)/4, $0x437f0000
GLOBL float255<>(SB), RODATA|NOPTR, $4

// CHANNEL writes 8 values of one channel. A quotient is the product with the reciprocal, corrected by the remainder.
#define CHANNEL(shuffle, c, dst) \
	VPSHUFB      shuffle, Y0, Y1; \
	VCVTDQ2PS    Y1, Y1; \
	VMULPS       Y14, Y1, Y2; \
	VFNMADD231PS Y15, Y2, Y1; \
	VFMADD231PS  Y14, Y1, Y2; \
	VADDPS       (c*constants__size+constants_shift)(BX), Y2, Y2; \
	VSUBPS       (c*constants__size+constants_mean)(BX), Y2, Y2; \
	VMOVUPS      (c*constants__size+constants_reciprocal)(BX), Y4; \
	VMULPS       Y4, Y2, Y3; \
	VFNMADD231PS (c*constants__size+constants_std)(BX), Y3, Y2; \
	VFMADD231PS  Y4, Y2, Y3; \
	VMOVUPS      Y3, (dst)(AX*4)

// func normaliseAVX2(a *normaliseArgs)
//
//	SI  the vector's first byte             DI, R8, R9  the planes
//	AX  where it goes in them               CX  pixels that remain behind it
//	DX  pixels from this vector to the next R10 their bytes
TEXT ·normaliseAVX2(SB), NOSPLIT, $0-8
	MOVQ         a+0(FP), R11
	MOVQ         normaliseArgs_src(R11), SI
	MOVQ         (normaliseArgs_dst+0)(R11), DI
	MOVQ         (normaliseArgs_dst+8)(R11), R8
	MOVQ         (normaliseArgs_dst+16)(R11), R9
	MOVQ         normaliseArgs_c(R11), BX
	MOVQ         normaliseArgs_n(R11), CX
	VBROADCASTSS inverse255<>(SB), Y14
	VBROADCASTSS float255<>(SB), Y15
	SUBQ         $8, CX
	MOVQ         $8, DX
	CMPB         normaliseArgs_flip(R11), $0
	JNE          flipped
	XORL         AX, AX
	VMOVDQU      forwards<>+0(SB), Y5
	VMOVDQU      forwards<>+32(SB), Y6
	VMOVDQU      forwards<>+64(SB), Y7

ahead:
	VMOVDQU     (SI), X0
	VINSERTI128 $1, 8(SI), Y0, Y0
	CHANNEL(Y5, 0, DI)
	CHANNEL(Y6, 1, R8)
	CHANNEL(Y7, 2, R9)
	TESTQ       CX, CX
	JZ          done
	CMPQ        CX, DX
	CMOVQLT     CX, DX              // the last vector lies over the one before
	LEAQ        (DX)(DX*2), R10
	ADDQ        R10, SI
	ADDQ        DX, AX
	SUBQ        DX, CX
	JMP         ahead

flipped:
	MOVQ    CX, AX
	VMOVDQU backwards<>+0(SB), Y5
	VMOVDQU backwards<>+32(SB), Y6
	VMOVDQU backwards<>+64(SB), Y7

back:
	VMOVDQU     8(SI), X0
	VINSERTI128 $1, (SI), Y0, Y0
	CHANNEL(Y5, 0, DI)
	CHANNEL(Y6, 1, R8)
	CHANNEL(Y7, 2, R9)
	TESTQ       CX, CX
	JZ          done
	CMPQ        CX, DX
	CMOVQLT     CX, DX
	LEAQ        (DX)(DX*2), R10
	ADDQ        R10, SI
	SUBQ        DX, AX
	SUBQ        DX, CX
	JMP         back

done:
	VZEROUPPER
	RET
