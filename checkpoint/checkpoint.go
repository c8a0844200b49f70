package checkpoint

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/lockstep-ml/lockstep/internal/snapshot"
)

// Role says what a tensor's values are.
type Role string

// The roles, in the order in which a checkpoint file holds them and a state hash runs through them.
const (
	RoleParam    Role = "param"
	RoleMomentum Role = "momentum"
	RoleMean     Role = "running_mean"
	RoleVar      Role = "running_var"
)

var roles = []Role{RoleParam, RoleMomentum, RoleMean, RoleVar}

// Tensor is a named array in row-major order. A momentum tensor bears its parameter's name. An empty Shape is a scalar.
type Tensor struct {
	Name  string
	Role  Role
	Shape []int
	Data  []float32
}

// Checkpoint is the state after Step committed steps.
type Checkpoint struct {
	Step    uint64
	Hash    string    // snapshot.Snapshot.Hash of the state; Save fills it, or checks it if it is given
	Created time.Time // when it was made; Save fills it if it is zero
	Version string    // of the program that made it

	// Config, Schedule and Data (the data position) belong to the caller: any JSON, or nil.
	Config, Schedule, Data json.RawMessage

	// Tensors are all roles' tensors; within a role they are in the network's canonical order.
	Tensors []Tensor
}

// Spec names one tensor of a network. A parameter's momentum needs no Spec of its own.
type Spec struct {
	Name  string // torchvision's name, such as "layer1.0.bn1.running_mean"
	Role  Role   // RoleParam, RoleMean or RoleVar
	Shape []int
}

// Table lists a network's tensors: those of each role in the canonical order of the snapshot's slice for that role.
type Table []Spec

// AddParam appends a parameter.
func (t *Table) AddParam(name string, shape ...int) { *t = append(*t, Spec{name, RoleParam, shape}) }

// AddNorm appends the running mean and variance of the batch norm with this module path and channels.
func (t *Table) AddNorm(name string, channels int) {
	*t = append(*t, Spec{name + ".running_mean", RoleMean, []int{channels}}, Spec{name + ".running_var", RoleVar, []int{channels}})
}

// StateHash is snapshot.Snapshot.Hash over the checkpoint's tensors, in the order of roles.
func (c *Checkpoint) StateHash() string {
	h := newStateHash()
	for _, t := range c.sorted() {
		h.write(snapshot.LittleEndian(t.Data))
	}
	return h.sum(c.Step)
}

// sorted gives the tensors in the order of a file, leaving c alone.
func (c *Checkpoint) sorted() []Tensor {
	order := func(r Role) int { return slices.Index(roles, r) }
	out := slices.Clone(c.Tensors)
	slices.SortStableFunc(out, func(a, b Tensor) int { return order(a.Role) - order(b.Role) })
	return out
}

// FromSnapshot cuts a snapshot into named tensors, without a copy: the checkpoint looks at the snapshot's memory. It is an error if
// the table does not fit the snapshot's lengths.
func FromSnapshot(s *snapshot.Snapshot, table Table) (*Checkpoint, error) {
	rest := map[Role][]float32{RoleParam: s.Params, RoleMomentum: s.Momentum, RoleMean: s.Mean, RoleVar: s.Var}
	c := &Checkpoint{Step: s.Step}
	for _, spec := range table.full() {
		n, err := elements(spec.Shape)
		if err != nil {
			return nil, fmt.Errorf("tensor table: %s (%s): %w", spec.Name, spec.Role, err)
		}
		from, known := rest[spec.Role]
		if !known || n > len(from) {
			return nil, fmt.Errorf("tensor table: %s (%s) needs %d values, the snapshot has %d left for it", spec.Name, spec.Role, n, len(from))
		}
		c.Tensors = append(c.Tensors, Tensor{spec.Name, spec.Role, slices.Clone(spec.Shape), from[:n:n]})
		rest[spec.Role] = from[n:]
	}
	for _, role := range roles {
		if n := len(rest[role]); n > 0 {
			return nil, fmt.Errorf("tensor table: the snapshot has %d values of role %s that no tensor takes", n, role)
		}
	}
	return c, nil
}

// Snapshot copies the checkpoint's tensors into a snapshot in the table's order. It is strict: an error lists every tensor that is
// missing, unexpected or of another shape.
func (c *Checkpoint) Snapshot(table Table) (*snapshot.Snapshot, error) {
	have := make(map[tensorKey]Tensor, len(c.Tensors))
	for _, t := range c.Tensors {
		have[tensorKey{t.Name, t.Role}] = t
	}
	s := &snapshot.Snapshot{Step: c.Step}
	into := map[Role]*[]float32{RoleParam: &s.Params, RoleMomentum: &s.Momentum, RoleMean: &s.Mean, RoleVar: &s.Var}
	var faults []error
	for _, spec := range table.full() {
		key := tensorKey{spec.Name, spec.Role}
		t, ok := have[key]
		delete(have, key)
		dst := into[spec.Role]
		switch {
		case dst == nil:
			faults = append(faults, fmt.Errorf("%s is of unknown role in the tensor table", key))
		case !ok:
			faults = append(faults, fmt.Errorf("%s is missing", key))
		case !slices.Equal(t.Shape, spec.Shape):
			faults = append(faults, fmt.Errorf("%s has shape %v, the network wants %v", key, t.Shape, spec.Shape))
		default:
			*dst = append(*dst, t.Data...)
		}
	}
	for _, t := range c.Tensors {
		if _, left := have[tensorKey{t.Name, t.Role}]; left {
			faults = append(faults, fmt.Errorf("%s is not in the network", tensorKey{t.Name, t.Role}))
		}
	}
	if len(faults) > 0 {
		return nil, fmt.Errorf("checkpoint of step %d does not fit the network: %w", c.Step, errors.Join(faults...))
	}
	return s, nil
}

// full is the table with the momentum tensors, in the order of a file.
func (t Table) full() Table {
	var out Table
	for _, role := range roles {
		for _, spec := range t {
			switch {
			case spec.Role == role:
				out = append(out, spec)
			case role == RoleMomentum && spec.Role == RoleParam:
				out = append(out, Spec{spec.Name, RoleMomentum, spec.Shape})
			}
		}
	}
	for _, spec := range t {
		if !slices.Contains(roles, spec.Role) {
			out = append(out, spec) // an unknown role, for the caller to report
		}
	}
	return out
}

// tensorKey tells tensors of one file apart.
type tensorKey struct {
	name string
	role Role
}

func (k tensorKey) String() string { return fmt.Sprintf("%s (%s)", k.name, k.role) }

const (
	maxRank     = 8       // convolutions have 4; more is a damaged or hostile file
	maxElements = 1 << 40 // keeps every product of dimensions far from overflow
)

// elements multiplies out a shape.
func elements(shape []int) (int, error) {
	if len(shape) > maxRank {
		return 0, fmt.Errorf("shape %v has more than %d dimensions", shape, maxRank)
	}
	n := 1
	for _, d := range shape {
		if d < 1 || d > maxElements/n {
			return 0, fmt.Errorf("shape %v is not a shape of at most %d values", shape, maxElements)
		}
		n *= d
	}
	return n, nil
}
