package cpu

import (
	"math/rand/v2"
	"testing"
)

func bfPassCases(k *bfKernels) map[string]func(*ewArgs) {
	return map[string]func(*ewArgs){
		"stats": k.stats, "apply": k.apply[0], "applyAdd": k.apply[1], "applyReLU": k.apply[2], "applyAddReLU": k.apply[3],
		"reduce": k.reduce, "reduceZ": k.reduceZ, "reduceA": k.reduceA, "dx": k.dx, "dxZ": k.dxZ, "accumulate": k.accumulate,
		"narrow": k.narrow, "widen": k.widen, "swap": k.swap,
	}
}

func TestBFPasses(t *testing.T) {
	lengths := []int{100, 127, 333, 999, 1000}
	for n := range 40 {
		lengths = append(lengths, n)
	}
	bfVectorFamilies(t, func(t *testing.T, k *bfKernels) {
		rng := rand.New(rand.NewPCG(4, 4))
		for name, f := range bfPassCases(k) {
			for _, cols := range lengths {
				bfPassCompare(t, rng, name, f, bfPassCases(bfGeneric)[name], 1+rng.IntN(3), cols)
			}
		}
	})
}

// bfPassCompare runs a pass of two families on the same memory, each row with a gap behind it.
func bfPassCompare(t *testing.T, rng *rand.Rand, name string, f, generic func(*ewArgs), rows, cols int) {
	t.Helper()
	length := func(wide bool) (row, n int) {
		pixel := lanes / 2
		if wide {
			pixel = lanes
		}
		row = (cols + 1) * pixel
		return row, max(pixel, rows*row-pixel) // stats looks at a first pixel
	}
	row, n := length(false)
	yRow, yLen := length(name == "narrow")
	outRow, outLen := length(name == "widen" || name == "swap")
	var run [2]struct{ g, out, res guarded }
	y, a, coef, skew := guard(yLen, rng.IntN(lanes)), guard(n, rng.IntN(lanes)), guard(coefVectors*lanes, 0), rng.IntN(lanes)
	bfNoise(rng, y.data, cols%7 == 3)
	if name == "narrow" {
		for i := range y.data {
			y.data[i] = bfDraw(rng)
		}
	}
	bfNoise(rng, a.data, cols%7 == 3)
	noise(rng, coef.data, false)
	seed := rng.Uint64()
	for i, pass := range []func(*ewArgs){f, generic} {
		r := &run[i]
		r.g, r.out, r.res = guard(n, skew), guard(outLen, skew), guard(3*lanes, skew)
		again := rand.New(rand.NewPCG(seed, 0))
		bfNoise(again, r.g.data, cols%7 == 3)
		bfNoise(again, r.out.data, false)
		args := ewArgs{y: y.ptr(), a: a.ptr(), g: r.g.ptr(), out: r.out.ptr(), coef: coef.ptr(), res: r.res.ptr(),
			rows: rows, cols: cols, yRow: 4 * yRow, aRow: 4 * row, gRow: 4 * row, outRow: 4 * outRow}
		pass(&args)
		for _, m := range []guarded{r.g, r.out, r.res, y, a, coef} {
			m.check(t, name)
		}
	}
	for _, err := range []error{sameBF(run[0].g.data, run[1].g.data), sameBF(run[0].out.data, run[1].out.data), same(run[0].res.data, run[1].res.data)} {
		if err != nil {
			t.Fatalf("%s of %dx%d: %v", name, rows, cols, err)
		}
	}
}
