package cpu

import (
	"errors"
	"fmt"
	"math"
	"os"
	"unsafe"

	"github.com/lockstep-ml/lockstep/core"
)

// Tensors of bf16 are laid out as those of float32 are, 32 bytes a pixel: [image][block][h + 2 halo][w + 2 halo][16 channels].
const bfPixelBytes = lanes * 2

// bfConvArgs describes one tile of a convolution over bf16: rows x cols output pixels of one output block, or of two. Every tap adds
// pairs of input lanes times their weights. Strides are in bytes.
type bfConvArgs struct {
	in       unsafe.Pointer // source pixel under the tile's first pixel
	w        unsafe.Pointer // weights as layWeights gives them: [ntaps][pairs]
	out      unsafe.Pointer // first output pixel
	taps     unsafe.Pointer // *int: byte offsets from in
	ntaps    int
	pairs    int // input lanes used, in pairs: 1 to 8; 2 for an image
	inRow    int // from one row of the tile to the next, in the source
	outPix   int // from one output pixel to the next
	outRow   int
	wBlock   int // from the weights of the first output block to those of the second
	outBlock int // from the first output block's pixel to the second's
	add      int // 1: add to what out holds
	wide     int // 1: out holds float32, 64 bytes a pixel; 0: bf16
}

// bfWgradArgs describes a gradient of weights, summed over rows of pairs of pixels as pair gives them, of several images. Its result is
// float32.
//
// A tap that is an odd number of pixels to the right reads other pairs than one that is an even number: pair has to be called for x's
// rows twice, from their first pixel and from their second. dy behind a row of odd length is zero, so x there need only be finite.
type bfWgradArgs struct {
	x       [maxImageTaps]unsafe.Pointer // pairs of x under each tap
	dy, dw  unsafe.Pointer               // [16 in][16 out] result
	images  int
	xSkip   int // beside rows times xRow, from one image to the next
	dySkip  int
	rows    int
	xRow    int // from one row of pairs to the next
	dyRow   int
	pairs   int // of a row, at least 1
	dyBlock int // from the first output block to the second
	dwBlock int
	dwTap   int // from one tap's result to the next
	add     int // 1: add the sum to what dw holds
}

// bfPairArgs describes the preparation of rows of pixels of one block for a gradient of weights.
type bfPairArgs struct {
	src, dst unsafe.Pointer
	rows     int
	pixels   int // of a row; behind an odd number comes a pixel of zeros
	srcRow   int
	dstRow   int
}

// bfWeightArgs describes the laying out of weights: from float32 vectors [pairs][2 input lanes][16 out].
type bfWeightArgs struct {
	src, dst unsafe.Pointer
	pairs    int
}

// bfKernels is one family of kernels for bf16 in memory and float32 in registers: every function gives the same bits in every family.
//
// Two products are added as VDPBF16PS adds them: the pair's second value first, every sum rounded to nearest even, denormals taken
// and given as zero. Passes compute in float32 as those of kernels do. Rounding to bf16 is to nearest even; denormals become zero, as
// VCVTNEPS2BF16 has it.
type bfKernels struct {
	name string
	// like is the float32 family whose tiles these kernels have.
	like *kernels
	// sourcePixel is the bytes of a pixel that conv reads. Where that is not bfPixelBytes, swap has to widen tensors to it first.
	sourcePixel int
	// weightPair is the bytes of a pair of input lanes' weights for a block, as layWeights gives them.
	weightPair int
	// pixelPair is the bytes of a pair of pixels, as pair gives them.
	pixelPair int

	conv func(a *bfConvArgs, rows, cols, blocks int)
	// swap: out = y widened to float32, the lanes of each pair swapped: a source for conv.
	swap       func(a *ewArgs)
	layWeights func(a *bfWeightArgs)

	// wgrad treats one tap of 16 input lanes and one output block; wgradPair two output blocks; wgradRow three taps; wgradImage up to
	// maxImageTaps taps of imageLanes input lanes, and one output block or two.
	wgrad, wgradPair, wgradRow func(a *bfWgradArgs)
	wgradImage                 func(a *bfWgradArgs, taps, blocks int)
	pair                       func(a *bfPairArgs)

	passes

	// narrow: out = y in bf16, y being float32; widen: out = y in float32. Strides are those of each one's pixels.
	narrow, widen func(a *ewArgs)
}

// assumeVariable names the environment variable that, set to 1, makes tests use AVX512_BF16 where CPUID does not tell of it.
const assumeVariable = "LOCKSTEP_ASSUME_BF16"

// ErrNoBF16 is why New refuses the precision on some machines.
var ErrNoBF16 = errors.New("this machine cannot compute in bf16")

// Check gives the reason if New would refuse a precision on this machine.
func Check(p core.Precision) error {
	if p != core.BF16 {
		return p.Validate()
	}
	_, err := requireBF()
	return err
}

// requireBF gives the kernels for bf16 where the processor has the instructions. Those of AVX-512 alone would do, for the same bits; but
// who asks for bf16 expects it to be the faster. Plain Go, if asked for by name, may always run.
func requireBF() (*bfKernels, error) {
	if want := os.Getenv(simdVariable); want != bfGeneric.name && !hasBF16() {
		return nil, fmt.Errorf("cpu: %w: its processor does not tell of AVX512_BF16; fp32 runs anywhere", ErrNoBF16)
	}
	k, err := chooseBF()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, ErrNoBF16)
	}
	return k, nil
}

// chooseBF picks the family of kernels for bf16: the one that the environment asks for, by its own name or that of the float32 family
// which it goes with, or the fastest.
func chooseBF() (*bfKernels, error) {
	all := bfFamilies()
	want := os.Getenv(simdVariable)
	if want == "" {
		return fastestBF(all), nil
	}
	have := ""
	for _, k := range all {
		if k.name == want || k.like.name == want {
			return k, nil
		}
		have += " " + k.name
	}
	return nil, fmt.Errorf("cpu: %s=%s: for bf16 this machine offers%s", simdVariable, want, have)
}

// bfWiden is a stored bf16's value.
func bfWiden(h uint16) float32 { return math.Float32frombits(uint32(h) << 16) }

// bfRound rounds to the nearest bf16, a tie to the even one. A NaN stays one, quiet; denormals become zero.
func bfRound(v float32) uint16 {
	b := math.Float32bits(v)
	switch {
	case b&0x7f800000 == 0:
		return uint16(b>>16) & 0x8000
	case v != v:
		return uint16(b>>16) | 0x40
	}
	return uint16((b + 0x7fff + b>>16&1) >> 16)
}
