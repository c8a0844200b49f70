package main

import (
	"errors"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-ml/lockstep/core"
	"github.com/lockstep-ml/lockstep/core/cpu"
	"github.com/lockstep-ml/lockstep/core/reference"
	"github.com/lockstep-ml/lockstep/core/resnet"
)

func TestBenchEngine(t *testing.T) {
	t.Parallel()
	args := []string{"bench", "engine", "--arch", "cifar-resnet8", "--batch", "8", "--threads", "1", "--steps", "1"}
	var r engineBench
	lockstep(t, 0, append(args, "--json")...).lastLine(&r)
	if !(r.ImagesPerSecond > 0 && r.GFLOPS > 0 && r.within(allowances[core.FP32])) || r.Batch != 8 || r.Threads != 1 || r.Layers != nil {
		t.Errorf("bench engine: %+v", r)
	}
	if !(r.PeakGFLOPS > 0 && r.TogetherGFLOPS > 0) || r.ShareOfPeak != r.GFLOPS/r.PeakGFLOPS {
		t.Errorf("the peak of %+v", r)
	}
	if r.ArenaBytes <= 0 || (runtime.GOOS == "linux" && r.PeakRSSBytes < r.ArenaBytes) {
		t.Errorf("the memory of %+v", r)
	}
	p := lockstep(t, 0, args...)
	for _, want := range []string{"cifar-resnet8, batch 8, cpu, 1 threads", "img/s", "% of the peak", "gradient of the first weights within", "planned for activations", "a core's times 1"} {
		if !strings.Contains(p.stdout.String(), want) {
			t.Errorf("bench engine does not say %q:\n%s", want, p.stdout.String())
		}
	}
	lockstep(t, 1, "bench", "engine", "--batch", "0").says("--batch 0")
	lockstep(t, 1, "bench", "engine", "--threads", "-1").says("--threads -1")
	lockstep(t, 1, "bench", "engine", "--precision", "fp8").says("fp8")
	lockstep(t, 1, "bench", "engine", "--arch", "resnet152", "--batch", "1000000").says("not enough memory", "resnet152 at batch 1000000", "take a smaller batch")
}

func TestBenchLayers(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("measures the memory's speed, which takes some hundred MiB")
	}
	args := []string{"bench", "engine", "--arch", "cifar-resnet8", "--batch", "8", "--threads", "2", "--steps", "2", "--layers"}
	var r engineBench
	lockstep(t, 0, append(args, "--json")...).lastLine(&r)
	l := r.Layers
	if l == nil || !(l.StepMS > 0 && l.CopyGB > 0) || l.IdleShare < 0 || l.IdleShare > 1 {
		t.Fatalf("bench engine --layers: %+v, %+v", r, l)
	}
	seen, passes, kinds := map[string]passRow{}, 0.0, 0.0
	for _, p := range l.Passes {
		seen[p.Layer+" "+p.Pass] = p
		passes += p.MS
	}
	for _, k := range l.Kinds {
		kinds += k.MS
	}
	if math.Abs(passes-kinds) > 1e-9*passes {
		t.Errorf("passes take %v ms, their kinds %v", passes, kinds)
	}
	for _, name := range []string{"layer1.0.conv1 forward", "layer1.0.conv1 data", "layer1.0.conv1 weights"} {
		if p := seen[name]; !(p.MS > 0 && p.GFLOPS > 0 && p.OfLimit > 0) || p.GBPerS != 0 {
			t.Errorf("%s: %+v", name, p)
		}
	}
	for _, name := range []string{"layer1.0.bn1 apply", "layer1.0.bn1 reduce", "layer1.0.bn1 backward", "weights relay", "weights update"} {
		if p := seen[name]; !(p.MS > 0 && p.GBPerS > 0 && p.OfLimit > 0) || p.GFLOPS != 0 {
			t.Errorf("%s: %+v", name, p)
		}
	}
	p := lockstep(t, 0, args...)
	for _, want := range []string{"layer1.0.conv1", "GFLOP/s", "GB/s", "of limit", "passes below 0.1 % each", "all layers", "idle"} {
		if !strings.Contains(p.stdout.String(), want) {
			t.Errorf("bench engine --layers does not say %q:\n%s", want, p.stdout.String())
		}
	}
}

// TestReportLayers follows figures that are easy to follow: two threads, two steps of 10 ms.
func TestReportLayers(t *testing.T) {
	limits := cpu.Limits{Threads: 2, CoreFLOPS: 50e9, ReadBytes: 20e9, CopyBytes: 10e9}
	took := []time.Duration{8 * time.Millisecond, 12 * time.Millisecond}
	r := reportLayers([]cpu.PassTime{
		{Layer: "a", Pass: "forward", Seconds: 16e-3, FLOPs: 200e6, Bytes: 1},
		{Layer: "b", Pass: "forward", Seconds: 8e-3, FLOPs: 200e6, Bytes: 1},
		{Layer: "pool", Pass: "forward", Seconds: 4e-3, Bytes: 10e6},
		{Layer: "c", Pass: "finish", Seconds: 4e-3},
		{Layer: "c", Pass: "never"},
	}, limits, benchOptions{threads: 2}, took)
	near := func(what string, got, want float64) {
		t.Helper()
		if math.Abs(got-want) > 1e-9*math.Abs(want) {
			t.Errorf("%s is %v, want %v", what, got, want)
		}
	}
	near("the step", r.StepMS, 10)
	near("the idle share", r.IdleShare, 1-8.0/10)
	near("a's ms", r.Passes[0].MS, 4)
	near("a's speed", r.Passes[0].GFLOPS, 50)
	near("a's share of the limit", r.Passes[0].OfLimit, 0.5)
	near("pool's speed", r.Passes[2].GBPerS, 10)
	near("pool's share of the limit", r.Passes[2].OfLimit, 0.5)
	for i, want := range []passRow{{Pass: "forward", MS: 6, GFLOPS: 400 / 6.0}, {Pass: "forward, no products", MS: 1}, {Pass: "finish", MS: 1}, {Pass: "never"}} {
		if k := r.Kinds[i]; k.Pass != want.Pass {
			t.Errorf("kind %d is %s, want %s", i, k.Pass, want.Pass)
		} else {
			near(k.Pass, k.MS, want.MS)
			if want.GFLOPS > 0 {
				near(k.Pass+"'s speed", k.GFLOPS, want.GFLOPS)
			}
		}
	}
}

// crooked is an engine whose backward pass is wrong by a factor in one parameter.
type crooked struct {
	core.Engine[float32]
	at int
}

func (c crooked) Train(b core.Batch, g *core.Gradients[float32], h core.Hooks) (core.Metrics, error) {
	m, err := c.Engine.Train(b, g, h)
	g.Values[c.at] = 2*g.Values[c.at] + 1
	return m, err
}

// TestCheck: the check passes an engine that is right and finds one gradient that is wrong, in the first weights or in the last.
func TestCheck(t *testing.T) {
	t.Parallel()
	net, err := resnet.Build("cifar-resnet8", 0)
	if err != nil {
		t.Fatal(err)
	}
	cfg := core.CompileConfig{Batch: checkImages, Resolution: 16, Threads: 1}
	engine, err := cpu.New(net, cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer engine.Close()
	ref, err := reference.New[float64](net, cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer ref.Close()
	first, last := outerWeights(net)
	if first.Name != "conv1.weight" || last.Name != "fc.weight" {
		t.Errorf("outer weights are %s and %s", first.Name, last.Name)
	}
	try := func(e core.Engine[float32]) (deviation, error) {
		return compare(net, e, ref, synthetic(net, cfg.Batch, cfg.Resolution), 1)
	}
	if d, err := try(engine); err != nil || !d.within(allowances[core.FP32]) {
		t.Errorf("a right engine: %+v, %v", d, err)
	}
	for _, at := range []int{first.Offset, last.Offset + last.Len - 1} {
		if d, err := try(crooked{engine, at}); err != nil || d.within(allowances[core.FP32]) {
			t.Errorf("an engine whose gradient %d is wrong: %+v, %v", at, d, err)
		}
	}
}

func TestSettle(t *testing.T) {
	good, bad := deviation{Loss: 1e-7, First: 1e-6, Last: 1e-6}, deviation{Loss: 1e-7, First: 1e-2, Last: 1e-6}
	tries := 0
	unlucky := func(seed uint64) (deviation, error) {
		if tries++; seed == 1 {
			return bad, nil
		}
		return good, nil
	}
	if d, err := settle(allowances[core.FP32], unlucky); err != nil || d != good || tries != 2 {
		t.Errorf("wrong with one seed of several: %+v, %v after %d tries", d, err, tries)
	}
	for _, d := range []deviation{bad, {Loss: math.NaN()}, {Loss: 1e-3}, {Last: 1e-2}} {
		if _, err := settle(allowances[core.FP32], func(uint64) (deviation, error) { return d, nil }); err == nil || !strings.Contains(err.Error(), "not timing a wrong result") {
			t.Errorf("wrong with every seed: %v", err)
		}
	}
	broken := errors.New("broken")
	if _, err := settle(allowances[core.FP32], func(uint64) (deviation, error) { return good, broken }); !errors.Is(err, broken) {
		t.Errorf("an engine that fails: %v", err)
	}
}

// TestCompare: the script names the case, and Python can read it.
func TestCompare(t *testing.T) {
	t.Parallel()
	p := lockstep(t, 0, "bench", "engine", "--compare", "--arch", "resnet50-v1.5", "--batch", "32", "--threads", "2", "--steps", "5")
	text := p.stdout.String()
	if !strings.Contains(text, "\nARCH, BATCH, THREADS, STEPS = 'resnet50-v1.5', 32, 2, 5\n") || strings.Contains(text, compareCase) {
		t.Errorf("the script does not name the case:\n%s", text)
	}
	for _, want := range []string{"channels_last", "A B A B", "median", "equal thread counts", "zero_grad", "momentum=0.9"} {
		if !strings.Contains(text, want) {
			t.Errorf("the notes lack %q", want)
		}
	}
	lockstep(t, 1, "bench", "engine", "--compare", "--json").says("compare", "json")
	lockstep(t, 1, "bench", "engine", "--compare", "--arch", "vgg16").says("vgg16")

	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("no python3 here to read the script")
	}
	file := filepath.Join(t.TempDir(), "compare.py")
	write(t, file, []byte(text))
	check := exec.Command(python, "-c", "import ast, sys; ast.parse(open(sys.argv[1]).read())", file)
	check.Env = append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1")
	if out, err := check.CombinedOutput(); err != nil {
		t.Errorf("python3 does not read the script: %v\n%s", err, out)
	}
}

func TestStatusBytes(t *testing.T) {
	const status = "Name:\tlockstep\nVmPeak:\t  900 kB\nVmHWM:\t    1234 kB\nThreads:\t5\n"
	for field, want := range map[string]int64{"VmHWM": 1234 << 10, "VmPeak": 900 << 10, "Threads": 0, "VmSwap": 0} {
		if got := statusBytes(status, field); got != want {
			t.Errorf("%s is %d bytes, want %d", field, got, want)
		}
	}
}

func TestModelMemory(t *testing.T) {
	t.Parallel()
	var train, eval, none modelTable
	lockstep(t, 0, "model", "resnet152", "--batch", "32", "--json").lastLine(&train)
	lockstep(t, 0, "model", "resnet152", "--batch", "32", "--eval", "--json").lastLine(&eval)
	lockstep(t, 0, "model", "resnet152", "--json").lastLine(&none)
	if none.Memory != nil || train.Memory == nil || eval.Memory == nil {
		t.Fatalf("memory: %+v, %+v, %+v", none.Memory, train.Memory, eval.Memory)
	}
	m, bytes := train.Memory, int64(4*train.Parameters)
	if m.Weights != bytes || m.Momentum != bytes || m.Gradients < bytes || m.LaidOut < bytes || m.Statistics <= 0 || m.Batch != 32 || m.Eval {
		t.Errorf("to train: %+v for %d bytes of parameters", m, bytes)
	}
	if sum := m.Arena + m.Weights + m.Momentum + m.Gradients + m.LaidOut + m.Statistics; m.Total != sum {
		t.Errorf("a total of %d, the parts are %d", m.Total, sum)
	}
	if e := eval.Memory; !e.Eval || e.Gradients != 0 || e.Arena >= m.Arena || e.Total >= m.Total {
		t.Errorf("to evaluate: %+v", e)
	}
	p := lockstep(t, 0, "model", "cifar-resnet20", "--batch", "128")
	for _, want := range []string{"for a batch of 128, to train, one replica", "(arena)", "momentum", "laid out", "MiB"} {
		if !strings.Contains(p.stdout.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, p.stdout.String())
		}
	}
	lockstep(t, 1, "model", "resnet152", "--eval").says("--batch 0")
	lockstep(t, 1, "model", "resnet152", "--batch", "-3").says("--batch -3")
}
