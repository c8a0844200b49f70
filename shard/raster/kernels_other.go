//go:build !amd64

package raster

import "github.com/lockstep-ml/lockstep/internal/simd"

// vector is Resample with vector kernels, of which this machine has none.
func (r *Resampler) vector(_ simd.Family, dst *Image, src view, rows int) { r.plain(dst, src, rows) }
