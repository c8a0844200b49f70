package main

import (
	"bytes"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lockstep-ml/lockstep/core"
	"github.com/lockstep-ml/lockstep/core/reference"
	"github.com/lockstep-ml/lockstep/core/resnet"
	"github.com/lockstep-ml/lockstep/internal/snapshot"
)

// untrained is a network with He's weights, and with statistics and batch norms as training might leave them.
func untrained(t *testing.T, arch string, classes, resolution int) *trained {
	t.Helper()
	net, err := resnet.Build(arch, classes)
	if err != nil {
		t.Fatal(err)
	}
	s := newSettings()
	s.arch, s.resolution = arch, resolution
	state := freshState(net, 3)
	rng := rand.New(rand.NewPCG(1, 2))
	for _, p := range net.Params() {
		if p.Kind == core.BNWeight || p.Kind == core.BNBias || p.Kind == core.LinearBias {
			for i := range p.Len {
				state.Params[p.Offset+i] += float32(rng.NormFloat64() / 4)
			}
		}
	}
	for i := range state.Mean {
		state.Mean[i], state.Var[i] = float32(rng.NormFloat64()/4), float32(.5+rng.Float64())
	}
	return &trained{settings: s, net: net, state: state}
}

// referenceLogits is what the float64 engine makes of images.
func referenceLogits(t *testing.T, m *trained, images []float32, n, resolution int) []float64 {
	t.Helper()
	e, err := reference.New[float64](m.net, core.CompileConfig{Batch: n, Resolution: resolution, EvalOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.SetState(wide(m.state)); err != nil {
		t.Fatal(err)
	}
	logits := make([]float64, n*m.net.Classes)
	if err := e.Eval(core.Batch{Images: images}, logits); err != nil {
		t.Fatal(err)
	}
	return logits
}

func wide(s *snapshot.Snapshot) *core.State[float64] {
	floats := func(x []float32) []float64 {
		out := make([]float64, len(x))
		for i, v := range x {
			out[i] = float64(v)
		}
		return out
	}
	return &core.State[float64]{Params: floats(s.Params), Momentum: floats(s.Momentum), Mean: floats(s.Mean), Var: floats(s.Var)}
}

// What an exported model computes, as an interpreter of its own reads it, is what the reference engine computes: for every form that
// a network of the grammar has.
func TestONNXComputesTheNetwork(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		arch       string
		resolution int
		long       bool
	}{
		{"cifar-resnet8", 17, false}, {"cifar-resnet8-B", 16, false}, {"cifar-resnet8-C", 16, false}, {"cifar-plain8", 16, false},
		{"plain18", 33, true}, {"resnet50-A", 32, true}, {"resnet50-v1.5", 32, true},
	} {
		t.Run(c.arch, func(t *testing.T) {
			if c.long && (testing.Short() || underRace) {
				t.Skip("a large network")
			}
			const n = 2
			m := untrained(t, c.arch, 5, c.resolution)
			images := make([]float32, n*3*c.resolution*c.resolution)
			in := zeros(n, 3, c.resolution, c.resolution)
			rng := rand.New(rand.NewPCG(3, 4))
			for i := range images {
				images[i] = float32(rng.NormFloat64())
				in.data[i] = float64(images[i])
			}
			want := referenceLogits(t, m, images, n, c.resolution)
			for fold, tolerance := range map[bool]float64{false: 1e-8, true: 2e-5} { // folded weights are rounded once more
				model, err := m.onnxModel(fold)
				if err != nil {
					t.Fatal(err)
				}
				var file bytes.Buffer
				if err := model.Write(&file); err != nil {
					t.Fatal(err)
				}
				got := runONNX(t, file.Bytes(), in).data
				scale := max(1, slices.Max(want), -slices.Min(want))
				for i := range want {
					if d := math.Abs(got[i] - want[i]); !(d <= tolerance*scale) {
						t.Errorf("folded %v: logit %d is %g, the reference engine's %g", fold, i, got[i], want[i])
					}
				}
				if folded := !bytes.Contains(file.Bytes(), []byte("BatchNormalization")); folded != fold {
					t.Errorf("folded: %v, want %v", folded, fold)
				}
			}
		})
	}
}

func TestExportRefusesAndTells(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	m := untrained(t, "cifar-resnet8", 3, 0)
	m.classes = []string{"a", "b", "c"}
	file := filepath.Join(dir, "w.safetensors")
	if err := m.writeSafetensors(file); err != nil {
		t.Fatal(err)
	}
	lockstep(t, 1, "checkpoint", "export", file, filepath.Join(dir, "x"), "--format", "caffe").says("caffe", "onnx")
	lockstep(t, 1, "checkpoint", "export", file, filepath.Join(dir, "x"), "--fold-bn").says("--fold-bn", "onnx")
	lockstep(t, 1, "checkpoint", "export", file, filepath.Join(dir, "x"), "--arch", "cifar-resnet14").says(file, "layer1.1.conv1.weight is missing")
	var r exportResult
	lockstep(t, 0, "checkpoint", "export", file, filepath.Join(dir, "w.onnx"), "--json").lastLine(&r) // the file itself says which network
	if r.Format != "onnx" || r.Arch != "cifar-resnet8" || r.Parameters != m.net.ParamLen() || r.Hash != m.state.Hash() {
		t.Errorf("%+v", r)
	}
	again := filepath.Join(dir, "again.safetensors")
	lockstep(t, 0, "checkpoint", "export", file, again)
	if a, b := read(t, file), read(t, again); !bytes.Equal(a, b) {
		t.Error("the export of an export has other bytes")
	}
	lockstep(t, 0, "checkpoint", "export", file, filepath.Join(dir, "b.onnx"), "--arch", "cifar-resnet8")
	if a, b := read(t, filepath.Join(dir, "w.onnx")), read(t, filepath.Join(dir, "b.onnx")); !bytes.Equal(a, b) {
		t.Error("the same weights gave other models")
	}
	nonsense := filepath.Join(dir, "none.safetensors")
	if err := os.WriteFile(nonsense, []byte(strings.Repeat("nonsense", 4)), 0o644); err != nil {
		t.Fatal(err)
	}
	lockstep(t, 1, "checkpoint", "export", nonsense, filepath.Join(dir, "x"), "--arch", "cifar-resnet8").says(nonsense, "none of safetensors")
}

// Weights that fit by their shapes and are meant for another network are used, and it is said.
func TestExportNotesAnotherNetwork(t *testing.T) {
	t.Parallel()
	w := &weightsFile{path: "w", meta: map[string]string{metaArch: "resnet50-v1.5"}}
	paper, err := resnet.Build("resnet50", 10)
	if err != nil {
		t.Fatal(err)
	}
	v15, err := resnet.Build("resnet50-B-v1.5", 10)
	if err != nil {
		t.Fatal(err)
	}
	if n := w.remarks(paper); len(n) != 1 || !strings.Contains(n[0], "resnet50-v1.5") {
		t.Errorf("v1.5's weights for the paper's network: %q", n)
	}
	if n := w.remarks(v15); len(n) != 0 {
		t.Errorf("weights for the network that they are of: %q", n)
	}
	foreign := &weightsFile{path: "w.pth", torch: true}
	if n := foreign.remarks(paper); len(n) != 1 || !strings.Contains(n[0], "resnet50-v1.5") {
		t.Errorf("PyTorch's weights for the paper's network: %q", n)
	}
	if n := foreign.remarks(v15); len(n) != 0 {
		t.Errorf("PyTorch's weights for v1.5: %q", n)
	}
}
