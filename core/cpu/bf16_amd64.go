package cpu

import (
	"os"
	"time"
	"unsafe"

	xcpu "golang.org/x/sys/cpu"
)

// bfFamilies lists what this machine can run.
func bfFamilies() []*bfKernels {
	out := []*bfKernels{bfGeneric}
	if xcpu.X86.HasAVX512F && xcpu.X86.HasAVX512DQ && xcpu.X86.HasAVX512BW && xcpu.X86.HasAVX512VL {
		out = append(out, bfFMA)
		if hasBF16() {
			out = append(out, bfDotKernels)
		}
	}
	return out
}

// hasBF16 says whether the processor has AVX512_BF16.
func hasBF16() bool {
	return xcpu.X86.HasAVX512BF16 || xcpu.X86.HasAVX512F && os.Getenv(assumeVariable) == "1"
}

// bfDotKernels uses AVX512_BF16.
var bfDotKernels = &bfKernels{
	name: "avx512bf16", like: avx512Kernels, sourcePixel: bfPixelBytes, weightPair: 2 * bfPixelBytes, pixelPair: 2 * bfPixelBytes,
	conv: func(a *bfConvArgs, rows, cols, blocks int) { convdot[blocks-1][rows-1][cols-1](a) },
	swap: bfSwap_dot, layWeights: bfWeights_dot,
	wgrad:      bfWgrad_dot,
	wgradPair:  func(a *bfWgradArgs) { bfLanesByEight(a, 1, bfWgradPair_dot) },
	wgradRow:   func(a *bfWgradArgs) { bfLanesByEight(a, 3, bfWgradRow_dot) },
	wgradImage: func(a *bfWgradArgs, taps, blocks int) { bfWgradImagesDot[taps-1][blocks-1](a) },
	pair:       bfPair_dot,
	passes: passes{
		stats:  bfStats_dot,
		apply:  [4]func(*ewArgs){bfApply_dot, bfApplyAdd_dot, bfApplyReLU_dot, bfApplyAddReLU_dot},
		reduce: bfReduce_dot, reduceZ: bfReduceZ_dot, reduceA: bfReduceA_dot,
		dx: bfDx_dot, dxZ: bfDxZ_dot, accumulate: bfAccumulate_dot,
	},
	narrow: bfNarrow_dot, widen: bfWiden_dot,
}

// bfFMA does without AVX512_BF16: what is summed was widened to float32. Of two machines that have both, either may be the faster:
// Intel's Golden Cove takes as long over one VDPBF16PS as over four fused multiply-adds of a vector, and that does the work of two.
var bfFMA = &bfKernels{
	name: "avx512fma", like: avx512Kernels, sourcePixel: pixelBytes, weightPair: 2 * pixelBytes, pixelPair: 2 * pixelBytes,
	conv: func(a *bfConvArgs, rows, cols, blocks int) { convfma[blocks-1][rows-1][cols-1](a) },
	swap: bfSwap_fma, layWeights: bfWeights_fma,
	wgrad:      bfWgrad_fma,
	wgradPair:  func(a *bfWgradArgs) { bfLanesByEight(a, 1, bfWgradPair_fma) },
	wgradRow:   func(a *bfWgradArgs) { bfLanesByEight(a, 3, bfWgradRow_fma) },
	wgradImage: func(a *bfWgradArgs, taps, blocks int) { bfWgradImagesFMA[taps-1][blocks-1](a) },
	pair:       bfPair_fma,
	passes: passes{
		stats:  bfStats_fma,
		apply:  [4]func(*ewArgs){bfApply_fma, bfApplyAdd_fma, bfApplyReLU_fma, bfApplyAddReLU_fma},
		reduce: bfReduce_fma, reduceZ: bfReduceZ_fma, reduceA: bfReduceA_fma,
		dx: bfDx_fma, dxZ: bfDxZ_fma, accumulate: bfAccumulate_fma,
	},
	narrow: bfNarrow_fma, widen: bfWiden_fma,
}

// The kernels of image channels: [taps-1][blocks-1].
var (
	bfWgradImagesDot = [maxImageTaps][2]func(*bfWgradArgs){
		{bfWgradImage1x1_dot, bfWgradImage1x2_dot}, {bfWgradImage2x1_dot, bfWgradImage2x2_dot},
		{bfWgradImage3x1_dot, bfWgradImage3x2_dot}, {bfWgradImage4x1_dot, bfWgradImage4x2_dot},
	}
	bfWgradImagesFMA = [maxImageTaps][2]func(*bfWgradArgs){
		{bfWgradImage1x1_fma, bfWgradImage1x2_fma}, {bfWgradImage2x1_fma, bfWgradImage2x2_fma},
		{bfWgradImage3x1_fma, bfWgradImage3x2_fma}, {bfWgradImage4x1_fma, bfWgradImage4x2_fma},
	}
)

// bfLanesByEight calls a kernel of 8 input lanes for both halves of a block.
func bfLanesByEight(a *bfWgradArgs, taps int, kernel func(*bfWgradArgs)) {
	x, dw := a.x, a.dw
	kernel(a)
	for t := range taps {
		a.x[t] = unsafe.Add(x[t], 8*4)
	}
	a.dw = unsafe.Add(dw, 8*pixelBytes)
	kernel(a)
	a.x, a.dw = x, dw
}

// fastestBF races the vector families on a tile: the bits are the same, and no processor tells how fast its VDPBF16PS is. Rounding by
// AVX512_BF16 is always the faster way.
func fastestBF(all []*bfKernels) *bfKernels {
	best, least := all[0], time.Duration(1<<62)
	for range 12 { // in turns: a processor takes its time to get up to speed, and others may be at work on it
		for _, k := range all[1:] {
			if d := bfRace(k); d < least {
				best, least = k, d
			}
		}
	}
	if best == bfFMA && all[len(all)-1] == bfDotKernels {
		return bfFMA.withPasses(bfDotKernels)
	}
	return best
}

// withPasses are the kernels of k, with the passes over pixels of p.
func (k bfKernels) withPasses(p *bfKernels) *bfKernels {
	k.name += "+bf16"
	k.passes, k.narrow, k.widen = p.passes, p.narrow, p.widen
	return &k
}

// bfRace times 4 tiles of 36 taps, some 20 microseconds.
func bfRace(k *bfKernels) time.Duration {
	const ntaps, cols = 36, 14
	in, w, out, taps := aligned(cols*lanes), aligned(ntaps*8*k.weightPair/2), aligned(2*cols*lanes), [ntaps]int{}
	a := bfConvArgs{in: unsafe.Pointer(&in[0]), w: unsafe.Pointer(&w[0]), out: unsafe.Pointer(&out[0]), taps: unsafe.Pointer(&taps[0]),
		ntaps: ntaps, pairs: 8, outPix: bfPixelBytes, wBlock: ntaps * 8 * k.weightPair, outBlock: cols * bfPixelBytes}
	begun := time.Now()
	for range 4 {
		k.conv(&a, 1, cols, 2)
	}
	return time.Since(begun)
}
