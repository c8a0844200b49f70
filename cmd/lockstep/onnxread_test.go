package main

import (
	"encoding/binary"
	"fmt"
	"math"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
)

// wire is a decoded message: the values of each field, uint64 for numbers and []byte for the rest.
type wire map[protowire.Number][]any

func decodeWire(t *testing.T, b []byte) wire {
	t.Helper()
	out := wire{}
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			t.Fatal(protowire.ParseError(n))
		}
		b = b[n:]
		var v any
		switch typ {
		case protowire.VarintType:
			v, n = protowire.ConsumeVarint(b)
		case protowire.Fixed32Type:
			var x uint32
			x, n = protowire.ConsumeFixed32(b)
			v = uint64(x)
		case protowire.BytesType:
			v, n = protowire.ConsumeBytes(b)
		default:
			t.Fatalf("field %d of wire type %d", num, typ)
		}
		if n < 0 {
			t.Fatal(protowire.ParseError(n))
		}
		out[num], b = append(out[num], v), b[n:]
	}
	return out
}

func (w wire) text(field protowire.Number) string { return string(w[field][0].([]byte)) }

func (w wire) messages(t *testing.T, field protowire.Number) []wire {
	var out []wire
	for _, v := range w[field] {
		out = append(out, decodeWire(t, v.([]byte)))
	}
	return out
}

// array is a tensor of the interpreter.
type array struct {
	shape []int
	data  []float64
}

func zeros(shape ...int) array {
	n := 1
	for _, d := range shape {
		n *= d
	}
	return array{shape, make([]float64, n)}
}

// at is the place of a value in four dimensions; -1 outside of them, where padding is.
func (a array) at(n, c, h, w int) int {
	if h < 0 || w < 0 || h >= a.shape[2] || w >= a.shape[3] {
		return -1
	}
	return ((n*a.shape[1]+c)*a.shape[2]+h)*a.shape[3] + w
}

// onnxGraph interprets a model, in float64 and by the text of ONNX's operator definitions: written to be independent of the writer.
type onnxGraph struct {
	t      *testing.T
	values map[string]array
	attrs  map[string][]int // of the operator at hand
	floats map[string]float64
}

// runONNX gives the logits that a model computes.
func runONNX(t *testing.T, model []byte, images array) array {
	t.Helper()
	m := decodeWire(t, model)
	if opset := m.messages(t, 8)[0]; m[1][0] != uint64(8) || opset[2][0] != uint64(17) {
		t.Fatalf("IR version %v and opset %v, want 8 and 17", m[1], opset[2])
	}
	g := m.messages(t, 7)[0]
	r := &onnxGraph{t: t, values: map[string]array{}}
	for _, init := range g.messages(t, 5) {
		r.initialize(init)
	}
	if in := g.messages(t, 11); len(in) != 1 || in[0].text(1) != "images" {
		t.Fatal("the graph's input is not images")
	}
	r.values["images"] = images
	for _, n := range g.messages(t, 1) {
		r.node(n)
	}
	return r.value(g.messages(t, 12)[0].text(1))
}

func (r *onnxGraph) value(name string) array {
	r.t.Helper()
	v, ok := r.values[name]
	if !ok {
		r.t.Fatalf("value %q is used before it is made", name)
	}
	return v
}

func (r *onnxGraph) initialize(w wire) {
	a := array{}
	n := 1
	for _, d := range w[1] {
		a.shape = append(a.shape, int(d.(uint64)))
		n *= int(d.(uint64))
	}
	raw := w[9][0].([]byte)
	width := map[uint64]int{1: 4, 7: 8}[w[2][0].(uint64)]
	if len(raw) != n*width {
		r.t.Fatalf("initializer %s of shape %v has %d bytes", w.text(8), a.shape, len(raw))
	}
	for i := 0; i < len(raw); i += width {
		if width == 4 {
			a.data = append(a.data, float64(math.Float32frombits(binary.LittleEndian.Uint32(raw[i:]))))
		} else {
			a.data = append(a.data, float64(int64(binary.LittleEndian.Uint64(raw[i:]))))
		}
	}
	if _, twice := r.values[w.text(8)]; twice {
		r.t.Fatalf("initializer %s is there twice", w.text(8))
	}
	r.values[w.text(8)] = a
}

func (r *onnxGraph) node(w wire) {
	r.attrs, r.floats = map[string][]int{}, map[string]float64{}
	for _, a := range w.messages(r.t, 5) {
		switch a[20][0] {
		case uint64(1):
			r.floats[a.text(1)] = float64(math.Float32frombits(uint32(a[2][0].(uint64))))
		case uint64(2):
			r.attrs[a.text(1)] = []int{int(a[3][0].(uint64))}
		case uint64(7):
			for _, v := range a[8] {
				r.attrs[a.text(1)] = append(r.attrs[a.text(1)], int(v.(uint64)))
			}
		}
	}
	var in []array
	for _, name := range w[1] {
		in = append(in, r.value(string(name.([]byte))))
	}
	if _, twice := r.values[w.text(2)]; twice {
		r.t.Fatalf("value %s is made twice", w.text(2))
	}
	r.values[w.text(2)] = r.apply(w.text(4), in)
}

func (r *onnxGraph) apply(op string, in []array) array {
	x := in[0]
	switch op {
	case "Conv":
		return r.conv(in)
	case "MaxPool":
		return r.slide(x, x.shape[1], func(n, c int, window []int) float64 {
			best := math.Inf(-1)
			for k := range r.area() {
				if i := x.at(n, c, window[0]+k/r.side(), window[1]+k%r.side()); i >= 0 {
					best = max(best, x.data[i])
				}
			}
			return best
		})
	case "BatchNormalization":
		return r.each(x, func(i, c int) float64 {
			return (x.data[i]-in[3].data[c])/math.Sqrt(in[4].data[c]+r.floats["epsilon"])*in[1].data[c] + in[2].data[c]
		})
	case "Relu":
		return r.each(x, func(i, _ int) float64 { return max(x.data[i], 0) })
	case "Add":
		return r.each(x, func(i, _ int) float64 { return x.data[i] + in[1].data[i] })
	case "GlobalAveragePool":
		out, area := zeros(x.shape[0], x.shape[1], 1, 1), x.shape[2]*x.shape[3]
		for i, v := range x.data {
			out.data[i/area] += v / float64(area)
		}
		return out
	case "Flatten":
		return array{[]int{x.shape[0], len(x.data) / x.shape[0]}, x.data}
	case "Gemm":
		return r.gemm(in)
	case "Slice":
		return r.slice(in)
	case "Pad":
		return r.pad(in)
	}
	r.t.Fatalf("operator %s", op)
	return array{}
}

func (r *onnxGraph) side() int { return r.attrs["kernel_shape"][0] }
func (r *onnxGraph) area() int { return r.side() * r.side() }

// each makes a value of every place and its channel.
func (r *onnxGraph) each(x array, f func(i, c int) float64) array {
	out := zeros(x.shape...)
	per := 1
	for _, d := range x.shape[2:] {
		per *= d
	}
	for i := range x.data {
		out.data[i] = f(i, i/per%x.shape[1])
	}
	return out
}

// slide moves a window over the image and makes a value of each place.
func (r *onnxGraph) slide(x array, channels int, f func(n, c int, window []int) float64) array {
	k, s, p := r.side(), r.attrs["strides"], r.attrs["pads"]
	out := zeros(x.shape[0], channels, (x.shape[2]+p[0]+p[2]-k)/s[0]+1, (x.shape[3]+p[1]+p[3]-k)/s[1]+1)
	for i := range out.data {
		w, h, c, n := i%out.shape[3], i/out.shape[3]%out.shape[2], i/out.shape[3]/out.shape[2]%channels, i/out.shape[3]/out.shape[2]/channels
		out.data[i] = f(n, c, []int{h*s[0] - p[0], w*s[1] - p[1]})
	}
	return out
}

func (r *onnxGraph) conv(in []array) array {
	x, w := in[0], in[1]
	return r.slide(x, w.shape[0], func(n, c int, window []int) float64 {
		sum := 0.0
		if len(in) > 2 {
			sum = in[2].data[c]
		}
		for k := range r.area() {
			first := x.at(n, 0, window[0]+k/r.side(), window[1]+k%r.side())
			if first < 0 {
				continue
			}
			for from := range w.shape[1] {
				sum += w.data[(c*w.shape[1]+from)*r.area()+k] * x.data[first+from*x.shape[2]*x.shape[3]]
			}
		}
		return sum
	})
}

func (r *onnxGraph) gemm(in []array) array {
	x, w := in[0], in[1]
	if r.attrs["transB"][0] != 1 {
		r.t.Fatal("Gemm without transB")
	}
	out := zeros(x.shape[0], w.shape[0])
	for i := range out.data {
		n, c := i/w.shape[0], i%w.shape[0]
		out.data[i] = in[2].data[c]
		for k := range w.shape[1] {
			out.data[i] += x.data[n*w.shape[1]+k] * w.data[c*w.shape[1]+k]
		}
	}
	return out
}

// slice knows slices from zero on to the end, with one step for height and width.
func (r *onnxGraph) slice(in []array) array {
	x, step := in[0], int(in[4].data[0])
	if want := fmt.Sprint([]float64{0, 0, 2, 3}, in[4].data[0]); want != fmt.Sprint(append(in[1].data, in[3].data...), in[4].data[1]) || in[2].data[0] < 1e9 || in[2].data[1] < 1e9 {
		r.t.Fatalf("Slice from %v to %v over axes %v with steps %v", in[1].data, in[2].data, in[3].data, in[4].data)
	}
	out := zeros(x.shape[0], x.shape[1], (x.shape[2]+step-1)/step, (x.shape[3]+step-1)/step)
	for i := range out.data {
		w, h, plane := i%out.shape[3], i/out.shape[3]%out.shape[2], i/out.shape[3]/out.shape[2]
		out.data[i] = x.data[(plane*x.shape[2]+h*step)*x.shape[3]+w*step]
	}
	return out
}

// pad knows channels: before and behind.
func (r *onnxGraph) pad(in []array) array {
	x, p := in[0], in[1].data
	before, behind := int(p[1]), int(p[5])
	if fmt.Sprint(p) != fmt.Sprint([]int{0, before, 0, 0, 0, behind, 0, 0}) {
		r.t.Fatalf("Pad by %v", p)
	}
	out := zeros(x.shape[0], before+x.shape[1]+behind, x.shape[2], x.shape[3])
	per := x.shape[1] * x.shape[2] * x.shape[3]
	for n := range x.shape[0] {
		copy(out.data[n*len(out.data)/x.shape[0]+before*x.shape[2]*x.shape[3]:], x.data[n*per:(n+1)*per])
	}
	return out
}
