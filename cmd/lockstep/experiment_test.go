package main

import (
	"encoding/xml"
	"errors"
	"image/png"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/lockstep-ml/lockstep/core"
	"github.com/lockstep-ml/lockstep/core/reference"
	"github.com/lockstep-ml/lockstep/core/resnet"
	"github.com/lockstep-ml/lockstep/internal/experiment"
)

// shortly makes an experiment's runs take a second each.
func shortly(kind experiment.Kind, out string, more ...string) []string {
	args := []string{"experiment", string(kind), "--data", shared.images(), "--depths", "8,14", "--steps", "12", "--out", out, "--json"}
	return append(append(args, more...), "--", "--batch", "16", "--replica-batch", "8", "--eval-every", "4", "--checkpoint-every", "2")
}

// runsPatience is for an experiment, each of whose runs may take patience.
const runsPatience = 4 * patience

func readFile(t *testing.T, path ...string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// pictured wants an SVG and a PNG that parse.
func pictured(t *testing.T, dir string, names ...string) {
	t.Helper()
	for _, name := range names {
		d := xml.NewDecoder(strings.NewReader(readFile(t, dir, name+".svg")))
		for {
			if _, err := d.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%s.svg: %v", name, err)
			}
		}
		if _, err := png.Decode(strings.NewReader(readFile(t, dir, name+".png"))); err != nil {
			t.Errorf("%s.png: %v", name, err)
		}
	}
}

// TestExperimentOutlivesAKill kills an experiment in the middle of its second network, goes on with it, and wants the tables of one
// that was left alone, to the byte.
func TestExperimentOutlivesAKill(t *testing.T) {
	t.Parallel()
	out, whole := filepath.Join(t.TempDir(), "killed"), filepath.Join(t.TempDir(), "whole")
	p := begin(t, nil, shortly(experiment.Degradation, out)...)
	p.line("run 2 of 4: cifar-resnet8")
	p.line("checkpoint of step [246] written")
	p.signal(syscall.SIGKILL)
	<-p.ended
	lockstep(t, 1, shortly(experiment.Degradation, out)...).says("holds an experiment already", "--resume")
	lockstep(t, 1, shortly(experiment.Degradation, out, "--resume", "--seed", "9")...).says("was begun with other flags")
	var r experimentReport
	resumed := begin(t, nil, "experiment", "degradation", "--out", out, "--resume", "--json", "--workers", "2")
	resumed.waitFor(0, runsPatience).lastLine(&r)
	if strings.Contains(resumed.stderr(), "run 1 of 4") {
		t.Error("the first network was trained again")
	}
	if len(r.Networks) != 4 || r.Networks[3].Network != "cifar-resnet14" || r.Networks[3].Steps != 12 {
		t.Errorf("the report is %+v", r)
	}
	begin(t, nil, shortly(experiment.Degradation, whole)...).waitFor(0, runsPatience)
	for _, name := range []string{experiment.ResultsName, experiment.CurvesName} {
		if got, want := readFile(t, out, name), readFile(t, whole, name); got != want {
			t.Errorf("%s after a kill:\n%s\nundisturbed:\n%s", name, got, want)
		}
	}
	pictured(t, out, "plain", "residual")
	text := readFile(t, out, experiment.ReportName)
	for _, want := range []string{"not of the paper's length", "cifar-plain14", "From cifar-plain8 to cifar-plain14", "budget 0.000188", "](plain.svg)"} {
		if !strings.Contains(text, want) {
			t.Errorf("the report has no %q:\n%s", want, text)
		}
	}
}

// TestExperimentTakesRuns finds runs that were trained elsewhere, as those of a cluster are, and refuses those that are not the plan's.
func TestExperimentTakesRuns(t *testing.T) {
	t.Parallel()
	out := t.TempDir()
	lockstep(t, 0, "train", "--recipe", "cifar-paper", "--arch", "cifar-resnet8", "--data", shared.images(), "--steps", "4", "--schedule", "steps:50%,75%", "--batch", "16",
		"--replica-batch", "8", "--workers", "2", "--out", filepath.Join(out, "runs", "cifar-resnet8"))
	depth := func(kind experiment.Kind, more ...string) []string {
		args := append([]string{"experiment", string(kind), "--depths", "8", "--steps", "4", "--data", shared.images(), "--out", out}, more...)
		return append(args, "--", "--batch", "16", "--replica-batch", "8", "--keep", "2")
	}
	lockstep(t, 1, depth(experiment.Depth, "--seed", "2")...).says("is not this experiment's", `--seed "1", not "2"`)
	if err := os.Remove(filepath.Join(out, experiment.PlanName)); err != nil {
		t.Fatal(err)
	}
	p := lockstep(t, 0, depth(experiment.Depth)...)
	if strings.Contains(p.stderr(), "run 1 of 1") {
		t.Error("it was trained again")
	}
	pictured(t, out, "curves", "depth")
}

// TestLayerResponses trains two networks and looks at them, and then at the same weights by their file.
func TestLayerResponses(t *testing.T) {
	t.Parallel()
	out, again := filepath.Join(t.TempDir(), "trained"), filepath.Join(t.TempDir(), "given")
	args := []string{"experiment", "layer-responses", "--data", shared.images(), "--depths", "8", "--steps", "4", "--images", "10", "--out", out,
		"--", "--batch", "16", "--replica-batch", "8"}
	lockstep(t, 0, args...)
	pictured(t, out, "responses", "responses-sorted")
	table := readFile(t, out, experiment.ResponsesName)
	if n := strings.Count(table, "cifar-resnet8,"); n != 7 { // the first layer and two in each of three blocks
		t.Errorf("%d 3x3 layers of cifar-resnet8:\n%s", n, table)
	}
	weights := filepath.Join(out, "runs", "cifar-resnet8", lastName)
	lockstep(t, 0, "experiment", "layer-responses", "--weights", weights, "--arch", "cifar-resnet8", "--data", shared.images(), "--images", "10", "--out", again)
	for _, line := range strings.Split(strings.TrimSpace(readFile(t, again, experiment.ResponsesName)), "\n") {
		if !strings.Contains(table, line) {
			t.Errorf("the same weights give %s, not as in\n%s", line, table)
		}
	}
	lockstep(t, 1, "experiment", "layer-responses", "--weights", weights, "--out", again+"2").says("1 --weights and 0 --arch")
}

// TestProbeIsTheReference compares the float32 probe with float64, and its moments with their definition.
func TestProbeIsTheReference(t *testing.T) {
	net, err := resnet.Build("cifar-resnet14-B", 10)
	if err != nil {
		t.Fatal(err)
	}
	const n = 3
	cfg := core.CompileConfig{Batch: n, Resolution: 16, EvalOnly: true}
	narrow, err := reference.New[float32](net, cfg)
	if err != nil {
		t.Fatal(err)
	}
	wide, err := reference.New[float64](net, cfg)
	if err != nil {
		t.Fatal(err)
	}
	state := core.NewState[float32](net)
	core.InitHe(net, 7, state)
	exact := &core.State[float64]{Params: widen(state.Params), Momentum: widen(state.Momentum), Mean: widen(state.Mean), Var: widen(state.Var)}
	if err := errors.Join(narrow.SetState(state), wide.SetState(exact)); err != nil {
		t.Fatal(err)
	}
	images := make([]float32, n*3*16*16)
	for i := range images {
		images[i] = float32(math.Sin(float64(i*i) / 7))
	}
	if err := errors.Join(narrow.Eval(core.Batch{Images: images}, make([]float32, n*10)), wide.Eval(core.Batch{Images: images}, make([]float64, n*10))); err != nil {
		t.Fatal(err)
	}
	p, q := newProbe(net), newProbe(net)
	probeAdd(p, narrow, n)
	probeAdd(q, wide, n)
	if len(p.nodes) != 13 { // 14 layers but the last, which is linear; projections are no 3x3 layers
		t.Errorf("%d 3x3 layers: %v", len(p.nodes), p.names)
	}
	got, want := p.responses(), q.responses()
	for k, node := range q.nodes {
		values := wide.Output(node, n)
		mean, square := meanOf(values), 0.0
		for _, v := range values {
			square += (v - mean) * (v - mean)
		}
		std := math.Sqrt(square / float64(len(values)))
		if math.Abs(want.Std[k]-std) > 1e-9*std || math.Abs(got.Std[k]-std) > 1e-5*std {
			t.Errorf("%s: %v in float32, %v in float64, want %v", p.names[k], got.Std[k], want.Std[k], std)
		}
	}
	if err := wide.Close(); err != nil || wide.Output(q.nodes[0], n) != nil {
		t.Errorf("a closed engine has outputs (%v)", err)
	}
}

func widen(in []float32) []float64 {
	out := make([]float64, len(in))
	for i, v := range in {
		out[i] = float64(v)
	}
	return out
}

// TestExperimentRefuses gives flags that make no sense; nothing is written for them.
func TestExperimentRefuses(t *testing.T) {
	t.Parallel()
	out := filepath.Join(t.TempDir(), "none")
	for says, args := range map[string][]string{
		"not both":             {"depth", "--steps", "3", "--budget", "0.5"},
		"positive share":       {"depth", "--budget", "-1"},
		"6n+2 layers":          {"depth", "--depths", "21"},
		"twice":                {"depth", "--depths", "20,20"},
		"want cifar or image":  {"depth", "--family", "mnist"},
		"the recipes are":      {"depth", "--recipe", "none"},
		"no experiment to go":  {"depth", "--resume"},
		"goes behind --":       {"depth", "more"},
		"--workers 0":          {"shortcuts", "--workers", "0"},
		"--resume needs --out": {"shortcuts", "--resume", "--out", ""},
	} {
		lockstep(t, 1, append([]string{"experiment", args[0], "--out", out}, args[1:]...)...).says(says)
	}
	if _, err := os.Stat(out); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a refused experiment wrote its folder: %v", err)
	}
}
