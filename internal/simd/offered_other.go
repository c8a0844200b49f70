//go:build !amd64

package simd

// Offered lists what this machine can run, the best last.
func Offered() []Family { return []Family{Generic} }
