package fixed

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/lockstep-ml/lockstep/internal/simd"
)

// scale gives the scale of a block with a code.
func (g *Grid) scale(code byte) (s scale) {
	s.set(g, code)
	return s
}

// sample is a bucket, a range of it and what came from the neighbour.
type sample struct {
	Bucket
	lo, hi int
	in     []byte
}

// operation is one of a Bucket's, or one way to call it.
type operation struct {
	name                  string
	noIn, noOut, decoding bool
	inPlace, onReplica    bool // out is in's memory; dst that of a replica
	run                   func(b *Bucket, out, in []byte, lo, hi int)
}

var operations = []operation{
	{name: "Sum", run: (*Bucket).Sum},
	{name: "Sum without in", noIn: true, run: (*Bucket).Sum},
	{name: "Sum in place", inPlace: true, run: (*Bucket).Sum},
	{name: "Decode", noOut: true, decoding: true, run: func(b *Bucket, _, in []byte, lo, hi int) { b.Decode(in, lo, hi) }},
	{name: "DecodeCopy", decoding: true, run: (*Bucket).DecodeCopy},
	{name: "DecodeCopy in place", decoding: true, inPlace: true, onReplica: true, run: (*Bucket).DecodeCopy},
	{name: "SumDecode", decoding: true, run: (*Bucket).SumDecode},
	{name: "SumDecode in place", decoding: true, inPlace: true, onReplica: true, run: (*Bucket).SumDecode},
	{name: "SumDecode alone", decoding: true, noIn: true, noOut: true, onReplica: true, run: (*Bucket).SumDecode},
}

const (
	canary = 0xa5
	margin = 72 // bytes of canaries on either side; beyond a vector
)

// fenced returns n bytes that begin shift bytes past an aligned address, and a check of what surrounds them.
func fenced(n, shift int) (b []byte, intact func() bool) {
	whole := bytes.Repeat([]byte{canary}, n+2*margin+shift)
	from := margin + shift
	return whole[from : from+n : from+n], func() bool {
		return bytes.Count(whole[:from], []byte{canary}) == from && bytes.Count(whole[from+n:], []byte{canary}) == margin
	}
}

// apply runs an operation with the kernels of a family, on memory of its own that begins anywhere, and returns what it wrote.
func (s *sample) apply(t *testing.T, f simd.Family, op operation, shift int) (out []byte, dst []float32) {
	t.Helper()
	b, n := s.Bucket, s.hi-s.lo
	b.Grid.family = f
	out, outIntact := fenced(n*b.Grid.wire.Bytes(), shift)
	in := s.in
	if op.inPlace {
		copy(out, in)
		in = out
	}
	given := out
	if op.noIn {
		in = nil
	}
	if op.noOut {
		given = nil
	}
	size := len(b.Codes) * BlockSize
	all := make([]float32, size+shift)
	b.Dst = all[shift:]
	for i := range b.Dst {
		b.Dst[i] = -7
	}
	if op.onReplica && len(b.Replicas) > 0 {
		b.Replicas = append([][]float32{b.Dst}, b.Replicas[1:]...)
		copy(b.Dst, s.Replicas[0])
	}
	before := append([]float32(nil), b.Dst...)
	op.run(&b, given, in, s.lo, s.hi)
	if !outIntact() {
		t.Errorf("%v %s: wrote beside the integers", f, op.name)
	}
	for i, x := range b.Dst {
		if (!op.decoding || i < s.lo || i >= s.hi) && math.Float32bits(x) != math.Float32bits(before[i]) {
			t.Fatalf("%v %s: wrote value %d of %d..%d", f, op.name, i, s.lo, s.hi)
		}
	}
	return out, b.Dst[s.lo:s.hi]
}

// compare holds every family to the generic kernels' bits.
func (s *sample) compare(t *testing.T, shift int) {
	t.Helper()
	for _, op := range operations {
		wantOut, wantDst := s.apply(t, simd.Generic, op, 0)
		for _, f := range simd.Offered()[1:] {
			out, dst := s.apply(t, f, op, shift)
			where := fmt.Sprintf("%v %s, %d hosted, %d bits, R=%v, %d..%d", f, op.name, len(s.Replicas), s.Grid.wire, s.Grid.divisor, s.lo, s.hi)
			if !bytes.Equal(out, wantOut) {
				t.Fatalf("%s: other sums", where)
			}
			for i := range dst {
				if math.Float32bits(dst[i]) != math.Float32bits(wantDst[i]) {
					t.Fatalf("%s: value %d is %g, want %g", where, i, dst[i], wantDst[i])
				}
			}
		}
	}
}

// hardValues fills a block: any bits below 2^bound, and values that lie on the grid's ties and borders.
func hardValues(rng *rand.Rand, v []float32, g *Grid, top int) {
	code := max(1, min(254, top))
	for i := range v {
		var x float64
		switch rng.IntN(8) {
		case 0: // a tie, or next to one
			x = (float64(rng.IntN(1<<min(g.bits, 22))) + 0.5) * g.scale(byte(code)).unit
			x = float64(math.Float32frombits(math.Float32bits(float32(x)) + uint32(rng.IntN(3)) - 1))
		case 1: // the border of the clamp
			x = float64(math.Float32frombits(math.Float32bits(largestBelow(byte(code))) - uint32(rng.IntN(4)*rng.IntN(1<<12))))
		case 2: // denormal
			x = float64(math.Float32frombits(rng.Uint32N(1 << 23)))
		case 3:
			x = 0
		default:
			x = float64(math.Float32frombits(uint32(rng.IntN(code+1))<<23 | rng.Uint32N(1<<23)))
		}
		v[i] = float32(math.Copysign(x, float64(rng.IntN(2))-0.5))
		if c := int(math.Float32bits(v[i]) >> 23 & 255); c > code {
			v[i] = 0
		}
	}
}

// randomSample makes a bucket of up to three blocks with hosted replicas and honest or arbitrary bytes from the left.
func randomSample(rng *rand.Rand, w Wire, replicas, n int) *sample {
	lo := rng.IntN(2 * BlockSize)
	s := &sample{lo: lo, hi: lo + n}
	s.Grid = NewGrid(w, replicas, rng.IntN(8) > 0)
	s.Grid.streamFrom = 0
	s.Codes = make([]byte, Blocks(s.hi)+1)
	size := len(s.Codes) * BlockSize
	tops := make([]int, len(s.Codes))
	for i := range tops {
		tops[i] = []int{rng.IntN(256), rng.IntN(40), 100, 254 - rng.IntN(4), 1}[rng.IntN(5)]
	}
	for range min(replicas, rng.IntN(4)) {
		shift := rng.IntN(16)
		v := make([]float32, size+shift)[shift:]
		for i, top := range tops {
			hardValues(rng, v[i*BlockSize:(i+1)*BlockSize], &s.Grid, top)
		}
		MaxCodes(s.Codes, v)
		s.Replicas = append(s.Replicas, v)
	}
	for i := range s.Codes { // another worker's replica may be larger
		if rng.IntN(3) == 0 {
			s.Codes[i] = byte(min(254, int(s.Codes[i])+rng.IntN(4)))
		}
	}
	s.in = make([]byte, n*w.Bytes()+1)[1:]
	for i := range s.in {
		s.in[i] = byte(rng.Uint32())
	}
	return s
}

func TestFamiliesAgree(t *testing.T) {
	if len(simd.Offered()) == 1 {
		t.Skip("this machine has no vector kernels")
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for _, w := range []Wire{Wire16, Wire32} {
		for n := range 200 {
			randomSample(rng, w, 1+rng.IntN(16), n).compare(t, rng.IntN(64)*rng.IntN(2))
		}
		for range 300 {
			randomSample(rng, w, 1+rng.IntN(MaxReplicas), rng.IntN(1200)).compare(t, rng.IntN(64)*rng.IntN(2))
		}
	}
}

// A worker that hosts many replicas has its blocks cut into smaller calls.
func TestManyHostedReplicas(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for _, hosted := range []int{65, 300, 1500} {
		s := randomSample(rng, Wire32, hosted, 600)
		s.Replicas = nil
		v := make([]float32, len(s.Codes)*BlockSize)
		hardValues(rng, v, &s.Grid, 90)
		clear(s.Codes)
		MaxCodes(s.Codes, v)
		for range hosted {
			s.Replicas = append(s.Replicas, v)
		}
		s.compare(t, 0)
	}
}

// tieSums are sums whose mean lies on, or next to, a border between two float32, and others.
func tieSums(rng *rand.Rand, w Wire, replicas int) []int32 {
	top := int64(1)<<(w-1) - 1
	sums := []int32{0, 1, -1, int32(top), int32(-top), int32(replicas), int32(-replicas)}
	for len(sums) < 96 {
		half := int64(1<<24 + 2*rng.IntN(1<<23) + 1) // odd, of 25 bits
		for range rng.IntN(12) {
			half <<= 1
		}
		x := half*int64(replicas) + int64(rng.IntN(3)-1)
		for x > top { // a smaller tie, or any sum where no mean has 25 bits
			x >>= 1 + rng.IntN(2)
		}
		sums = append(sums, int32(x), int32(-x), int32(rng.Int64N(2*top+1)-top))
	}
	return sums
}

// Decoding divides by any number of replicas; the vector kernels do without a division.
func TestDecodeForEveryNumberOfReplicas(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	for _, w := range []Wire{Wire16, Wire32} {
		for replicas := 1; replicas <= MaxReplicas; replicas++ {
			g := NewGrid(w, replicas, true)
			sums := tieSums(rng, w, replicas)
			in := make([]byte, len(sums)*w.Bytes())
			g.wire.store(in, sums)
			for _, code := range []byte{1, byte(2 + rng.IntN(45)), byte(1 + rng.IntN(254)), 254} {
				want, got := make([]float32, len(sums)), make([]float32, len(sums))
				decode := func(f simd.Family, dst []float32) {
					g.family = f
					b := Bucket{Grid: g, Codes: []byte{code}, Dst: dst}
					b.Decode(in, 0, len(sums))
				}
				decode(simd.Generic, want)
				for i, s := range sums { // the rule, with no short cut
					if r := float32(float64(s) * g.scale(code).unit / float64(replicas)); math.Float32bits(r) != math.Float32bits(want[i]) {
						t.Fatalf("%d bits, R=%d, code %d: sum %d is %g, want %g", w, replicas, code, s, want[i], r)
					}
				}
				for _, f := range simd.Offered()[1:] {
					decode(f, got)
					for i := range got {
						if math.Float32bits(got[i]) != math.Float32bits(want[i]) {
							t.Fatalf("%v, %d bits, R=%d, code %d: sum %d is %g, want %g", f, w, replicas, code, sums[i], got[i], want[i])
						}
					}
				}
			}
		}
	}
}

// TestDecodeCopy: the integers are passed on as they are, whatever is hosted here, and decoded as Decode decodes them.
func TestDecodeCopy(t *testing.T) {
	rng := rand.New(rand.NewPCG(9, 10))
	for _, f := range simd.Offered() {
		for _, w := range []Wire{Wire16, Wire32} {
			for range 50 {
				s := randomSample(rng, w, 1+rng.IntN(8), 1+rng.IntN(3000))
				s.Grid.family = f
				want, got := make([]float32, len(s.Codes)*BlockSize), make([]float32, len(s.Codes)*BlockSize)
				s.Dst = want
				s.Decode(s.in, s.lo, s.hi)
				out := make([]byte, len(s.in))
				s.Dst = got
				s.DecodeCopy(out, s.in, s.lo, s.hi)
				if !bytes.Equal(out, s.in) {
					t.Fatalf("%v, %d bits, %d..%d: passes on other integers than came", f, w, s.lo, s.hi)
				}
				for i := range got {
					if math.Float32bits(got[i]) != math.Float32bits(want[i]) {
						t.Fatalf("%v, %d bits, %d..%d: value %d is %g, and %g with Decode", f, w, s.lo, s.hi, i, got[i], want[i])
					}
				}
			}
		}
	}
}

func TestWhatIsWrittenPastTheCaches(t *testing.T) {
	dst := make([]float32, streamFrom+streamAlign)
	b := Bucket{Grid: NewGrid(Wire32, 1, true), Dst: dst[:streamFrom]}
	if !b.streams() {
		t.Error("a long, aligned result is not")
	}
	if b.Dst = dst[1:]; b.streams() {
		t.Error("one that is not aligned is")
	}
	if b.Dst = dst[:streamFrom-1]; b.streams() {
		t.Error("a short one is")
	}
}

func TestLargestInEveryFamily(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	special := []uint32{0, 1 << 31, 0x7f800000, 0xff800000, 0x7fc00000, 0xffffffff, 0x7f7fffff, 1, 0x80000001}
	for n := range 300 {
		all := make([]float32, n+80)
		for i := range all {
			all[i] = float32(math.NaN()) // what lies beside must not count
		}
		v := all[40 : 40+n]
		for i := range v {
			v[i] = math.Float32frombits(rng.Uint32() & 0x807fffff)
		}
		if n > 0 {
			v[rng.IntN(n)] = math.Float32frombits(special[n%len(special)])
		}
		for _, f := range simd.Offered() {
			if got, want := largest(f, v), largestGeneric(v); got != want {
				t.Fatalf("%v, %d values: %08x, want %08x", f, n, got, want)
			}
		}
	}
}

func TestMisuseIsFoundBeforeAKernelRuns(t *testing.T) {
	b := Bucket{Grid: NewGrid(Wire32, 2, true), Codes: []byte{1}, Replicas: [][]float32{make([]float32, 8)}, Dst: make([]float32, 8)}
	for name, call := range map[string]func(){
		"short out":      func() { b.Sum(make([]byte, 28), nil, 0, 8) },
		"short in":       func() { b.Decode(make([]byte, 31), 0, 8) },
		"short replicas": func() { b.Sum(make([]byte, 36), nil, 0, 9) },
		"below zero":     func() { b.Sum(make([]byte, 36), nil, -1, 8) },
		"short dst":      func() { (&Bucket{Grid: b.Grid, Codes: b.Codes}).Decode(make([]byte, 32), 0, 8) },
		"no such width":  func() { NewGrid(24, 1, true) },
		"no replicas":    func() { NewGrid(Wire16, 0, true) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			call()
		}()
	}
}

// FuzzFamiliesAgree takes values and neighbour's integers from raw bytes.
func FuzzFamiliesAgree(f *testing.F) {
	f.Add([]byte("some bytes that stand for values, more than a vector of them, and then an odd one"), uint16(8), uint16(5), uint8(0), true)
	f.Add(bytes.Repeat([]byte{1, 2, 3, 0x3f}, 300), uint16(3), uint16(1000), uint8(1), false)
	f.Fuzz(func(t *testing.T, raw []byte, replicas, lo uint16, raise uint8, narrow bool) {
		n := len(raw) / 8
		if n > 3*BlockSize {
			return
		}
		w := Wire32
		if narrow {
			w = Wire16
		}
		s := &sample{lo: int(lo) % BlockSize}
		s.hi = s.lo + n
		s.Grid = NewGrid(w, 1+int(replicas)%MaxReplicas, true)
		s.Codes = make([]byte, Blocks(s.hi)+1)
		v := make([]float32, len(s.Codes)*BlockSize)
		for i := range n {
			x := uint32(raw[4*i]) | uint32(raw[4*i+1])<<8 | uint32(raw[4*i+2])<<16 | uint32(raw[4*i+3])<<24
			if x&0x7f800000 == 0x7f800000 {
				x &^= 1 << 30
			}
			v[s.lo+i] = math.Float32frombits(x)
		}
		MaxCodes(s.Codes, v)
		for i := range s.Codes {
			s.Codes[i] = byte(min(254, int(s.Codes[i])+int(raise)))
		}
		s.Replicas = [][]float32{v}
		s.in = raw[4*n : 4*n+n*w.Bytes()]
		s.compare(t, int(raise)%64)
	})
}
