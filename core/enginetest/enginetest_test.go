package enginetest

import (
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lockstep-ml/lockstep/core"
	"github.com/lockstep-ml/lockstep/core/reference"
)

// TestNumericalGradient holds the reference's backward pass to central differences of its forward pass, on every
// small network. An engine that agrees with the reference agrees with calculus.
func TestNumericalGradient(t *testing.T) {
	const h = 1e-6 // rounding leaves 1e-9; larger steps begin to cross the kinks of the ReLUs
	for _, sm := range smallNetworks {
		t.Run(sm.name, func(t *testing.T) {
			net := sm.network(t)
			cfg := core.CompileConfig{Batch: sm.batch, Resolution: sm.resolution}
			eng, err := reference.New[float64](net, cfg)
			must(t, err)
			defer eng.Close() // never fails
			rng := rand.New(rand.NewPCG(11, 12))
			state, batch := randomState(net, rng), randomBatch(net, cfg, rng)
			g, scratch := eng.NewGradients(), eng.NewGradients()
			must(t, eng.SetState(state))
			_, err = eng.Train(batch, g, core.Hooks{})
			must(t, err)
			loss := func(i int, w float64) float64 {
				kept := state.Params[i]
				state.Params[i] = w
				must(t, eng.SetState(state))
				state.Params[i] = kept
				m, err := eng.Train(batch, scratch, core.Hooks{})
				must(t, err)
				return m.LossSum / float64(m.Images)
			}
			elements := 3 // of each parameter; each takes two forward passes
			if net.ParamLen() > 25_000 {
				elements = 1
			}
			for _, p := range net.Params() {
				for range elements {
					i := p.Offset + rng.IntN(p.Len)
					w := state.Params[i]
					want := (loss(i, w+h) - loss(i, w-h)) / (2 * h)
					if got := g.Values[i]; !(math.Abs(got-want) <= 1e-7*(1+math.Abs(want))) {
						t.Errorf("gradient of %s[%d] is %.10g, differences give %.10g", p.Name, i-p.Offset, got, want)
					}
				}
			}
		})
	}
}

// TestFormulas pins the generator to values worked out apart from this code.
func TestFormulas(t *testing.T) {
	for name, want := range map[string][3]float64{
		"input":        {776862, 7285237, 9450407},
		"conv1.weight": {7648742, 3134750, 10028841},
	} {
		lcg(name, 3, func(i int, u float64) {
			if u != want[i]/(1<<24) {
				t.Errorf("draw %d of %s is %v / 2^24, want %v", i, name, u*(1<<24), want[i])
			}
		})
	}
}

// TestFolder: the variable names a folder from the module's root, or absolutely; what holds no case is an error.
func TestFolder(t *testing.T) {
	empty := t.TempDir()
	for _, c := range []struct {
		value string
		files int // 0: an error
	}{
		{"", 8}, {"core/testdata/golden", 8}, {"testdata/golden", 8}, {"../testdata/golden", 8},
		{empty, 0}, {"no/such/folder", 0}, {filepath.Join(empty, "none"), 0},
	} {
		t.Setenv(goldenEnv, c.value)
		files, err := goldenFiles()
		if len(files) != c.files || (err == nil) != (c.files > 0) {
			t.Errorf("%s=%q: %d files, error %v", goldenEnv, c.value, len(files), err)
		}
	}
}

func TestReadGoldenErrors(t *testing.T) {
	dir := t.TempDir()
	whole := `{"case":"resnet18","batch":1,"resolution":32,"classes":2,"steps":1,"loss":[1],"grad_norm":{"a":1}`
	for name, text := range map[string]string{
		"cut short":          whole,
		"empty object":       "{}",
		"too few losses":     strings.Replace(whole, `"steps":1`, `"steps":2`, 1) + "}",
		"deviations missing": whole + `,"float32_deviation":{"loss":[1,2]}}`,
		"wrong type":         `{"case":5}`,
	} {
		path := filepath.Join(dir, strings.ReplaceAll(name, " ", "-")+".json")
		must(t, os.WriteFile(path, []byte(text), 0o600))
		if _, err := readGolden(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: error %v, want one that names the file", name, err)
		}
	}
	if _, err := parseGolden([]byte(whole + "}")); err != nil {
		t.Errorf("a whole case: %v", err)
	}
	if _, err := readGolden(filepath.Join(dir, "absent.json")); err == nil {
		t.Error("an absent file was read")
	}
}

func FuzzParseGolden(f *testing.F) {
	f.Add([]byte(`{"case":"resnet18","batch":1,"resolution":32,"classes":2,"steps":1,"loss":[1],"grad_norm":{"a":1}}`))
	f.Add([]byte(`{"loss":[1e999]}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		g, err := parseGolden(raw)
		if err == nil && (len(g.Loss) != g.Steps || g.Batch < 1) {
			t.Errorf("accepted %+v", g)
		}
	})
}

func TestReport(t *testing.T) {
	r := report{tolerance: Tolerance{Floor: 1e-3, Deviations: 2}}
	r.compare("loss", "close", 1.0005, 1, 0)
	r.compare("loss", "ill conditioned", 1.01, 1, 0.01)
	r.compare("loss", "zero", 0, 0, 0)
	r.compareNorms("norm", []named{{"a", 5}}, map[string]float64{"a": 5}, 0)
	if len(r.beyond) != 0 || r.kinds[0].figures != 3 || r.kinds[0].where != "close" && r.kinds[0].where != "ill conditioned" {
		t.Errorf("all is within: %+v", r)
	}
	r.compare("loss", "off", 1.002, 1, 0)
	r.compare("loss", "NaN", math.NaN(), 1, 0)
	r.compare("loss", "infinite", math.Inf(1), 1, 0)
	r.compare("loss", "want zero", 1e-9, 0, 0)
	r.compareNorms("norm", []named{{"a", 5}, {"b", 1}}, map[string]float64{"a": 6, "c": 1, "d": 1}, 0)
	if len(r.beyond) != 7 {
		t.Errorf("%d figures beyond, want 7: %s", len(r.beyond), strings.Join(r.beyond, "\n"))
	}
}

// saboteur is the reference with one fault.
type saboteur struct {
	core.Engine[float64]
	fault string
	cfg   core.CompileConfig
	net   *core.Network
	calls int
}

const sabotageEnv = "ENGINETEST_SABOTAGE"

func (s *saboteur) Train(b core.Batch, g *core.Gradients[float64], h core.Hooks) (core.Metrics, error) {
	s.calls++
	ready := h.Ready
	switch {
	case s.fault == "announces early" && ready != nil:
		h.Ready = nil
		for i := len(g.Values); i > 0; i-- {
			ready(i-1, i)
		}
	case s.fault == "announces twice" && ready != nil:
		h.Ready = func(lo, hi int) { ready(lo, hi); ready(lo, lo+1) }
	}
	m, err := s.Engine.Train(b, g, h)
	if err != nil {
		return m, err
	}
	last := len(g.Values) - 1
	switch s.fault {
	case "one gradient slightly off":
		g.Values[last/2] *= 1 + 1e-6
	case "hides NaN":
		for i, v := range g.Values {
			if v != v {
				g.Values[i] = 0
			}
		}
	case "bits follow threads":
		g.Values[last] *= 1 + 0x1p-50*float64(s.cfg.Threads)
	case "bits follow history":
		g.Values[last] *= 1 + 0x1p-50*float64(s.calls)
	case "biased variance":
		for i := range g.Var {
			g.Var[i] *= 0.999
		}
	case "trains the state":
		return m, s.Engine.Update(g, core.SGD{LR: 1e-3})
	}
	return m, nil
}

func (s *saboteur) Eval(b core.Batch, logits []float64) error {
	err := s.Engine.Eval(b, logits)
	if s.fault == "images see one another" && err == nil {
		logits[0] += 1e-12 * float64(len(logits))
	}
	return err
}

func (s *saboteur) Update(g *core.Gradients[float64], h core.SGD) error {
	if s.fault == "no weight decay" {
		h.WeightDecay = 0
	}
	return s.Engine.Update(g, h)
}

func (s *saboteur) GetState(st *core.State[float64]) error {
	err := s.Engine.GetState(st)
	if s.fault == "loses the sign of zero" && err == nil {
		for i := range st.Mean {
			st.Mean[i] += 0
		}
	}
	return err
}

// TestSabotaged is what TestSuiteCatches runs in a process of its own, where it has to fail.
func TestSabotaged(t *testing.T) {
	fault := os.Getenv(sabotageEnv)
	if fault == "" {
		t.Skip("runs under TestSuiteCatches only")
	}
	Run(t, Suite[float64]{
		Tolerance: Float64, Slow: true,
		New: func(net *core.Network, cfg core.CompileConfig) (core.Engine[float64], error) {
			eng, err := reference.New[float64](net, cfg)
			return &saboteur{Engine: eng, fault: fault, cfg: cfg, net: net}, err
		},
	})
}

// TestSuiteCatches gives the suite engines with a fault each, and asks it to fail where it should.
func TestSuiteCatches(t *testing.T) {
	exe, err := os.Executable()
	must(t, err)
	for _, c := range []struct{ fault, caughtBy string }{
		{"one gradient slightly off", "Reference/identity_and_option_A_on_7x7"},
		{"biased variance", "Reference/down_to_one_pixel"},
		{"no weight decay", "Reference/plain_on_one_image_of_9x9"},
		{"announces early", "Contract/Hooks"},
		{"announces twice", "Contract/Hooks"},
		{"trains the state", "Contract/TrainLeavesState"},
		{"images see one another", "Contract/EvalIndependence"},
		{"bits follow history", "Contract/SameBits"},
		{"bits follow threads", "Contract/Threads/cifar-resnet8"},
		{"hides NaN", "Contract/NaN"},
		{"loses the sign of zero", "Contract/StateRoundTrip"},
	} {
		t.Run(c.fault, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), exe, "-test.run=^TestSabotaged$/^"+strings.ReplaceAll(c.caughtBy, "/", "$/^")+"$", "-test.timeout=2m")
			cmd.Env = append(os.Environ(), sabotageEnv+"="+c.fault)
			out, err := cmd.CombinedOutput()
			if err == nil || !strings.Contains(string(out), "--- FAIL: TestSabotaged/"+c.caughtBy) {
				t.Errorf("%s was not caught: %v\n%s", c.caughtBy, err, out)
			}
		})
	}
}
