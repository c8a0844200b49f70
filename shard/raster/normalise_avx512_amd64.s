#include "go_asm.h"
#include "textflag.h"

// Shuffles that make integers of the red, green and blue bytes of 4 pixels in the first 12 bytes of a lane; the second three backwards.
DATA forwards<>+0(SB)/8, $0x8080800380808000
DATA forwards<>+8(SB)/8, $0x8080800980808006
DATA forwards<>+16(SB)/8, $0x8080800480808001
DATA forwards<>+24(SB)/8, $0x8080800a80808007
DATA forwards<>+32(SB)/8, $0x8080800580808002
DATA forwards<>+40(SB)/8, $0x8080800b80808008
GLOBL forwards<>(SB), RODATA|NOPTR, $48

DATA backwards<>+0(SB)/8, $0x8080800680808009
DATA backwards<>+8(SB)/8, $0x8080800080808003
DATA backwards<>+16(SB)/8, $0x808080078080800a
DATA backwards<>+24(SB)/8, $0x8080800180808004
DATA backwards<>+32(SB)/8, $0x808080088080800b
DATA backwards<>+40(SB)/8, $0x8080800280808005
GLOBL backwards<>(SB), RODATA|NOPTR, $48

// Which dwords of 48 bytes bring 4 pixels into each lane; the second with the lanes backwards.
DATA spread<>+0(SB)/8, $0x0000000100000000
DATA spread<>+8(SB)/8, $0x0000000300000002
DATA spread<>+16(SB)/8, $0x0000000400000003
DATA spread<>+24(SB)/8, $0x0000000600000005
DATA spread<>+32(SB)/8, $0x0000000700000006
DATA spread<>+40(SB)/8, $0x0000000900000008
DATA spread<>+48(SB)/8, $0x0000000a00000009
DATA spread<>+56(SB)/8, $0x0000000b0000000b
GLOBL spread<>(SB), RODATA|NOPTR, $64

DATA spreadBack<>+0(SB)/8, $0x0000000a00000009
DATA spreadBack<>+8(SB)/8, $0x0000000b0000000b
DATA spreadBack<>+16(SB)/8, $0x0000000700000006
DATA spreadBack<>+24(SB)/8, $0x0000000900000008
DATA spreadBack<>+32(SB)/8, $0x0000000400000003
DATA spreadBack<>+40(SB)/8, $0x0000000600000005
DATA spreadBack<>+48(SB)/8, $0x0000000100000000
DATA spreadBack<>+56(SB)/8, $0x0000000300000002
GLOBL spreadBack<>(SB), RODATA|NOPTR, $64

// 1/255 to the nearest float32, and 255.
DATA inverse255<>+0(SB)/4, $0x3b808081
GLOBL inverse255<>(SB), RODATA|NOPTR, $4

DATA float255<>+0(SB)/4, $0x437f0000
GLOBL float255<>(SB), RODATA|NOPTR, $4

// CHANNEL writes 16 values of one channel, as in normaliseAVX2.
#define CHANNEL(shuffle, c, dst) \
	VPSHUFB      shuffle, Z0, Z1; \
	VCVTDQ2PS    Z1, Z1; \
	VMULPS       Z14, Z1, Z2; \
	VFNMADD231PS Z15, Z2, Z1; \
	VFMADD231PS  Z14, Z1, Z2; \
	VADDPS       (c*constants__size+constants_shift)(BX), Z2, Z2; \
	VSUBPS       (c*constants__size+constants_mean)(BX), Z2, Z2; \
	VMOVUPS      (c*constants__size+constants_reciprocal)(BX), Z4; \
	VMULPS       Z4, Z2, Z3; \
	VFNMADD231PS (c*constants__size+constants_std)(BX), Z3, Z2; \
	VFMADD231PS  Z4, Z2, Z3; \
	VMOVUPS      Z3, (dst)(AX*4)

#define SHUFFLES(order, lanes) \
	VBROADCASTI32X4 order<>+0(SB), Z5; \
	VBROADCASTI32X4 order<>+16(SB), Z6; \
	VBROADCASTI32X4 order<>+32(SB), Z7; \
	VMOVDQU32       lanes<>(SB), Z8

// func normaliseAVX512(a *normaliseArgs)
//
//	SI  the vector's first byte             DI, R8, R9  the planes
//	AX  where it goes in them, R12 its sign CX  pixels that remain behind it
//	DX  pixels from this vector to the next R10, R13 the same in bytes, and where it goes
TEXT ·normaliseAVX512(SB), NOSPLIT, $0-8
	MOVQ         a+0(FP), R11
	MOVQ         normaliseArgs_src(R11), SI
	MOVQ         (normaliseArgs_dst+0)(R11), DI
	MOVQ         (normaliseArgs_dst+8)(R11), R8
	MOVQ         (normaliseArgs_dst+16)(R11), R9
	MOVQ         normaliseArgs_c(R11), BX
	MOVQ         normaliseArgs_n(R11), CX
	VBROADCASTSS inverse255<>(SB), Z14
	VBROADCASTSS float255<>(SB), Z15
	MOVL         $0x0fff, AX
	KMOVW        AX, K1
	SUBQ         $16, CX
	MOVQ         $16, DX
	XORL         AX, AX
	MOVQ         $1, R12
	SHUFFLES(forwards, spread)
	CMPB         normaliseArgs_flip(R11), $0
	JEQ          vector
	MOVQ         CX, AX
	MOVQ         $-1, R12
	SHUFFLES(backwards, spreadBack)

vector:
	VMOVDQU32.Z (SI), K1, Z0
	VPERMD      Z0, Z8, Z0
	CHANNEL(Z5, 0, DI)
	CHANNEL(Z6, 1, R8)
	CHANNEL(Z7, 2, R9)
	TESTQ       CX, CX
	JZ          done
	CMPQ        CX, DX
	CMOVQLT     CX, DX              // the last vector lies over the one before
	LEAQ        (DX)(DX*2), R10
	ADDQ        R10, SI
	MOVQ        DX, R13
	IMULQ       R12, R13
	ADDQ        R13, AX
	SUBQ        DX, CX
	JMP         vector

done:
	VZEROUPPER
	RET
