package jpeg

import (
	"golang.org/x/sys/cpu"

	"github.com/lockstep-ml/lockstep/internal/simd"
)

// families lists what this machine can run, the best last. AVX-512 would speed up what is a small part of decoding by now.
func families() []*kernels {
	return []*kernels{simd.Generic: genericKernels, simd.AVX2: avx2Kernels, simd.AVX512: avx2Kernels}[:len(simd.Offered())]
}

var avx2Kernels = &kernels{
	name: "avx2", ac: bestAC(), idct: idctAVX2, idct4: idct4AVX2, widen: widenAVX2, weigh: weighAVX2,
	spread1: spread1AVX2, spread4: spread4AVX2, mix: mixAVX2, rgb: rgbAVX2, grey: greyAVX2,
}

// bestAC: no processor with AVX2 is known to lack BMI2, but CPUID has a bit for each.
func bestAC() func(*bitReader, *huffman, *[64]int16) (int, bool) {
	if cpu.X86.HasBMI2 {
		return acBMI2
	}
	return acGeneric
}

// acBMI2 leaves long codes, which are rare, to Go.
func acBMI2(r *bitReader, h *huffman, coef *[64]int16) (last int, ok bool) {
	for {
		var moved int
		if last, moved = ac_bmi2(r, h, coef, last); moved != 0 {
			return last, moved <= 63 || moved >= endOfBlock
		}
		e := h.longEntry(r.acc)
		v := e.value(r.acc)
		r.acc <<= e & entryBits
		r.n -= int(e & entryBits)
		k := last + int(e>>entryMove&127)
		if k > 63 {
			return last, k >= endOfBlock
		}
		coef[zigzag[k]] = int16(v)
		if last = k; k == 63 {
			return last, true
		}
	}
}

func idctAVX2(jobs []job) bool {
	outside := uint32(0)
	if pairs := len(jobs) / 2; pairs > 0 {
		outside = idctPairs_avx2(&jobs[0], pairs)
	}
	if last, odd := oddOne(jobs); odd {
		outside |= idctPairs_avx2(&last[0], 1)
	}
	return outside == 0
}

func idct4AVX2(jobs []job) bool {
	outside := uint32(0)
	if pairs := len(jobs) / 2; pairs > 0 {
		outside = idct4Pairs_avx2(&jobs[0], pairs)
	}
	if last, odd := oddOne(jobs); odd {
		outside |= idct4Pairs_avx2(&last[0], 1)
	}
	return outside == 0
}

// oddOne makes a pair of a job that has no other: it is done twice.
func oddOne(jobs []job) (pair [2]job, odd bool) {
	if odd = len(jobs)%2 == 1; odd {
		pair = [2]job{jobs[len(jobs)-1], jobs[len(jobs)-1]}
	}
	return pair, odd
}

// inSteps has do work on n places in steps of width: all whole ones, then one that ends at the end and overlaps. It is false where there is
// not even one step.
func inSteps(n, width int, do func(at, steps int)) bool {
	if n < width {
		return false
	}
	do(0, n/width)
	if n%width != 0 {
		do(n-width, 1)
	}
	return true
}

func widenAVX2(out []int16, in []byte) {
	in = in[:len(out)]
	if !inSteps(len(out), 16, func(at, steps int) { widen_avx2(&out[at], &in[at], steps) }) {
		widenGeneric(out, in)
	}
}

func weighAVX2(out []int16, near, far []byte) {
	near, far = near[:len(out)], far[:len(out)]
	if !inSteps(len(out), 16, func(at, steps int) { weigh_avx2(&out[at], &near[at], &far[at], steps) }) {
		weighGeneric(out, near, far)
	}
}

func spread1AVX2(out []byte, in []int16) {
	out = out[:2*(len(in)-2)]
	if !inSteps(len(in)-2, 16, func(at, steps int) { spread1_avx2(&out[2*at], &in[at], steps) }) {
		spread1Generic(out, in)
	}
}

func spread4AVX2(out []byte, in []int16) {
	out = out[:2*(len(in)-2)]
	if !inSteps(len(in)-2, 16, func(at, steps int) { spread4_avx2(&out[2*at], &in[at], steps) }) {
		spread4Generic(out, in)
	}
}

func mixAVX2(out, near, far []byte, bias int32) {
	near, far = near[:len(out)], far[:len(out)]
	if !inSteps(len(out), 16, func(at, steps int) { mix_avx2(&out[at], &near[at], &far[at], int(bias), steps) }) {
		mixGeneric(out, near, far, bias)
	}
}

func rgbAVX2(out, y, cb, cr []byte) {
	out, cb, cr = out[:3*len(y)], cb[:len(y)], cr[:len(y)]
	if !inSteps(len(y), 32, func(at, steps int) { rgb_avx2(&out[3*at], &y[at], &cb[at], &cr[at], steps) }) {
		rgbGeneric(out, y, cb, cr)
	}
}

func greyAVX2(out, y []byte) {
	out = out[:3*len(y)]
	if !inSteps(len(y), 32, func(at, steps int) { grey_avx2(&out[3*at], &y[at], steps) }) {
		greyGeneric(out, y)
	}
}
