package torch

import (
	"errors"
	"fmt"
	"slices"

	"github.com/lockstep-ml/lockstep/checkpoint"
)

const advice = `if you trust where the file comes from, load it in PyTorch and save the tensors alone: torch.save(model.state_dict(), "weights.pth")`

// storageTypes are the classes of storages, with the type of their values.
var storageTypes = map[global]checkpoint.DType{
	"torch.DoubleStorage": checkpoint.F64, "torch.FloatStorage": checkpoint.F32, "torch.HalfStorage": checkpoint.F16,
	"torch.BFloat16Storage": checkpoint.BF16, "torch.LongStorage": checkpoint.I64, "torch.IntStorage": "I32",
	"torch.ShortStorage": "I16", "torch.CharStorage": "I8", "torch.ByteStorage": "U8", "torch.BoolStorage": "BOOL",
}

// callables are what may be called, and what is done instead of a call.
var callables = map[global]func(args tuple) (any, error){
	"collections.OrderedDict":         orderedDict,
	"torch.Size":                      size,
	"torch._utils._rebuild_tensor":    rebuildTensor,
	"torch._utils._rebuild_tensor_v2": rebuildTensor,
	"torch._utils._rebuild_parameter": parameter,
	"torch.nn.parameter.Parameter":    parameter,
}

// ForbiddenError says that a file asks for something of Python that is neither a tensor nor a dict. Nothing of it was executed.
type ForbiddenError struct{ Global string } // MODULE.NAME

// Error names what was asked for, and what to do.
func (e *ForbiddenError) Error() string {
	return fmt.Sprintf("it asks for Python's %.200q, which is no part of a dict of tensors and was not run: %s", e.Global, advice)
}

func (m *machine) pushGlobal(module, name string) error {
	g := global(module + "." + name)
	if _, ok := storageTypes[g]; !ok && callables[g] == nil {
		return &ForbiddenError{string(g)}
	}
	return m.push(g)
}

func namedGlobal(m *machine) error {
	module, err := m.line()
	if err != nil {
		return err
	}
	name, err := m.line()
	if err != nil {
		return err
	}
	return m.pushGlobal(module, name)
}

func stackGlobal(m *machine) error {
	name, err := popAs[string](m)
	if err != nil {
		return err
	}
	module, err := popAs[string](m)
	if err != nil {
		return err
	}
	return m.pushGlobal(module, name)
}

func reduce(m *machine) error {
	args, err := popAs[tuple](m)
	if err != nil {
		return err
	}
	g, err := popAs[global](m)
	if err != nil {
		return err
	}
	call := callables[g]
	if call == nil {
		return fmt.Errorf("%s is called, which only names a type", g)
	}
	v, err := call(args)
	if err != nil {
		return fmt.Errorf("%s: %w", g, err)
	}
	return m.push(v)
}

// build sets attributes: a dict's are its modules' versions, a parameter's whether it is trained. Neither matters here.
func build(m *machine) error {
	if _, err := m.pop(); err != nil {
		return err
	}
	v, err := m.top()
	if err != nil {
		return err
	}
	switch v.(type) {
	case *dict, *tensor:
		return nil
	}
	return fmt.Errorf("attributes are set of %s, which has none", kind(v))
}

// orderedDict takes nothing, or as Python 2 wrote it a list of pairs.
func orderedDict(args tuple) (any, error) {
	d := &dict{}
	if len(args) == 0 {
		return d, nil
	}
	pairs, ok := args[0].(*list)
	if !ok || len(args) != 1 {
		return nil, fmt.Errorf("%d arguments, the first %s: want none, or a list", len(args), kind(args[0]))
	}
	for _, p := range pairs.items {
		switch p := p.(type) {
		case *list:
			if len(p.items) == 2 {
				d.entries = append(d.entries, entry{p.items[0], p.items[1]})
				continue
			}
		case tuple:
			if len(p) == 2 {
				d.entries = append(d.entries, entry{p[0], p[1]})
				continue
			}
		}
		return nil, fmt.Errorf("%s stands where a pair is needed", kind(p))
	}
	return d, nil
}

func size(args tuple) (any, error) {
	if len(args) == 1 {
		if t, ok := args[0].(tuple); ok {
			return t, nil
		}
	}
	return nil, errors.New("want one tuple")
}

// rebuildTensor takes storage, offset, shape and strides in values, and what does not matter here: whether it is trained, hooks, flags.
func rebuildTensor(args tuple) (any, error) {
	if len(args) < 4 || len(args) > 7 {
		return nil, fmt.Errorf("%d arguments, want 4 to 7", len(args))
	}
	t := &tensor{}
	var ok [2]bool
	t.storage, ok[0] = args[0].(*storage)
	t.offset, ok[1] = args[1].(int64)
	if !ok[0] || !ok[1] {
		return nil, fmt.Errorf("want a storage and an offset, not %s and %s", kind(args[0]), kind(args[1]))
	}
	var err error
	if t.shape, err = integers(args[2]); err != nil {
		return nil, fmt.Errorf("shape: %w", err)
	}
	if t.stride, err = integers(args[3]); err != nil {
		return nil, fmt.Errorf("strides: %w", err)
	}
	if len(t.shape) != len(t.stride) {
		return nil, fmt.Errorf("shape %v and strides %v are of different length", t.shape, t.stride)
	}
	return t, nil
}

func integers(v any) ([]int64, error) {
	t, ok := v.(tuple)
	if !ok || len(t) > maxRank {
		return nil, fmt.Errorf("%s, want a tuple of at most %d integers", kind(v), maxRank)
	}
	out := make([]int64, len(t))
	for i, x := range t {
		if out[i], ok = x.(int64); !ok {
			return nil, fmt.Errorf("%s stands where an integer is needed", kind(x))
		}
	}
	return out, nil
}

// parameter is the tensor that it holds.
func parameter(args tuple) (any, error) {
	if len(args) >= 1 && len(args) <= 3 {
		if t, ok := args[0].(*tensor); ok {
			return t, nil
		}
	}
	return nil, errors.New("want a tensor and at most two flags")
}

// persistent makes a storage of ("storage", type, key, device, count) and, in the older layout, nil or (view's key, first value, count).
func persistent(m *machine) error {
	id, err := popAs[tuple](m)
	if err != nil {
		return err
	}
	if len(id) > 0 && id[0] == "module" {
		return fmt.Errorf("it holds a whole module, with its source: %s", advice)
	}
	if len(id) != 5 && len(id) != 6 || id[0] != "storage" {
		return fmt.Errorf("a reference to %d values outside the pickle, want a storage", len(id))
	}
	class, isClass := id[1].(global)
	key, isKey := id[2].(string)
	count, isCount := id[4].(int64)
	dtype, known := storageTypes[class]
	if !isClass || !isKey || !isCount || !known {
		return fmt.Errorf("a storage is described by %s, %s and %s, want its type, key and size", kind(id[1]), kind(id[2]), kind(id[4]))
	}
	if count < 0 || count > maxValues {
		return fmt.Errorf("storage %.80q of %d values, want 0 to %d", key, count, maxValues)
	}
	s := &storage{key: key, dtype: dtype, count: count, view: count}
	if other := m.storages[key]; other != nil && *other != *s {
		return fmt.Errorf("storage %.80q is %d values of %s, and then %d of %s", key, other.count, other.dtype, count, dtype)
	}
	whole := *s
	m.storages[key] = &whole
	if len(id) == 6 && id[5] != nil {
		if err := s.narrow(id[5]); err != nil {
			return fmt.Errorf("storage %.80q: %w", key, err)
		}
	}
	return m.push(s)
}

// narrow makes the storage a view of itself.
func (s *storage) narrow(v any) error {
	t, ok := v.(tuple)
	if !ok || len(t) != 3 {
		return fmt.Errorf("a view is %s, want a tuple of three", kind(v))
	}
	n, err := integers(t[1:])
	if err != nil {
		return fmt.Errorf("a view: %w", err)
	}
	if slices.Min(n) < 0 || n[0] > s.count || n[1] > s.count-n[0] {
		return fmt.Errorf("a view of %d values from %d on, of %d", n[1], n[0], s.count)
	}
	s.from, s.view = n[0], n[1]
	return nil
}

// kind names a value's type for errors.
func kind(v any) string {
	switch v := v.(type) {
	case nil:
		return "None"
	case bool:
		return "a bool"
	case int64, long:
		return "an integer"
	case float64:
		return "a float"
	case string:
		return "a string"
	case tuple:
		return "a tuple"
	case *list:
		return "a list"
	case *dict:
		return "a dict"
	case global:
		return "a function or type"
	case *storage:
		return "a storage"
	case *tensor:
		return "a tensor"
	default:
		return fmt.Sprintf("%T", v)
	}
}
