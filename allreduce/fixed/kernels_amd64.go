package fixed

import "github.com/lockstep-ml/lockstep/internal/simd"

// families gives the kernels by their simd.Family.
func families() map[simd.Family]*kernels {
	return map[simd.Family]*kernels{simd.Generic: genericKernels, simd.AVX2: genericKernels, simd.AVX512: genericKernels}
}
