package cpu

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"unsafe"
)

// moveCase runs do for every family, each on memory drawn from one seed, and compares what it leaves in the memory that it returns.
func moveCase(t *testing.T, k *kernels, name string, seed uint64, do func(k *kernels, rng *rand.Rand) []guarded) {
	t.Helper()
	name = k.name + " " + name
	got, want := do(k, rand.New(rand.NewPCG(seed, 6))), do(genericKernels, rand.New(rand.NewPCG(seed, 6)))
	for i := range got {
		got[i].check(t, name)
		if err := same(got[i].data, want[i].data); err != nil {
			t.Fatalf("%s: memory %d: %v", name, i, err)
		}
	}
}

// drawn is guarded memory of noise.
func drawn(rng *rand.Rand, n int, odd bool) guarded {
	g := guard(n, rng.IntN(lanes))
	noise(rng, g.data, odd)
	return g
}

func TestTransposeKernels(t *testing.T) {
	for _, k := range vectorFamilies(t) {
		for rows := 1; rows <= lanes; rows++ {
			for cols := 1; cols <= lanes; cols++ {
				moveCase(t, k, fmt.Sprintf("transpose of %dx%d", rows, cols), uint64(17*rows+cols), func(k *kernels, rng *rand.Rand) []guarded {
					inRow, outRow := cols+rng.IntN(5), rows+rng.IntN(5)
					in, out := drawn(rng, rows*inRow, true), drawn(rng, cols*outRow, false)
					rowAt, colAt := make([]int, rows), make([]int, cols)
					for i, p := range rng.Perm(rows) {
						rowAt[i] = 4 * inRow * p
					}
					for i, p := range rng.Perm(cols) {
						colAt[i] = 4 * outRow * p
					}
					k.transpose(&transposeArgs{in: in.ptr(), out: out.ptr(), rowAt: unsafe.Pointer(&rowAt[0]), colAt: unsafe.Pointer(&colAt[0]), rows: rows, cols: cols})
					return []guarded{out, in}
				})
			}
		}
	}
}

// TestTranspose says what a transposition is.
func TestTranspose(t *testing.T) {
	for _, k := range families() {
		in, out, at := aligned(blockLen), aligned(blockLen), make([]int, lanes)
		for i := range in {
			in[i] = float32(i)
		}
		for i := range at {
			at[i] = i * pixelBytes
		}
		k.transpose(&transposeArgs{in: unsafe.Pointer(&in[0]), out: unsafe.Pointer(&out[0]), rowAt: unsafe.Pointer(&at[0]), colAt: unsafe.Pointer(&at[0]), rows: lanes, cols: lanes})
		for i, v := range out {
			if v != float32(i%lanes*lanes+i/lanes) {
				t.Fatalf("%s: value %d is %v", k.name, i, v)
			}
		}
	}
}

func TestImageKernels(t *testing.T) {
	for _, k := range vectorFamilies(t) {
		for channels := 1; channels <= lanes; channels++ {
			for cols := 1; cols <= 70; cols += 1 + cols/16 {
				moveCase(t, k, fmt.Sprintf("image of %d channels, rows of %d", channels, cols), uint64(100*channels+cols), func(k *kernels, rng *rand.Rand) []guarded {
					rows := 1 + rng.IntN(4)
					plane, outRow := rows*cols+rng.IntN(5), (cols+rng.IntN(3))*lanes
					in, out := drawn(rng, channels*plane, true), drawn(rng, rows*outRow, false)
					k.image(&imageArgs{in: in.ptr(), out: out.ptr(), plane: 4 * plane, channels: channels, rows: rows, cols: cols, outRow: 4 * outRow})
					return []guarded{out, in}
				})
			}
		}
	}
}

func TestPixelKernels(t *testing.T) {
	for _, k := range vectorFamilies(t) {
		for n := 1; n <= lanes; n++ {
			for cols := 1; cols <= 40; cols++ {
				moveCase(t, k, fmt.Sprintf("%d lanes of %d pixels", n, cols), uint64(100*n+cols), func(k *kernels, rng *rand.Rand) []guarded {
					rows, outPix := 1+rng.IntN(3), n+rng.IntN(40)
					a := pixelArgs{rows: rows, cols: cols, inPix: 4 * rng.IntN(40), outPix: 4 * outPix, inRow: 4 * rng.IntN(2000), outRow: 4 * (cols*outPix + rng.IntN(9)), lanes: n}
					in := drawn(rng, ((rows-1)*a.inRow+(cols-1)*a.inPix)/4+n, true)
					room := ((rows-1)*a.outRow+(cols-1)*a.outPix)/4 + n
					copied, added := drawn(rng, room, false), drawn(rng, room, true)
					a.in, a.out = in.ptr(), copied.ptr()
					k.copyPixels(&a)
					a.out = added.ptr()
					k.addPixels(&a)
					return []guarded{copied, added, in}
				})
			}
		}
	}
}

// TestMaxPoolKernels draws few different values, so that windows hold equal maxima, zeros of both signs and numbers that are none.
func TestMaxPoolKernels(t *testing.T) {
	draw := func(rng *rand.Rand, n int) guarded {
		g := drawn(rng, n, true)
		for i := range g.data {
			if rng.IntN(2) == 0 {
				g.data[i] = []float32{0, extremes[1], 1, -1}[rng.IntN(4)]
			}
		}
		return g
	}
	for _, k := range vectorFamilies(t) {
		for n := range 300 {
			moveCase(t, k, fmt.Sprintf("pooling %d", n), uint64(n), func(k *kernels, rng *rand.Rand) []guarded {
				a := poolArgs{rows: 1 + rng.IntN(4), cols: 1 + rng.IntN(4), n: 1 + n%60, step: pixelBytes * (1 + rng.IntN(3))}
				row := (a.n-1)*a.step/4 + a.cols*lanes
				inRow, dInRow := row+rng.IntN(3)*lanes, row+rng.IntN(3)*lanes
				a.inRow, a.dInRow = 4*inRow, 4*dInRow
				in, dIn := draw(rng, (a.rows-1)*inRow+row), draw(rng, (a.rows-1)*dInRow+row)
				out, dOut := drawn(rng, a.n*lanes, false), draw(rng, a.n*lanes)
				a.in, a.dIn, a.out, a.dOut = in.ptr(), dIn.ptr(), out.ptr(), dOut.ptr()
				b := a
				k.maxPool(&a)
				k.maxPoolGradient(&b)
				return []guarded{out, dIn, in, dOut}
			})
		}
	}
}
