#include "go_asm.h"
#include "textflag.h"

// Registers of the reduce kernels, which treat whole sixteens of values:
//
//	AX  the piece           DI, SI, DX  its out, in and dst, or 0
//	BX  values done         CX  values to do
//	R13 at + BX: the index in the replicas' values
//	R10 the replica's slice header; R11 replicas to come; R12 the replica's values
//	Y0, Y1  the sums of 16 values

#define SCALE(field) (piece_scale+field)(AX)

#define BEGIN \
	MOVQ         p+0(FP), AX;          \
	MOVQ         piece_n(AX), CX;      \
	MOVQ         piece_out(AX), DI;    \
	MOVQ         piece_in(AX), SI;     \
	MOVQ         piece_dst(AX), DX;    \
	MOVQ         piece_at(AX), R13;    \
	XORL         BX, BX;               \
	VBROADCASTSS SCALE(scale_factor), Y8;    \
	VBROADCASTSS SCALE(scale_factor2), Y9;   \
	VPBROADCASTD SCALE(scale_limit), Y10;    \
	VPXOR        Y11, Y11, Y11;        \
	VPSUBD       Y10, Y11, Y11;        \
	VBROADCASTSS SCALE(scale_step), Y12;     \
	VBROADCASTSD SCALE(scale_inverse), Y13;  \
	VBROADCASTSD SCALE(scale_ratio), Y14

// AHEAD is how many bytes before their use values and integers are fetched: the processor's own
// prefetching begins anew at every page, which is every block.
#define AHEAD 1024

#define ZERO \
	VPXOR Y0, Y0, Y0;  \
	VPXOR Y1, Y1, Y1

// QUANTISE adds 8 values of a replica to sum.
#define QUANTISE(offset, v, sum) \
	VMULPS    offset(R12)(R13*4), Y8, v;  \
	VMULPS    Y9, v, v;                   \
	VCVTPS2DQ v, v;                       \
	VPMINSD   Y10, v, v;                  \
	VPMAXSD   Y11, v, v;                  \
	VPADDD    v, sum, sum

#define NEXTREPLICA \
	MOVQ (R10), R12;         \
	ADDQ $24, R10;           \
	PREFETCHT0 AHEAD(R12)(R13*4); \
	QUANTISE(0, Y2, Y0);     \
	QUANTISE(32, Y3, Y1)

// DECODE turns sums into values, by a power of two.
#define DECODE(sum) \
	VCVTDQ2PS sum, sum;  \
	VMULPS    Y12, sum, sum

// DIVIDE does so in float64: q = s*inverse, then q += (s - q*ratio)*inverse.
#define DIVIDE(sum, low) \
	VEXTRACTI128 $1, sum, X2;  \
	VCVTDQ2PD    low, Y3;      \
	VCVTDQ2PD    X2, Y4;       \
	VMULPD       Y13, Y3, Y5;  \
	VMULPD       Y13, Y4, Y6;  \
	VFNMADD231PD Y14, Y5, Y3;  \
	VFNMADD231PD Y14, Y6, Y4;  \
	VFMADD231PD  Y13, Y3, Y5;  \
	VFMADD231PD  Y13, Y4, Y6;  \
	VCVTPD2PSY   Y5, X5;       \
	VCVTPD2PSY   Y6, X6;       \
	VINSERTF128  $1, X6, Y5, sum

// func reduce32AVX2(p *piece)
TEXT ·reduce32AVX2(SB), NOSPLIT, $0-8
	BEGIN
	SUBQ $16, CX
	JLT  done

loop:
	TESTQ   SI, SI
	JZ      zero
	PREFETCHT0 AHEAD(SI)(BX*4)
	VMOVDQU 0(SI)(BX*4), Y0
	VMOVDQU 32(SI)(BX*4), Y1
	JMP     replicas

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
	VMOVDQU Y0, 0(DI)(BX*4)
	VMOVDQU Y1, 32(DI)(BX*4)

decode:
	TESTQ DX, DX
	JZ    advance
	CMPB  SCALE(scale_direct), $0
	JEQ   divide
	DECODE(Y0)
	DECODE(Y1)
	JMP   write

divide:
	DIVIDE(Y0, X0)
	DIVIDE(Y1, X1)

write:
	CMPB     piece_stream(AX), $0
	JEQ      keep
	VMOVNTPS Y0, 0(DX)(BX*4)
	VMOVNTPS Y1, 32(DX)(BX*4)
	JMP      advance

keep:
	VMOVUPS Y0, 0(DX)(BX*4)
	VMOVUPS Y1, 32(DX)(BX*4)

advance:
	ADDQ $16, BX
	ADDQ $16, R13
	SUBQ $16, CX
	JGE  loop

done:
	VZEROUPPER
	RET

// func reduce16AVX2(p *piece)
TEXT ·reduce16AVX2(SB), NOSPLIT, $0-8
	BEGIN
	SUBQ $16, CX
	JLT  done

loop:
	TESTQ     SI, SI
	JZ        zero
	PREFETCHT0 AHEAD(SI)(BX*2)
	VPMOVSXWD 0(SI)(BX*2), Y0
	VPMOVSXWD 16(SI)(BX*2), Y1
	JMP       replicas

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

	// The low halves, with their own sign so that packing leaves them alone.
store:
	TESTQ     DI, DI
	JZ        decode
	VPSLLD    $16, Y0, Y2
	VPSLLD    $16, Y1, Y3
	VPSRAD    $16, Y2, Y2
	VPSRAD    $16, Y3, Y3
	VPACKSSDW Y3, Y2, Y2
	VPERMQ    $0xd8, Y2, Y2
	VMOVDQU   Y2, 0(DI)(BX*2)

decode:
	TESTQ DX, DX
	JZ    advance
	CMPB  SCALE(scale_direct), $0
	JEQ   divide
	DECODE(Y0)
	DECODE(Y1)
	JMP   write

divide:
	DIVIDE(Y0, X0)
	DIVIDE(Y1, X1)

write:
	CMPB     piece_stream(AX), $0
	JEQ      keep
	VMOVNTPS Y0, 0(DX)(BX*4)
	VMOVNTPS Y1, 32(DX)(BX*4)
	JMP      advance

keep:
	VMOVUPS Y0, 0(DX)(BX*4)
	VMOVUPS Y1, 32(DX)(BX*4)

advance:
	ADDQ $16, BX
	ADDQ $16, R13
	SUBQ $16, CX
	JGE  loop

done:
	VZEROUPPER
	RET

// func largestAVX2(v []float32) uint32
//
// It treats whole thirty-twos of values.
TEXT ·largestAVX2(SB), NOSPLIT, $0-28
	MOVQ         v_base+0(FP), SI
	MOVQ         v_len+8(FP), CX
	MOVL         $0x7fffffff, AX
	VMOVD        AX, X8
	VPBROADCASTD X8, Y8
	ZERO
	VPXOR        Y2, Y2, Y2
	VPXOR        Y3, Y3, Y3
	SUBQ         $32, CX
	JLT          done

loop:
	PREFETCHT0 (AHEAD+0)(SI)
	PREFETCHT0 (AHEAD+64)(SI)
	VPAND   0(SI), Y8, Y4
	VPAND   32(SI), Y8, Y5
	VPAND   64(SI), Y8, Y6
	VPAND   96(SI), Y8, Y7
	VPMAXUD Y4, Y0, Y0
	VPMAXUD Y5, Y1, Y1
	VPMAXUD Y6, Y2, Y2
	VPMAXUD Y7, Y3, Y3
	ADDQ    $128, SI
	SUBQ    $32, CX
	JGE     loop

done:
	VPMAXUD      Y1, Y0, Y0
	VPMAXUD      Y3, Y2, Y2
	VPMAXUD      Y2, Y0, Y0
	VEXTRACTI128 $1, Y0, X1
	VPMAXUD      X1, X0, X0
	VPSHUFD      $0x4e, X0, X1
	VPMAXUD      X1, X0, X0
	VPSHUFD      $0xb1, X0, X1
	VPMAXUD      X1, X0, X0
	VMOVD        X0, AX
	MOVL         AX, ret+24(FP)
	VZEROUPPER
	RET
