//go:build !amd64

package cpu

// families lists what this machine can run, the best last.
func families() []*kernels { return []*kernels{genericKernels} }
