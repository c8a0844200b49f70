package jpeg

import "github.com/lockstep-ml/lockstep/internal/simd"

// families lists what this machine can run, the best last.
func families() []*kernels {
	return []*kernels{simd.Generic: genericKernels, simd.AVX2: genericKernels, simd.AVX512: genericKernels}[:len(simd.Offered())]
}
