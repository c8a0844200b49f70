package resnet_test

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lockstep-ml/lockstep/core"
	"github.com/lockstep-ml/lockstep/core/resnet"
)

// TestTable1 holds the networks to the multiply-adds of the paper's Table 1 (in 10^9, two digits as printed) and to
// the parameter counts that torchvision and section 4.2's Table 6 give.
func TestTable1(t *testing.T) {
	for _, c := range []struct {
		name   string
		gmacs  float64 // as printed; 0: the paper gives none
		params int     // 0: only the paper's rounded figure is known
		mega   float64 // Table 6's figure in 10^6
	}{
		{"resnet18", 1.8, 11689512, 0}, {"resnet34", 3.6, 21797672, 0}, {"resnet50", 3.8, 25557032, 0},
		{"resnet101", 7.6, 44549160, 0}, {"resnet152", 11.3, 60192808, 0}, {"plain18", 1.8, 0, 0}, {"plain34", 3.6, 0, 0},
		{"cifar-resnet20", 0, 269722, .27}, {"cifar-resnet32", 0, 464154, .46}, {"cifar-resnet44", 0, 658586, .66},
		{"cifar-resnet56", 0, 853018, .85}, {"cifar-resnet110", 0, 1727962, 1.7}, {"cifar-resnet1202", 0, 19421274, 19.4},
	} {
		net, err := resnet.Build(c.name, 0)
		if err != nil {
			t.Fatal(err)
		}
		macs, err := net.MultiplyAdds(net.Resolution)
		if err != nil {
			t.Fatal(err)
		}
		total := int64(0)
		for _, m := range macs {
			total += m
		}
		if g := float64(total) / 1e9; c.gmacs > 0 && math.Abs(g-c.gmacs) > 0.07+0.02*c.gmacs {
			t.Errorf("%s: %.2f G multiply-adds, the paper prints %.1f", c.name, g, c.gmacs)
		}
		if c.params > 0 && net.ParamLen() != c.params {
			t.Errorf("%s: %d parameters, want %d", c.name, net.ParamLen(), c.params)
		}
		if m := float64(net.ParamLen()) / 1e6; c.mega > 0 && math.Abs(m-c.mega) > 0.051 {
			t.Errorf("%s: %.2f M parameters, Table 6 prints %v", c.name, m, c.mega)
		}
	}
}

// TestNamesOfGolden compares names and counts with what PyTorch wrote down.
func TestNamesOfGolden(t *testing.T) {
	files, err := filepath.Glob("../testdata/golden/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	for _, f := range files {
		raw, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		var g struct {
			Case       string
			Classes    int
			Parameters int
			GradNorm   map[string]float64 `json:"grad_norm"`
		}
		if err := json.Unmarshal(raw, &g); err != nil {
			t.Fatal(err)
		}
		net, err := resnet.Build(g.Case, g.Classes)
		if err != nil {
			t.Fatal(err)
		}
		if net.ParamLen() != g.Parameters || len(net.Params()) != len(g.GradNorm) {
			t.Errorf("%s: %d parameters in %d tensors, want %d in %d", g.Case, net.ParamLen(), len(net.Params()), g.Parameters, len(g.GradNorm))
		}
		for _, p := range net.Params() {
			if _, ok := g.GradNorm[p.Name]; !ok {
				t.Errorf("%s: PyTorch has no parameter %s", g.Case, p.Name)
			}
		}
	}
}

func TestOrderIsTorchvisions(t *testing.T) {
	net, err := resnet.Build("resnet18", 0)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range net.Params() {
		if strings.HasPrefix(p.Name, "layer2.0") {
			got = append(got, strings.TrimPrefix(p.Name, "layer2.0."))
		}
	}
	want := strings.Fields("conv1.weight bn1.weight bn1.bias conv2.weight bn2.weight bn2.bias downsample.0.weight downsample.1.weight downsample.1.bias")
	if !slices.Equal(got, want) {
		t.Errorf("layer2.0 holds %v, want %v", got, want)
	}
	last := net.Params()[len(net.Params())-1]
	if last.Name != "fc.bias" || last.Offset+last.Len != net.ParamLen() {
		t.Errorf("last parameter is %+v", last)
	}
}

func TestEveryNameBuilds(t *testing.T) {
	names := []string{"plain18", "plain34", "cifar-plain20", "cifar-plain110"}
	for _, d := range []string{"resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "cifar-resnet8", "cifar-resnet1202"} {
		for _, s := range []string{"", "-A", "-B", "-C"} {
			names = append(names, d+s)
			if !strings.HasPrefix(d, "cifar") {
				names = append(names, d+s+"-v1.5")
			}
		}
	}
	for _, n := range names {
		if _, err := resnet.Build(n, 7); err != nil {
			t.Error(err)
		}
	}
}

func TestUnknownNames(t *testing.T) {
	for _, n := range []string{"", "resnet19", "resnet50-D", "plain50", "plain18-A", "cifar-resnet21", "cifar-resnet2", "vgg16",
		"resnet50-v2", "cifar-resnet20-v1.5", "cifar-resnet99998", "resnet18 ", "RESNET18"} {
		if _, err := resnet.Build(n, 0); err == nil {
			t.Errorf("%q was built", n)
		}
	}
}

func TestStridePlace(t *testing.T) {
	stride := func(name, node string) int {
		net, err := resnet.Build(name, 0)
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(net.Nodes, func(n core.Node) bool { return n.Name == node })
		return net.Nodes[i].Stride
	}
	if stride("resnet50", "layer2.0.conv1") != 2 || stride("resnet50", "layer2.0.conv2") != 1 {
		t.Error("the paper's bottleneck has its stride in the first 1x1")
	}
	if stride("resnet50-v1.5", "layer2.0.conv1") != 1 || stride("resnet50-v1.5", "layer2.0.conv2") != 2 {
		t.Error("v1.5 has its stride in the 3x3")
	}
}
