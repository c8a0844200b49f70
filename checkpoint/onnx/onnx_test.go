package onnx

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/lockstep-ml/lockstep/checkpoint"
)

var update = flag.Bool("update", false, "write the golden models anew")

// tiny is a network with a layer of every kind and few weights, eighths that count up.
func tiny() *Model {
	m := &Model{Name: "tiny", Resolution: 8, Epsilon: 1e-5, Version: "test", Metadata: map[string]string{"lockstep.arch": "tiny", "a": "b"}, Layers: []Layer{
		{Kind: Input, Name: "input", Channels: 3},
		{Kind: Conv, Name: "conv1", Inputs: []int{0}, Channels: 2, Kernel: 3, Stride: 2, Pad: 1},
		{Kind: BatchNorm, Name: "bn1", Inputs: []int{1}, Channels: 2},
		{Kind: ReLU, Name: "relu", Inputs: []int{2}, Channels: 2},
		{Kind: MaxPool, Name: "maxpool", Inputs: []int{3}, Channels: 2, Kernel: 3, Stride: 1, Pad: 1},
		{Kind: Conv, Name: "conv2", Inputs: []int{4}, Channels: 4, Kernel: 1, Stride: 2},
		{Kind: BatchNorm, Name: "bn2", Inputs: []int{5}, Channels: 4},
		{Kind: PadShortcut, Name: "short", Inputs: []int{4}, Channels: 4, Stride: 2},
		{Kind: Add, Name: "add", Inputs: []int{6, 7}, Channels: 4},
		{Kind: GlobalAvgPool, Name: "avgpool", Inputs: []int{8}, Channels: 4},
		{Kind: Linear, Name: "fc", Inputs: []int{9}, Channels: 3},
	}}
	next := 0
	add := func(name string, shape ...int) {
		n := 1
		for _, d := range shape {
			n *= d
		}
		a := checkpoint.Array{Name: name, DType: checkpoint.F32, Shape: shape}
		for range n {
			next++
			a.Data = append(a.Data, float32(next%17)/8)
		}
		m.Weights = append(m.Weights, a)
	}
	add("conv1.weight", 2, 3, 3, 3)
	add("conv2.weight", 4, 2, 1, 1)
	for name, c := range []int{2, 4} {
		for _, suffix := range []string{"weight", "bias", "running_mean", "running_var"} {
			add(fmt.Sprintf("bn%d.%s", name+1, suffix), c)
		}
	}
	add("fc.weight", 3, 4)
	add("fc.bias", 3)
	return m
}

func encoded(t *testing.T, m *Model) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := m.Write(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// The files in testdata passed onnx's checker; the same bytes still do.
func TestGoldenModels(t *testing.T) {
	for name, fold := range map[string]bool{"tiny.onnx": false, "tiny-folded.onnx": true} {
		m := tiny()
		m.FoldNorm = fold
		got := encoded(t, m)
		path := filepath.Join("testdata", name)
		if *update {
			if err := os.WriteFile(path, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s has other bytes; if they are meant to change, see testdata/README.md", name)
		}
	}
}

// floatsOf finds an initializer's values.
func floatsOf(t *testing.T, model []byte, name string) []float32 {
	t.Helper()
	for _, g := range fields(t, model, modelGraph) {
		for _, init := range fields(t, g, graphInitializer) {
			if string(fields(t, init, tensorName)[0]) == name {
				raw := fields(t, init, tensorRaw)[0]
				var out []float32
				for len(raw) > 0 {
					v, n := protowire.ConsumeFixed32(raw)
					if n < 0 {
						t.Fatal(protowire.ParseError(n))
					}
					out, raw = append(out, math.Float32frombits(v)), raw[n:]
				}
				return out
			}
		}
	}
	t.Fatalf("no initializer %s", name)
	return nil
}

// fields gives the bytes fields of a message with a number.
func fields(t *testing.T, b []byte, number protowire.Number) (out [][]byte) {
	t.Helper()
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			t.Fatal(protowire.ParseError(n))
		}
		b = b[n:]
		if typ == protowire.BytesType && num == number {
			v, _ := protowire.ConsumeBytes(b)
			out = append(out, v)
		}
		if n = protowire.ConsumeFieldValue(num, typ, b); n < 0 {
			t.Fatal(protowire.ParseError(n))
		}
		b = b[n:]
	}
	return out
}

func TestFoldedWeights(t *testing.T) {
	m := tiny()
	m.FoldNorm = true
	file := encoded(t, m)
	if bytes.Contains(file, []byte("BatchNormalization")) {
		t.Error("a batch norm is left")
	}
	norm := map[string]float64{}
	for _, a := range m.Weights {
		if strings.HasPrefix(a.Name, "bn2.") {
			norm[strings.TrimPrefix(a.Name, "bn2.")] = float64(a.Data[1])
		}
	}
	s := norm["weight"] / math.Sqrt(norm["running_var"]+1e-5)
	w := floatsOf(t, file, "conv2.weight")[2:4] // of the second channel
	for i, was := range m.Weights[1].Data[2:4] {
		if want := float32(float64(was) * s); w[i] != want {
			t.Errorf("weight %d is %g, want %g", i, w[i], want)
		}
	}
	if got, want := floatsOf(t, file, "conv2.bias")[1], float32(norm["bias"]-norm["running_mean"]*s); math.Abs(float64(got-want)) > 1e-6 {
		t.Errorf("bias is %g, want %g", got, want)
	}
}

// A convolution whose output something else reads too keeps its batch norm.
func TestSharedConvolutionIsNotFolded(t *testing.T) {
	m := tiny()
	m.FoldNorm = true
	m.Layers[8].Inputs = []int{5, 7}
	if file := encoded(t, m); bytes.Count(file, []byte("BatchNormalization")) != 1 {
		t.Error("the batch norm behind a convolution with two readers was folded")
	}
}

func TestModelsThatCannotBeWritten(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(m *Model)
		want  []string
	}{
		{"weights", func(m *Model) { m.Weights[0].Shape, m.Weights = []int{2, 27}, m.Weights[:2] },
			[]string{"conv1.weight has shape [2 27]", "bn1.weight is missing", "fc.bias is missing"}},
		{"values", func(m *Model) { m.Weights[0].Data = m.Weights[0].Data[:3] }, []string{"3 float32 values"}},
		{"no input", func(m *Model) { m.Layers = m.Layers[1:] }, []string{"first layer"}},
		{"order", func(m *Model) { m.Layers[2].Inputs = []int{7} }, []string{"not before it"}},
		{"inputs", func(m *Model) { m.Layers[8].Inputs = []int{7} }, []string{"add has 1 inputs"}},
		{"no inputs", func(m *Model) { m.Layers[3].Inputs = nil }, []string{"relu has 0 inputs"}},
		{"kind", func(m *Model) { m.Layers[3].Kind = 99 }, []string{"unknown kind 99"}},
		{"odd channels", func(m *Model) { m.Layers[7].Channels = 5 }, []string{"cannot be padded to 5"}},
	} {
		m := tiny()
		c.spoil(m)
		err := m.Write(&bytes.Buffer{})
		for _, want := range c.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: error %v, want one that says %q", c.name, err, want)
			}
		}
	}
	full := errors.New("disk full")
	for _, after := range []int{0, 100, 1000} {
		if err := tiny().Write(&failing{after, full}); !errors.Is(err, full) {
			t.Errorf("a disk that is full after %d bytes: %v", after, err)
		}
	}
}

// failing takes so many bytes.
type failing struct {
	left int
	err  error
}

func (f *failing) Write(p []byte) (int, error) {
	if f.left -= len(p); f.left < 0 {
		return 0, f.err
	}
	return len(p), nil
}
