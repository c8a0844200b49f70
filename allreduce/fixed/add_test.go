package fixed

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"
)

// Sums are those of single integers, at both ends of their range, for every length, and nothing behind them is touched.
func TestAdd(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, w := range []Wire{Wire32, Wire16} {
		for n := range 100 {
			a, b, want := make([]int32, n), make([]int32, n), make([]int32, n)
			half := int32(1)<<(w-2) - 1 // so that no sum overflows
			for i := range a {
				a[i], b[i] = drawEnd(rng, half), drawEnd(rng, half)
				want[i] = a[i] + b[i]
			}
			x, y, sum := stored(w, a), stored(w, b), stored(w, want)
			out := slices.Repeat([]byte{0xa5}, len(x)+9)
			Add(out[1:1+len(x)], x, y, w)
			if !bytes.Equal(out[1:1+len(x)], sum) || out[0] != 0xa5 || !bytes.Equal(out[1+len(x):], slices.Repeat([]byte{0xa5}, 8)) {
				t.Fatalf("w=%v n=%d: %x + %x gives %x, want %x alone", w, n, x, y, out, sum)
			}
			Add(x, x, y, w)
			if !bytes.Equal(x, sum) {
				t.Fatalf("w=%v n=%d in place: got %x, want %x", w, n, x, sum)
			}
		}
	}
}

// drawEnd draws an integer of -half..half, often one at an end or next to zero.
func drawEnd(rng *rand.Rand, half int32) int32 {
	switch rng.IntN(6) {
	case 0:
		return half
	case 1:
		return -half
	case 2:
		return -1
	case 3:
		return 0
	}
	return rng.Int32N(2*half) - half
}

func stored(w Wire, v []int32) []byte {
	b := make([]byte, len(v)*w.Bytes())
	w.store(b, v)
	return b
}

func BenchmarkAdd(b *testing.B) {
	for _, w := range []Wire{Wire32, Wire16} {
		b.Run(w.String(), func(b *testing.B) {
			x, y := make([]byte, 16<<10), make([]byte, 16<<10)
			for i := range x {
				x[i], y[i] = byte(i), byte(3*i)
			}
			b.SetBytes(int64(len(x)))
			for b.Loop() {
				Add(x, x, y, w)
			}
		})
	}
}
