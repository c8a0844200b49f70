#include "go_asm.h"
#include "textflag.h"

// Registers of the reduce kernels:
//
//	AX  the piece           DI, SI, DX  its out, in and dst, or 0
//	BX  values done         CX  values to do, the next 64 included
//	R13 at + BX: the index in the replicas' values
//	R10 the replica's slice header; R11 replicas to come; R12 the replica's values
//	K1-K4   the lanes in use: all but in the last round
//	Z0-Z3   the sums of 64 values

#define SCALE(field) (piece_scale+field)(AX)

#define BEGIN \
	MOVQ         p+0(FP), AX;          \
	MOVQ         piece_n(AX), CX;      \
	MOVQ         piece_out(AX), DI;    \
	MOVQ         piece_in(AX), SI;     \
	MOVQ         piece_dst(AX), DX;    \
	MOVQ         piece_at(AX), R13;    \
	XORL         BX, BX;               \
	VBROADCASTSS SCALE(scale_factor), Z16;   \
	VBROADCASTSS SCALE(scale_factor2), Z17;  \
	VPBROADCASTD SCALE(scale_limit), Z18;    \
	VPXORD       Z19, Z19, Z19;        \
	VPSUBD       Z18, Z19, Z19;        \
	VBROADCASTSS SCALE(scale_step), Z20;     \
	VBROADCASTSD SCALE(scale_inverse), Z21;  \
	VBROADCASTSD SCALE(scale_ratio), Z22;    \
	KXNORW       K1, K1, K1;           \
	KXNORW       K2, K2, K2;           \
	KXNORW       K3, K3, K3;           \
	KXNORW       K4, K4, K4

// LAST leaves CX lanes of 64 in use; CX is below 64.
#define LAST \
	MOVL  $1, R10;   \
	SHLQ  CX, R10;   \
	DECQ  R10;       \
	KMOVW R10, K1;   \
	SHRQ  $16, R10;  \
	KMOVW R10, K2;   \
	SHRQ  $16, R10;  \
	KMOVW R10, K3;   \
	SHRQ  $16, R10;  \
	KMOVW R10, K4

// AHEAD is how many bytes before their use values and integers are fetched: the processor's own
// prefetching begins anew at every page, which is every block.
#define AHEAD 1024

#define ZERO \
	VPXORD Z0, Z0, Z0;  \
	VPXORD Z1, Z1, Z1;  \
	VPXORD Z2, Z2, Z2;  \
	VPXORD Z3, Z3, Z3

// QUANTISE adds 16 values of a replica to sum.
#define QUANTISE(offset, mask, v, sum) \
	VMULPS.Z  offset(R12)(R13*4), Z16, mask, v;  \
	VMULPS    Z17, v, v;                         \
	VCVTPS2DQ v, v;                              \
	VPMINSD   Z18, v, v;                         \
	VPMAXSD   Z19, v, v;                         \
	VPADDD    v, sum, sum

#define NEXTREPLICA \
	MOVQ (R10), R12;           \
	ADDQ $24, R10;             \
	PREFETCHT0 (AHEAD+0)(R12)(R13*4);   \
	PREFETCHT0 (AHEAD+64)(R12)(R13*4);  \
	PREFETCHT0 (AHEAD+128)(R12)(R13*4); \
	PREFETCHT0 (AHEAD+192)(R12)(R13*4); \
	QUANTISE(0, K1, Z4, Z0);   \
	QUANTISE(64, K2, Z5, Z1);  \
	QUANTISE(128, K3, Z6, Z2); \
	QUANTISE(192, K4, Z7, Z3)

// DECODE turns sums into values, by a power of two.
#define DECODE(sum) \
	VCVTDQ2PS sum, sum;  \
	VMULPS    Z20, sum, sum

// DIVIDE does so in float64: q = s*inverse, then q += (s - q*ratio)*inverse.
#define DIVIDE(sum, low) \
	VEXTRACTI64X4 $1, sum, Y8;    \
	VCVTDQ2PD     low, Z9;        \
	VCVTDQ2PD     Y8, Z10;        \
	VMULPD        Z21, Z9, Z11;   \
	VMULPD        Z21, Z10, Z12;  \
	VFNMADD231PD  Z22, Z11, Z9;   \
	VFNMADD231PD  Z22, Z12, Z10;  \
	VFMADD231PD   Z21, Z9, Z11;   \
	VFMADD231PD   Z21, Z10, Z12;  \
	VCVTPD2PS     Z11, Y11;       \
	VCVTPD2PS     Z12, Y12;       \
	VINSERTF64X4  $1, Y12, Z11, sum

// STREAM writes 64 values past the caches.
#define STREAM \
	VMOVNTPS Z0, 0(DX)(BX*4);    \
	VMOVNTPS Z1, 64(DX)(BX*4);   \
	VMOVNTPS Z2, 128(DX)(BX*4);  \
	VMOVNTPS Z3, 192(DX)(BX*4)

// func reduce32AVX512(p *piece)
TEXT ·reduce32AVX512(SB), NOSPLIT, $0-8
	BEGIN

loop:
	CMPQ CX, $64
	JGE  load
	LAST

load:
	TESTQ       SI, SI
	JZ          zero
	PREFETCHT0  (AHEAD+0)(SI)(BX*4)
	PREFETCHT0  (AHEAD+64)(SI)(BX*4)
	PREFETCHT0  (AHEAD+128)(SI)(BX*4)
	PREFETCHT0  (AHEAD+192)(SI)(BX*4)
	VMOVDQU32.Z 0(SI)(BX*4), K1, Z0
	VMOVDQU32.Z 64(SI)(BX*4), K2, Z1
	VMOVDQU32.Z 128(SI)(BX*4), K3, Z2
	VMOVDQU32.Z 192(SI)(BX*4), K4, Z3
	JMP         replicas

zero:
	ZERO

replicas:
	MOVQ  piece_replicas(AX), R10
	MOVQ  (piece_replicas+8)(AX), R11
	TESTQ R11, R11
	JZ    store

next:
	NEXTREPLICA
	DECQ R11
	JNZ  next

store:
	TESTQ     DI, DI
	JZ        decode
	VMOVDQU32 Z0, K1, 0(DI)(BX*4)
	VMOVDQU32 Z1, K2, 64(DI)(BX*4)
	VMOVDQU32 Z2, K3, 128(DI)(BX*4)
	VMOVDQU32 Z3, K4, 192(DI)(BX*4)

decode:
	TESTQ DX, DX
	JZ    advance
	CMPB  SCALE(scale_direct), $0
	JEQ   divide
	DECODE(Z0)
	DECODE(Z1)
	DECODE(Z2)
	DECODE(Z3)
	JMP   write

divide:
	DIVIDE(Z0, Y0)
	DIVIDE(Z1, Y1)
	DIVIDE(Z2, Y2)
	DIVIDE(Z3, Y3)

write:
	CMPQ   CX, $64
	JLT    keep
	CMPB   piece_stream(AX), $0
	JEQ    keep
	STREAM
	JMP    advance

keep:
	VMOVUPS Z0, K1, 0(DX)(BX*4)
	VMOVUPS Z1, K2, 64(DX)(BX*4)
	VMOVUPS Z2, K3, 128(DX)(BX*4)
	VMOVUPS Z3, K4, 192(DX)(BX*4)

advance:
	ADDQ $64, BX
	ADDQ $64, R13
	SUBQ $64, CX
	JGT  loop
	VZEROUPPER
	RET

// func reduce16AVX512(p *piece)
TEXT ·reduce16AVX512(SB), NOSPLIT, $0-8
	BEGIN

loop:
	CMPQ CX, $64
	JGE  load
	LAST

load:
	TESTQ       SI, SI
	JZ          zero
	PREFETCHT0  (AHEAD+0)(SI)(BX*2)
	PREFETCHT0  (AHEAD+64)(SI)(BX*2)
	VPMOVSXWD.Z 0(SI)(BX*2), K1, Z0
	VPMOVSXWD.Z 32(SI)(BX*2), K2, Z1
	VPMOVSXWD.Z 64(SI)(BX*2), K3, Z2
	VPMOVSXWD.Z 96(SI)(BX*2), K4, Z3
	JMP         replicas

zero:
	ZERO

replicas:
	MOVQ  piece_replicas(AX), R10
	MOVQ  (piece_replicas+8)(AX), R11
	TESTQ R11, R11
	JZ    store

next:
	NEXTREPLICA
	DECQ R11
	JNZ  next

store:
	TESTQ   DI, DI
	JZ      decode
	VPMOVDW Z0, K1, 0(DI)(BX*2)
	VPMOVDW Z1, K2, 32(DI)(BX*2)
	VPMOVDW Z2, K3, 64(DI)(BX*2)
	VPMOVDW Z3, K4, 96(DI)(BX*2)

decode:
	TESTQ DX, DX
	JZ    advance
	CMPB  SCALE(scale_direct), $0
	JEQ   divide
	DECODE(Z0)
	DECODE(Z1)
	DECODE(Z2)
	DECODE(Z3)
	JMP   write

divide:
	DIVIDE(Z0, Y0)
	DIVIDE(Z1, Y1)
	DIVIDE(Z2, Y2)
	DIVIDE(Z3, Y3)

write:
	CMPQ   CX, $64
	JLT    keep
	CMPB   piece_stream(AX), $0
	JEQ    keep
	STREAM
	JMP    advance

keep:
	VMOVUPS Z0, K1, 0(DX)(BX*4)
	VMOVUPS Z1, K2, 64(DX)(BX*4)
	VMOVUPS Z2, K3, 128(DX)(BX*4)
	VMOVUPS Z3, K4, 192(DX)(BX*4)

advance:
	ADDQ $64, BX
	ADDQ $64, R13
	SUBQ $64, CX
	JGT  loop
	VZEROUPPER
	RET

// func fence()
TEXT ·fence(SB), NOSPLIT, $0-0
	SFENCE
	RET

// func largestAVX512(v []float32) uint32
TEXT ·largestAVX512(SB), NOSPLIT, $0-28
	MOVQ         v_base+0(FP), SI
	MOVQ         v_len+8(FP), CX
	MOVL         $0x7fffffff, AX
	VPBROADCASTD AX, Z8
	ZERO
	SUBQ         $64, CX
	JLT          rest

loop:
	PREFETCHT0 (AHEAD+0)(SI)
	PREFETCHT0 (AHEAD+64)(SI)
	PREFETCHT0 (AHEAD+128)(SI)
	PREFETCHT0 (AHEAD+192)(SI)
	VPANDD  0(SI), Z8, Z4
	VPANDD  64(SI), Z8, Z5
	VPANDD  128(SI), Z8, Z6
	VPANDD  192(SI), Z8, Z7
	VPMAXUD Z4, Z0, Z0
	VPMAXUD Z5, Z1, Z1
	VPMAXUD Z6, Z2, Z2
	VPMAXUD Z7, Z3, Z3
	ADDQ    $256, SI
	SUBQ    $64, CX
	JGE     loop

rest:
	ADDQ     $64, CX
	LAST
	VPANDD.Z 0(SI), Z8, K1, Z4
	VPANDD.Z 64(SI), Z8, K2, Z5
	VPANDD.Z 128(SI), Z8, K3, Z6
	VPANDD.Z 192(SI), Z8, K4, Z7
	VPMAXUD  Z4, Z0, Z0
	VPMAXUD  Z5, Z1, Z1
	VPMAXUD  Z6, Z2, Z2
	VPMAXUD  Z7, Z3, Z3

	VPMAXUD       Z1, Z0, Z0
	VPMAXUD       Z3, Z2, Z2
	VPMAXUD       Z2, Z0, Z0
	VEXTRACTI64X4 $1, Z0, Y1
	VPMAXUD       Y1, Y0, Y0
	VEXTRACTI128  $1, Y0, X1
	VPMAXUD       X1, X0, X0
	VPSHUFD       $0x4e, X0, X1
	VPMAXUD       X1, X0, X0
	VPSHUFD       $0xb1, X0, X1
	VPMAXUD       X1, X0, X0
	VMOVD         X0, AX
	MOVL          AX, ret+24(FP)
	VZEROUPPER
	RET
