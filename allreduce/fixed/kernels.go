package fixed

import (
	"fmt"

	"github.com/lockstep-ml/lockstep/internal/simd"
)

// kernels is one family: every function gives the same bits in every family.
type kernels struct {
	name string
	// largest returns the largest magnitude of up to BlockSize values as bits.
	largest func(v []float32) uint32
	// reduce forms the sums of a piece and writes them where it says.
	reduce func(p *piece)
}

// piece is a run of values inside one block and what is to become of them:
// sums = in + the replicas' quantised values; out = sums; dst = sums decoded.
type piece struct {
	scale
	n        int         // values, 1..BlockSize
	out, in  []byte      // n integers; out may be nil, in too for zeros. May be the same memory
	dst      []float32   // n values, or nil. May be one of the replicas'
	replicas [][]float32 // of the whole bucket
	at       int         // the first value's index in them
}

var chosen, choiceErr = choose()

// choose picks the family that the environment asks for.
func choose() (*kernels, error) {
	f, err := simd.Choose()
	if err != nil {
		return genericKernels, fmt.Errorf("fixed: %w", err)
	}
	return families()[f], nil
}

// Check reports that LOCKSTEP_SIMD asks for kernels that this machine cannot run. The plain ones are used then.
func Check() error { return choiceErr }
