package raster

import (
	"fmt"
	"sync"

	"github.com/lockstep-ml/lockstep/internal/simd"
)

// choose is made once, at first use: what reads the environment earlier escapes the go command's cache of tests.
var choose = sync.OnceValues(simd.Choose)

// chosen is the family of all but tests.
func chosen() simd.Family {
	f, _ := choose() // generic beside an error, which Check reports
	return f
}

// Check reports that LOCKSTEP_SIMD asks for kernels that this machine cannot run. The generic ones are used then.
func Check() error {
	if _, err := choose(); err != nil {
		return fmt.Errorf("raster: %w", err)
	}
	return nil
}

// A view is a part of an image: all that lies right of and below a pixel.
type view struct {
	pix    []byte // from that pixel to the image's end
	stride int
}

func (m *Image) from(x, y int) view { return view{m.Pix[3*(y*m.W+x):], 3 * m.W} }

// row begins with the row's pixels; what follows belongs to others.
func (v view) row(y int) []byte { return v.pix[y*v.stride:] }
