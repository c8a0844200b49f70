package cpu

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// TestMaxPool compares with the definition, over windows that hang over every border or are larger than the image.
func TestMaxPool(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 7))
	for range 300 {
		k := 1 + rng.IntN(5)
		s, p, h, w := 1+rng.IntN(4), rng.IntN(k), 1+rng.IntN(12), 1+rng.IntN(12)
		if h+2*p < k || w+2*p < k {
			continue
		}
		halo := rng.IntN(3)
		u := newMaxPool(k, s, p, filled(rng, h, w, halo), filled(rng, (h+2*p-k)/s+1, (w+2*p-k)/s+1, rng.IntN(2)))
		u.dIn, u.dOut, u.add = filled(rng, h, w, halo*rng.IntN(2)), filled(rng, u.out.h, u.out.w, rng.IntN(2)), rng.IntN(2) == 0
		out, dIn := poolByDefinition(u)
		for _, kern := range families() {
			e := &Engine{kern: kern, scratch: make([]scratch, 1)}
			before := append([]float32(nil), u.dIn.buf.data...)
			u.forward(e, 0, 0)
			u.backward(e, 0, 0)
			name := fmt.Sprintf("%s: %dx%d by windows of %d, stride %d, padding %d, add %v", kern.name, h, w, k, s, p, u.add)
			for _, c := range []struct {
				what string
				got  *tensor
				want []vector
			}{{"output", u.out, out}, {"gradient", u.dIn, dIn}} {
				for i := range c.want {
					if got := pixelOf(c.got, i/c.got.w, i%c.got.w); *got != c.want[i] {
						t.Fatalf("%s: %s of pixel %d is %v, want %v", name, c.what, i, *got, c.want[i])
					}
				}
			}
			copy(u.dIn.buf.data, before)
		}
	}
}

// pixelOf is a pixel of the first block.
func pixelOf(t *tensor, y, x int) *vector { return vec(t.at(0, 0), y*t.row+x*pixelBytes) }

// filled is one block of one image, of few different values.
func filled(rng *rand.Rand, h, w, halo int) *tensor {
	t := newTensor(1, lanes, h, w, halo, pixelBytes)
	t.buf.data = aligned(t.buf.len)
	for i := range t.buf.data {
		t.buf.data[i] = float32(rng.IntN(5) - 2)
	}
	return t
}

// poolByDefinition gives the maxima and the gradient of the input, pixel by pixel.
func poolByDefinition(u *maxPoolUnit) (out, dIn []vector) {
	out, dIn = make([]vector, u.out.h*u.out.w), make([]vector, u.in.h*u.in.w)
	for i := range dIn {
		if u.add {
			dIn[i] = *pixelOf(u.dIn, i/u.in.w, i%u.in.w)
		}
	}
	for i := range out {
		for l := range lanes {
			first := -1
			for j := range u.k * u.k {
				y, x := i/u.out.w*u.s-u.p+j/u.k, i%u.out.w*u.s-u.p+j%u.k
				if y < 0 || y >= u.in.h || x < 0 || x >= u.in.w {
					continue
				}
				if v := pixelOf(u.in, y, x)[l]; first < 0 || v > out[i][l] {
					out[i][l], first = v, y*u.in.w+x
				}
			}
			dIn[first][l] += pixelOf(u.dOut, i/u.out.w, i%u.out.w)[l]
		}
	}
	return out, dIn
}
