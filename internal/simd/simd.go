// Package simd says which vector instructions the kernels of this process use: one choice for all packages that
// have kernels, so that LOCKSTEP_SIMD means the same everywhere.
package simd

import (
	"fmt"
	"os"
	"strings"
)

// Variable names the environment variable that forces a family.
const Variable = "LOCKSTEP_SIMD"

// Family is a set of vector instructions; a larger one includes the smaller.
type Family int

const (
	// Generic is plain Go.
	Generic Family = iota
	// AVX2 is AVX2 with FMA.
	AVX2
	// AVX512 is AVX-512 F, DQ, BW and VL.
	AVX512
)

// String returns the name that Variable takes.
func (f Family) String() string {
	switch f {
	case Generic:
		return "generic"
	case AVX2:
		return "avx2"
	case AVX512:
		return "avx512"
	}
	return fmt.Sprintf("family(%d)", int(f))
}

// Choose returns the family that the environment asks for, or else the best that this machine offers. A package's own
// variant of a family, whose name begins with the family's, asks for that. An error means that the machine lacks it.
func Choose() (Family, error) { return choose(os.Getenv(Variable), Offered()) }

func choose(want string, offered []Family) (Family, error) {
	if want == "" {
		return offered[len(offered)-1], nil
	}
	have := ""
	for _, f := range offered {
		if strings.HasPrefix(want, f.String()) {
			return f, nil
		}
		have += " " + f.String()
	}
	return Generic, fmt.Errorf("%s=%s: this machine offers%s", Variable, want, have)
}
