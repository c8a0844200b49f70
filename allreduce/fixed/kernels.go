package fixed

import (
	"fmt"
	"sync"

	"github.com/lockstep-ml/lockstep/internal/simd"
)

// piece is a run of values inside one block and what is to become of them:
// sums = in + the replicas' quantised values; out = sums; dst = sums decoded.
type piece struct {
	scale
	n        int         // values, 1..BlockSize
	out, in  []byte      // n integers; out may be nil, in too for zeros. May be the same memory
	dst      []float32   // n values, or nil. May be one of the replicas'
	replicas [][]float32 // of the whole bucket
	at       int         // the first value's index in them
	stream   bool        // write dst, which is aligned, past the caches where there is a way to
}

// skip leaves out the first values of a piece.
func (p *piece) skip(done int) {
	w := p.wire.Bytes()
	p.out, p.in = cut(p.out, done*w, p.n*w), cut(p.in, done*w, p.n*w)
	if p.dst != nil {
		p.dst = p.dst[done:]
	}
	p.n, p.at = p.n-done, p.at+done
}

// choose is made once, at first use: what reads the environment earlier escapes the go command's cache of tests.
var choose = sync.OnceValues(simd.Choose)

// chosen is the family of all grids but those of tests.
func chosen() simd.Family {
	f, _ := choose() // generic beside an error, which Check reports
	return f
}

// Check reports that LOCKSTEP_SIMD asks for kernels that this machine cannot run. The generic ones are used then.
func Check() error {
	if _, err := choose(); err != nil {
		return fmt.Errorf("fixed: %w", err)
	}
	return nil
}
