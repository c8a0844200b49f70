package cpu

import (
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"testing"
	"unsafe"
)

const canary = float32(-12345.678)

// guarded is memory with canaries on both sides, off by skew floats from a cache line.
type guarded struct {
	all  []float32
	data []float32
}

func guard(n, skew int) guarded {
	const fence = 32
	all := aligned(n + 2*fence + skew)
	for i := range all {
		all[i] = canary
	}
	data := all[fence+skew : fence+skew+n]
	clear(data)
	return guarded{all, data}
}

func (g guarded) ptr() unsafe.Pointer { return unsafe.Pointer(unsafe.SliceData(g.data)) }

func (g guarded) check(t *testing.T, what string) {
	t.Helper()
	from := len(g.all) - len(g.data) - 32
	for i, v := range g.all {
		if (i < from || i >= from+len(g.data)) && v != canary {
			t.Fatalf("%s wrote %v at %d, outside its output of %d", what, v, i-from, len(g.data))
		}
	}
}

// noise fills s with ordinary values and, where odd, now and then an extreme one.
func noise(rng *rand.Rand, s []float32, odd bool) {
	for i := range s {
		s[i] = float32(rng.NormFloat64())
		if odd && rng.IntN(50) == 0 {
			s[i] = extremes[rng.IntN(len(extremes))]
		}
	}
}

var extremes = []float32{0, float32(math.Copysign(0, -1)), math.MaxFloat32, -math.MaxFloat32, math.SmallestNonzeroFloat32,
	1e-40, -3e-39, float32(math.Inf(1)), float32(math.Inf(-1)), float32(math.NaN())}

// same compares bits; any NaN equals any other.
func same(a, b []float32) error {
	for i := range a {
		if math.Float32bits(a[i]) != math.Float32bits(b[i]) && (a[i] == a[i] || b[i] == b[i]) {
			return fmt.Errorf("value %d is %v (%#x), generic has %v (%#x)", i, a[i], math.Float32bits(a[i]), b[i], math.Float32bits(b[i]))
		}
	}
	return nil
}

// vectorFamilies are the families to compare with the generic one.
func vectorFamilies(t *testing.T) []*kernels {
	t.Helper()
	all := families()
	if len(all) == 1 {
		t.Skip("this machine has no vector kernels to compare")
	}
	return all[1:]
}

func TestFMA32(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for range 200000 {
		x, y, z := math.Float32frombits(rng.Uint32()), math.Float32frombits(rng.Uint32()), math.Float32frombits(rng.Uint32())
		if rng.IntN(2) == 0 { // a sum near the product, where rounding twice shows
			z = -x * y * float32(1+rng.NormFloat64()*1e-7)
		}
		checkFMA32(t, x, y, z)
	}
}

func FuzzFMA32(f *testing.F) {
	f.Add(uint32(0x3f800001), uint32(0x3f800001), uint32(0x33800000))
	f.Add(uint32(1), uint32(0x3f000000), uint32(1))
	f.Add(uint32(0x7f7fffff), uint32(0x3f800001), uint32(0xff7fffff))
	f.Fuzz(func(t *testing.T, x, y, z uint32) {
		checkFMA32(t, math.Float32frombits(x), math.Float32frombits(y), math.Float32frombits(z))
	})
}

// checkFMA32 compares with exact arithmetic.
func checkFMA32(t *testing.T, x, y, z float32) {
	t.Helper()
	for _, v := range []float32{x, y, z} {
		if f := float64(v); math.IsNaN(f) || math.IsInf(f, 0) {
			return
		}
	}
	exact := func(v float32) *big.Float { return new(big.Float).SetPrec(1000).SetFloat64(float64(v)) }
	sum := exact(x)
	sum.Mul(sum, exact(y)).Add(sum, exact(z))
	want, _ := sum.Float32()
	if got := fma32(x, y, z); got != want {
		t.Fatalf("fma32(%v, %v, %v) = %v, want %v", x, y, z, got, want)
	}
}

func TestConvKernels(t *testing.T) {
	for _, k := range vectorFamilies(t) {
		t.Run(k.name, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(2, 2))
			for blocks := 1; blocks <= k.blocks(); blocks++ {
				for rows := 1; rows <= k.maxRows; rows++ {
					for cols := 1; rows*cols <= k.maxPix[blocks] && cols <= k.maxCols; cols++ {
						for _, taps := range []int{0, 1, 3, 4, 9} {
							convCase(t, rng, k, rows, cols, blocks, taps, []int{1, 3, 16}[rng.IntN(3)], 1+rng.IntN(4), rng.IntN(2))
						}
					}
				}
			}
		})
	}
}

func TestConvRowKernels(t *testing.T) {
	for _, k := range vectorFamilies(t) {
		t.Run(k.name, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(6, 6))
			for cols := 1; cols <= k.maxRow; cols++ {
				for _, ntaps := range []int{3, 6, 9, 18} {
					for add := range 2 {
						convRowCase(t, rng, k, cols, ntaps, add)
					}
				}
			}
		})
	}
}

func convRowCase(t *testing.T, rng *rand.Rand, k *kernels, cols, ntaps, add int) {
	t.Helper()
	skew, outPix := rng.IntN(lanes), (1+rng.IntN(2))*lanes
	tiles := 1 + rng.IntN(3)
	in, w := guard((100+tiles*cols+2)*lanes, skew), guard(ntaps*blockLen, rng.IntN(lanes))
	out, want := guard(tiles*cols*outPix, skew), guard(tiles*cols*outPix, skew)
	noise(rng, in.data, ntaps == 6)
	noise(rng, w.data, ntaps == 6)
	noise(rng, out.data, false)
	copy(want.data, out.data)
	taps := make([]int, ntaps)
	for i := range taps {
		taps[i] = rng.IntN(100) * pixelBytes
		if i%3 > 0 {
			taps[i] = taps[i-1] + pixelBytes
		}
	}
	a := convArgs{in: in.ptr(), w: w.ptr(), out: out.ptr(), taps: unsafe.Pointer(&taps[0]), ntaps: ntaps, lanes: lanes, outPix: 4 * outPix, chunk: 3, add: add,
		tiles: tiles, inTile: cols * pixelBytes, outTile: 4 * cols * outPix, ahead: in.ptr(), aheadStep: 4}
	b := a
	b.out = want.ptr()
	k.convRow(&a, cols)
	genericKernels.convRow(&b, cols)
	name := fmt.Sprintf("%s convRow of %d, %d taps, add %d", k.name, cols, ntaps, add)
	out.check(t, name)
	if err := same(out.data, want.data); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

func convCase(t *testing.T, rng *rand.Rand, k *kernels, rows, cols, blocks, ntaps, inLanes, chunk, add int) {
	t.Helper()
	inRow, skew, tiles := (cols+rng.IntN(3))*lanes, rng.IntN(lanes), 1+rng.IntN(3)
	in := guard(tiles*rows*inRow+200*lanes, skew)
	wBlock := max(1, ntaps*inLanes*lanes)
	w := guard(blocks*wBlock, rng.IntN(lanes))
	outPix := (1 + rng.IntN(2)) * lanes
	outRow := cols * outPix
	outBlock := tiles*rows*outRow + rng.IntN(3)*lanes
	out, want := guard(blocks*outBlock, skew), guard(blocks*outBlock, skew)
	noise(rng, in.data, ntaps == 4)
	noise(rng, w.data, ntaps == 4)
	noise(rng, out.data, false)
	copy(want.data, out.data)
	taps := make([]int, ntaps+1)
	for i := range taps {
		taps[i] = rng.IntN(100) * pixelBytes
	}
	a := convArgs{in: in.ptr(), w: w.ptr(), out: out.ptr(), taps: unsafe.Pointer(&taps[0]), ntaps: ntaps, lanes: inLanes,
		inRow: 4 * inRow, outPix: 4 * outPix, outRow: 4 * outRow, wBlock: 4 * wBlock, outBlock: 4 * outBlock, chunk: chunk, add: add,
		tiles: tiles, inTile: 4 * rows * inRow, outTile: 4 * rows * outRow, ahead: in.ptr(), aheadStep: 4}
	b := a
	b.out = want.ptr()
	k.conv(&a, rows, cols, blocks)
	genericKernels.conv(&b, rows, cols, blocks)
	name := fmt.Sprintf("%s conv %dx%d of %d blocks, %d taps of %d in chunks of %d, add %d", k.name, rows, cols, blocks, ntaps, inLanes, chunk, add)
	out.check(t, name)
	if err := same(out.data, want.data); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

// wgradCase is a kernel with what it treats. Rows of taps that hang over need zeros in x and finite numbers.
type wgradCase struct {
	name         string
	run          func(*wgradArgs)
	taps, blocks int
	lanes        int
	rolls        bool
}

func wgradCases(k *kernels) []wgradCase {
	out := []wgradCase{{"wgrad", k.wgrad, 1, 1, lanes, false}, {"wgradPair", k.wgradPair, 1, 2, lanes, false}, {"wgradRow", k.wgradRow, 3, 1, lanes, true}}
	for taps := 1; taps <= maxImageTaps; taps++ {
		for blocks := 1; blocks <= 2; blocks++ {
			out = append(out, wgradCase{fmt.Sprintf("wgradImage of %d taps, %d blocks", taps, blocks), func(a *wgradArgs) { k.wgradImage(a, taps, blocks) }, taps, blocks, imageLanes, false})
		}
	}
	return out
}

func TestWeightGradientKernels(t *testing.T) {
	for _, k := range vectorFamilies(t) {
		t.Run(k.name, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(3, 3))
			for i, c := range wgradCases(k) {
				for cols := 1; cols <= 40; cols++ {
					wgradCompare(t, rng, k.name+" "+c.name, c, wgradCases(genericKernels)[i], cols)
				}
			}
		})
	}
}

// wgradCompare runs a kernel of two families on the same memory.
func wgradCompare(t *testing.T, rng *rand.Rand, name string, c, generic wgradCase, cols int) {
	t.Helper()
	images, rows := 1+rng.IntN(3), 1+rng.IntN(4)
	xRow, dyRow := (cols+c.taps-1+rng.IntN(3))*lanes, (cols+rng.IntN(2))*lanes
	dyBlock, dwTap := images*rows*dyRow, (1+rng.IntN(2))*blockLen
	dwBlock := c.taps*dwTap + rng.IntN(2)*blockLen
	x, dy := guard(images*rows*xRow, cols%lanes), guard(c.blocks*dyBlock, cols%7)
	dw, want := guard(c.blocks*dwBlock, cols%lanes), guard(c.blocks*dwBlock, cols%lanes)
	noise(rng, x.data, cols%5 == 0 && !c.rolls)
	noise(rng, dy.data, cols%5 == 0 && !c.rolls)
	noise(rng, dw.data, false)
	copy(want.data, dw.data)
	if c.rolls {
		for i := 0; i < len(x.data); i += xRow {
			clear(x.data[i:][:lanes])
			clear(x.data[i+(cols+1)*lanes:][:lanes])
		}
	}
	a := wgradArgs{x: x.ptr(), dy: dy.ptr(), dw: dw.ptr(), images: images, xImage: 4 * rows * xRow, dyImage: 4 * rows * dyRow, rows: rows, xRow: 4 * xRow,
		dyRow: 4 * dyRow, cols: cols, dyBlock: 4 * dyBlock, dwBlock: 4 * dwBlock, dwTap: 4 * dwTap, add: rng.IntN(2)}
	b := a
	b.dw = want.ptr()
	c.run(&a)
	generic.run(&b)
	name = fmt.Sprintf("%s, %d images of %dx%d", name, images, rows, cols)
	dw.check(t, name)
	for i := 0; i < len(dw.data); i += blockLen { // only the lanes that count
		if err := same(dw.data[i:i+c.lanes*lanes], want.data[i:i+c.lanes*lanes]); err != nil {
			t.Fatalf("%s: block %d: %v", name, i/blockLen, err)
		}
	}
}

// passCase lists the passes over pixels by name.
func passCase(k *kernels) map[string]func(*ewArgs) {
	return map[string]func(*ewArgs){
		"stats": k.stats, "apply": k.apply[0], "applyAdd": k.apply[1], "applyReLU": k.apply[2], "applyAddReLU": k.apply[3],
		"reduce": k.reduce, "reduceZ": k.reduceZ, "reduceA": k.reduceA, "dx": k.dx, "dxZ": k.dxZ, "accumulate": k.accumulate,
	}
}

func TestPasses(t *testing.T) {
	lengths := []int{100, 127, 333, 999, 1000}
	for n := range 40 {
		lengths = append(lengths, n)
	}
	for _, k := range vectorFamilies(t) {
		t.Run(k.name, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(4, 4))
			for name, f := range passCase(k) {
				for _, cols := range lengths {
					passCompare(t, rng, k.name+" "+name, f, passCase(genericKernels)[name], 1+rng.IntN(3), cols)
				}
			}
		})
	}
}

// passCompare runs a pass of two families on the same memory, each row with a gap behind it.
func passCompare(t *testing.T, rng *rand.Rand, name string, f, generic func(*ewArgs), rows, cols int) {
	t.Helper()
	const gap = lanes
	row := cols*lanes + gap
	n := rows*row - gap
	if cols == 0 {
		n = lanes // stats looks at a first pixel
	}
	var run [2]struct{ g, out, res guarded }
	y, a, coef, skew := guard(n, rng.IntN(lanes)), guard(n, rng.IntN(lanes)), guard(coefVectors*lanes, 0), rng.IntN(lanes)
	noise(rng, y.data, cols%7 == 3)
	noise(rng, a.data, cols%7 == 3)
	noise(rng, coef.data, false)
	seed := rng.Uint64()
	for i, pass := range []func(*ewArgs){f, generic} {
		r := &run[i]
		r.g, r.out, r.res = guard(n, skew), guard(n, skew), guard(3*lanes, skew)
		same := rand.New(rand.NewPCG(seed, 0))
		noise(same, r.g.data, cols%7 == 3)
		noise(same, r.out.data, false)
		args := ewArgs{y: y.ptr(), a: a.ptr(), g: r.g.ptr(), out: r.out.ptr(), coef: coef.ptr(), res: r.res.ptr(),
			rows: rows, cols: cols, yRow: 4 * row, aRow: 4 * row, gRow: 4 * row, outRow: 4 * row}
		if cols == 0 {
			args.rows = 1
		}
		pass(&args)
		for _, m := range []guarded{r.g, r.out, r.res, y, a, coef} {
			m.check(t, name)
		}
	}
	for _, pair := range [][2]guarded{{run[0].g, run[1].g}, {run[0].out, run[1].out}, {run[0].res, run[1].res}} {
		if err := same(pair[0].data, pair[1].data); err != nil {
			t.Fatalf("%s of %dx%d: %v", name, rows, cols, err)
		}
	}
}

func TestSGDKernels(t *testing.T) {
	for _, k := range vectorFamilies(t) {
		t.Run(k.name, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(5, 5))
			for n := range 1001 {
				skew := n % lanes
				g := guard(n, skew)
				noise(rng, g.data, n%10 == 0)
				var w, v [2]guarded
				for i := range w {
					w[i], v[i] = guard(n, skew), guard(n, (skew+3)%lanes)
				}
				noise(rng, w[0].data, n%10 == 0)
				noise(rng, v[0].data, n%10 == 0)
				copy(w[1].data, w[0].data)
				copy(v[1].data, v[0].data)
				for i, f := range []func(*sgdArgs){k.sgd, genericKernels.sgd} {
					f(&sgdArgs{w: w[i].ptr(), v: v[i].ptr(), g: g.ptr(), n: n, decay: 1e-4, momentum: 0.9, negLR: -0.1})
					w[i].check(t, k.name)
					v[i].check(t, k.name)
				}
				for _, pair := range [][2]guarded{w, v} {
					if err := same(pair[0].data, pair[1].data); err != nil {
						t.Fatalf("%s sgd of %d weights: %v", k.name, n, err)
					}
				}
			}
		})
	}
}

// TestTiles: tiles cover every pixel once and fit the kernels.
func TestTiles(t *testing.T) {
	for _, k := range families() {
		for blocks := 1; blocks <= k.blocks(); blocks++ {
			for h := range 40 {
				for w := range 70 {
					tilesCase(t, k, h, w, blocks)
				}
			}
		}
	}
}

func tilesCase(t *testing.T, k *kernels, h, w, blocks int) {
	t.Helper()
	seen := make([]int, h*w)
	for _, q := range k.tiles(h, w, blocks, 9*lanes) {
		if q.rows < 1 || q.cols < 1 || q.rows > k.maxRows || q.cols > k.maxCols || q.rows*q.cols > k.maxPix[blocks] {
			t.Fatalf("%s, %dx%d: no kernel for a tile of %dx%d in %d blocks", k.name, h, w, q.rows, q.cols, blocks)
		}
		for y := range q.rows * q.count {
			for x := range q.cols {
				seen[(q.y+y)*w+q.x+x]++
			}
		}
	}
	for i, n := range seen {
		if n != 1 {
			t.Fatalf("%s, %dx%d: pixel %d is covered %d times", k.name, h, w, i, n)
		}
	}
}
