package cpu

import (
	"unsafe"

	"github.com/lockstep-ml/lockstep/internal/simd"
)

// families lists what this machine can run, the best last.
func families() []*kernels {
	return []*kernels{simd.Generic: genericKernels, simd.AVX2: avx2Kernels, simd.AVX512: avx512Kernels}[:len(simd.Offered())]
}

var avx512Kernels = &kernels{
	name: "avx512", minCols: 8, maxCols: 14, maxRows: 4, maxPix: [3]int{1: 24, 2: 14}, maxRow: 16,
	conv:       func(a *convArgs, rows, cols, blocks int) { convavx512[blocks-1][rows-1][cols-1](a) },
	convRow:    func(a *convArgs, cols int) { convRowavx512[cols-1](a) },
	wgrad:      wgrad_avx512,
	wgradPair:  func(a *wgradArgs) { lanesByEight(a, wgradPair_avx512) },
	wgradRow:   func(a *wgradArgs) { lanesByEight(a, wgradRow_avx512) },
	wgradImage: func(a *wgradArgs, taps, blocks int) { wgradImages[taps-1][blocks-1](a) },
	passes: passes{
		stats:      stats_avx512,
		apply:      [4]func(*ewArgs){apply_avx512, applyAdd_avx512, applyReLU_avx512, applyAddReLU_avx512},
		reduce:     reduce_avx512,
		reduceZ:    reduceZ_avx512,
		reduceA:    reduceA_avx512,
		dx:         dx_avx512,
		dxZ:        dxZ_avx512,
		accumulate: accumulate_avx512,
	},
	sgd: func(a *sgdArgs) { sgd_avx512(a); sgdRest(a, 16) },

	transpose:       func(a *transposeArgs) { transposeWhole(a, transpose_avx512) },
	image:           func(a *imageArgs) { imageWhole(a, image_avx512) },
	copyPixels:      func(a *pixelArgs) { pixelsBy(a, copyPixels16_avx512, copyPixels8_avx2, false) },
	addPixels:       func(a *pixelArgs) { pixelsBy(a, addPixels16_avx512, addPixels8_avx2, true) },
	winogradInput:   winogradInput_avx512,
	winogradOutput:  winogradOutput_avx512,
	winogradFilter:  winogradFilter_avx512,
	winogradError:   winogradError_avx512,
	winogradWeights: winogradWeights_avx512,
	maxPool:         maxPool_avx512,
	maxPoolGradient: maxPoolGradient_avx512,
	peak:            peak_avx512, peakLanes: 16 * peakChains,
}

var avx2Kernels = (&kernels{
	name: "avx2", minCols: 5, maxCols: 6, maxRows: 1, maxPix: [3]int{1: 6}, maxRow: 6,
	conv:    func(a *convArgs, rows, cols, blocks int) { convavx2[blocks-1][rows-1][cols-1](a) },
	convRow: func(a *convArgs, cols int) { convRowavx2[cols-1](a) },
	wgrad:   wgradFours,
	passes: passes{
		stats:      stats_avx2,
		apply:      [4]func(*ewArgs){apply_avx2, applyAdd_avx2, applyReLU_avx2, applyAddReLU_avx2},
		reduce:     reduce_avx2,
		reduceZ:    reduceZ_avx2,
		reduceA:    reduceA_avx2,
		dx:         dx_avx2,
		dxZ:        dxZ_avx2,
		accumulate: accumulate_avx2,
	},
	sgd: func(a *sgdArgs) { sgd_avx2(a); sgdRest(a, 8) },

	transpose:       func(a *transposeArgs) { transposeWhole(a, transpose_avx2) },
	image:           func(a *imageArgs) { imageWhole(a, image_avx2) },
	copyPixels:      func(a *pixelArgs) { pixelsBy(a, copyPixels16_avx2, copyPixels8_avx2, false) },
	addPixels:       func(a *pixelArgs) { pixelsBy(a, addPixels16_avx2, addPixels8_avx2, true) },
	winogradInput:   winogradInput_avx2,
	winogradOutput:  winogradOutput_avx2,
	winogradFilter:  winogradFilter_avx2,
	winogradError:   winogradError_avx2,
	winogradWeights: winogradWeights_avx2,
	maxPool:         maxPool_avx2,
	maxPoolGradient: maxPoolGradient_avx2,
	peak:            peak_avx2, peakLanes: 8 * peakChains,
}).composeWgrad()

// wgradImages holds the kernels of image channels: [taps-1][blocks-1].
var wgradImages = [maxImageTaps][2]func(*wgradArgs){
	{wgradImage1x1_avx512, wgradImage1x2_avx512}, {wgradImage2x1_avx512, wgradImage2x2_avx512},
	{wgradImage3x1_avx512, wgradImage3x2_avx512}, {wgradImage4x1_avx512, wgradImage4x2_avx512},
}

// lanesByEight calls a kernel of 8 input lanes for both halves of a block.
func lanesByEight(a *wgradArgs, kernel func(*wgradArgs)) {
	x, dw := a.x, a.dw
	kernel(a)
	a.x, a.dw = unsafe.Add(x, 8*4), unsafe.Add(dw, 8*pixelBytes)
	kernel(a)
	a.x, a.dw = x, dw
}

// wgradFours calls the AVX2 kernel for four input lanes at a time: it has registers for no more.
func wgradFours(a *wgradArgs) {
	x, dw := a.x, a.dw
	for i := range lanes / 4 {
		a.x, a.dw = unsafe.Add(x, 16*i), unsafe.Add(dw, 4*pixelBytes*i)
		wgrad_avx2(a)
	}
	a.x, a.dw = x, dw
}

// sgdRest updates the weights behind the last whole vector.
func sgdRest(a *sgdArgs, width int) {
	done := a.n / width * width
	if done == a.n {
		return
	}
	rest := *a
	rest.w, rest.v, rest.g, rest.n = unsafe.Add(a.w, 4*done), unsafe.Add(a.v, 4*done), unsafe.Add(a.g, 4*done), a.n-done
	sgdGeneric(&rest)
}

// transposeWhole leaves blocks that are not 16x16 to the generic kernel.
func transposeWhole(a *transposeArgs, whole func(*transposeArgs)) {
	if a.rows == lanes && a.cols == lanes {
		whole(a)
	} else {
		transposeGeneric(a)
	}
}

// imageWhole leaves other numbers of channels to the generic kernel.
func imageWhole(a *imageArgs, whole func(*imageArgs)) {
	if a.channels == imageLanes {
		whole(a)
	} else {
		imageGeneric(a)
	}
}

// pixelsBy leaves other pieces of pixels than wholes and halves to the generic kernel.
func pixelsBy(a *pixelArgs, whole, half func(*pixelArgs), add bool) {
	switch a.lanes {
	case lanes:
		whole(a)
	case lanes / 2:
		half(a)
	default:
		pixelsGeneric(a, add)
	}
}
