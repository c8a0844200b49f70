package coder

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"pgregory.net/rapid"

	"github.com/lockstep-ml/lockstep/internal/simd"
)

// gradients reads the gradients of testdata, by name.
func gradients(t testing.TB) map[string][]byte {
	t.Helper()
	files, err := filepath.Glob("testdata/*.i16")
	if err != nil || len(files) == 0 {
		t.Fatalf("no gradients in testdata: %v", err)
	}
	out := map[string][]byte{}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		out[filepath.Base(f)] = b
	}
	return out
}

// scatter cuts b into pieces at random.
func scatter(b []byte, rng *rand.Rand) (pieces [][]byte) {
	for len(b) > 0 {
		n := min(len(b), rng.IntN(40000))
		if rng.IntN(4) == 0 {
			n = min(len(b), rng.IntN(4))
		}
		pieces = append(pieces, b[:n:n])
		b = b[n:]
	}
	return append(pieces, nil)
}

// entropy is how many bits a value is worth when its bytes are coded each on its own.
func entropy(b []byte) (bits float64) {
	var counts [2][256]int
	for i, x := range b {
		counts[i%2][x]++
	}
	n := float64(len(b) / 2)
	for _, plane := range counts {
		for _, c := range plane {
			if c > 0 {
				bits -= float64(c) / n * math.Log2(float64(c)/n)
			}
		}
	}
	return bits
}

func TestRealGradientsGetShorter(t *testing.T) {
	var c Coder
	for name, b := range gradients(t) {
		dst := make([]byte, len(b))
		n, ok := c.Encode(dst, [][]byte{b})
		if !ok {
			t.Fatalf("%s: no shorter", name)
		}
		got := make([]byte, len(b))
		if err := c.Decode(got, [][]byte{dst[:n]}); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !bytes.Equal(got, b) {
			t.Fatalf("%s: other values came back", name)
		}
		ratio := float64(n) / float64(len(b))
		t.Logf("%s: %.3f of the bytes", name, ratio)
		if least := entropy(b) / 16; ratio > 1.015*least {
			t.Errorf("%s: %.3f of the bytes, %.3f would do", name, ratio, least)
		}
	}
}

func TestRoundTrip(t *testing.T) {
	var c Coder
	rapid.Check(t, func(t *rapid.T) {
		seed := rapid.Uint64().Draw(t, "seed")
		rng := rand.New(rand.NewPCG(seed, 1))
		n := rapid.IntRange(0, 3*plane).Draw(t, "values")
		width := rapid.IntRange(0, 16).Draw(t, "bits")
		b := make([]byte, 2*n)
		for i := range n {
			v := int16(rng.NormFloat64() * math.Exp2(float64(width)-3))
			binary.LittleEndian.PutUint16(b[2*i:], uint16(v))
		}
		room := rapid.IntRange(0, 2*n+8).Draw(t, "room")
		guarded := bytes.Repeat([]byte{0xa5}, room+64)
		m, ok := c.Encode(guarded[:room], scatter(b, rng))
		if !bytes.Equal(guarded[room:], bytes.Repeat([]byte{0xa5}, 64)) {
			t.Fatal("wrote behind its room")
		}
		if room >= 2*n+2*(n/plane+1) && !ok {
			t.Fatal("does not fit a block's bytes more")
		}
		if !ok {
			return
		}
		got := make([]byte, 2*n)
		if err := c.Decode(got, scatter(guarded[:m], rng)); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, b) {
			t.Fatal("other values came back")
		}
	})
}

// TestEveryKind makes sure that the property test's blocks are of all kinds.
func TestEveryKind(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	noise, small := make([]byte, 4096), make([]byte, 4096)
	for i := range noise {
		noise[i] = byte(rng.Uint32())
	}
	for i := 0; i < len(small); i += 2 {
		binary.LittleEndian.PutUint16(small[i:], uint16(int16(rng.NormFloat64()*500)))
	}
	for kind, b := range map[byte][]byte{kindPlain: noise, kindConstant: make([]byte, 4096), kindCoded: small} {
		var c Coder
		dst := make([]byte, 5000)
		if n, ok := c.Encode(dst, [][]byte{b}); !ok || dst[0] != kind {
			t.Errorf("kind %d: became %d, %d bytes, %v", kind, dst[0], n, ok)
		}
	}
}

func TestDamageIsFound(t *testing.T) {
	var c Coder
	b := gradients(t)["resnet20-1of8.i16"]
	dst := make([]byte, len(b))
	n, _ := c.Encode(dst, [][]byte{b})
	got := make([]byte, len(b))
	for name, bad := range map[string][]byte{
		"nothing": nil, "short": dst[:n-1], "long": dst[:n+1], "no table": dst[:3], "kind": append([]byte{9}, dst[1:n]...),
		"a long plane": append([]byte{kindCoded, 0xff, 0xff}, dst[3:n]...),
	} {
		if err := c.Decode(got, [][]byte{bad}); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v, want ErrDamaged", name, err)
		}
	}
	for _, length := range []int{len(b) - 2, len(b) + 2, len(b) - 1} {
		if err := c.Decode(make([]byte, length), [][]byte{dst[:n]}); !errors.Is(err, ErrDamaged) {
			t.Errorf("as %d bytes of values: %v, want ErrDamaged", length, err)
		}
	}
	if err := c.Decode(got, [][]byte{dst[:n]}); err != nil || !bytes.Equal(got, b) {
		t.Errorf("after all that: %v", err)
	}
}

func TestPlanes(t *testing.T) {
	for _, f := range simd.Offered() {
		t.Run(f.String(), func(t *testing.T) { testPlanes(t, f) })
	}
}

func testPlanes(t *testing.T, f simd.Family) {
	rng := rand.New(rand.NewPCG(3, 4))
	for n := range 200 {
		for shift := range 8 {
			src := make([]byte, shift+2*n)[shift:]
			for i := range src {
				src[i] = byte(rng.Uint32())
			}
			lo, hi := bytes.Repeat([]byte{7}, n+9), bytes.Repeat([]byte{7}, n+9)
			split(f, lo, hi, src)
			for i := range n {
				if lo[i] != src[2*i] || hi[i] != src[2*i+1] {
					t.Fatalf("%d values: value %d is split wrongly", n, i)
				}
			}
			back := bytes.Repeat([]byte{7}, 2*n+9)
			merge(f, back[:2*n], lo, hi)
			if !bytes.Equal(back[:2*n], src) {
				t.Fatalf("%d values do not come back", n)
			}
			for _, rest := range [][]byte{lo[n:], hi[n:], back[2*n:]} {
				if !bytes.Equal(rest, bytes.Repeat([]byte{7}, 9)) {
					t.Fatalf("%d values: wrote behind them", n)
				}
			}
		}
	}
}

// TestAllocations holds steady use to no memory for a message, apart from the
// small decoder that huff0 makes for each block.
func TestAllocations(t *testing.T) {
	var c Coder
	b := bytes.Repeat(gradients(t)["resnet20-1of8.i16"], 4)
	dst, got := make([]byte, len(b)), make([]byte, len(b))
	pieces, n := [][]byte{b}, 0
	coded := [][]byte{nil}
	if a := testing.AllocsPerRun(20, func() { n, _ = c.Encode(dst, pieces) }); a > 0 {
		t.Errorf("%v allocations to encode", a)
	}
	coded[0] = dst[:n]
	if a := testing.AllocsPerRun(20, func() {
		if err := c.Decode(got, coded); err != nil {
			t.Fatal(err)
		}
	}); a > 4 {
		t.Errorf("%v allocations to decode 4 blocks", a)
	}
}

func FuzzDecode(f *testing.F) {
	var c Coder
	for _, b := range gradients(f) {
		dst := make([]byte, len(b))
		n, _ := c.Encode(dst, [][]byte{b[:2048]})
		f.Add(dst[:n], 2048, uint64(1))
	}
	f.Add([]byte{kindConstant, 1, 2, 3}, 4, uint64(2))
	f.Fuzz(func(t *testing.T, coded []byte, length int, seed uint64) {
		if length < 0 || length > 3*BlockBytes {
			return
		}
		guarded := bytes.Repeat([]byte{0xa5}, length+64)
		err := c.Decode(guarded[:length:length], scatter(coded, rand.New(rand.NewPCG(seed, 0))))
		if err != nil && !errors.Is(err, ErrDamaged) {
			t.Fatal(err)
		}
		if !bytes.Equal(guarded[length:], bytes.Repeat([]byte{0xa5}, 64)) {
			t.Fatal("wrote behind the values")
		}
	})
}

// BenchmarkReal codes 256 KiB of real gradients, the ring's segment; MB/s are those
// of the values.
func BenchmarkReal(b *testing.B) {
	for name, values := range gradients(b) {
		values = bytes.Repeat(values, 4)
		var c Coder
		dst, got := make([]byte, len(values)), make([]byte, len(values))
		n, _ := c.Encode(dst, [][]byte{values})
		if err := c.Decode(got, [][]byte{dst[:n]}); err != nil || !bytes.Equal(got, values) {
			b.Fatal("other values came back")
		}
		b.Run("encode/"+name, func(b *testing.B) {
			b.SetBytes(int64(len(values)))
			for b.Loop() {
				c.Encode(dst, [][]byte{values})
			}
			b.ReportMetric(float64(n)/float64(len(values)), "ratio")
		})
		b.Run("decode/"+name, func(b *testing.B) {
			b.SetBytes(int64(len(values)))
			for b.Loop() {
				if err := c.Decode(got, [][]byte{dst[:n]}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
