package shard

import (
	"math"
	"testing"
)

func TestExpSmall(t *testing.T) {
	for x := -0.3; x <= 0.3; x += 0.001 {
		if got, want := expSmall(x), math.Exp(x); math.Abs(got-want) > 4e-16 {
			t.Errorf("exp(%v) = %v, want %v", x, got, want)
		}
	}
}

func TestLogUnit(t *testing.T) {
	for k := 1; k <= 4000; k++ {
		for _, x := range []float64{float64(k) / 4000, math.Ldexp(float64(k), -53), 1 - math.Ldexp(float64(k), -53)} {
			if got, want := logUnit(x), math.Log(x); math.Abs(got-want) > 4e-16*math.Max(1, math.Abs(want)) {
				t.Errorf("log(%v) = %v, want %v", x, got, want)
			}
		}
	}
	if got := logUnit(1); got != 0 {
		t.Errorf("log(1) = %v", got)
	}
}

func TestTurn(t *testing.T) {
	for k := range 8001 {
		x := float64(k) / 8001
		sin, cos := turn(x)
		if s, c := math.Sincos(2 * math.Pi * x); math.Abs(sin-s) > 1e-15 || math.Abs(cos-c) > 1e-15 {
			t.Errorf("%v turns: %v and %v, want %v and %v", x, sin, cos, s, c)
		}
	}
}

// TestNormals counts what falls into each tenth of the distribution, and holds some to the bits they had when first released.
func TestNormals(t *testing.T) {
	const draws = 100_000
	var tenths [10]int
	for n := range draws / 2 {
		d := NewDraw(1, 2, n)
		a, b := d.normals()
		for _, v := range []float64{a, b} {
			tenths[min(9, int(10*0.5*math.Erfc(-v/math.Sqrt2)))]++
		}
	}
	for i, n := range tenths {
		if math.Abs(float64(n)-draws/10) > 5*math.Sqrt(draws*0.09) {
			t.Errorf("tenth %d holds %d of %d", i, n, draws)
		}
	}
	d := NewDraw(1, 2, 3)
	a, b := d.normals()
	if got := [2]uint64{math.Float64bits(a), math.Float64bits(b)}; got != [2]uint64{0x3fd02088d68aa061, 0xbfd2af0d37966a2a} {
		t.Errorf("the first two have bits %#x", got)
	}
}
