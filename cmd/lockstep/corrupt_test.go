package main

import (
	"fmt"
	"math"
	"testing"

	"github.com/lockstep-ml/lockstep/worker"
)

// spoiled reads where a worker under test is to flip a bit, once.
func spoiled(what string) *worker.Faults {
	var step uint64
	var replica int
	flip := func(v []float32) { v[len(v)/2] = math.Float32frombits(math.Float32bits(v[len(v)/2]) ^ 1<<20) }
	done := false
	if n, _ := fmt.Sscanf(what, "gradient %d %d", &step, &replica); n == 2 {
		return &worker.Faults{Gradient: func(s uint64, r int, values []float32, _ int) {
			if s == step && r == replica && !done {
				done = true
				flip(values)
			}
		}}
	}
	if n, _ := fmt.Sscanf(what, "weights %d", &step); n == 1 {
		return &worker.Faults{State: func(s uint64, params []float32) bool {
			if s != step || done {
				return false
			}
			done = true
			flip(params)
			return true
		}}
	}
	return nil
}

// A bit that flips in one worker's weights, or in one gradient, is found out; the worker is named and put out of the run, and the run ends
// with the bits that it would have had. Of two workers whose states differ neither is named: the wrong one's gradients have spoilt both.
func TestFlippedBit(t *testing.T) {
	for _, c := range []struct {
		name, what string
		others     []string
	}{
		{"weights, of 3", "weights 25", []string{"a", "c"}},
		{"weights, of 2", "weights 25", []string{"a"}},
		{"gradient, of 3", "gradient 20 2", []string{"a", "c"}}, // a hosts 0 and 1, b hosts 2, which is replica (20/10) mod 4
		{"gradient, of 2", "gradient 20 2", []string{"a"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			co, join := beginCoordinator(t, faultySteps, "--workers", fmt.Sprint(len(c.others)+1), "--verify-every", "10", "--checkpoint-every", "7")
			var crew []*process
			for _, name := range c.others {
				crew = append(crew, beginWorker(t, join, name))
			}
			b := begin(t, []string{asSpoiled + "=" + c.what}, "worker", "--join", join, "--name", "b", "--threads", "1")
			same(t, co)
			if c.name == "weights, of 2" {
				co.says("all go back to step", "nobody is named")
				b.wait(0)
			} else {
				co.says("worker b is removed for good")
				b.wait(1).says("removed from the run")
			}
			for _, p := range crew {
				p.wait(0)
			}
		})
	}
}
