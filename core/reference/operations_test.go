package reference

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/lockstep-ml/lockstep/core"
)

// behind builds an engine for one operation on the images, with the pooling and the linear layer that a network
// ends with behind it.
func behind(t *testing.T, resolution, batch int, nd core.Node) *Engine[float64] {
	t.Helper()
	nd.Name, nd.Inputs = "op", []int{0}
	net, err := core.NewNetwork("one operation", resolution, 2, []core.Node{
		{Op: core.OpInput, Name: "input", Channels: 3}, nd,
		{Op: core.OpGlobalAvgPool, Name: "avgpool", Inputs: []int{1}, Channels: nd.Channels},
		{Op: core.OpLinear, Name: "fc", Inputs: []int{2}, Channels: 2},
	})
	if err != nil {
		t.Fatal(err)
	}
	e, err := New[float64](net, core.CompileConfig{Batch: batch, Resolution: resolution, Threads: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() }) // never fails
	rng := rand.New(rand.NewPCG(1, 1))
	for i := range e.state.Params {
		e.state.Params[i] = rng.NormFloat64()
	}
	for i := range e.out[0] {
		e.out[0][i] = rng.NormFloat64()
	}
	return e
}

// TestConvByDefinition compares the matrix product with the sum that defines a convolution, forward and for the
// weights' gradient.
func TestConvByDefinition(t *testing.T) {
	for _, c := range []struct{ resolution, channels, kernel, stride, pad int }{
		{5, 4, 1, 1, 0}, {6, 2, 1, 2, 0}, {7, 3, 3, 1, 1}, {8, 5, 3, 2, 1}, {9, 1, 5, 3, 0}, {9, 2, 4, 2, 3}, {13, 2, 7, 2, 3}, {1, 2, 3, 1, 1},
	} {
		const batch = 2
		e := behind(t, c.resolution, batch, core.Node{Op: core.OpConv, Channels: c.channels, Kernel: c.kernel, Stride: c.stride, Pad: c.pad})
		e.conv(1, batch)
		out := e.shapes[1]
		dy, g := e.gradient(1), e.NewGradients()
		for i := range dy {
			dy[i] = math.Sin(float64(i))
		}
		e.convBackward(1, g)
		w, dw := e.weights(e.state.Params, 1, 0), make([]float64, len(e.weights(g.Values, 1, 0)))
		for y := range batch * out.Len() {
			img, o, oy, ox := y/out.Len(), y/(out.H*out.W)%out.C, y/out.W%out.H, y%out.W
			sum := 0.0
			for k := range 3 * c.kernel * c.kernel {
				ch, iy, ix := k/(c.kernel*c.kernel), oy*c.stride-c.pad+k/c.kernel%c.kernel, ox*c.stride-c.pad+k%c.kernel
				if iy < 0 || ix < 0 || iy >= c.resolution || ix >= c.resolution {
					continue
				}
				x := e.out[0][((img*3+ch)*c.resolution+iy)*c.resolution+ix]
				sum += x * w[o*3*c.kernel*c.kernel+k]
				dw[o*3*c.kernel*c.kernel+k] += x * dy[y]
			}
			if got := e.out[1][y]; math.Abs(got-sum) > 1e-12 {
				t.Fatalf("%+v: output %d is %v, want %v", c, y, got, sum)
			}
		}
		for i, got := range e.weights(g.Values, 1, 0) {
			if math.Abs(got-dw[i]) > 1e-11 {
				t.Fatalf("%+v: gradient of weight %d is %v, want %v", c, i, got, dw[i])
			}
		}
	}
}

// TestMaxPoolFirstWins: of equal values the first takes the whole gradient, and a NaN wins.
func TestMaxPoolFirstWins(t *testing.T) {
	e := behind(t, 3, 1, core.Node{Op: core.OpMaxPool, Channels: 3, Kernel: 3, Stride: 2, Pad: 1})
	copy(e.out[0], []float64{
		1, 1, 0,
		1, 1, -1,
		-2, -2, -3,

		-5, -6, -7, // padding never wins
		-8, -9, -9,
		-9, -9, -9,

		0, math.NaN(), 9,
		9, 9, 9,
		9, 9, 9,
	})
	e.maxPool(1, 1)
	want := []float64{1, 1, 1, 1, -5, -6, -8, -9, math.NaN(), math.NaN(), 9, 9}
	for i, w := range want {
		if got := e.out[1][i]; got != w && !(math.IsNaN(w) && math.IsNaN(got)) {
			t.Errorf("output %d is %v, want %v", i, got, w)
		}
	}
	winners := []int32{0, 1, 3, 4, 0, 1, 3, 4, 1, 1, 3, 4}
	for i, w := range winners {
		if e.winners[1][i] != w {
			t.Errorf("output %d is won by place %d, want %d", i, e.winners[1][i], w)
		}
	}
}

// TestPadShortcut places three channels in the middle of seven, every second pixel of a 3x3 image.
func TestPadShortcut(t *testing.T) {
	e := behind(t, 3, 2, core.Node{Op: core.OpPadShortcut, Channels: 7, Stride: 2})
	e.padShortcut(1, 2)
	for i, got := range e.out[1] {
		img, c, y, x := i/28, i/4%7, i/2%2, i%2
		want := 0.0
		if c >= 2 && c < 5 {
			want = e.out[0][img*27+(c-2)*9+y*2*3+x*2]
		}
		if got != want {
			t.Errorf("image %d, channel %d, pixel (%d, %d) is %v, want %v", img, c, y, x, got, want)
		}
	}
}

// TestProductOrder: every element is one chain, first to last, wherever the tiles' edges fall.
func TestProductOrder(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 5))
	for _, threads := range []int{1, 3} {
		e := &Engine[float32]{threads: threads}
		for range 200 {
			m, n, k := rng.IntN(40), rng.IntN(12), rng.IntN(30)
			a, b, c := make([]float32, m*k), make([]float32, n*k), make([]float32, m*n)
			for _, v := range [][]float32{a, b, c} {
				for i := range v {
					v[i] = float32(rng.NormFloat64())
				}
			}
			want := make([]float32, m*n)
			for i := range want {
				want[i] = c[i]
				for l := range k {
					want[i] += float32(a[i/n*k+l] * b[i%n*k+l])
				}
			}
			e.addProduct(c, a, b, m, n, k)
			for i := range want {
				if c[i] != want[i] {
					t.Fatalf("%dx%dx%d: element %d is %v, want %v", m, n, k, i, c[i], want[i])
				}
			}
		}
	}
}

// TestUpdateByHand follows one parameter and one running statistic through two steps of the formulas.
func TestUpdateByHand(t *testing.T) {
	net, err := core.NewNetwork("norm", 2, 1, []core.Node{
		{Op: core.OpInput, Name: "input", Channels: 1},
		{Op: core.OpBatchNorm, Name: "bn", Inputs: []int{0}, Channels: 1},
		{Op: core.OpGlobalAvgPool, Name: "avgpool", Inputs: []int{1}, Channels: 1},
		{Op: core.OpLinear, Name: "fc", Inputs: []int{2}, Channels: 1},
	})
	if err != nil {
		t.Fatal(err)
	}
	e, err := New[float64](net, core.CompileConfig{Batch: 1, Resolution: 2})
	if err != nil {
		t.Fatal(err)
	}
	s := core.NewState[float64](net)
	s.Params[0], s.Momentum[0], s.Mean[0], s.Var[0] = 2, 0.5, 1, 3
	if err := e.SetState(s); err != nil {
		t.Fatal(err)
	}
	g := e.NewGradients()
	g.Values[0], g.Mean[0], g.Var[0] = 4, 11, 13
	for range 2 {
		if err := e.Update(g, core.SGD{LR: 0.1, Momentum: 0.9, WeightDecay: 0.25}); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.GetState(s); err != nil {
		t.Fatal(err)
	}
	// v1 = 0.45 + 4 + 0.5 = 4.95, w1 = 1.505; v2 = 4.455 + 4 + 0.37625 = 8.83125, w2 = 0.621875.
	for _, c := range []struct {
		what      string
		got, want float64
	}{{"weight", s.Params[0], 0.621875}, {"momentum", s.Momentum[0], 8.83125}, {"mean", s.Mean[0], 2.9}, {"variance", s.Var[0], 4.9}} {
		if math.Abs(c.got-c.want) > 1e-12 {
			t.Errorf("%s is %v, want %v", c.what, c.got, c.want)
		}
	}
}
