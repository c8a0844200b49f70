#include "textflag.h"

DATA half14<>+0(SB)/4, $0x2000
GLOBL half14<>(SB), RODATA|NOPTR, $4

// func columnAVX512(dst *byte, n int, src *byte, stride int, weights *uint32, pairs int)
//
// It is columnAVX2 with vectors of 64 bytes, the last of them cut by a mask.
TEXT ·columnAVX512(SB), NOSPLIT, $0-48
	MOVQ         dst+0(FP), DI
	MOVQ         n+8(FP), R11
	MOVQ         src+16(FP), SI
	MOVQ         stride+24(FP), DX
	MOVQ         weights+32(FP), BX
	VPXORQ       Z15, Z15, Z15
	VPBROADCASTD half14<>(SB), Z16
	KXNORQ       K1, K1, K1

vector:
	CMPQ  R11, $64
	JGE   whole
	MOVQ  $-1, AX
	MOVQ  $64, CX
	SUBQ  R11, CX
	SHRQ  CX, AX
	KMOVQ AX, K1

whole:
	MOVQ      SI, R8
	MOVQ      BX, R9
	MOVQ      pairs+40(FP), R10
	VMOVDQA64 Z16, Z0
	VMOVDQA64 Z16, Z1
	VMOVDQA64 Z16, Z2
	VMOVDQA64 Z16, Z3
	VPXORQ    Z4, Z4, Z4
	VPXORQ    Z5, Z5, Z5
	VPXORQ    Z6, Z6, Z6
	VPXORQ    Z7, Z7, Z7

pair:
	VMOVDQU8.Z   (R8), K1, Z8
	VMOVDQU8.Z   (R8)(DX*1), K1, Z9
	VPBROADCASTD 0(R9), Z12
	VPBROADCASTD 4(R9), Z13
	VPUNPCKLBW   Z9, Z8, Z10
	VPUNPCKHBW   Z9, Z8, Z11
	VPUNPCKLBW   Z15, Z10, Z8
	VPUNPCKHBW   Z15, Z10, Z9
	VPUNPCKLBW   Z15, Z11, Z10
	VPUNPCKHBW   Z15, Z11, Z11
	VPMADDWD     Z12, Z8, Z17
	VPMADDWD     Z12, Z9, Z18
	VPMADDWD     Z12, Z10, Z19
	VPMADDWD     Z12, Z11, Z20
	VPMADDWD     Z13, Z8, Z8
	VPMADDWD     Z13, Z9, Z9
	VPMADDWD     Z13, Z10, Z10
	VPMADDWD     Z13, Z11, Z11
	VPADDD       Z17, Z0, Z0
	VPADDD       Z18, Z1, Z1
	VPADDD       Z19, Z2, Z2
	VPADDD       Z20, Z3, Z3
	VPADDD       Z8, Z4, Z4
	VPADDD       Z9, Z5, Z5
	VPADDD       Z10, Z6, Z6
	VPADDD       Z11, Z7, Z7
	LEAQ         (R8)(DX*2), R8
	ADDQ         $8, R9
	DECQ         R10
	JNZ          pair

	VPSRLD    $8, Z4, Z4
	VPSRLD    $8, Z5, Z5
	VPSRLD    $8, Z6, Z6
	VPSRLD    $8, Z7, Z7
	VPADDD    Z4, Z0, Z0
	VPADDD    Z5, Z1, Z1
	VPADDD    Z6, Z2, Z2
	VPADDD    Z7, Z3, Z3
	VPSRLD    $14, Z0, Z0
	VPSRLD    $14, Z1, Z1
	VPSRLD    $14, Z2, Z2
	VPSRLD    $14, Z3, Z3
	VPACKUSDW Z1, Z0, Z0
	VPACKUSDW Z3, Z2, Z2
	VPACKUSWB Z2, Z0, Z0
	VMOVDQU8  Z0, K1, (DI)
	ADDQ      $64, DI
	ADDQ      $64, SI
	SUBQ      $64, R11
	JGT       vector
	VZEROUPPER
	RET
