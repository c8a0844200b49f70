package checkpoint

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/lockstep-ml/lockstep/internal/snapshot"
)

const (
	meanSuffix  = ".running_mean"
	countSuffix = ".num_batches_tracked" // PyTorch's count of training batches, of no use to evaluation
)

// ExportWeights gives parameters and running statistics under torchvision's names, as torch.nn.Module.load_state_dict takes them:
// with each batch norm's num_batches_tracked, which is the snapshot's step. The arrays look at the snapshot's memory.
func ExportWeights(s *snapshot.Snapshot, table Table) ([]Array, error) {
	c, err := FromSnapshot(s, table)
	if err != nil {
		return nil, err
	}
	if s.Step > math.MaxInt64 {
		return nil, fmt.Errorf("export weights: step %d does not fit num_batches_tracked", s.Step)
	}
	return c.Weights(), nil
}

// Weights gives a checkpoint's parameters and running statistics as ExportWeights does.
func (c *Checkpoint) Weights() []Array {
	var arrays []Array
	for _, t := range c.Tensors {
		if t.Role == RoleMomentum {
			continue
		}
		arrays = append(arrays, Array{Name: t.Name, DType: F32, Shape: t.Shape, Data: t.Data})
		if norm, ok := strings.CutSuffix(t.Name, meanSuffix); ok && t.Role == RoleMean {
			arrays = append(arrays, Array{Name: norm + countSuffix, DType: I64, Ints: []int64{int64(min(c.Step, math.MaxInt64))}})
		}
	}
	return arrays
}

// ImportOptions relax ImportWeights. The zero value is strict.
type ImportOptions struct {
	AllowMissing    bool // leave tensors that the file does not have as they are
	AllowUnexpected bool // pass over tensors that the network does not have
	FreshHead       bool // leave the last layer as it is where the file's is for another number of classes
}

// The last layer's parameters.
const (
	headWeight = "fc.weight"
	headBias   = "fc.bias"
)

// Classes is the number of classes that the arrays' last layer tells apart, 0 if they have none.
func Classes(arrays []Array) int {
	for _, a := range arrays {
		if torchName(a.Name) == headWeight && len(a.Shape) == 2 {
			return a.Shape[0]
		}
	}
	return 0
}

// otherClasses says whether file and table have a last layer that differs in the number of classes, and in nothing else.
func otherClasses(have map[string]Array, table Table) bool {
	var fits [2]bool
	weight, bias := have[headWeight].Shape, have[headBias].Shape
	for _, s := range table {
		switch s.Name {
		case headWeight:
			fits[0] = len(weight) == 2 && len(s.Shape) == 2 && weight[1] == s.Shape[1] && weight[0] != s.Shape[0]
		case headBias:
			fits[1] = len(bias) == 1 && len(weight) == 2 && bias[0] == weight[0]
		}
	}
	return fits[0] && fits[1]
}

// ImportWeights copies arrays into a snapshot that the table fits, leaving momentum and step alone. Names may carry the "module."
// that PyTorch's DataParallel puts in front or the "_orig_mod." of torch.compile, and a last layer called "linear" becomes "fc";
// num_batches_tracked is ignored. An error lists everything missing, unexpected or of another shape or type, and the snapshot is as
// it was.
func ImportWeights(arrays []Array, table Table, into *snapshot.Snapshot, o ImportOptions) error {
	c, err := FromSnapshot(into, table)
	if err != nil {
		return err
	}
	have, faults := byName(arrays)
	fresh := o.FreshHead && otherClasses(have, table)
	known := make(map[string]bool, len(table))
	var copies []func()
	for _, t := range c.Tensors {
		if t.Role == RoleMomentum {
			continue
		}
		known[t.Name] = true
		a, ok := have[t.Name]
		switch {
		case !ok && !o.AllowMissing:
			faults = append(faults, fmt.Errorf("%s is missing", t.Name))
		case !ok:
		case fresh && (t.Name == headWeight || t.Name == headBias):
		case !slices.Equal(a.Shape, t.Shape):
			faults = append(faults, fmt.Errorf("%s has shape %v, the network wants %v", a.Name, a.Shape, t.Shape))
		case a.Data == nil:
			faults = append(faults, fmt.Errorf("%s is of type %s, want a float type", a.Name, a.DType))
		default:
			copies = append(copies, func() { copy(t.Data, a.Data) })
		}
	}
	for _, a := range arrays {
		if name := torchName(a.Name); !known[name] && !strings.HasSuffix(name, countSuffix) && !o.AllowUnexpected {
			faults = append(faults, fmt.Errorf("%s is not in the network", a.Name))
		}
	}
	if len(faults) > 0 {
		return fmt.Errorf("the weights do not fit the network: %w", errors.Join(faults...))
	}
	for _, f := range copies {
		f()
	}
	return nil
}

// byName indexes arrays by the network's names; two that come to one name are a fault.
func byName(arrays []Array) (map[string]Array, []error) {
	out := make(map[string]Array, len(arrays))
	var faults []error
	for _, a := range arrays {
		name := torchName(a.Name)
		if other, twice := out[name]; twice {
			faults = append(faults, fmt.Errorf("%s and %s both mean %s", other.Name, a.Name, name))
		}
		out[name] = a
	}
	return out, faults
}

// torchName is the network's name for a tensor of a file.
func torchName(name string) string {
	for _, wrapper := range []string{"module.", "_orig_mod.", "module."} {
		name = strings.TrimPrefix(name, wrapper)
	}
	if rest, ok := strings.CutPrefix(name, "linear."); ok {
		return "fc." + rest
	}
	return name
}
