//go:build !amd64

package cpu

func bfFamilies() []*bfKernels { return []*bfKernels{bfGeneric} }

func fastestBF(all []*bfKernels) *bfKernels { return all[len(all)-1] }
