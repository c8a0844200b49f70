package enginetest

import (
	"fmt"
	"math"
	"strings"
	"testing"
)

// report collects how far figures are from what they should be, as multiples of what is allowed.
type report struct {
	tolerance Tolerance
	spread    float64 // of the trajectory that the figures now lie on; see golden.trajectory
	kinds     []kind  // in the order first seen
	beyond    []string
	lucky     []string // beyond what their own figure's deviation would allow, but not the trajectory's
}

// kind is one kind of figure: the losses, say.
type kind struct {
	name    string
	figures int
	worst   float64 // largest deviation / allowance
	where   string
	off     float64 // that figure's relative deviation
	allowed float64
}

// compare notes one figure. deviation is PyTorch's own float32 deviation for it, where the file has one.
func (r *report) compare(kindName, where string, got, want, deviation float64) {
	off := math.Abs(got-want) / math.Abs(want)
	if got == want { // both may be zero: the means of a layer that no data reached
		off = 0
	}
	own := max(r.tolerance.Floor, r.tolerance.Deviations*deviation)
	allowed := max(own, r.tolerance.Deviations*r.spread)
	ratio := off / allowed
	if math.IsNaN(ratio) {
		ratio = math.Inf(1)
	}
	if ratio > 1 {
		r.beyond = append(r.beyond, fmt.Sprintf("%s %s: got %.12g, want %.12g: off by %.3g, %.3g times the %.3g allowed",
			kindName, where, got, want, off, ratio, allowed))
	}
	if off > own && ratio <= 1 {
		r.lucky = append(r.lucky, fmt.Sprintf("%s %s: off by %.3g, %.3g times what its own float32_deviation allows", kindName, where, off, off/own))
	}
	k := r.kind(kindName)
	k.figures++
	if k.figures == 1 || ratio > k.worst {
		k.worst, k.where, k.off, k.allowed = ratio, where, off, allowed
	}
}

func (r *report) kind(name string) *kind {
	for i := range r.kinds {
		if r.kinds[i].name == name {
			return &r.kinds[i]
		}
	}
	r.kinds = append(r.kinds, kind{name: name})
	return &r.kinds[len(r.kinds)-1]
}

// compareNorms compares every tensor's figure and asks for the same set of tensors.
func (r *report) compareNorms(kindName string, got []named, want map[string]float64, deviation float64) {
	for _, g := range got {
		w, ok := want[g.name]
		if !ok {
			r.beyond = append(r.beyond, fmt.Sprintf("%s: the file has no %s", kindName, g.name))
			continue
		}
		r.compare(kindName, g.name, g.value, w, deviation)
	}
	if len(got) != len(want) {
		r.beyond = append(r.beyond, fmt.Sprintf("%s: %d tensors, the file has %d", kindName, len(got), len(want)))
	}
}

// print logs the worst figure of each kind, and fails the test with every figure that is beyond.
func (r *report) print(t *testing.T) {
	t.Helper()
	var b strings.Builder
	for _, k := range r.kinds {
		fmt.Fprintf(&b, "\n%-20s %4d figures, worst at %.3g of its allowance: off by %.3g, %.3g allowed (%s)", k.name, k.figures, k.worst, k.off, k.allowed, k.where)
	}
	if len(r.lucky) > 0 {
		fmt.Fprintf(&b, "\nwithin the trajectory's allowance, where PyTorch's own run came closer:\n%s", strings.Join(r.lucky, "\n"))
	}
	t.Log(b.String())
	if len(r.beyond) > 0 {
		t.Errorf("%d figures beyond their allowance:\n%s", len(r.beyond), strings.Join(r.beyond, "\n"))
	}
}
