//go:build !amd64

package jpeg

// families lists what this machine can run, the best last.
func families() []*kernels { return []*kernels{genericKernels} }
