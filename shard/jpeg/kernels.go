package jpeg

import (
	"sync"

	"github.com/lockstep-ml/lockstep/internal/simd"
)

// kernels is where the time goes besides reading codes. All families compute the same bits; the generic ones say what.
type kernels struct {
	name string
	// ac reads the coefficients of a block behind the first, and returns the place in zigzag order of the last one. ok: the codes were valid.
	ac func(r *bitReader, h *huffman, coef *[64]int16) (last int, ok bool)
	// idct transforms blocks of size 8. False: a coefficient was out of range, and the samples are undefined.
	idct func(jobs []job) bool
	// idct4 does so with blocks of size 4.
	idct4 func(jobs []job) bool
	// widen writes in to out, which is as long.
	widen func(out []int16, in []byte)
	// weigh writes 3*near + far.
	weigh func(out []int16, near, far []byte)
	// spread writes two samples for each value of in but the first and the last, which are neighbours: 3/4 the nearer and 1/4 the further,
	// divided by scale: 1 for what widen wrote, 4 for what weigh wrote. out is 2*(len(in)-2) long.
	spread1, spread4 func(out []byte, in []int16)
	// mix writes (3*near + far + bias) / 4.
	mix func(out, near, far []byte, bias int32)
	// rgb writes pixels of 3 bytes.
	rgb func(out, y, cb, cr []byte)
	// grey writes each value three times.
	grey func(out, y []byte)
}

// chosen are the kernels that the environment asks for, or else the best that this machine can run. It asks once, at first use: what reads
// the environment earlier escapes the go command's cache of tests.
var chosen = sync.OnceValue(func() *kernels {
	family, err := simd.Choose()
	if err != nil {
		panic("jpeg: " + err.Error())
	}
	return families()[family]
})
