package onnx

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"

	"github.com/lockstep-ml/lockstep/checkpoint"
)

// Kind is what a layer computes.
type Kind uint8

// The layers of residual networks. Each has one output.
const (
	Input         Kind = iota // the images, [N, C, side, side]
	Conv                      // convolution without bias; NAME.weight, [out, in, k, k]
	BatchNorm                 // normalisation by running statistics; NAME.weight, .bias, .running_mean and .running_var
	ReLU                      // max(x, 0)
	MaxPool                   // maximum over a k x k window; padding never wins
	Add                       // sum of two inputs
	PadShortcut               // every Stride-th pixel, zero channels half before and half after (shortcut A)
	GlobalAvgPool             // mean over height and width
	Linear                    // fully connected; NAME.weight, [out, in], and NAME.bias
)

// Layer is one operation. Its inputs are indices of earlier layers.
type Layer struct {
	Kind                Kind
	Name                string // module path as torchvision writes it
	Inputs              []int
	Channels            int // of the output
	Kernel, Stride, Pad int // Conv, MaxPool; PadShortcut has a stride
}

// Model is a network with weights, and how to write it. Layer 0 is the input, and the last one gives the logits.
type Model struct {
	Name       string
	Resolution int // side of the images
	Layers     []Layer
	Weights    []checkpoint.Array // float32, under torchvision's names; others are passed over
	Epsilon    float64            // added to the variance by BatchNorm
	FoldNorm   bool               // a BatchNorm behind a convolution becomes part of its weights and a bias
	Version    string             // of the program
	Metadata   map[string]string  // for people and tools: network, step, normalisation, class names
}

// maxModel is the most that Protocol Buffers' readers take; ResNet-152 has 240 MB.
const maxModel = math.MaxInt32

// Names of the graph's input and output.
const (
	InputName  = "images"
	OutputName = "logits"
)

// Write writes the model; the same model gives the same bytes. Errors list every weight that is missing or of another shape.
func (m *Model) Write(w io.Writer) error {
	b, err := m.build()
	if err != nil {
		return fmt.Errorf("write ONNX model %s: %w", m.Name, err)
	}
	if b.size > maxModel {
		return fmt.Errorf("write ONNX model %s: it has %d bytes, and no reader takes more than %d: export safetensors", m.Name, b.size, int64(maxModel))
	}
	if err := b.write(w); err != nil {
		return fmt.Errorf("write ONNX model %s: %w", m.Name, err)
	}
	return nil
}

// build lays out the ModelProto.
func (m *Model) build() (*message, error) {
	if len(m.Layers) < 2 || m.Layers[0].Kind != Input {
		return nil, errors.New("the first layer must be the input, and something must follow it")
	}
	b := &builder{model: m, weights: map[string]checkpoint.Array{}, values: make([]string, len(m.Layers))}
	for _, a := range m.Weights {
		b.weights[a.Name] = a
	}
	b.lay()
	if err := errors.Join(b.faults...); err != nil {
		return nil, err
	}
	g := &b.graph.nodes
	g.text(graphName, m.Name)
	g.join(&b.graph.initializers)
	g.message(graphInput, value(InputName, m.Layers[0].Channels, m.Resolution, m.Resolution))
	g.message(graphOutput, value(OutputName, m.Layers[len(m.Layers)-1].Channels))

	out, opset := &message{}, &message{}
	opset.integer(opsetNumber, opsetVersion)
	out.integer(modelIRVersion, irVersion)
	out.text(modelProducer, "lockstep")
	out.text(modelProducerVersion, m.Version)
	out.message(modelGraph, g)
	out.message(modelOpset, opset)
	for _, k := range slices.Sorted(maps.Keys(m.Metadata)) {
		e := &message{}
		e.text(entryKey, k)
		e.text(entryValue, m.Metadata[k])
		out.message(modelMetadata, e)
	}
	return out, nil
}
