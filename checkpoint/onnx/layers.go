package onnx

import (
	"fmt"
	"math"
	"slices"

	"github.com/lockstep-ml/lockstep/checkpoint"
)

// builder turns layers into operators.
type builder struct {
	model   *Model
	graph   graph
	weights map[string]checkpoint.Array
	values  []string // the name of every layer's output
	faults  []error
}

func (b *builder) fault(format string, args ...any) {
	b.faults = append(b.faults, fmt.Errorf(format, args...))
}

// lay goes once through the layers.
func (b *builder) lay() {
	last := len(b.model.Layers) - 1
	for i, l := range b.model.Layers {
		in := make([]string, len(l.Inputs))
		for k, from := range l.Inputs {
			if from < 0 || from >= i {
				b.fault("layer %s reads layer %d, which is not before it", l.Name, from)
				return
			}
			in[k] = b.values[from]
		}
		name := l.Name
		if i == last {
			name = OutputName
		}
		if want := inputsOf(l.Kind); len(in) != want {
			b.fault("layer %s has %d inputs, wants %d", l.Name, len(in), want)
			return
		}
		b.values[i] = b.layer(i, l, name, in)
	}
}

func inputsOf(k Kind) int {
	switch k {
	case Input:
		return 0
	case Add:
		return 2
	}
	return 1
}

// layer appends the operators of one layer and gives the name of its value.
func (b *builder) layer(i int, l Layer, name string, in []string) string {
	g := &b.graph
	switch l.Kind {
	case Input:
		return InputName
	case Conv:
		if norm := b.foldable(i); norm >= 0 {
			return b.folded(l, b.model.Layers[norm], name, in[0])
		}
		w := b.weight(l.Name+".weight", l.Channels, b.channels(l), l.Kernel, l.Kernel)
		return g.node("Conv", name, []string{in[0], g.floats(w.Name, w.Shape, w.Data)}, window(l)...)
	case BatchNorm:
		if conv := l.Inputs[0]; b.foldable(conv) == i {
			return in[0] // part of the convolution
		}
		for _, suffix := range []string{".weight", ".bias", ".running_mean", ".running_var"} {
			w := b.weight(l.Name+suffix, l.Channels)
			in = append(in, g.floats(w.Name, w.Shape, w.Data))
		}
		return g.node("BatchNormalization", name, in, floatAttr("epsilon", float32(b.model.Epsilon)))
	case ReLU:
		return g.node("Relu", name, in)
	case MaxPool:
		return g.node("MaxPool", name, in, window(l)...)
	case Add:
		return g.node("Add", name, in)
	case PadShortcut:
		return b.padShortcut(l, name, in[0])
	case GlobalAvgPool:
		return g.node("GlobalAveragePool", name, in)
	case Linear:
		flat := g.node("Flatten", l.Name+".flatten", in, intAttr("axis", 1))
		w, bias := b.weight(l.Name+".weight", l.Channels, b.channels(l)), b.weight(l.Name+".bias", l.Channels)
		return g.node("Gemm", name, []string{flat, g.floats(w.Name, w.Shape, w.Data), g.floats(bias.Name, bias.Shape, bias.Data)}, intAttr("transB", 1))
	}
	b.fault("layer %s is of unknown kind %d", l.Name, l.Kind)
	return ""
}

// channels is the number of a layer's input channels.
func (b *builder) channels(l Layer) int { return b.model.Layers[l.Inputs[0]].Channels }

// weight finds an array of a shape; one that is missing or wrong is noted, and zeros stand in for it until the model is refused.
func (b *builder) weight(name string, shape ...int) checkpoint.Array {
	n := 1
	for _, d := range shape {
		n *= d
	}
	a, ok := b.weights[name]
	switch {
	case !ok:
		b.fault("weight %s is missing", name)
	case !slices.Equal(a.Shape, shape):
		b.fault("weight %s has shape %v, the network wants %v", name, a.Shape, shape)
	case len(a.Data) != n:
		b.fault("weight %s has %d float32 values, want %d", name, len(a.Data), n)
	default:
		return a
	}
	return checkpoint.Array{Name: name, Shape: shape, Data: make([]float32, n)}
}

// window gives the attributes of what slides over the image.
func window(l Layer) []attribute {
	return []attribute{intsAttr("kernel_shape", l.Kernel, l.Kernel), intsAttr("pads", l.Pad, l.Pad, l.Pad, l.Pad), intsAttr("strides", l.Stride, l.Stride)}
}

// foldable gives the BatchNorm that alone reads convolution i, or -1 where there is none or it is not to be folded.
func (b *builder) foldable(i int) int {
	if !b.model.FoldNorm || b.model.Layers[i].Kind != Conv {
		return -1
	}
	norm, readers := -1, 0
	for k, l := range b.model.Layers {
		if slices.Contains(l.Inputs, i) {
			readers++
			if l.Kind == BatchNorm {
				norm = k
			}
		}
	}
	if readers != 1 {
		return -1
	}
	return norm
}

// folded appends a convolution that normalises too: with s = weight / sqrt(var + epsilon), its weights are multiplied by s, and its bias is
// bias - mean*s. Computed in float64, rounded once.
func (b *builder) folded(conv, norm Layer, name, in string) string {
	w := b.weight(conv.Name+".weight", conv.Channels, b.channels(conv), conv.Kernel, conv.Kernel)
	gamma, beta := b.weight(norm.Name+".weight", norm.Channels), b.weight(norm.Name+".bias", norm.Channels)
	mean, variance := b.weight(norm.Name+".running_mean", norm.Channels), b.weight(norm.Name+".running_var", norm.Channels)
	out, bias := make([]float32, len(w.Data)), make([]float32, conv.Channels)
	per := len(w.Data) / conv.Channels
	for c := range conv.Channels {
		s := float64(gamma.Data[c]) / math.Sqrt(float64(variance.Data[c])+b.model.Epsilon)
		for k := c * per; k < (c+1)*per; k++ {
			out[k] = float32(float64(w.Data[k]) * s)
		}
		bias[c] = float32(float64(beta.Data[c]) - float64(float64(mean.Data[c])*s))
	}
	g := &b.graph
	return g.node("Conv", name, []string{in, g.floats(w.Name, w.Shape, out), g.floats(conv.Name+".bias", []int{conv.Channels}, bias)}, window(conv)...)
}

// padShortcut is option A: a strided slice, then zero channels on both sides.
func (b *builder) padShortcut(l Layer, name, in string) string {
	g := &b.graph
	extra := l.Channels - b.channels(l)
	if extra < 0 || extra%2 != 0 || l.Stride < 1 {
		b.fault("layer %s: %d channels cannot be padded to %d with stride %d", l.Name, b.channels(l), l.Channels, l.Stride)
		return name
	}
	sliced := l.Name + ".slice"
	if extra == 0 {
		sliced = name
	}
	s := int64(l.Stride)
	in = g.node("Slice", sliced, []string{in, g.integers(l.Name+".starts", 0, 0), g.integers(l.Name+".ends", math.MaxInt64, math.MaxInt64),
		g.integers(l.Name+".axes", 2, 3), g.integers(l.Name+".steps", s, s)})
	if extra == 0 {
		return in
	}
	half := int64(extra / 2)
	return g.node("Pad", name, []string{in, g.integers(l.Name+".pads", 0, half, 0, 0, 0, half, 0, 0)})
}
