package resnet

import (
	"fmt"
	"regexp"
	"strconv"

	"github.com/lockstep-ml/lockstep/core"
)

// Grammar is the form of a network's name, for help and errors.
const Grammar = "resnet{18,34,50,101,152}[-A|-B|-C][-v1.5], plain{18,34}, cifar-resnet{6n+2}[-A|-B|-C], cifar-plain{6n+2}"

// Shortcut is how a block's input reaches its sum (section 3.3 and Table 3).
type Shortcut byte

// The paper's options. None makes a plain network.
const (
	None Shortcut = 0
	A    Shortcut = 'A' // identity, zero-padded channels where the shape changes
	B    Shortcut = 'B' // projection where the shape changes, else identity
	C    Shortcut = 'C' // projection everywhere
)

// Spec is a row of the table: all that tells one of the paper's networks from another.
type Spec struct {
	Name          string
	CIFAR         bool  // 3x3 stem, 32x32 images; else 7x7/2 stem and max-pool, 224x224
	Blocks        []int // blocks a stage
	Bottleneck    bool
	Shortcut      Shortcut
	StrideIn3x3   bool // bottlenecks only: v1.5 places the stride in the 3x3, the paper in the first 1x1
	Classes       int
	widths        []int
	stemWidth     int
	imageChannels int
}

var imagenetBlocks = map[int]struct {
	blocks     []int
	bottleneck bool
}{
	18:  {[]int{2, 2, 2, 2}, false},
	34:  {[]int{3, 4, 6, 3}, false},
	50:  {[]int{3, 4, 6, 3}, true},
	101: {[]int{3, 4, 23, 3}, true},
	152: {[]int{3, 8, 36, 3}, true},
}

// maxDepth bounds what a name may ask for; the paper's deepest is 1202, and memory ends long before this.
const maxDepth = 20000

var name = regexp.MustCompile(`^(cifar-)?(resnet|plain)([0-9]{1,5})(?:-([ABC]))?(-v1\.5)?$`)

// Parse reads a network's name. An error says what names there are.
func Parse(s string) (Spec, error) {
	m := name.FindStringSubmatch(s)
	if m == nil {
		return Spec{}, fmt.Errorf("unknown network %q; the names are %s", s, Grammar)
	}
	depth, err := strconv.Atoi(m[3])
	if err != nil {
		return Spec{}, fmt.Errorf("network %q: %w", s, err)
	}
	sp := Spec{Name: s, CIFAR: m[1] != "", StrideIn3x3: m[5] != "", imageChannels: 3}
	plain := m[2] == "plain"
	switch {
	case plain && m[4] != "":
		return Spec{}, fmt.Errorf("network %q: a plain network has no shortcuts; leave out -%s", s, m[4])
	case sp.StrideIn3x3 && (plain || sp.CIFAR):
		return Spec{}, fmt.Errorf("network %q: -v1.5 is for resnet{18,34,50,101,152}", s)
	case sp.CIFAR:
		err = sp.cifar(depth)
	default:
		err = sp.imagenet(depth, plain)
	}
	if err != nil {
		return Spec{}, fmt.Errorf("unknown network %q: %w", s, err)
	}
	if m[4] != "" {
		sp.Shortcut = Shortcut(m[4][0])
	}
	if plain {
		sp.Shortcut = None
	}
	return sp, nil
}

func (sp *Spec) cifar(depth int) error {
	if depth < 8 || (depth-2)%6 != 0 || depth > maxDepth {
		return fmt.Errorf("a CIFAR network has 6n+2 layers, from 8 to %d (20, 32, 44, 56, 110, 1202 in the paper)", maxDepth)
	}
	n := (depth - 2) / 6
	sp.Blocks, sp.widths, sp.stemWidth = []int{n, n, n}, []int{16, 32, 64}, 16
	sp.Shortcut, sp.Classes = A, 10
	return nil
}

func (sp *Spec) imagenet(depth int, plain bool) error {
	row, ok := imagenetBlocks[depth]
	if !ok || (plain && row.bottleneck) {
		return fmt.Errorf("the names are %s", Grammar)
	}
	sp.Blocks, sp.Bottleneck = row.blocks, row.bottleneck
	sp.widths, sp.stemWidth = []int{64, 128, 256, 512}, 64
	sp.Shortcut, sp.Classes = B, 1000
	return nil
}

// Build makes the network of that name. classes replaces the number the name implies (1000, or 10 for CIFAR) unless it is 0.
func Build(name string, classes int) (*core.Network, error) {
	sp, err := Parse(name)
	if err != nil {
		return nil, err
	}
	if classes < 0 {
		return nil, fmt.Errorf("network %s with %d classes", name, classes)
	}
	if classes > 0 {
		sp.Classes = classes
	}
	return sp.Network()
}

// Network lays the specification out as nodes.
func (sp Spec) Network() (*core.Network, error) {
	b := &builder{}
	x := b.add(core.Node{Op: core.OpInput, Name: "input", Channels: sp.imageChannels})
	resolution := 224
	if sp.CIFAR {
		resolution = 32
		x = b.convNormReLU(x, "conv1", "bn1", sp.stemWidth, 3, 1)
	} else {
		x = b.convNormReLU(x, "conv1", "bn1", sp.stemWidth, 7, 2)
		x = b.add(core.Node{Op: core.OpMaxPool, Name: "maxpool", Inputs: []int{x}, Channels: sp.stemWidth, Kernel: 3, Stride: 2, Pad: 1})
	}
	for stage, blocks := range sp.Blocks {
		for k := range blocks {
			stride := 1
			if k == 0 && stage > 0 {
				stride = 2
			}
			x = b.block(x, fmt.Sprintf("layer%d.%d.", stage+1, k), sp, sp.widths[stage], stride)
		}
	}
	x = b.add(core.Node{Op: core.OpGlobalAvgPool, Name: "avgpool", Inputs: []int{x}, Channels: b.nodes[x].Channels})
	b.add(core.Node{Op: core.OpLinear, Name: "fc", Inputs: []int{x}, Channels: sp.Classes})
	return core.NewNetwork(sp.Name, resolution, sp.Classes, b.nodes)
}

type builder struct{ nodes []core.Node }

func (b *builder) add(n core.Node) int {
	b.nodes = append(b.nodes, n)
	return len(b.nodes) - 1
}

func (b *builder) convNorm(x int, conv, norm string, width, kernel, stride int) int {
	x = b.add(core.Node{Op: core.OpConv, Name: conv, Inputs: []int{x}, Channels: width, Kernel: kernel, Stride: stride, Pad: kernel / 2})
	return b.add(core.Node{Op: core.OpBatchNorm, Name: norm, Inputs: []int{x}, Channels: width})
}

func (b *builder) relu(x int, name string) int {
	return b.add(core.Node{Op: core.OpReLU, Name: name, Inputs: []int{x}, Channels: b.nodes[x].Channels})
}

func (b *builder) convNormReLU(x int, conv, norm string, width, kernel, stride int) int {
	return b.relu(b.convNorm(x, conv, norm, width, kernel, stride), norm+".relu")
}

// layer is one convolution of a block.
type layer struct{ width, kernel, stride int }

// block adds one building block (Figure 5): convolutions with batch normalisation after each and ReLU between,
// the shortcut, the sum, and the last ReLU.
func (b *builder) block(x int, prefix string, sp Spec, width, stride int) int {
	layers := []layer{{width, 3, stride}, {width, 3, 1}}
	if sp.Bottleneck {
		layers = []layer{{width, 1, stride}, {width, 3, 1}, {4 * width, 1, 1}}
		if sp.StrideIn3x3 {
			layers[0].stride, layers[1].stride = 1, stride
		}
	}
	y := x
	for i, l := range layers {
		y = b.convNorm(y, fmt.Sprintf("%sconv%d", prefix, i+1), fmt.Sprintf("%sbn%d", prefix, i+1), l.width, l.kernel, l.stride)
		if i < len(layers)-1 {
			y = b.relu(y, fmt.Sprintf("%srelu%d", prefix, i+1))
		}
	}
	if sp.Shortcut != None {
		short := b.shortcut(x, prefix, sp.Shortcut, b.nodes[y].Channels, stride)
		y = b.add(core.Node{Op: core.OpAdd, Name: prefix + "add", Inputs: []int{y, short}, Channels: b.nodes[y].Channels})
	}
	return b.relu(y, prefix+"relu")
}

func (b *builder) shortcut(x int, prefix string, kind Shortcut, width, stride int) int {
	changes := stride != 1 || b.nodes[x].Channels != width
	switch {
	case kind == C || (kind == B && changes):
		return b.convNorm(x, prefix+"downsample.0", prefix+"downsample.1", width, 1, stride)
	case changes:
		return b.add(core.Node{Op: core.OpPadShortcut, Name: prefix + "downsample", Inputs: []int{x}, Channels: width, Stride: stride})
	}
	return x
}
