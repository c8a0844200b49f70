package enginetest

import (
	"fmt"
	"testing"

	"github.com/lockstep-ml/lockstep/core"
)

// small is a network of awkward shape for comparisons.
type small struct {
	name              string
	batch, resolution int
	classes           int
	unblocked         bool // has channels that are not multiples of 16
	unusual           bool // is put together otherwise than the networks of core/resnet
	build             func(b *builder)
}

func (s small) network(t *testing.T) *core.Network {
	t.Helper()
	b := &builder{nodes: []core.Node{{Op: core.OpInput, Name: "input", Channels: 3}}}
	s.build(b)
	b.node(core.Node{Op: core.OpGlobalAvgPool, Name: "avgpool", Inputs: []int{b.last()}, Channels: b.channels()})
	b.node(core.Node{Op: core.OpLinear, Name: "fc", Inputs: []int{b.last()}, Channels: s.classes})
	net, err := core.NewNetwork(s.name, s.resolution, s.classes, b.nodes)
	must(t, err)
	return net
}

// smallNetworks together hold every operation, kernels 1, 3 and 7, strides 1 and 2 on odd and even images, both
// kinds of shortcut, and one-pixel outputs.
var smallNetworks = []small{
	{name: "identity and option A on 7x7", batch: 3, resolution: 7, classes: 5, build: func(b *builder) {
		b.convNormReLU(16, 3, 1)
		b.block(16, 1, false, 3, 3)
		b.block(32, 2, false, 3, 3)
	}},
	{name: "projections on 19x19 behind a pool", batch: 2, resolution: 19, classes: 11, build: func(b *builder) {
		b.convNormReLU(16, 7, 2)
		b.node(core.Node{Op: core.OpMaxPool, Name: "maxpool", Inputs: []int{b.last()}, Channels: 16, Kernel: 3, Stride: 2, Pad: 1})
		b.block(48, 2, true, 3, 3)
		b.block(48, 1, true, 3, 3)
	}},
	{name: "bottlenecks on 13x13", batch: 5, resolution: 13, classes: 17, build: func(b *builder) {
		b.convNormReLU(16, 3, 1)
		b.block(32, 1, true, 1, 3, 1)
		b.block(32, 1, false, 1, 3, 1)
		b.block(64, 2, false, 1, 3, 1)
	}},
	{name: "plain on one image of 9x9", batch: 1, resolution: 9, classes: 2, build: func(b *builder) {
		b.convNormReLU(16, 3, 1)
		b.convNormReLU(48, 3, 2)
		b.convNormReLU(32, 1, 1)
	}},
	{name: "down to one pixel", batch: 9, resolution: 8, classes: 10, build: func(b *builder) {
		b.convNormReLU(16, 3, 2)
		b.block(32, 2, true, 3, 3)
		b.block(64, 2, false, 3, 3)
	}},
	{name: "channels of 5, 12 and 22", batch: 4, resolution: 11, classes: 3, unblocked: true, build: func(b *builder) {
		b.convNormReLU(5, 3, 1)
		b.convNormReLU(12, 3, 2)
		b.block(22, 2, false, 3, 3) // five zero channels on either side
		b.block(33, 1, true, 1, 3, 1)
	}},
	{name: "nothing like the paper", batch: 3, resolution: 14, classes: 4, unblocked: true, unusual: true, build: func(b *builder) {
		b.conv(b.last(), 6, 5, 1, 0)
		x := b.relu(b.last())
		b.conv(x, 6, 4, 3, 2)
		y := b.last()
		b.conv(x, 6, 1, 3, 0)
		b.node(core.Node{Op: core.OpAdd, Name: "add.same", Inputs: []int{b.last(), b.last()}, Channels: 6})
		b.node(core.Node{Op: core.OpAdd, Name: "add", Inputs: []int{y, b.last()}, Channels: 6})
		b.norm(b.last())
		b.node(core.Node{Op: core.OpMaxPool, Name: "maxpool", Inputs: []int{b.last()}, Channels: 6, Kernel: 2, Stride: 1})
		b.node(core.Node{Op: core.OpPadShortcut, Name: "pad", Inputs: []int{b.last()}, Channels: 10, Stride: 1})
	}},
}

// builder strings nodes together under running numbers.
type builder struct{ nodes []core.Node }

func (b *builder) node(n core.Node) int {
	b.nodes = append(b.nodes, n)
	return b.last()
}

func (b *builder) last() int     { return len(b.nodes) - 1 }
func (b *builder) channels() int { return b.nodes[b.last()].Channels }

func (b *builder) name(kind string) string { return fmt.Sprintf("%s%d", kind, len(b.nodes)) }

func (b *builder) conv(in, channels, kernel, stride, pad int) int {
	return b.node(core.Node{Op: core.OpConv, Name: b.name("conv"), Inputs: []int{in}, Channels: channels, Kernel: kernel, Stride: stride, Pad: pad})
}

func (b *builder) norm(in int) int {
	return b.node(core.Node{Op: core.OpBatchNorm, Name: b.name("bn"), Inputs: []int{in}, Channels: b.nodes[in].Channels})
}

func (b *builder) relu(in int) int {
	return b.node(core.Node{Op: core.OpReLU, Name: b.name("relu"), Inputs: []int{in}, Channels: b.nodes[in].Channels})
}

func (b *builder) convNormReLU(channels, kernel, stride int) int {
	return b.relu(b.norm(b.conv(b.last(), channels, kernel, stride, kernel/2)))
}

// block is a residual block of the given kernels, the stride in the first; its shortcut is a projection, or
// else the identity or option A.
func (b *builder) block(channels, stride int, projection bool, kernels ...int) {
	x := b.last()
	y := x
	for i, k := range kernels {
		s := 1
		if i == 0 {
			s = stride
		}
		y = b.norm(b.conv(y, channels, k, s, k/2))
		if i < len(kernels)-1 {
			y = b.relu(y)
		}
	}
	short := x
	switch {
	case projection:
		short = b.norm(b.conv(x, channels, 1, stride, 0))
	case stride != 1 || b.nodes[x].Channels != channels:
		short = b.node(core.Node{Op: core.OpPadShortcut, Name: b.name("pad"), Inputs: []int{x}, Channels: channels, Stride: stride})
	}
	b.relu(b.node(core.Node{Op: core.OpAdd, Name: b.name("add"), Inputs: []int{y, short}, Channels: channels}))
}
