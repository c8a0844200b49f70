package main

import (
	"context"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-ml/lockstep/core"
	"github.com/lockstep-ml/lockstep/core/resnet"
	"github.com/lockstep-ml/lockstep/internal/snapshot"
)

// otherSide runs testdata/peer.py with the Python that LOCKSTEP_PYTHON names, and skips the test where none is named.
type otherSide struct {
	t      *testing.T
	python string
	dir    string
	images []float32
}

const peerImages, peerSide, peerClasses = 16, 224, 10

func newOtherSide(t *testing.T) *otherSide {
	t.Helper()
	p := &otherSide{t: t, python: os.Getenv("LOCKSTEP_PYTHON"), dir: t.TempDir()}
	if p.python == "" {
		t.Skip("LOCKSTEP_PYTHON names no Python with torch, torchvision, safetensors, onnx and onnxruntime")
	}
	rng := rand.New(rand.NewPCG(5, 6))
	p.images = make([]float32, peerImages*3*peerSide*peerSide)
	for i := range p.images {
		p.images[i] = float32(rng.NormFloat64())
	}
	write(t, filepath.Join(p.dir, "images.bin"), snapshot.LittleEndian(p.images))
	return p
}

func (p *otherSide) run(args ...string) {
	p.t.Helper()
	script, err := filepath.Abs("testdata/peer.py")
	if err != nil {
		p.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(p.t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, p.python, append([]string{script}, args...)...)
	cmd.WaitDelay = 10 * time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		p.t.Fatalf("peer.py %s: %v\n%s", strings.Join(args, " "), err, out[max(0, len(out)-4000):])
	}
}

// logits reads what the script wrote.
func (p *otherSide) logits(name string) []float32 {
	p.t.Helper()
	b := read(p.t, filepath.Join(p.dir, name))
	if len(b) != 4*peerImages*peerClasses {
		p.t.Fatalf("%s has %d bytes", name, len(b))
	}
	out := make([]float32, len(b)/4)
	snapshot.FromLittleEndian(out, b)
	return out
}

// ours is what the fast engine makes of the images with a file's weights.
func (p *otherSide) ours(arch, path string) []float32 {
	p.t.Helper()
	net, err := resnet.Build(arch, peerClasses)
	if err != nil {
		p.t.Fatal(err)
	}
	w, err := openWeights(p.t.Context(), path)
	if err != nil {
		p.t.Fatal(err)
	}
	s, err := w.state(net)
	if err != nil {
		p.t.Fatal(err)
	}
	e, err := evaluator(net, s, core.CompileConfig{Batch: peerImages, Resolution: peerSide})
	if err != nil {
		p.t.Fatal(err)
	}
	defer e.Close()
	logits := make([]float32, peerImages*peerClasses)
	if err := e.Eval(core.Batch{Images: p.images, Labels: make([]int32, peerImages)}, logits); err != nil {
		p.t.Fatal(err)
	}
	return logits
}

// agree compares logits, relative to the largest where that is over 1.
func (p *otherSide) agree(what string, got, want []float32) {
	p.t.Helper()
	var worst, scale float64
	for i := range want {
		worst, scale = max(worst, math.Abs(float64(got[i])-float64(want[i]))), max(scale, math.Abs(float64(want[i])))
	}
	p.t.Logf("%s: largest difference %.2g on logits up to %.3g", what, worst, scale)
	if !(worst < 1e-3*max(1, scale)) {
		p.t.Errorf("%s: logits differ by up to %g, their largest is %g", what, worst, scale)
	}
}

// PyTorch's files give PyTorch's logits here, and what is exported gives ours in PyTorch and in onnxruntime.
func TestPeersAgree(t *testing.T) {
	p := newOtherSide(t)
	for arch, torchvision := range map[string]string{"resnet18": "resnet18", "resnet50-v1.5": "resnet50"} {
		t.Run(arch, func(t *testing.T) {
			p := *p
			p.t = t
			p.run("make", torchvision, p.dir)
			made := p.logits("made.bin")
			for _, name := range []string{"zip.pth", "legacy.pth", "st.safetensors"} {
				p.agree("their "+name+" here", p.ours(arch, filepath.Join(p.dir, name)), made)
			}
			m := untrained(t, arch, peerClasses, 0)
			w, err := openWeights(t.Context(), filepath.Join(p.dir, "zip.pth"))
			if err != nil {
				t.Fatal(err)
			}
			if m.state, err = w.state(m.net); err != nil { // statistics that belong to the weights keep logits near 1
				t.Fatal(err)
			}
			p.export(m, torchvision)
		})
	}
}

// export takes a network of ours to all peers.
func (p *otherSide) export(m *trained, torchvision string) {
	p.t.Helper()
	file := filepath.Join(p.dir, "ours.safetensors")
	if err := m.writeSafetensors(file); err != nil {
		p.t.Fatal(err)
	}
	want := p.ours(m.settings.arch, file)
	if torchvision != "" {
		p.run("torch", torchvision, file, p.dir)
		p.agree("our weights in torchvision", p.logits("torch.bin"), want)
	}
	for name, fold := range map[string]bool{"ours.onnx": false, "folded.onnx": true} {
		model := filepath.Join(p.dir, name)
		if err := m.writeONNX(model, fold); err != nil {
			p.t.Fatal(err)
		}
		p.run("check", model)
		p.run("run", model, p.dir)
		p.agree(name+" in onnxruntime", p.logits("onnx.bin"), want)
	}
}

// Networks that torchvision does not have run in onnxruntime.
func TestPeersRunEveryShortcut(t *testing.T) {
	p := newOtherSide(t)
	for _, arch := range []string{"resnet50", "resnet18-A", "resnet18-C", "plain18", "cifar-resnet20", "cifar-resnet20-C", "cifar-plain20"} {
		t.Run(arch, func(t *testing.T) {
			q := *p
			q.t = t
			m := untrained(t, arch, peerClasses, peerSide)
			q.export(m, "")
		})
	}
}
