package raster

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/lockstep-ml/lockstep/internal/simd"
)

const canary = 0xa5

// fenced returns n bytes that begin shift bytes past an aligned address, with nothing of theirs behind them, and a check of what
// surrounds them.
func fenced(n, shift int) (b []byte, intact func() bool) {
	const margin = 80 // beyond a vector
	all := bytes.Repeat([]byte{canary}, n+2*margin+shift)
	from := margin + shift
	return all[from : from+n : from+n], func() bool {
		return bytes.Count(all[:from], []byte{canary}) == from && bytes.Count(all[from+n:], []byte{canary}) == margin
	}
}

// A resizing is one call of Resample.
type resizing struct {
	Resizing
	src  *Image
	x, y int
}

// by does it with the kernels of a family, into memory that begins anywhere.
func (z *resizing) by(t *testing.T, f simd.Family, shift int) []byte {
	t.Helper()
	r := Resampler{family: kernelFamily{true, f}}
	pix, intact := fenced(3*z.Window.W*z.Window.H, shift)
	dst := &Image{Pix: pix}
	r.Resample(dst, z.src, z.Resizing, z.x, z.y)
	if !intact() || &dst.Pix[0] != &pix[0] {
		t.Fatalf("%v: wrote beside the image, or elsewhere", f)
	}
	return dst.Pix
}

func (z *resizing) compare(t *testing.T, shift int) {
	t.Helper()
	want := z.by(t, simd.Generic, 0)
	for _, f := range simd.Offered()[1:] {
		if got := z.by(t, f, shift); !bytes.Equal(got, want) {
			i := 0
			for got[i] == want[i] {
				i++
			}
			t.Fatalf("%v: %dx%d, %+v: byte %d is %d, want %d", f, z.src.W, z.src.H, z.Resizing, i, got[i], want[i])
		}
	}
}

// extremes is an image of black and white pixels alone, whose sums go to the ends of their range.
func extremes(w, h int, rng *rand.Rand) *Image {
	m := &Image{W: w, H: h, Pix: make([]byte, 3*w*h)}
	for i := range m.Pix {
		m.Pix[i] = byte(255 * rng.IntN(2))
	}
	if rng.IntN(2) == 0 {
		for i := range m.Pix {
			m.Pix[i] = 255
		}
	}
	return m
}

func needVectors(t *testing.T) {
	t.Helper()
	if len(simd.Offered()) == 1 {
		t.Skip("this machine has no vector kernels")
	}
}

// TestFamiliesAgree resizes to and from every width, with boxes, windows and alignments of all kinds. The image's memory ends with
// its last pixel, so that a kernel that looks further reads a canary, or faults.
func TestFamiliesAgree(t *testing.T) {
	needVectors(t)
	rng := rand.New(rand.NewPCG(1, 2))
	for n := 1; n <= 1000; n++ {
		w, h := n, 1+rng.IntN(24)
		if n%2 == 0 {
			w = 1 + rng.IntN(1000)
		}
		z := resizing{Resizing: Resizing{W: w, H: 1 + rng.IntN(24)}}
		z.src = extremes(n, h, rng)
		if n%3 > 0 {
			z.src = pattern(n, h)
		}
		pix, _ := fenced(len(z.src.Pix), rng.IntN(64))
		copy(pix, z.src.Pix)
		z.src.Pix = pix
		z.Box, z.Window = part(rng, z.src.W, z.src.H), part(rng, z.W, z.H)
		z.compare(t, rng.IntN(64))
	}
}

// part is a random window of w x h, often all of it.
func part(rng *rand.Rand, w, h int) Rect {
	if rng.IntN(2) == 0 {
		return Box(0, 0, w, h)
	}
	pw, ph := 1+rng.IntN(w), 1+rng.IntN(h)
	return Box(rng.IntN(w-pw+1), rng.IntN(h-ph+1), pw, ph)
}

// TestFamiliesAgreeOnManyTaps: images far larger than what they become.
func TestFamiliesAgreeOnManyTaps(t *testing.T) {
	needVectors(t)
	rng := rand.New(rand.NewPCG(3, 4))
	for range 60 {
		z := resizing{src: extremes(1+rng.IntN(3000), 1+rng.IntN(300), rng)}
		z.Resizing = all(z.src, 1+rng.IntN(40), 1+rng.IntN(12))
		z.compare(t, rng.IntN(64))
	}
}

// FuzzFamiliesAgree takes pixels and sizes from raw bytes.
func FuzzFamiliesAgree(f *testing.F) {
	f.Add([]byte("pixels, three bytes each, and then some more of them"), uint8(5), uint8(30), uint8(9), uint8(3))
	f.Fuzz(func(t *testing.T, raw []byte, width, w, h, shift uint8) {
		n := max(1, int(width))
		rows := len(raw) / 3 / n
		if rows < 1 || w < 1 || h < 1 {
			return
		}
		z := resizing{src: &Image{W: n, H: rows, Pix: raw[:3*n*rows]}}
		z.Resizing = all(z.src, int(w), int(h))
		z.compare(t, int(shift)%64)
	})
}

// TestNeeds: a part of an image gives the window that the whole image does, when it holds what the window needs, and no smaller part will do.
func TestNeeds(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	for range 400 {
		z := resizing{src: pattern(1+rng.IntN(80), 1+rng.IntN(60)), Resizing: Resizing{W: 1 + rng.IntN(50), H: 1 + rng.IntN(50)}}
		z.Reduction = 1 << rng.IntN(4)
		z.Box, z.Window = part(rng, z.src.W*z.Reduction-rng.IntN(z.Reduction), z.src.H*z.Reduction-rng.IntN(z.Reduction)), part(rng, z.W, z.H)
		need := z.Needs()
		moved := z
		moved.src = &Image{W: z.src.W, H: z.src.H, Pix: bytes.Clone(z.src.Pix)}
		moved.src.Crop(need)
		moved.x, moved.y = need.X, need.Y
		for _, f := range simd.Offered() {
			if !bytes.Equal(z.by(t, f, 0), moved.by(t, f, 0)) {
				t.Fatalf("%v: %dx%d, %+v: the part gives other pixels", f, z.src.W, z.src.H, z.Resizing)
			}
		}
		for _, less := range []Rect{Box(1, 0, need.W-1, need.H), Box(0, 0, need.W-1, need.H), Box(0, 1, need.W, need.H-1), Box(0, 0, need.W, need.H-1)} {
			small := &Image{W: less.W, H: less.H, Pix: make([]byte, 3*less.W*less.H)}
			mustPanic(t, func() { new(Resampler).Resample(new(Image), small, z.Resizing, need.X+less.X, need.Y+less.Y) })
		}
	}
}

func mustPanic(t *testing.T, call func()) {
	t.Helper()
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	call()
}

// TestReduction: an image of flat squares, reduced to one pixel for each, comes out as the image itself would, but for the slopes of the
// filter between squares: exactly so where a box of whole squares becomes one of as many pixels.
func TestReduction(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 7))
	small := pattern(12, 9)
	for range 100 {
		k := 2 << rng.IntN(3)
		b := part(rng, small.W, small.H)
		z := Resizing{Box: Box(k*b.X, k*b.Y, k*b.W, k*b.H), W: b.W, H: b.H, Window: Box(0, 0, b.W, b.H), Reduction: k}
		var got Image
		new(Resampler).Resample(&got, small, z, 0, 0)
		want := Image{W: small.W, H: small.H, Pix: bytes.Clone(small.Pix)}
		want.Crop(b)
		if !bytes.Equal(got.Pix, want.Pix) {
			t.Fatalf("%+v gives other pixels than are there", z)
		}
	}
	// Half a pixel further: the mean of two.
	line := &Image{W: 3, H: 1, Pix: []byte{0, 0, 0, 100, 100, 100, 200, 200, 200}}
	var got Image
	new(Resampler).Resample(&got, line, Resizing{Box: Box(1, 0, 4, 2), W: 2, H: 1, Window: Box(0, 0, 2, 1), Reduction: 2}, 0, 0)
	if got.Pix[0] != 50 || got.Pix[3] != 150 {
		t.Errorf("between the pixels lie %d and %d, want 50 and 150", got.Pix[0], got.Pix[3])
	}
}

func TestResampleAllocatesNothing(t *testing.T) {
	for _, f := range simd.Offered() {
		r := Resampler{family: kernelFamily{true, f}}
		src, dst := pattern(500, 375), new(Image)
		k := 0
		run := func() { // boxes of a cycle of sizes, all of which have been seen
			k = (k + 1) % 8
			r.Resample(dst, src, Resizing{Box: Box(3*k, k, 400-9*k, 300-7*k), W: 224, H: 224, Window: Box(0, 0, 224, 224)}, 0, 0)
		}
		for range 8 {
			run()
		}
		if n := testing.AllocsPerRun(16, run); n > 0 {
			t.Errorf("%v: %v allocations of an image", f, n)
		}
	}
}

func BenchmarkResample(b *testing.B) {
	src := pattern(500, 375)
	for _, f := range simd.Offered() {
		for _, w := range []int{180, 330, 440, 490} {
			b.Run(fmt.Sprintf("%v/%d", f, w), func(b *testing.B) {
				r := Resampler{family: kernelFamily{true, f}}
				dst := new(Image)
				for b.Loop() {
					r.Resample(dst, src, Resizing{Box: Box(3, 2, w, w*3/4), W: 224, H: 224, Window: Box(0, 0, 224, 224)}, 0, 0)
				}
			})
		}
	}
}
