package torch

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/lockstep-ml/lockstep/checkpoint"
)

// customary are the keys under which training scripts put a state dict beside other things.
var customary = []string{"state_dict", "model_state_dict", "model", "net", "module"}

// maxNesting is how many of them may follow one another.
const maxNesting = 4

// namedTensor is an entry of a state dict.
type namedTensor struct {
	name string
	*tensor
}

// stateDict finds the dict of tensors in a file's value.
func stateDict(root any) ([]namedTensor, error) {
	d, ok := root.(*dict)
	if !ok {
		return nil, fmt.Errorf("it holds %s, not a dict of tensors: %s", kind(root), advice)
	}
	for range maxNesting {
		inner := nested(d)
		if inner == nil {
			break
		}
		d = inner
	}
	var out []namedTensor
	var faults []error
	seen := map[string]bool{}
	for _, e := range d.entries {
		name, isName := e.key.(string)
		t, isTensor := e.value.(*tensor)
		switch {
		case !isName || !isTensor:
			faults = append(faults, fmt.Errorf("%s under %s", kind(e.value), label(e.key)))
		case seen[name]:
			faults = append(faults, fmt.Errorf("%.80q is there twice", name))
		default:
			out = append(out, namedTensor{name, t})
		}
		seen[name] = seen[name] || isName
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("no dict of tensors, neither at the top nor under %s: %s%s", strings.Join(customary, ", "), advice, found(faults))
	}
	if len(faults) > 0 {
		return nil, fmt.Errorf("not only tensors under names are in its dict: %s%s", advice, found(faults))
	}
	return out, nil
}

// label names a key. Only a string is printed: what else stands there may refer to itself, or be long beyond measure.
func label(key any) string {
	if name, ok := key.(string); ok {
		return fmt.Sprintf("%.80q", name)
	}
	return kind(key)
}

// found lists the first faults.
func found(faults []error) string {
	if len(faults) == 0 {
		return ""
	}
	const shown = 10
	return "; there is:\n" + errors.Join(faults[:min(len(faults), shown)]...).Error()
}

// nested gives the dict under a customary key that holds a tensor or goes on with such a key, nil if there is none.
func nested(d *dict) *dict {
	for _, key := range customary {
		inner, ok := d.get(key).(*dict)
		if !ok {
			continue
		}
		for _, e := range inner.entries {
			_, isTensor := e.value.(*tensor)
			_, isDict := e.value.(*dict)
			if name, ok := e.key.(string); ok && (isTensor || isDict && slices.Contains(customary, name)) {
				return inner
			}
		}
	}
	return nil
}

// values reads all tensors.
func values(r io.ReaderAt, at places, tensors []namedTensor, maxBytes int64) ([]checkpoint.Array, error) {
	var out []checkpoint.Array
	var spans []span
	for _, t := range tensors {
		n, s, err := t.span()
		if err != nil {
			return nil, fmt.Errorf("tensor %.200q: %w", t.name, err)
		}
		spans = append(spans, s)
		// What is read of the storage, and the tensor's own values if they do not lie there in order.
		if maxBytes -= 8 * (s.to - s.from + n); maxBytes < 0 {
			return nil, fmt.Errorf("tensor %.200q: the values take more memory than allowed", t.name)
		}
	}
	if err := apart(spans, tensors); err != nil {
		return nil, err
	}
	for i, t := range tensors {
		a, err := t.read(r, at, spans[i])
		if err != nil {
			return nil, fmt.Errorf("tensor %.200q: %w", t.name, err)
		}
		out = append(out, a)
	}
	return out, nil
}

// span is a run of a storage's values, to not included.
type span struct {
	key      string
	from, to int64
}

// span gives the number of values, and where in the storage they lie. Dimensions sorted by stride must each step over all smaller
// ones: so no value belongs to two places.
func (t *tensor) span() (int64, span, error) {
	n, last := int64(1), int64(0)
	order := make([]int, len(t.shape))
	for i, d := range t.shape {
		order[i] = i
		if d < 1 || d > maxValues/n {
			return 0, span{}, fmt.Errorf("shape %v is not one of 1 to %d values", t.shape, int64(maxValues))
		}
		n *= d
	}
	slices.SortFunc(order, func(i, j int) int { return cmp.Compare(t.stride[i], t.stride[j]) })
	room := t.storage.view - 1 // the index of the last value there is
	if t.offset < 0 || t.offset > room {
		return 0, span{}, fmt.Errorf("it begins at value %d of a storage of %d", t.offset, t.storage.view)
	}
	for _, i := range order {
		if t.shape[i] == 1 {
			continue
		}
		if t.stride[i] <= last {
			return 0, span{}, fmt.Errorf("strides %v make places of shape %v share values: save a contiguous() copy", t.stride, t.shape)
		}
		if t.shape[i]-1 > (room-t.offset-last)/t.stride[i] {
			return 0, span{}, fmt.Errorf("shape %v with strides %v from value %d on reaches outside its storage of %d", t.shape, t.stride, t.offset, t.storage.view)
		}
		last += (t.shape[i] - 1) * t.stride[i]
	}
	from := t.storage.from + t.offset
	return n, span{t.storage.key, from, from + last + 1}, nil
}

// apart refuses two tensors in one place: a network's are its own, so a file that has them is not what it seems.
func apart(spans []span, tensors []namedTensor) error {
	order := make([]int, len(spans))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(i, j int) int {
		return cmp.Or(strings.Compare(spans[i].key, spans[j].key), cmp.Compare(spans[i].from, spans[j].from))
	})
	for k := 1; k < len(order); k++ {
		a, b := spans[order[k-1]], spans[order[k]]
		if a.key == b.key && b.from < a.to {
			return fmt.Errorf("tensors %.200q and %.200q overlap in storage %.80q: save copies, {k: v.clone() for k, v in d.items()}",
				tensors[order[k-1]].name, tensors[order[k]].name, a.key)
		}
	}
	return nil
}

// read makes an array of the tensor's values, in row-major order.
func (t *namedTensor) read(r io.ReaderAt, at places, s span) (checkpoint.Array, error) {
	a := checkpoint.Array{Name: t.name, DType: t.storage.dtype}
	for _, d := range t.shape {
		a.Shape = append(a.Shape, int(d))
	}
	begin, err := at.locate(t.storage)
	if err != nil {
		return a, err
	}
	begin += s.from * int64(a.DType.Bytes())
	raw := checkpoint.Array{DType: a.DType}
	if err := raw.ReadValues(r, begin, int(s.to-s.from)); err != nil {
		return a, fmt.Errorf("at byte %d: %w", begin, err)
	}
	a.Data, a.Ints = gather(raw.Data, t.shape, t.stride), gather(raw.Ints, t.shape, t.stride)
	return a, nil
}

// gather puts strided values in row-major order; values that are so already stay where they are.
func gather[T any](raw []T, shape, stride []int64) []T {
	if raw == nil || contiguous(shape, stride) {
		return raw
	}
	out := raw[:0:0]
	index := make([]int64, len(shape))
	for {
		var at int64
		for i, x := range index {
			at += x * stride[i]
		}
		out = append(out, raw[at])
		i := len(index) - 1
		for ; i >= 0; i-- { // an odometer
			if index[i]++; index[i] < shape[i] {
				break
			}
			index[i] = 0
		}
		if i < 0 {
			return out
		}
	}
}

func contiguous(shape, stride []int64) bool {
	want := int64(1)
	for i := len(shape) - 1; i >= 0; i-- {
		if shape[i] != 1 && stride[i] != want {
			return false
		}
		want *= shape[i]
	}
	return true
}
