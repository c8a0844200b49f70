package jpeg

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// canary is what lies round everything that a kernel writes.
const canary = 0xa5

// guarded returns n bytes at an odd place, with canaries round them, and what checks these.
func guarded(n int) (mem []byte, intact func() bool) {
	all := bytes.Repeat([]byte{canary}, n+2*67)
	return all[67 : 67+n : 67+n], func() bool {
		return bytes.Count(all[:67], []byte{canary}) == 67 && bytes.Count(all[67+n:], []byte{canary}) == 67
	}
}

func randomBytes(r *rand.Rand, n int) []byte {
	b := make([]byte, n+1)[1:] // misaligned
	for i := range b {
		switch v := r.Uint32(); v & 3 {
		case 0:
			b[i] = byte(-(v >> 2 & 1)) // 0 and 255
		default:
			b[i] = byte(v >> 8)
		}
	}
	return b
}

// TestRowKernels runs the families against each other over lengths 0 to 1000.
func TestRowKernels(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, k := range families()[1:] {
		for n := range 1001 {
			a, b, c := randomBytes(r, n), randomBytes(r, n), randomBytes(r, n)
			weighed, widened := make([]int16, n+2), make([]int16, n+2)
			for i := range weighed {
				weighed[i], widened[i] = int16(r.IntN(4*255+1)), int16(r.IntN(256))
			}
			for name, run := range map[string]struct {
				size int
				do   func(k *kernels, out []byte)
			}{
				"spread1": {2 * n, func(k *kernels, out []byte) { k.spread1(out, widened) }},
				"spread4": {2 * n, func(k *kernels, out []byte) { k.spread4(out, weighed) }},
				"mix1":    {n, func(k *kernels, out []byte) { k.mix(out, a, b, 1) }},
				"mix2":    {n, func(k *kernels, out []byte) { k.mix(out, a, b, 2) }},
				"rgb":     {3 * n, func(k *kernels, out []byte) { k.rgb(out, a, b, c) }},
				"grey":    {3 * n, func(k *kernels, out []byte) { k.grey(out, a) }},
			} {
				want, _ := guarded(run.size)
				got, intact := guarded(run.size)
				run.do(genericKernels, want)
				run.do(k, got)
				if !bytes.Equal(got, want) || !intact() {
					t.Fatalf("%s of %s differs from the generic one, or writes beyond its end (intact: %v), at length %d", name, k.name, intact(), n)
				}
			}
			sameWords(t, k, n, a, b)
		}
	}
}

// sameWords compares the kernels that write words.
func sameWords(t *testing.T, k *kernels, n int, a, b []byte) {
	t.Helper()
	for name, do := range map[string]func(k *kernels, out []int16){
		"widen": func(k *kernels, out []int16) { k.widen(out, a) },
		"weigh": func(k *kernels, out []int16) { k.weigh(out, a, b) },
	} {
		var all [2][]int16
		for i, k := range []*kernels{genericKernels, k} {
			all[i] = slices.Repeat([]int16{canary}, n+35)
			do(k, all[i][17:17+n])
		}
		if !slices.Equal(all[0], all[1]) {
			t.Fatalf("%s of %s differs from the generic one at length %d", name, k.name, n)
		}
	}
}

// TestRGBKernelEverywhere tries every chroma with some lumas.
func TestRGBKernelEverywhere(t *testing.T) {
	y, cb, cr := make([]byte, 256), make([]byte, 256), make([]byte, 256)
	want, got := make([]byte, 3*256), make([]byte, 3*256)
	for _, k := range families()[1:] {
		for b := range 256 {
			for _, luma := range []int{0, 1, 77, 128, 200, 255} {
				for i := range 256 {
					y[i], cb[i], cr[i] = byte(luma), byte(b), byte(i)
				}
				rgbGeneric(want, y, cb, cr)
				k.rgb(got, y, cb, cr)
				if !bytes.Equal(got, want) {
					t.Fatalf("%s: luma %d, Cb %d", k.name, luma, b)
				}
			}
		}
	}
}

// blocks draws coefficients from a few of small size to all of any size, and tables of 8 and of 16 bits.
func blocks(r *rand.Rand, n, size int) []job {
	comp := &component{quant: &[64]uint16{}}
	wide := r.IntN(4) == 0
	for i := range comp.quant {
		comp.quant[i] = uint16(1 + r.IntN(40))
		if wide {
			comp.quant[i] = uint16(r.Uint32())
		}
	}
	comp.size, comp.stride = size, size*n+5
	jobs := make([]job, n)
	for i := range jobs {
		coef := &[64]int16{}
		for range 1 + r.IntN(64) {
			bits := r.IntN(16)
			if r.IntN(300) > 0 {
				bits %= 7 // most blocks are within range
			}
			if wide && r.IntN(300) > 0 {
				bits = 0
			}
			v := r.IntN(1<<bits+1) - 1<<bits>>1
			coef[r.IntN(64)] = int16(max(v, -32767))
		}
		jobs[i] = job{coef: coef, comp: comp, at: size*i + 3}
	}
	return jobs
}

// TestIDCTKernels runs the families against each other: the samples of what is in range, and that they agree on what is not.
func TestIDCTKernels(t *testing.T) {
	for _, k := range families()[1:] {
		t.Run(k.name+"/8", func(t *testing.T) { sameTransform(t, 8, idctGeneric, k.idct) })
		t.Run(k.name+"/4", func(t *testing.T) { sameTransform(t, 4, idct4Generic, k.idct4) })
	}
}

func sameTransform(t *testing.T, side int, generic, kernel func([]job) bool) {
	r := rand.New(rand.NewPCG(3, 4))
	in, out := 0, 0
	for trial := range 8000 {
		jobs := blocks(r, 1+trial%queueLen, side)
		size := side * jobs[0].comp.stride
		want, _ := guarded(size)
		got, intact := guarded(size)
		jobs[0].comp.pix = want
		ok := generic(jobs)
		jobs[0].comp.pix = got
		if kernel(jobs) != ok {
			t.Fatalf("trial %d: the kernel says in range: %v, generic says %v", trial, !ok, ok)
		}
		if !ok {
			out++
			continue
		}
		if in++; !bytes.Equal(got, want) || !intact() {
			t.Fatalf("trial %d: differs from the generic one (intact: %v)", trial, intact())
		}
	}
	if in < 1000 || out < 1000 {
		t.Errorf("%d trials in range and %d outside, want many of both", in, out)
	}
}

// TestIDCTBounds puts one coefficient, or one value between the passes, just inside and just outside.
func TestIDCTBounds(t *testing.T) {
	for _, k := range families() {
		for _, c := range []struct {
			at   []int
			v    int16
			q    uint16
			want bool
		}{
			{[]int{32}, 4095, 1, true}, {[]int{32}, 4096, 1, false}, {[]int{32}, -4095, 1, true}, {[]int{32}, -4096, 1, false},
			{[]int{32}, 63, 65, true}, {[]int{32}, 64, 64, false}, {[]int{32}, 1, 32769, false}, {[]int{32}, 1, 65535, false}, {[]int{32}, -1, 65535, false},
			{[]int{32}, 2, 32768, false}, {[]int{32}, 32767, 65535, false}, {[]int{32}, 32767, 0, true},
			{[]int{0, 8}, 1714, 1, true}, {[]int{0, 8}, 1717, 1, false}, // times 4, times 1 + 1.387
		} {
			jobs := blocks(rand.New(rand.NewPCG(1, 1)), 2, 8)
			comp := jobs[0].comp
			comp.pix = make([]byte, 8*comp.stride+8)
			*jobs[0].coef, *jobs[1].coef = [64]int16{}, [64]int16{}
			for _, at := range c.at {
				jobs[1].coef[at], comp.quant[at] = c.v, c.q
			}
			if got := k.idct(jobs); got != c.want {
				t.Errorf("%s: %d x %d at %v: in range is %v, want %v", k.name, c.v, c.q, c.at, got, c.want)
			}
		}
	}
}

// TestEntropyKernels decodes random bits with the tables of real files and made-up ones: the families agree on every coefficient, and on where
// they stop.
func TestEntropyKernels(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for _, k := range families() {
		for trial := range 20000 {
			var h huffman
			if err := h.define(randomTable(r)); err != nil {
				t.Fatal(err)
			}
			data := randomBytes(r, r.IntN(300))
			var got, want bitReader
			for _, b := range []*bitReader{&got, &want} {
				b.unstuff(bytes.ReplaceAll(data, []byte{0xff}, []byte{0xff, 0}))
				b.fill()
				b.take(r.IntN(16))
			}
			want.at, want.acc, want.n = got.at, got.acc, got.n
			for block := range 5 {
				var a, b [64]int16
				last, ok := k.ac(&got, &h, &a)
				wantLast, wantOK := acGeneric(&want, &h, &b)
				if ok != wantOK || ok && (last != wantLast || a != b || 8*got.at-got.n != 8*want.at-want.n) {
					t.Fatalf("%s, trial %d, block %d: last %d, %v, want %d, %v", k.name, trial, block, last, ok, wantLast, wantOK)
				}
				if !ok || got.overrun() {
					break
				}
				got.fill()
				want.fill()
			}
		}
	}
}

// randomTable makes the counts and symbols of a code that is not full.
func randomTable(r *rand.Rand) []byte {
	t := make([]byte, 16)
	room := 1 // codes that are left at this length
	for l := range t {
		room *= 2
		n := min(r.IntN(room/2+1), 255-len(t)+16)
		if l > 8 {
			n = min(n, 12)
		}
		t[l] = byte(n)
		room -= n
	}
	for l := range 16 {
		for range t[l] {
			t = append(t, byte(r.Uint32()))
		}
	}
	if len(t) == 16 {
		return randomTable(r)
	}
	return t
}

func ExampleDecoder_Fallbacks() {
	var d Decoder
	fmt.Println(d.Fallbacks())
	// Output: map[]
}
