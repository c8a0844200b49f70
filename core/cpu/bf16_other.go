//go:build !amd64

package cpu

func bfFamilies() []*bfKernels { return []*bfKernels{bfGeneric} }

func fastestBF(all []*bfKernels) *bfKernels { return all[len(all)-1] }

func hasBF16() bool { return false }
