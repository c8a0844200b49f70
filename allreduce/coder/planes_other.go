//go:build !amd64

package coder

import "github.com/lockstep-ml/lockstep/internal/simd"

// split writes the low and the high bytes of the values in src, two bytes each,
// to lo and hi, which have half its length.
func split(_ simd.Family, lo, hi, src []byte) { splitGeneric(lo, hi, src) }

// merge undoes split.
func merge(_ simd.Family, dst, lo, hi []byte) { mergeGeneric(dst, lo, hi) }
