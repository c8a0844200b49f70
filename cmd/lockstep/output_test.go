package main

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/lockstep-ml/lockstep/core/resnet"
)

// Without a terminal, progress is plain lines.
func TestProgress(t *testing.T) {
	t.Parallel()
	out := filepath.Join(t.TempDir(), "run")
	p := lockstep(t, 0, append(append([]string{"train"}, small(4)...), "--out", out, "--eval-every", "2")...)
	p.line(`^cifar-resnet8 on .* \(60 training images of 3 classes, 15 test images\)$`)
	p.line(`^epoch \d+\.\d\d  step 1/4  loss \d\.\d{4}  top-1 \d+\.\d %  LR 0\.1  \d+ img/s  tail \d\S* ms  data \d\S* ms  \d+s left$`)
	p.line(`^after step 2: test top-1 \d+\.\d\d %, top-5 100\.00 %, loss \d+\.\d{4} \(15 images\)$`)
	p.line(`^checkpoint of step 4 written: ` + regexp.QuoteMeta(out))
	if n := strings.Count(p.stderr(), "step 4/4"); n != 1 {
		t.Errorf("the last step is shown %d times:\n%s", n, p.stderr())
	}
	if strings.ContainsAny(p.stderr(), "\r\x1b") {
		t.Errorf("control characters without a terminal: %q", p.stderr())
	}
	for _, want := range []string{"cifar-resnet8: step 4 of 4", "hash " + uninterrupted(t, 4), out, "test: top-1"} {
		if !strings.Contains(p.stdout.String(), want) {
			t.Errorf("standard output lacks %q:\n%s", want, p.stdout.String())
		}
	}
}

func TestReport(t *testing.T) {
	t.Parallel()
	out := filepath.Join(t.TempDir(), "run")
	p := lockstep(t, 0, train(4, "--out", out)...)
	r := p.report()
	if r.Step != 4 || len(r.Hash) != 64 || !(r.Loss > 0 && r.Loss < 10) || !(r.ImagesPerSecond > 0) || r.Workers != 2 || r.Out != out {
		t.Errorf("report %+v", r)
	}
	if r.Top1 == nil || *r.Top1 < 0 || *r.Top1 > 1 || r.Top5 == nil || *r.Top5 != 1 || r.TestLoss == nil || !(*r.TestLoss > 0) {
		t.Errorf("the evaluation at the end: %+v", r)
	}
	if files := checkpoints(t, out); r.Checkpoint != files[len(files)-1] {
		t.Errorf("checkpoint %s, the newest of %v", r.Checkpoint, files)
	}
	if n := strings.Count(p.stdout.String(), "\n"); n != 1 {
		t.Errorf("standard output has %d lines, want the report alone:\n%s", n, p.stdout.String())
	}
}

// Settings come from flags, from the environment, and from a file, in this order.
func TestSettingsSources(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "run.yaml")
	write(t, file, []byte("arch: cifar-resnet8\nbatch: 32\nreplica-batch: 8\neval-every: \"0\"\nseed: 3\nlr: 0.05\nworkers: 3\nmean: [0.5, 0.4, 0.3]\nsteps: 9\n"))
	flags := []string{"--mean", "0.5,0.4,0.3", "--seed", "2", "--lr", "0.05"}
	want := uninterrupted(t, 2, flags...)

	p := begin(t, []string{"LOCKSTEP_SEED=2", "LOCKSTEP_STEPS=7"}, "train", "--config", file, "--steps", "2", "--data", shared.images(), "--json")
	if r := p.wait(0).report(); r.Hash != want || r.Workers != 3 {
		t.Errorf("with file, environment and flags: %+v, want hash %s", r, want)
	}
	p = begin(t, []string{"LOCKSTEP_CONFIG=" + file, "LOCKSTEP_DATA=" + shared.images()}, "train", "--seed", "2", "--steps", "2", "--json")
	if r := p.wait(0).report(); r.Hash != want {
		t.Errorf("with the file named by the environment: %+v, want hash %s", r, want)
	}

	bad := filepath.Join(dir, "bad.yaml")
	write(t, bad, []byte("learning-rate: 0.1\n"))
	lockstep(t, 1, train(2, "--config", bad)...).says(bad, "learning-rate")
	write(t, bad, []byte("lr: [\n"))
	lockstep(t, 1, train(2, "--config", bad)...).says(bad)
	write(t, bad, []byte("lr: fast\n"))
	lockstep(t, 1, train(2, "--config", bad)...).says("lr", "fast")
	lockstep(t, 1, train(2, "--config", filepath.Join(dir, "none.yaml"))...).says("none.yaml")
	begin(t, []string{"LOCKSTEP_LR=fast"}, train(2)...).wait(1).says("environment", "lr", "fast")
}

// A machine that is all defaults learns the built-in sample; here its first steps.
func TestBuiltin(t *testing.T) {
	t.Parallel()
	r := lockstep(t, 0, "train", "--arch", "cifar-resnet8", "--batch", "32", "--steps", "2", "--eval-every", "0", "--json").report()
	if !strings.HasPrefix(r.Out, filepath.Join("runs", "cifar-resnet8-")) || r.Step != 2 {
		t.Errorf("report %+v", r)
	}
	var ls struct {
		Train, Test int
		Classes     []string
		Fingerprint string
	}
	lockstep(t, 0, "data", "ls", "builtin", "--json").lastLine(&ls)
	if ls.Train != 5000 || ls.Test != 1000 || len(ls.Classes) != 10 || ls.Fingerprint == "" {
		t.Errorf("data ls builtin: %+v", ls)
	}
	p := lockstep(t, 0, "data", "ls", shared.images())
	if !strings.Contains(p.stdout.String(), "60 training images of 3 classes, 15 test images") || !strings.Contains(p.stdout.String(), "stripes") {
		t.Errorf("data ls:\n%s", p.stdout.String())
	}
}

// Totals as in the paper: Table 1 has ResNet-18, -34, -50, -101 and -152 at 1.8, 3.6, 3.8, 7.6 and 11.3 billion multiply-adds; Table 6
// the CIFAR networks at 0.27 to 1.7 million parameters.
func TestModel(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		params float64 // millions
		adds   float64 // billions, 0: not in the paper
		digits float64 // half of the last printed one, of adds
	}{
		{"resnet18", 11.69, 1.8, .05}, {"resnet34", 21.80, 3.6, .1}, {"resnet50", 25.56, 3.8, .1}, {"resnet101", 44.55, 7.6, .1}, {"resnet152", 60.19, 11.3, .1},
		{"cifar-resnet20", 0.27, 0, 0}, {"cifar-resnet56", 0.85, 0, 0}, {"cifar-resnet110", 1.73, 0, 0},
	} {
		var m modelTable
		lockstep(t, 0, "model", c.name, "--json").lastLine(&m)
		params, adds := 0, int64(0)
		for _, l := range m.Layers {
			params += l.Parameters
			adds += l.MultiplyAdds
		}
		if params != m.Parameters || adds != m.MultiplyAdds || m.Network != c.name {
			t.Errorf("%s: layers add up to %d and %d, totals are %d and %d", c.name, params, adds, m.Parameters, m.MultiplyAdds)
		}
		if got := float64(params) / 1e6; got < c.params-.006 || got > c.params+.006 {
			t.Errorf("%s has %.3f million parameters, want %.2f", c.name, got, c.params)
		}
		if got := float64(adds) / 1e9; c.adds > 0 && (got < c.adds-c.digits || got > c.adds+c.digits) {
			t.Errorf("%s has %.3f billion multiply-adds, the paper %.1f", c.name, got, c.adds)
		}
	}
	net, err := resnet.Build("cifar-resnet20", 0)
	if err != nil {
		t.Fatal(err)
	}
	p := lockstep(t, 0, "model", "cifar-resnet20")
	for _, want := range []string{"layer2.0.conv1", "conv 3x3/2", "32x16x16", "fc", count(int64(net.ParamLen())) + " parameters"} {
		if !strings.Contains(p.stdout.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, p.stdout.String())
		}
	}
	var small modelTable
	lockstep(t, 0, "model", "cifar-resnet20", "--json", "--classes", "100", "--resolution", "64").lastLine(&small)
	if small.Classes != 100 || small.Resolution != 64 || small.Layers[len(small.Layers)-1].Shape != [3]int{100, 1, 1} {
		t.Errorf("with 100 classes at 64x64: %+v", small)
	}
}

func TestHelpAndVersion(t *testing.T) {
	t.Parallel()
	if p := lockstep(t, 0, "--version"); !strings.Contains(p.stdout.String(), "dev") {
		t.Errorf("--version: %s", p.stdout.String())
	}
	for _, name := range []string{"train", "coordinator", "worker", "eval", "model", "checkpoint", "data", "bench", "certs"} {
		if p := lockstep(t, 0, name, "--help"); !strings.Contains(p.stdout.String(), "Usage:") || strings.Contains(p.stdout.String(), "of-train") {
			t.Errorf("%s --help:\n%s", name, p.stdout.String())
		}
	}
	if p := lockstep(t, 0); !strings.Contains(p.stdout.String(), fmt.Sprintf("  %-12s", "train")) {
		t.Errorf("without arguments:\n%s", p.stdout.String())
	}
}
