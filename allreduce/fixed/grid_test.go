package fixed

import (
	"math"
	"testing"
)

// largestBelow is the largest float32 of a block with the given code.
func largestBelow(code byte) float32 {
	return float32(math.Ldexp(math.MaxFloat32, int(code)-254))
}

func codeOfValues(v []float32) byte {
	var codes [1]byte
	MaxCodes(codes[:], v)
	return codes[0]
}

// quantised sets acc to what one replica's values become.
func quantised(g *Grid, acc []int32, v []float32, code byte) {
	wire := make([]byte, len(v)*g.wire.Bytes())
	b := Bucket{Grid: *g, Codes: []byte{code}, Replicas: [][]float32{v}}
	b.Sum(wire, nil, 0, len(v))
	g.wire.load(acc, wire)
}

// The proof of docs/design/0002-exact-ring.md, tried for every number of
// replicas: each |q| is within limit, and Replicas of them fit the wire.
func TestNoPartialSumOverflows(t *testing.T) {
	for _, w := range []Wire{Wire16, Wire32} {
		top := int64(1)<<(w-1) - 1
		for replicas := 1; replicas <= MaxReplicas; replicas++ {
			g := NewGrid(w, replicas, true)
			if int64(g.limit)*int64(replicas) > top || g.limit < 1 {
				t.Fatalf("wire %v, R=%d: limit %d", w, replicas, g.limit)
			}
			if 1<<g.bits > int64(g.limit)+1 || 2<<g.bits <= int64(g.limit)+1 {
				t.Fatalf("wire %v, R=%d: bits %d for limit %d", w, replicas, g.bits, g.limit)
			}
			for _, code := range []byte{1, 2, 100, 127, 253, 254} {
				big := largestBelow(code)
				if code == 1 {
					big = math.Float32frombits(0x00ffffff)
				}
				if codeOfValues([]float32{big}) != code {
					t.Fatalf("code of %g is %d, want %d", big, codeOfValues([]float32{big}), code)
				}
				v := []float32{big, -big, big, -big, big}
				acc := make([]int32, len(v))
				quantised(&g, acc, v, code)
				for i, q := range acc {
					if q > g.limit || q < -g.limit || (q > 0) != (v[i] > 0) {
						t.Fatalf("wire %v, R=%d, code %d: %g becomes %d, limit %d", w, replicas, code, v[i], q, g.limit)
					}
				}
			}
		}
	}
}

func TestClampMovesByAtMostOneQuantum(t *testing.T) {
	g := NewGrid(Wire16, 8, true) // limit 4095 = 2^12 - 1
	if !g.clamp || g.limit != 4095 || g.bits != 12 {
		t.Fatalf("grid is %+v", g)
	}
	v := []float32{largestBelow(127), 1 - 0x1p-13, 1 - 0x1p-12, 1 - 0x1.8p-12}
	want := []int32{4095, 4095, 4095, 4094} // 4096 and 4095.5 clamped; exact; tie to even
	acc := make([]int32, len(v))
	code := codeOfValues([]float32{0.75})
	quantised(&g, acc, v, code)
	for i := range want {
		if acc[i] != want[i] {
			t.Errorf("%g becomes %d, want %d", v[i], acc[i], want[i])
		}
	}
}

func TestBlockCode(t *testing.T) {
	inf, nan := float32(math.Inf(1)), float32(math.NaN())
	negZero := float32(math.Copysign(0, -1))
	for _, c := range []struct {
		v    []float32
		want byte
	}{
		{nil, 0},
		{[]float32{0, negZero, 0, 0, negZero}, 0},
		{[]float32{0, math.SmallestNonzeroFloat32}, 1},
		{[]float32{0x1p-126}, 1},
		{[]float32{0x1p-125}, 2},
		{[]float32{0.5, -1, 0.25}, 127},
		{[]float32{-math.MaxFloat32}, 254},
		{[]float32{1, 2, 3, 4, nan}, 255},
		{[]float32{1, -inf, 3, 4, 5}, 255},
	} {
		for range 5 { // every position in the unrolled loop
			if got := codeOfValues(c.v); got != c.want {
				t.Errorf("code of %v is %d, want %d", c.v, got, c.want)
			}
			c.v = append([]float32{0}, c.v...)
		}
	}
}

func TestWireRoundTrip(t *testing.T) {
	for _, w := range []Wire{Wire16, Wire32} {
		top := int32(1)<<(w-1) - 1
		for n := range 70 {
			in, out := make([]int32, n), make([]int32, n)
			for i := range in {
				in[i] = []int32{0, 1, -1, top, -top, int32(i * 397), -int32(i * 31)}[i%7]
			}
			b := make([]byte, n*w.Bytes()+8)
			for i := range b {
				b[i] = 0xa5
			}
			w.store(b[:n*w.Bytes()], in)
			w.load(out, b[:n*w.Bytes()])
			for i := range in {
				if in[i] != out[i] {
					t.Fatalf("wire %v, n=%d: value %d went in as %d, came out as %d", w, n, i, in[i], out[i])
				}
			}
			for _, x := range b[n*w.Bytes():] {
				if x != 0xa5 {
					t.Fatalf("wire %v, n=%d: wrote behind the end", w, n)
				}
			}
		}
	}
}
