package core_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/lockstep-ml/lockstep/core"
)

// tiny is a valid network of every operation, for tests to spoil.
func tiny() []core.Node {
	return []core.Node{
		{Op: core.OpInput, Name: "input", Channels: 3},
		{Op: core.OpConv, Name: "conv1", Inputs: []int{0}, Channels: 4, Kernel: 3, Stride: 1, Pad: 1},
		{Op: core.OpBatchNorm, Name: "bn1", Inputs: []int{1}, Channels: 4},
		{Op: core.OpReLU, Name: "relu", Inputs: []int{2}, Channels: 4},
		{Op: core.OpMaxPool, Name: "maxpool", Inputs: []int{3}, Channels: 4, Kernel: 3, Stride: 2, Pad: 1},
		{Op: core.OpPadShortcut, Name: "pad", Inputs: []int{4}, Channels: 6, Stride: 2},
		{Op: core.OpConv, Name: "conv2", Inputs: []int{4}, Channels: 6, Kernel: 1, Stride: 2},
		{Op: core.OpAdd, Name: "add", Inputs: []int{5, 6}, Channels: 6},
		{Op: core.OpGlobalAvgPool, Name: "avgpool", Inputs: []int{7}, Channels: 6},
		{Op: core.OpLinear, Name: "fc", Inputs: []int{8}, Channels: 5},
	}
}

func TestNetworkOfEveryOperation(t *testing.T) {
	n, err := core.NewNetwork("tiny", 9, 5, tiny())
	if err != nil {
		t.Fatal(err)
	}
	shapes, err := n.Shapes(9)
	if err != nil {
		t.Fatal(err)
	}
	want := []core.Shape{{3, 9, 9}, {4, 9, 9}, {4, 9, 9}, {4, 9, 9}, {4, 5, 5}, {6, 3, 3}, {6, 3, 3}, {6, 3, 3}, {6, 1, 1}, {5, 1, 1}}
	if !slices.Equal(shapes, want) {
		t.Errorf("shapes are %v, want %v", shapes, want)
	}
	offset := 0
	var names []string
	for _, p := range n.Params() {
		if p.Offset != offset {
			t.Errorf("%s begins at %d, want %d", p.Name, p.Offset, offset)
		}
		offset += p.Len
		names = append(names, p.Name)
	}
	if got, want := strings.Join(names, " "), "conv1.weight bn1.weight bn1.bias conv2.weight fc.weight fc.bias"; got != want {
		t.Errorf("parameters are %s, want %s", got, want)
	}
	if want := 4*3*9 + 4 + 4 + 6*4 + 5*6 + 5; offset != want || n.ParamLen() != want || n.NormLen() != 4 {
		t.Errorf("%d parameters (%d by their offsets) and %d normalised channels, want %d and 4", n.ParamLen(), offset, n.NormLen(), want)
	}
	for i, name := range map[int]string{0: "conv1.weight", 107: "conv1.weight", 108: "bn1.weight", offset - 1: "fc.bias"} {
		if p, at := n.ParamAt(i); p.Name != name || p.Offset+at != i {
			t.Errorf("element %d is %s[%d], want one of %s", i, p.Name, at, name)
		}
	}
	macs, err := n.MultiplyAdds(9)
	if err != nil {
		t.Fatal(err)
	}
	if want := []int64{0, 4 * 81 * 27, 0, 0, 0, 0, 6 * 9 * 4, 0, 0, 30}; !slices.Equal(macs, want) {
		t.Errorf("multiply-adds are %v, want %v", macs, want)
	}
}

func TestNetworkErrors(t *testing.T) {
	for _, c := range []struct {
		what  string
		spoil func([]core.Node) []core.Node
		parts []string
	}{
		{"nothing", func([]core.Node) []core.Node { return nil }, []string{"first node must be the input"}},
		{"no input", func(n []core.Node) []core.Node { return n[1:] }, []string{"first node must be the input"}},
		{"no linear layer", func(n []core.Node) []core.Node { return n[:9] }, []string{"linear layer with 5 outputs"}},
		{"too few outputs", func(n []core.Node) []core.Node { n[9].Channels = 4; return n }, []string{"linear layer with 5 outputs"}},
		{"two faults at once", func(n []core.Node) []core.Node { n[3].Inputs, n[7].Inputs = []int{5}, []int{6}; return n },
			[]string{"node 3 (relu relu) reads node 5", "node 7 (add add) has 1 inputs, wants 2"}},
		{"itself as input", func(n []core.Node) []core.Node { n[3].Inputs = []int{3}; return n }, []string{"reads node 3"}},
		{"a negative input", func(n []core.Node) []core.Node { n[3].Inputs = []int{-1}; return n }, []string{"reads node -1"}},
		{"no channels", func(n []core.Node) []core.Node { n[1].Channels = 0; return n }, []string{"node 1 (conv conv1) has no channels"}},
		{"no stride", func(n []core.Node) []core.Node { n[1].Stride = 0; return n }, []string{"stride 0"}},
		{"a window larger than the image", func(n []core.Node) []core.Node { n[1].Kernel, n[1].Pad = 13, 1; return n }, []string{"smaller than the 13-wide window"}},
		{"a pool of nothing but padding", func(n []core.Node) []core.Node { n[4].Pad = 2; return n }, []string{"padding 2"}},
		{"channels that change in a ReLU", func(n []core.Node) []core.Node { n[3].Channels = 5; return n }, []string{"4 channels in, 5 out"}},
		{"a shortcut that sheds channels", func(n []core.Node) []core.Node { n[5].Channels = 2; return n }, []string{"cannot pad 4 channels to 2"}},
		{"an odd number of new channels", func(n []core.Node) []core.Node { n[5].Channels = 7; return n }, []string{"cannot pad 4 channels to 7"}},
		{"a sum of two shapes", func(n []core.Node) []core.Node { n[6].Stride = 1; return n }, []string{"node 7 (add)"}},
		{"a linear layer on an image", func(n []core.Node) []core.Node { n[9].Inputs = []int{7}; return n }, []string{"wants [C,1,1]"}},
	} {
		_, err := core.NewNetwork("spoilt", 9, 5, c.spoil(tiny()))
		if err == nil {
			t.Errorf("%s: no error", c.what)
			continue
		}
		for _, part := range append(c.parts, "network spoilt") {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: error %q lacks %q", c.what, err, part)
			}
		}
	}
}

func TestParamAtPanicsBeyondTheEnd(t *testing.T) {
	n, err := core.NewNetwork("tiny", 9, 5, tiny())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	n.ParamAt(n.ParamLen())
}
