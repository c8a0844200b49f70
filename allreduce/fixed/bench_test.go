package fixed

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/lockstep-ml/lockstep/internal/simd"
)

// BenchmarkKernels verifies each kernel against the generic one's bits, then times it on values that lie in the second-level cache and on
// those of a ResNet-50, in segments of 64 Ki values. Bytes are those that are read and those that are written, for a copy too.
func BenchmarkKernels(b *testing.B) {
	for _, place := range []struct {
		name string
		n    int
	}{{"cache", 32 << 10}, {"memory", 25_557_032}} {
		m := newBenchMemory(place.n)
		b.Run("copy/wire=32/"+place.name, func(b *testing.B) {
			b.SetBytes(8 * int64(place.n))
			for b.Loop() {
				m.each(Wire32, func(lo, hi, _, _ int) { copy(m.dst[lo:hi], m.values[0][lo:hi]) })
			}
		})
		for _, w := range []Wire{Wire32, Wire16} {
			for _, o := range m.operations(w) {
				for _, f := range simd.Offered() {
					b.Run(fmt.Sprintf("%s/wire=%d/%s/%v", o.name, w, place.name, f), func(b *testing.B) { o.time(b, m, w, f) })
				}
			}
		}
	}
}

// benchMemory is the memory that kernels are timed on.
type benchMemory struct {
	values  [2][]float32
	dst     []float32
	codes   []byte
	in, out []byte
}

func newBenchMemory(n int) *benchMemory {
	m := &benchMemory{dst: make([]float32, n), codes: make([]byte, Blocks(n)), in: make([]byte, 4*n), out: make([]byte, 4*n)}
	for i := range m.values {
		m.values[i] = make([]float32, n)
		rng := rand.New(rand.NewPCG(1, uint64(i)))
		for j := range m.values[i] {
			m.values[i][j] = (rng.Float32() - 0.5) * 0x1p-6
		}
		MaxCodes(m.codes, m.values[i])
	}
	rng := rand.New(rand.NewPCG(3, 4))
	for i := range m.in {
		m.in[i] = byte(rng.Uint32())
	}
	return m
}

// each calls f for one segment after another: its values and its bytes.
func (m *benchMemory) each(w Wire, f func(lo, hi, from, to int)) {
	const segment = 64 << 10
	for lo := 0; lo < len(m.dst); lo += segment {
		hi := min(lo+segment, len(m.dst))
		f(lo, hi, lo*w.Bytes(), hi*w.Bytes())
	}
}

// benchOperation is a kernel and how many bytes of one value it reads and writes.
type benchOperation struct {
	name  string
	bytes int
	run   func(m *benchMemory, b *Bucket, f simd.Family)
}

func (m *benchMemory) operations(w Wire) []benchOperation {
	segments := func(call func(b *Bucket, out, in []byte, lo, hi int)) func(*benchMemory, *Bucket, simd.Family) {
		return func(m *benchMemory, b *Bucket, _ simd.Family) {
			m.each(w, func(lo, hi, from, to int) { call(b, m.out[from:to], m.in[from:to], lo, hi) })
		}
	}
	hosting := func(hosted int, call func(b *Bucket, out, in []byte, lo, hi int)) func(*benchMemory, *Bucket, simd.Family) {
		run := segments(call)
		return func(m *benchMemory, b *Bucket, f simd.Family) {
			b.Replicas = m.values[:hosted]
			run(m, b, f)
		}
	}
	first := func(b *Bucket, out, _ []byte, lo, hi int) { b.Sum(out, nil, lo, hi) }
	decode := func(b *Bucket, _, in []byte, lo, hi int) { b.Decode(in, lo, hi) }
	thirds := func(b *Bucket, _, in []byte, lo, hi int) {
		three := *b
		three.Grid = NewGrid(w, 3, true)
		three.Grid.family = b.Grid.family
		three.Decode(in, lo, hi)
	}
	apart := func(b *Bucket, out, in []byte, lo, hi int) {
		b.Sum(out, in, lo, hi)
		b.Decode(out, lo, hi)
	}
	return []benchOperation{
		{"MaxCodes", 4, func(m *benchMemory, _ *Bucket, f simd.Family) { maxCodes(f, m.codes, m.values[0]) }},
		{"Sum-first", 4 + w.Bytes(), hosting(1, first)},
		{"Sum", 4 + 2*w.Bytes(), hosting(1, (*Bucket).Sum)},
		{"Sum-two", 8 + 2*w.Bytes(), hosting(2, (*Bucket).Sum)},
		{"Decode", 4 + w.Bytes(), segments(decode)},
		{"Decode-thirds", 4 + w.Bytes(), segments(thirds)},
		{"SumDecode", 8 + 2*w.Bytes(), hosting(1, (*Bucket).SumDecode)},
		{"Sum-then-Decode", 8 + 2*w.Bytes(), hosting(1, apart)},
	}
}

// time verifies, then times.
func (o *benchOperation) time(b *testing.B, m *benchMemory, w Wire, f simd.Family) {
	run := func(f simd.Family) {
		g := NewGrid(w, 8, true)
		g.family = f
		o.run(m, &Bucket{Grid: g, Codes: m.codes, Dst: m.dst}, f)
	}
	blank := func() {
		clear(m.out)
		clear(m.dst)
	}
	blank()
	run(simd.Generic)
	codes, out, dst := slices.Clone(m.codes), slices.Clone(m.out), slices.Clone(m.dst)
	blank()
	run(f)
	same := bytes.Equal(codes, m.codes) && bytes.Equal(out, m.out) &&
		slices.EqualFunc(dst, m.dst, func(x, y float32) bool { return math.Float32bits(x) == math.Float32bits(y) })
	if !same {
		b.Fatal("not timing a wrong result")
	}
	b.SetBytes(int64(o.bytes) * int64(len(m.dst)))
	for b.Loop() {
		run(f)
	}
}
