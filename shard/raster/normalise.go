package raster

import (
	"fmt"
	"math"

	"github.com/lockstep-ml/lockstep/internal/simd"
)

// lanes is how often a constant stands in memory for the vector kernels.
const lanes = 16

// constants are one channel's, each in every lane.
type constants struct{ shift, mean, std, reciprocal [lanes]float32 }

// A Normaliser turns rows of 8-bit RGB into planes of float32: ((v/255 + shift) - mean) / std, each step rounded to float32 as
// PyTorch's ToTensor and Normalize round it. That makes 256 values a channel, which are kept in a table: the truth, whatever writes them.
//
// The vector kernels compute instead of looking up. They multiply by reciprocals and correct the quotient by its remainder, which is
// nearly always the rounded quotient; Set asks them for all 256 values, and where one differs by a bit the table is used.
type Normaliser struct {
	lut    [3][256]float32
	c      [3]constants
	family kernelFamily
	use    simd.Family
}

// Set takes means, standard deviations and what is added to v/255 before (0 but for colour augmentation): red, green, blue, of values in 0..1.
func (n *Normaliser) Set(mean, std, shift [3]float32) {
	for c := range 3 {
		k := &n.c[c]
		for i := range lanes {
			k.shift[i], k.mean[i], k.std[i], k.reciprocal[i] = shift[c], mean[c], std[c], 1/std[c]
		}
		for v := range 256 {
			x := float32(v) / 255
			x = float32(x + shift[c])
			n.lut[c][v] = float32(x-mean[c]) / std[c]
		}
	}
	n.use = n.family.get()
	if n.use != simd.Generic && !n.exact() {
		n.use = simd.Generic
	}
}

// ramp is a row of 256 pixels that has every value in every channel.
var ramp = func() (b [3 * 256]byte) {
	for i := range b {
		b[i] = byte(i / 3)
	}
	return b
}()

// exact asks the kernels for every value.
func (n *Normaliser) exact() bool {
	var out [3][256]float32
	n.row(out[0][:], out[1][:], out[2][:], ramp[:], false)
	for c := range out {
		for v := range out[c] {
			if math.Float32bits(out[c][v]) != math.Float32bits(n.lut[c][v]) {
				return false
			}
		}
	}
	return true
}

// Value is the normalised value of a byte of channel c.
func (n *Normaliser) Value(c int, v byte) float32 { return n.lut[c][v] }

// Row writes the pixels of src, 3 bytes each, to the planes red, green and blue, which have the same length; backwards when flipped.
func (n *Normaliser) Row(red, green, blue []float32, src []byte, flip bool) {
	if len(green) != len(red) || len(blue) != len(red) || len(src) != 3*len(red) {
		panic(fmt.Sprintf("raster: planes of %d, %d and %d values for %d bytes", len(red), len(green), len(blue), len(src)))
	}
	n.row(red, green, blue, src, flip)
}

// plainRow looks values up.
func (n *Normaliser) plainRow(red, green, blue []float32, src []byte, flip bool) {
	at, step := 0, 1
	if flip {
		at, step = len(red)-1, -1
	}
	for ; len(src) >= 3; src = src[3:] {
		red[at], green[at], blue[at] = n.lut[0][src[0]], n.lut[1][src[1]], n.lut[2][src[2]]
		at += step
	}
}
