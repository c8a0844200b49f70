package onnx

import (
	"encoding/binary"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/lockstep-ml/lockstep/internal/snapshot"
)

const (
	irVersion    = 8 // the one that came with opset 17
	opsetVersion = 17
)

// Field numbers of onnx.proto.
const (
	modelIRVersion, modelProducer, modelProducerVersion, modelGraph, modelOpset, modelMetadata protowire.Number = 1, 2, 3, 7, 8, 14

	opsetNumber                                                      protowire.Number = 2
	graphNode, graphName, graphInitializer, graphInput, graphOutput  protowire.Number = 1, 2, 5, 11, 12
	nodeInput, nodeOutput, nodeName, nodeOp, nodeAttribute           protowire.Number = 1, 2, 3, 4, 5
	attributeName, attributeF, attributeI, attributeInts, attributeT protowire.Number = 1, 2, 3, 8, 20
	tensorDim, tensorType, tensorName, tensorRaw                     protowire.Number = 1, 2, 8, 9
	valueName, valueType, typeTensor, tensorElem, tensorShape        protowire.Number = 1, 2, 1, 1, 2
	shapeDim, dimValue, dimParam                                     protowire.Number = 1, 1, 2
	entryKey, entryValue                                             protowire.Number = 1, 2
)

// TensorProto.DataType and AttributeProto.AttributeType.
const (
	float32Type, int64Type                         = 1, 7
	floatAttribute, intAttribute, intListAttribute = 1, 2, 7
)

// attribute is an AttributeProto.
type attribute *message

func intAttr(name string, v int) attribute {
	m := &message{}
	m.text(attributeName, name)
	m.integer(attributeI, int64(v))
	m.integer(attributeT, intAttribute)
	return m
}

func intsAttr(name string, values ...int) attribute {
	m := &message{}
	m.text(attributeName, name)
	for _, v := range values {
		m.integer(attributeInts, int64(v))
	}
	m.integer(attributeT, intListAttribute)
	return m
}

func floatAttr(name string, v float32) attribute {
	m := &message{}
	m.text(attributeName, name)
	m.float(attributeF, v)
	m.integer(attributeT, floatAttribute)
	return m
}

// graph is a GraphProto that grows.
type graph struct{ nodes, initializers message }

// node appends an operator whose one output bears the operator's name.
func (g *graph) node(op, name string, inputs []string, attributes ...attribute) string {
	n := &message{}
	for _, in := range inputs {
		n.text(nodeInput, in)
	}
	n.text(nodeOutput, name)
	n.text(nodeName, name)
	n.text(nodeOp, op)
	for _, a := range attributes {
		n.message(nodeAttribute, a)
	}
	g.nodes.message(graphNode, n)
	return name
}

// floats appends an initializer that looks at data, and gives its name.
func (g *graph) floats(name string, shape []int, data []float32) string {
	return g.tensor(name, shape, float32Type, snapshot.LittleEndian(data))
}

func (g *graph) integers(name string, values ...int64) string {
	var b []byte
	for _, v := range values {
		b = binary.LittleEndian.AppendUint64(b, uint64(v))
	}
	return g.tensor(name, []int{len(values)}, int64Type, b)
}

func (g *graph) tensor(name string, shape []int, elements int64, raw []byte) string {
	t := &message{}
	for _, d := range shape {
		t.integer(tensorDim, int64(d))
	}
	t.integer(tensorType, elements)
	t.text(tensorName, name)
	t.memory(tensorRaw, raw)
	g.initializers.message(graphInitializer, t)
	return name
}

// value is the ValueInfoProto of floats [batch, dims...].
func value(name string, dims ...int) *message {
	batch, shape, tensor, typ, v := &message{}, &message{}, &message{}, &message{}, &message{}
	batch.text(dimParam, "batch")
	shape.message(shapeDim, batch)
	for _, d := range dims {
		dim := &message{}
		dim.integer(dimValue, int64(d))
		shape.message(shapeDim, dim)
	}
	tensor.integer(tensorElem, float32Type)
	tensor.message(tensorShape, shape)
	typ.message(typeTensor, tensor)
	v.text(valueName, name)
	v.message(valueType, typ)
	return v
}
