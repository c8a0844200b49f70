package cpu

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/lockstep-ml/lockstep/core"
)

// convShape is a convolution with the size of what it reads.
type convShape struct{ in, out, kernel, stride, pad, size int }

func (s convShape) String() string {
	return fmt.Sprintf("%dx%d/%d+%d from %d to %d channels at %dx%d", s.kernel, s.kernel, s.stride, s.pad, s.in, s.out, s.size, s.size)
}

// multiplyAdds of one image's forward pass.
func (s convShape) multiplyAdds() int {
	side := (s.size+2*s.pad-s.kernel)/s.stride + 1
	return side * side * s.in * s.out * s.kernel * s.kernel
}

// network wraps a convolution so that all its passes run: something before it wants a gradient, unless it reads the images.
func (s convShape) network(t *testing.T) *core.Network {
	t.Helper()
	nodes := []core.Node{{Op: core.OpInput, Name: "input", Channels: 3}}
	add := func(op core.Op, name string, channels int) *core.Node {
		nodes = append(nodes, core.Node{Op: op, Name: name, Inputs: []int{len(nodes) - 1}, Channels: channels})
		return &nodes[len(nodes)-1]
	}
	if s.in != 3 {
		first := add(core.OpConv, "first", s.in)
		first.Kernel, first.Stride = 1, 1
		add(core.OpBatchNorm, "firstnorm", s.in)
		add(core.OpReLU, "firstrelu", s.in)
	}
	conv := add(core.OpConv, "conv", s.out)
	conv.Kernel, conv.Stride, conv.Pad = s.kernel, s.stride, s.pad
	add(core.OpBatchNorm, "norm", s.out)
	add(core.OpReLU, "relu", s.out)
	add(core.OpGlobalAvgPool, "avgpool", s.out)
	add(core.OpLinear, "fc", 5)
	net, err := core.NewNetwork(s.String(), s.size, 5, nodes)
	if err != nil {
		t.Fatal(err)
	}
	return net
}

// paperShapes lists every convolution of every network of the paper, each once.
func paperShapes(t *testing.T) (out []convShape) {
	t.Helper()
	names := []string{"plain18", "plain34"}
	for _, depth := range []string{"18", "34", "50", "101", "152"} {
		for _, variant := range []string{"", "-A", "-C", "-v1.5"} {
			names = append(names, "resnet"+depth+variant)
		}
	}
	for _, kind := range []string{"plain20", "resnet20", "resnet20-B", "resnet20-C", "resnet110"} {
		names = append(names, "cifar-"+kind)
	}
	seen := map[convShape]bool{}
	for _, name := range names {
		net := build(t, name, 0)
		shapes, err := net.Shapes(net.Resolution)
		if err != nil {
			t.Fatal(err)
		}
		for i, nd := range net.Nodes {
			if nd.Op != core.OpConv {
				continue
			}
			from := shapes[nd.Inputs[0]]
			s := convShape{from.C, shapes[i].C, nd.Kernel, nd.Stride, nd.Pad, from.H}
			if !seen[s] {
				seen[s] = true
				out = append(out, s)
			}
		}
	}
	return out
}

// TestPaperShapes: AVX2 on one thread and AVX-512 on three give the same bits for every convolution there is.
func TestPaperShapes(t *testing.T) {
	fs := vectorFamilies(t)
	shapes := paperShapes(t)
	t.Logf("%d shapes", len(shapes))
	for i, s := range shapes {
		if testing.Short() && i%8 != 0 {
			continue
		}
		net := s.network(t)
		want := train(t, net, core.CompileConfig{Batch: 2, Resolution: s.size, Threads: 1}, fs[0], 1)
		for _, k := range fs {
			equal(t, fmt.Sprintf("%s, %s, three threads", s, k.name), train(t, net, core.CompileConfig{Batch: 2, Resolution: s.size, Threads: 3}, k, 1), want)
		}
	}
}

// TestRandomShapes: so do the generic kernels, for shapes that the paper does not have too.
func TestRandomShapes(t *testing.T) {
	fs := vectorFamilies(t)
	rng := rand.New(rand.NewPCG(8, 8))
	for n := 0; n < 60; {
		kernel := 1 + rng.IntN(7)
		s := convShape{1 + rng.IntN(70), 1 + rng.IntN(70), kernel, 1 + rng.IntN(3), rng.IntN(kernel), kernel + rng.IntN(24)}
		if n%4 == 0 { // what rows of the window are for
			s.kernel, s.stride, s.pad = 3, 1, 1
		}
		if n%5 == 0 {
			s.in = 3
		}
		if s.multiplyAdds() > 1<<20 {
			continue
		}
		n++
		net, batch := s.network(t), 2+rng.IntN(6)
		want := train(t, net, core.CompileConfig{Batch: batch, Resolution: s.size, Threads: 1}, genericKernels, 1)
		for _, k := range fs {
			equal(t, fmt.Sprintf("%s, %s", s, k.name), train(t, net, core.CompileConfig{Batch: batch, Resolution: s.size, Threads: 1 + rng.IntN(2)}, k, 1), want)
		}
	}
}
