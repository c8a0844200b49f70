package core

import (
	"errors"
	"fmt"
)

// Op is what a node computes.
type Op uint8

// The operations that the paper's networks need. Every node has one output.
const (
	OpInput         Op = iota // the batch of images, [N, 3, H, W]
	OpConv                    // convolution without bias, weight [out, in, k, k]
	OpBatchNorm               // batch normalisation over N, H, W, with weight and bias
	OpReLU                    // max(x, 0)
	OpMaxPool                 // maximum over a k x k window; padding never wins
	OpAdd                     // sum of two inputs of one shape
	OpPadShortcut             // option A: every Stride-th pixel, zero channels half before and half after
	OpGlobalAvgPool           // mean over H and W: [N, C, H, W] to [N, C, 1, 1]
	OpLinear                  // fully connected with bias, weight [out, in]
)

var opNames = [...]string{"input", "conv", "batchnorm", "relu", "maxpool", "add", "pad-shortcut", "avgpool", "linear"}

// String returns the operation's name as tables print it.
func (o Op) String() string {
	if int(o) < len(opNames) {
		return opNames[o]
	}
	return fmt.Sprintf("Op(%d)", uint8(o))
}

// Node is one operation of a network.
type Node struct {
	Op       Op
	Name     string // module path as torchvision writes it ("layer1.0.conv1"); parameters are Name+".weight" and so on
	Inputs   []int  // indices of earlier nodes; two for OpAdd, none for OpInput
	Channels int    // output channels
	Kernel   int    // side of the window (OpConv, OpMaxPool)
	Stride   int    // OpConv, OpMaxPool, OpPadShortcut
	Pad      int    // rows and columns added on each side (OpConv, OpMaxPool)
}

// ParamKind tells what role a parameter has: initialisation depends on it.
type ParamKind uint8

// The kinds of parameter.
const (
	ConvWeight ParamKind = iota
	BNWeight
	BNBias
	LinearWeight
	LinearBias
)

// Param is one named parameter and its place in the canonical flat vector.
type Param struct {
	Name   string
	Kind   ParamKind
	Shape  []int
	Node   int // index of the node that uses it
	Offset int // first element in the flat vector
	Len    int // product of Shape
}

// FanIn is the number of inputs that feed one output of a weight: Shape[1:]'s product; 0 for vectors.
func (p Param) FanIn() int {
	if len(p.Shape) < 2 {
		return 0
	}
	return p.Len / p.Shape[0]
}

// Norm is one batch normalisation and the place of its statistics in the flat vectors of running means and variances.
type Norm struct {
	Name     string // module path; buffers are Name+".running_mean" and Name+".running_var"
	Node     int
	Channels int
	Offset   int
}

// Network is a residual or plain network as data. It is immutable once built and may be shared.
// Nodes[0] is the input and the last node gives the logits; a node's inputs come before it.
// Node order is the order in which the forward pass runs and in which parameters are numbered,
// so a backward pass over the nodes in reverse finishes gradients from the end of the flat vector to its start.
type Network struct {
	Name       string
	Resolution int // side of the training images in the paper: 224 or 32
	Classes    int
	Nodes      []Node

	params   []Param
	norms    []Norm
	paramLen int
	normLen  int
}

// NewNetwork checks nodes and numbers their parameters. It reports every fault at once.
func NewNetwork(name string, resolution, classes int, nodes []Node) (*Network, error) {
	n := &Network{Name: name, Resolution: resolution, Classes: classes, Nodes: nodes}
	if err := n.validate(); err != nil {
		return nil, fmt.Errorf("network %s: %w", name, err)
	}
	for i, nd := range nodes {
		n.number(i, nd)
	}
	return n, nil
}

func (n *Network) validate() error {
	var errs []error
	if len(n.Nodes) < 2 || n.Nodes[0].Op != OpInput {
		return errors.New("the first node must be the input, and something must follow it")
	}
	if last := n.Nodes[len(n.Nodes)-1]; last.Op != OpLinear || last.Channels != n.Classes {
		errs = append(errs, fmt.Errorf("the last node must be a linear layer with %d outputs", n.Classes))
	}
	for i, nd := range n.Nodes {
		want := 1
		switch nd.Op {
		case OpInput:
			want = 0
		case OpAdd:
			want = 2
		}
		if len(nd.Inputs) != want {
			errs = append(errs, fmt.Errorf("node %d (%s %s) has %d inputs, wants %d", i, nd.Op, nd.Name, len(nd.Inputs), want))
		}
		for _, in := range nd.Inputs {
			if in < 0 || in >= i {
				errs = append(errs, fmt.Errorf("node %d (%s %s) reads node %d, which is not before it", i, nd.Op, nd.Name, in))
			}
		}
		if nd.Channels <= 0 {
			errs = append(errs, fmt.Errorf("node %d (%s %s) has no channels", i, nd.Op, nd.Name))
		}
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	_, err := n.Shapes(n.Resolution)
	return err
}

func (n *Network) number(i int, nd Node) {
	add := func(suffix string, kind ParamKind, shape ...int) {
		l := 1
		for _, d := range shape {
			l *= d
		}
		n.params = append(n.params, Param{Name: nd.Name + suffix, Kind: kind, Shape: shape, Node: i, Offset: n.paramLen, Len: l})
		n.paramLen += l
	}
	switch nd.Op {
	case OpConv:
		add(".weight", ConvWeight, nd.Channels, n.Nodes[nd.Inputs[0]].Channels, nd.Kernel, nd.Kernel)
	case OpBatchNorm:
		add(".weight", BNWeight, nd.Channels)
		add(".bias", BNBias, nd.Channels)
		n.norms = append(n.norms, Norm{Name: nd.Name, Node: i, Channels: nd.Channels, Offset: n.normLen})
		n.normLen += nd.Channels
	case OpLinear:
		add(".weight", LinearWeight, nd.Channels, n.Nodes[nd.Inputs[0]].Channels)
		add(".bias", LinearBias, nd.Channels)
	}
}

// Params lists the parameters in torchvision's order; the slice must not be changed.
func (n *Network) Params() []Param { return n.params }

// ParamLen is the length of the flat parameter vector: the number of parameters.
func (n *Network) ParamLen() int { return n.paramLen }

// Norms lists the batch normalisations in forward order; the slice must not be changed.
func (n *Network) Norms() []Norm { return n.norms }

// NormLen is the length of the flat vectors of running means and of running variances.
func (n *Network) NormLen() int { return n.normLen }

// ParamAt names the parameter that holds element i of the flat vector, and the element's index inside it.
func (n *Network) ParamAt(i int) (Param, int) {
	for _, p := range n.params {
		if i < p.Offset+p.Len {
			return p, i - p.Offset
		}
	}
	panic(fmt.Sprintf("core: element %d of a vector of %d parameters", i, n.paramLen))
}

// Shape is one image's shape at a node's output.
type Shape struct{ C, H, W int }

// Len is the number of values.
func (s Shape) Len() int { return s.C * s.H * s.W }

// Shapes gives every node's output shape for square images of the given side.
func (n *Network) Shapes(resolution int) ([]Shape, error) {
	out := make([]Shape, len(n.Nodes))
	for i, nd := range n.Nodes {
		if nd.Op == OpInput {
			out[i] = Shape{nd.Channels, resolution, resolution}
			continue
		}
		s, err := outShape(nd, n.Nodes[nd.Inputs[0]].Channels, out[nd.Inputs[0]])
		if err != nil {
			return nil, fmt.Errorf("node %d (%s %s) at resolution %d: %w", i, nd.Op, nd.Name, resolution, err)
		}
		if nd.Op == OpAdd && out[nd.Inputs[1]] != s {
			return nil, fmt.Errorf("node %d (add) of shapes %v and %v", i, s, out[nd.Inputs[1]])
		}
		out[i] = s
	}
	return out, nil
}

func outShape(nd Node, inChannels int, in Shape) (Shape, error) {
	s := Shape{nd.Channels, in.H, in.W}
	switch nd.Op {
	case OpConv, OpMaxPool:
		if nd.Kernel < 1 || nd.Stride < 1 || nd.Pad < 0 {
			return s, fmt.Errorf("kernel %d, stride %d, padding %d", nd.Kernel, nd.Stride, nd.Pad)
		}
		if nd.Op == OpMaxPool && 2*nd.Pad > nd.Kernel {
			return s, fmt.Errorf("padding %d is more than half of the %d-wide window: a window could see nothing but padding", nd.Pad, nd.Kernel)
		}
		s.H = (in.H+2*nd.Pad-nd.Kernel)/nd.Stride + 1
		s.W = (in.W+2*nd.Pad-nd.Kernel)/nd.Stride + 1
		if in.H+2*nd.Pad < nd.Kernel || s.H < 1 || s.W < 1 {
			return s, fmt.Errorf("an image of %dx%d is smaller than the %d-wide window", in.H, in.W, nd.Kernel)
		}
	case OpPadShortcut:
		if nd.Stride < 1 || nd.Channels < inChannels || (nd.Channels-inChannels)%2 != 0 {
			return s, fmt.Errorf("cannot pad %d channels to %d with stride %d", inChannels, nd.Channels, nd.Stride)
		}
		s.H, s.W = (in.H+nd.Stride-1)/nd.Stride, (in.W+nd.Stride-1)/nd.Stride
	case OpGlobalAvgPool:
		s.H, s.W = 1, 1
	case OpLinear:
		if in.H != 1 || in.W != 1 {
			return s, fmt.Errorf("a linear layer wants [C,1,1], got %v", in)
		}
		return s, nil
	}
	if nd.Op != OpConv && nd.Op != OpPadShortcut && nd.Channels != inChannels {
		return s, fmt.Errorf("%d channels in, %d out", inChannels, nd.Channels)
	}
	return s, nil
}

// MultiplyAdds gives every node's multiply-adds for one image of the given side, counted as the paper's Table 1
// does: convolutions and the fully connected layer, a multiply-add as one operation.
func (n *Network) MultiplyAdds(resolution int) ([]int64, error) {
	shapes, err := n.Shapes(resolution)
	if err != nil {
		return nil, err
	}
	out := make([]int64, len(n.Nodes))
	for i, nd := range n.Nodes {
		switch nd.Op {
		case OpConv:
			out[i] = int64(shapes[i].Len()) * int64(shapes[nd.Inputs[0]].C*nd.Kernel*nd.Kernel)
		case OpLinear:
			out[i] = int64(shapes[i].C) * int64(shapes[nd.Inputs[0]].C)
		}
	}
	return out, nil
}
