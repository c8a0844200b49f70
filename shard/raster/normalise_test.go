package raster

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/lockstep-ml/lockstep/internal/simd"
)

// fencedFloats is fenced for n floats.
func fencedFloats(n, shift int) (v []float32, intact func() bool) {
	const margin = 32
	all := make([]float32, n+2*margin+shift)
	for i := range all {
		all[i] = canary
	}
	from := margin + shift
	return all[from : from+n : from+n], func() bool {
		for i, x := range all {
			if (i < from || i >= from+n) && x != canary {
				return false
			}
		}
		return true
	}
}

// normalisers of every family, with the numbers of ImageNet, of nothing, and others.
func normalisers(f simd.Family) []*Normaliser {
	rng := rand.New(rand.NewPCG(9, 9))
	sets := [][3][3]float32{
		{{0.485, 0.456, 0.406}, {0.229, 0.224, 0.225}},
		{{0.4914, 0.4822, 0.4465}, {0.2470, 0.2435, 0.2616}, {0.01, -0.02, 0.3}},
		{{}, {1, 1, 1}},
		{{1e30, 0, -1e-30}, {1e-30, 1e30, 3e38}},
		{{0, 0.5, 1}, {1e-45, 1e-38, 255}},
	}
	for range 20 {
		var s [3][3]float32
		for c := range 3 {
			s[0][c], s[1][c], s[2][c] = rng.Float32(), rng.Float32()/2+0.01, rng.Float32()-0.5
		}
		sets = append(sets, s)
	}
	var out []*Normaliser
	for _, s := range sets {
		n := &Normaliser{family: kernelFamily{true, f}}
		n.Set(s[0], s[1], s[2])
		out = append(out, n)
	}
	return out
}

func TestNormalisersAgree(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	all := map[simd.Family][]*Normaliser{}
	for _, f := range simd.Offered() {
		all[f] = normalisers(f)
	}
	for n := range 1001 {
		src, _ := fenced(3*n, rng.IntN(64))
		for i := range src {
			src[i] = byte(rng.Uint32())
		}
		which, flip := n%len(all[simd.Generic]), rng.IntN(2) == 0
		for f, set := range all {
			var out [3][]float32
			var intact [3]func() bool
			for c := range out {
				out[c], intact[c] = fencedFloats(n, rng.IntN(16))
			}
			set[which].Row(out[0], out[1], out[2], src, flip)
			for c := range out {
				if !intact[c]() {
					t.Fatalf("%v, %d pixels: wrote beside plane %d", f, n, c)
				}
				for i, got := range out[c] {
					at := i
					if flip {
						at = n - 1 - i
					}
					want := set[which].Value(c, src[3*at+c])
					if math.Float32bits(got) != math.Float32bits(want) || math.Float32bits(want) != math.Float32bits(all[simd.Generic][which].Value(c, src[3*at+c])) {
						t.Fatalf("%v, set %d, %d pixels, flip %v: value %d of plane %d is %v, want %v", f, which, n, flip, i, c, got, want)
					}
				}
			}
		}
	}
}

// TestKernelsAreUsed: the usual numbers do not fall back to the table, and hopeless ones do.
func TestKernelsAreUsed(t *testing.T) {
	for _, f := range simd.Offered()[1:] {
		set := normalisers(f)
		for i, n := range set[:3] {
			if n.use != f {
				t.Errorf("%v: set %d uses %v", f, i, n.use)
			}
		}
		if set[3].use != simd.Generic {
			t.Errorf("%v: a reciprocal beyond float32 is trusted", f)
		}
	}
}

func TestNormaliserRefusesOtherLengths(t *testing.T) {
	var n Normaliser
	v := make([]float32, 4)
	mustPanic(t, func() { n.Row(v, v, v[:3], make([]byte, 12), false) })
	mustPanic(t, func() { n.Row(v, v, v, make([]byte, 11), false) })
}

func BenchmarkNormalise(b *testing.B) {
	src := pattern(224, 224)
	dst := make([]float32, 3*224*224)
	for _, f := range simd.Offered() {
		b.Run(f.String(), func(b *testing.B) {
			n := normalisers(f)[0]
			for b.Loop() {
				for y := range 224 {
					row := dst[y*224:]
					n.Row(row[:224], row[224*224:224*225], row[2*224*224:][:224], src.Pix[3*224*y:3*224*(y+1)], y%2 == 0)
				}
			}
		})
	}
}

func BenchmarkNormaliserSet(b *testing.B) {
	var n Normaliser
	for b.Loop() {
		n.Set([3]float32{0.485, 0.456, 0.406}, [3]float32{0.229, 0.224, 0.225}, [3]float32{})
	}
}
