package core_test

import (
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/lockstep-ml/lockstep/core"
	"github.com/lockstep-ml/lockstep/core/resnet"
)

func build(t *testing.T, name string, classes int) *core.Network {
	t.Helper()
	n, err := resnet.Build(name, classes)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// tensor cuts the named parameter out of a state.
func tensor(t *testing.T, n *core.Network, s *core.State[float64], name string) (core.Param, []float64) {
	t.Helper()
	i := slices.IndexFunc(n.Params(), func(p core.Param) bool { return p.Name == name })
	if i < 0 {
		t.Fatalf("%s has no %s", n.Name, name)
	}
	p := n.Params()[i]
	return p, s.Params[p.Offset : p.Offset+p.Len]
}

// TestInitHeMoments: mean 0, variance 2/fan_in, and the fourth moment of a normal distribution, each to six standard
// errors; vectors as the paper has them.
func TestInitHeMoments(t *testing.T) {
	n := build(t, "resnet18", 0)
	s := core.NewState[float64](n)
	core.InitHe(n, 5, s)
	for _, p := range n.Params() {
		w := s.Params[p.Offset : p.Offset+p.Len]
		switch p.Kind {
		case core.BNWeight:
			if slices.ContainsFunc(w, func(v float64) bool { return v != 1 }) {
				t.Errorf("%s is not all ones", p.Name)
			}
			continue
		case core.BNBias, core.LinearBias:
			if slices.ContainsFunc(w, func(v float64) bool { return v != 0 }) {
				t.Errorf("%s is not all zeros", p.Name)
			}
			continue
		}
		var m1, m2, m4 float64
		std := math.Sqrt(2 / float64(p.FanIn()))
		for _, v := range w {
			z := v / std
			m1, m2, m4 = m1+z, m2+z*z, m4+z*z*z*z
		}
		l := float64(p.Len)
		for _, c := range []struct {
			what                string
			got, want, variance float64
		}{{"mean", m1 / l, 0, 1}, {"variance", m2 / l, 1, 2}, {"fourth moment", m4 / l, 3, 96}} {
			if math.Abs(c.got-c.want) > 6*math.Sqrt(c.variance/l) {
				t.Errorf("%s: %s of the scaled values is %v, want %v", p.Name, c.what, c.got, c.want)
			}
		}
	}
}

// TestInitHeIndependence: a tensor depends on seed and name, not on what else the network holds nor on what the state held.
func TestInitHeIndependence(t *testing.T) {
	a, b := build(t, "cifar-resnet20", 10), build(t, "cifar-plain56", 3)
	sa, sb, other := core.NewState[float64](a), core.NewState[float64](b), core.NewState[float64](a)
	for _, v := range [][]float64{sa.Params, sa.Momentum, sa.Mean, sa.Var} {
		for i := range v {
			v[i] = 9
		}
	}
	core.InitHe(a, 1, sa)
	core.InitHe(b, 1, sb)
	core.InitHe(a, 2, other)
	for _, name := range []string{"conv1.weight", "layer2.0.conv1.weight", "layer3.2.conv2.weight"} {
		_, wa := tensor(t, a, sa, name)
		_, wb := tensor(t, b, sb, name)
		_, wo := tensor(t, a, other, name)
		if !slices.Equal(wa, wb) {
			t.Errorf("%s differs between networks", name)
		}
		if slices.Equal(wa, wo) {
			t.Errorf("%s is the same for two seeds", name)
		}
	}
	_, one := tensor(t, a, sa, "layer1.0.conv1.weight")
	_, two := tensor(t, a, sa, "layer1.0.conv2.weight")
	if slices.Equal(one, two) {
		t.Error("two tensors of one shape are the same")
	}
	if sa.Momentum[3] != 0 || sa.Mean[3] != 0 || sa.Var[3] != 1 {
		t.Errorf("momentum %v, mean %v, variance %v, want 0, 0, 1", sa.Momentum[3], sa.Mean[3], sa.Var[3])
	}
}

// TestInitHePinned: these values are part of every run's identity; a change makes old seeds mean other runs.
func TestInitHePinned(t *testing.T) {
	n := build(t, "cifar-resnet20", 10)
	s := core.NewState[float32](n)
	core.InitHe(n, 1, s)
	pins := map[string][2]float32{
		"conv1.weight": {-0.04090011, -0.20108837},
		"fc.weight":    {0.05277449, -0.18922774},
	}
	for _, p := range n.Params() {
		if want, ok := pins[p.Name]; ok {
			if got := [2]float32{s.Params[p.Offset], s.Params[p.Offset+p.Len-1]}; got != want {
				t.Errorf("%s begins and ends with %v, want %v", p.Name, got, want)
			}
		}
	}
}

func TestScoreCounts(t *testing.T) {
	nan := math.NaN()
	for _, c := range []struct {
		what               string
		logits             []float64
		label              int32
		correct1, correct5 int
	}{
		{"the largest", []float64{0, 3, 1, 2, -1, -2}, 1, 1, 1},
		{"the fifth", []float64{5, 4, 3, 2, 1, 0}, 4, 0, 1},
		{"the sixth", []float64{5, 4, 3, 2, 1, 0}, 5, 0, 0},
		{"a tie is won by the lower class", []float64{1, 1, 0, 0, 0, 0}, 0, 1, 1},
		{"and lost by the higher", []float64{1, 1, 0, 0, 0, 0}, 1, 0, 1},
		{"all alike, the fifth", []float64{2, 2, 2, 2, 2, 2}, 4, 0, 1},
		{"all alike, the sixth", []float64{2, 2, 2, 2, 2, 2}, 5, 0, 0},
		{"three classes, the last", []float64{3, 2, 1}, 2, 0, 1},
		{"one class", []float64{3}, 0, 1, 1},
		{"a NaN is never right", []float64{nan, 1, 2, 3, 4, 5}, 0, 0, 0},
		{"nor among few classes", []float64{nan, 1}, 0, 0, 0},
		{"and beats a number", []float64{nan, 1, 0, 0, 0, 0}, 1, 0, 1},
	} {
		m := core.Score(c.logits, []int32{c.label}, len(c.logits), nil)
		if m.Images != 1 || m.Correct1 != c.correct1 || m.Correct5 != c.correct5 {
			t.Errorf("%s: %+v, want %d and %d", c.what, m, c.correct1, c.correct5)
		}
	}
}

func TestScoreLoss(t *testing.T) {
	m := core.Score([]float64{1000, 1000, 0, math.Log(3)}, []int32{1, 1}, 2, nil)
	if want := math.Log(2) + math.Log(4.0/3); math.Abs(m.LossSum-want) > 1e-12 {
		t.Errorf("loss is %v, want %v", m.LossSum, want)
	}
	m = core.Score([]float32{-1000, 0}, []int32{0}, 2, nil)
	if m.LossSum != 1000 {
		t.Errorf("loss of a certain mistake is %v, want 1000", m.LossSum)
	}
	if m = core.Score([]float64{math.NaN(), 0}, []int32{1}, 2, nil); !math.IsNaN(m.LossSum) {
		t.Errorf("loss with a NaN is %v", m.LossSum)
	}
}

// TestScoreGradient compares with central differences of the mean loss.
func TestScoreGradient(t *testing.T) {
	const classes, h = 4, 1e-5
	logits := []float64{0.3, -1, 2, 0.5, 1, 1, -3, 0, 12, 0, 1, 2}
	labels := []int32{2, 0, 3}
	grad := make([]float64, len(logits))
	core.Score(logits, labels, classes, grad)
	loss := func(i int, d float64) float64 {
		z := slices.Clone(logits)
		z[i] += d
		return core.Score(z, labels, classes, nil).LossSum / float64(len(labels))
	}
	for i, got := range grad {
		if want := (loss(i, h) - loss(i, -h)) / (2 * h); math.Abs(got-want) > 1e-9 {
			t.Errorf("gradient %d is %v, differences give %v", i, got, want)
		}
	}
}

func TestMetricsAdd(t *testing.T) {
	m := core.Metrics{Images: 1, LossSum: 2, Correct1: 3, Correct5: 4}
	m.Add(core.Metrics{Images: 10, LossSum: 20, Correct1: 30, Correct5: 40})
	if want := (core.Metrics{Images: 11, LossSum: 22, Correct1: 33, Correct5: 44}); m != want {
		t.Errorf("sum is %+v, want %+v", m, want)
	}
}

func TestCheckBatch(t *testing.T) {
	n := build(t, "cifar-resnet8", 3)
	cfg := core.CompileConfig{Batch: 2, Resolution: 4}
	images := func(n int) []float32 { return make([]float32, n*3*4*4) }
	for _, c := range []struct {
		what  string
		b     core.Batch
		train bool
		n     int
		err   string // "": none
	}{
		{"a whole batch to train", core.Batch{Images: images(2), Labels: []int32{0, 2}}, true, 2, ""},
		{"one image to evaluate", core.Batch{Images: images(1)}, false, 1, ""},
		{"one image to train", core.Batch{Images: images(1), Labels: []int32{0}}, true, 0, "batch of 1 images, compiled for 2"},
		{"three images", core.Batch{Images: images(3)}, false, 0, "at most 2"},
		{"nothing", core.Batch{}, false, 0, "not a whole number"},
		{"a value too many", core.Batch{Images: append(images(1), 0)}, false, 0, "not a whole number"},
		{"no labels to train", core.Batch{Images: images(2)}, true, 0, "0 labels for 2 images"},
		{"a label too many", core.Batch{Images: images(1), Labels: []int32{0, 0}}, false, 0, "2 labels for 1"},
		{"a label above", core.Batch{Images: images(2), Labels: []int32{0, 3}}, true, 0, "label 3 of image 1 is outside [0, 3)"},
		{"a label below", core.Batch{Images: images(1), Labels: []int32{-1}}, false, 0, "label -1 of image 0"},
	} {
		n, err := core.CheckBatch(n, cfg, c.b, c.train)
		wantError(t, c.what, err, c.err)
		if n != c.n {
			t.Errorf("%s: %d images, want %d", c.what, n, c.n)
		}
	}
}

func TestCheckCompile(t *testing.T) {
	n, big := build(t, "cifar-resnet8", 3), build(t, "resnet18", 3)
	for _, c := range []struct {
		what string
		net  *core.Network
		cfg  core.CompileConfig
		err  string
	}{
		{"ordinary", n, core.CompileConfig{Batch: 1, Resolution: 8}, ""},
		{"no batch", n, core.CompileConfig{Resolution: 8}, "batch 0"},
		{"no resolution", n, core.CompileConfig{Batch: 1}, "resolution 0"},
		{"negative threads", n, core.CompileConfig{Batch: 1, Resolution: 8, Threads: -1}, "threads -1"},
		{"one value a channel", n, core.CompileConfig{Batch: 1, Resolution: 4}, "layer3.0.bn1"},
		{"one value a channel, not trained", n, core.CompileConfig{Batch: 1, Resolution: 4, EvalOnly: true}, ""},
		{"two values a channel", n, core.CompileConfig{Batch: 2, Resolution: 4}, ""},
		{"the smallest image", big, core.CompileConfig{Batch: 2, Resolution: 1}, ""},
	} {
		shapes, err := core.CheckCompile(c.net, c.cfg)
		wantError(t, c.what, err, c.err)
		if err == nil && len(shapes) != len(c.net.Nodes) {
			t.Errorf("%s: %d shapes for %d nodes", c.what, len(shapes), len(c.net.Nodes))
		}
	}
}

func TestSizesAreChecked(t *testing.T) {
	n := build(t, "cifar-resnet8", 3)
	s := core.NewState[float32](n)
	g := &core.Gradients[float32]{Values: s.Params, Mean: s.Mean, Var: s.Var}
	wantError(t, "a state that fits", s.Check(n), "")
	wantError(t, "gradients that fit", g.Check(n), "")
	for i := range 4 {
		bad := *s
		field := []*[]float32{&bad.Params, &bad.Momentum, &bad.Mean, &bad.Var}[i]
		*field = (*field)[1:]
		wantError(t, "a state too short", bad.Check(n), "does not fit cifar-resnet8")
	}
	for i := range 3 {
		bad := *g
		field := []*[]float32{&bad.Values, &bad.Mean, &bad.Var}[i]
		*field = (*field)[1:]
		wantError(t, "gradients too short", bad.Check(n), "do not fit cifar-resnet8")
	}
}

func wantError(t *testing.T, what string, err error, part string) {
	t.Helper()
	if (part == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), part) {
		t.Errorf("%s: error %v, want one with %q", what, err, part)
	}
}
