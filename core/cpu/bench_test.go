package cpu

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/lockstep-ml/lockstep/core"
	"github.com/lockstep-ml/lockstep/core/reference"
	"github.com/lockstep-ml/lockstep/core/resnet"
)

// testBatch draws a batch of images from a seed.
func testBatch(net *core.Network, batch, resolution int, seed uint64) core.Batch {
	rng := rand.New(rand.NewPCG(seed, 1))
	b := core.Batch{Images: make([]float32, batch*net.Nodes[0].Channels*resolution*resolution), Labels: make([]int32, batch)}
	for i := range b.Images {
		b.Images[i] = float32(rng.NormFloat64())
	}
	for i := range b.Labels {
		b.Labels[i] = int32(rng.IntN(net.Classes))
	}
	return b
}

// BenchmarkTrain times forward, backward and update. GFLOP/s counts three times the forward pass's multiply-adds,
// as two operations each.
func BenchmarkTrain(b *testing.B) {
	for _, c := range []struct {
		name              string
		batch, resolution int
		threads           int
	}{
		{"cifar-resnet20", 32, 32, 1}, {"cifar-resnet20", 32, 32, 2}, {"resnet18", 8, 224, 2}, {"resnet50", 8, 224, 2},
	} {
		b.Run(fmt.Sprintf("%s/batch%d/threads%d", c.name, c.batch, c.threads), func(b *testing.B) {
			benchmarkTrain(b, c.name, core.CompileConfig{Batch: c.batch, Resolution: c.resolution, Threads: c.threads})
		})
	}
}

// verify compares the gradients of a small case with the reference: what is wrong is not worth timing.
func verify(b *testing.B, net *core.Network, name string) {
	b.Helper()
	cfg := core.CompileConfig{Batch: 2, Resolution: max(32, net.Resolution/4)}
	e, err := New(net, cfg)
	if err != nil {
		b.Fatal(err)
	}
	defer e.Close()
	ref, err := reference.New[float64](net, cfg)
	if err != nil {
		b.Fatal(err)
	}
	defer ref.Close()
	s32, s64 := core.NewState[float32](net), core.NewState[float64](net)
	core.InitHe(net, 1, s32)
	for i, v := range s32.Params {
		s64.Params[i] = float64(v)
	}
	if err := errors.Join(e.SetState(s32), ref.SetState(s64)); err != nil {
		b.Fatal(err)
	}
	g32, g64, batch := e.NewGradients(), ref.NewGradients(), testBatch(net, cfg.Batch, cfg.Resolution, 2)
	m32, err32 := e.Train(batch, g32, core.Hooks{})
	m64, err64 := ref.Train(batch, g64, core.Hooks{})
	if err := errors.Join(err32, err64); err != nil {
		b.Fatal(err)
	}
	if off := math.Abs(m32.LossSum/m64.LossSum - 1); !(off < 1e-4) {
		b.Fatalf("%s: loss %v, the reference has %v", name, m32.LossSum, m64.LossSum)
	}
	last := net.Params()[len(net.Params())-2] // the weights of the last layer see all the others
	near(b, last.Name, g32.Values[last.Offset:last.Offset+last.Len], g64.Values[last.Offset:last.Offset+last.Len], 1e-3)
}

func benchmarkTrain(b *testing.B, name string, cfg core.CompileConfig) {
	net, err := resnet.Build(name, 0)
	if err != nil {
		b.Fatal(err)
	}
	e, err := New(net, cfg)
	if err != nil {
		b.Fatal(err)
	}
	defer e.Close()
	s := core.NewState[float32](net)
	core.InitHe(net, 1, s)
	if err := e.SetState(s); err != nil {
		b.Fatal(err)
	}
	verify(b, net, name)
	batch, g := testBatch(net, cfg.Batch, cfg.Resolution, 1), e.NewGradients()
	step := func() {
		if _, err := e.Train(batch, g, core.Hooks{}); err != nil {
			b.Fatal(err)
		}
		if err := e.Update(g, core.SGD{LR: 0.01, Momentum: 0.9, WeightDecay: 1e-4}); err != nil {
			b.Fatal(err)
		}
	}
	step()
	for b.Loop() {
		step()
	}
	macs, err := net.MultiplyAdds(cfg.Resolution)
	if err != nil {
		b.Fatal(err)
	}
	total := int64(0)
	for _, m := range macs {
		total += m
	}
	images := float64(b.N) * float64(cfg.Batch) / b.Elapsed().Seconds()
	b.ReportMetric(images, "img/s")
	b.ReportMetric(images*float64(total)*6/1e9, "GFLOP/s")
}
