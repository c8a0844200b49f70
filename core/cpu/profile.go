package cpu

import (
	"strings"
	"time"
)

// PassTime is what one pass over one layer of the network has cost since Profile was called.
type PassTime struct {
	Layer   string
	Pass    string  // "forward", "data" (gradient of the input), "weights", "apply", "reduce", ...
	Seconds float64 // summed over the threads
	FLOPs   int64   // of one step: floating-point operations, two for a multiply-add
	Bytes   int64   // of one step: activations and gradients read or written, each counted once
}

// clock sums one piece's time, each thread in a cache line of its own.
type clock struct {
	name  string
	work  work
	spent [][8]int64 // nanoseconds in the first
}

// Profile makes the engine time every piece of its program from now on, at some 50 ns each, and returns a function that reads the
// times so far, in the order of the program. It must not be called while the engine works.
func (e *Engine) Profile() func() []PassTime {
	var clocks []*clock
	timed := func(name string, w work, job func(item, thread int)) func(item, thread int) {
		c := &clock{name: name, work: w, spent: make([][8]int64, e.cfg.Threads)}
		clocks = append(clocks, c)
		return func(item, thread int) {
			begun := time.Now()
			job(item, thread)
			c.spent[thread][0] += int64(time.Since(begun))
		}
	}
	for _, list := range [][]step{e.fwd, e.bwd} {
		for i := range list {
			s := &list[i]
			switch {
			case s.serial != nil:
				serial := s.serial
				run := timed(s.name, s.work, func(int, int) { serial() })
				s.serial = func() { run(0, 0) }
			case s.job != nil:
				s.job = timed(s.name, s.work, s.job)
			}
			for j := range s.parts {
				p := &s.parts[j]
				p.job = timed(p.name, p.work, p.job)
			}
		}
	}
	e.relayJob = timed("weights relay", work{bytes: 2 * e.memory.LaidOut}, e.relayJob)
	e.sgdJob = timed("weights update", work{bytes: int64(e.net.ParamLen()) * 20}, e.sgdJob)
	return func() []PassTime {
		out := make([]PassTime, len(clocks))
		for i, c := range clocks {
			layer, pass, _ := strings.Cut(c.name, " ")
			if pass == "" {
				pass = "forward"
			}
			ns := int64(0)
			for _, s := range c.spent {
				ns += s[0]
			}
			out[i] = PassTime{Layer: layer, Pass: pass, Seconds: float64(ns) / 1e9, FLOPs: c.work.flops, Bytes: c.work.bytes}
		}
		return out
	}
}
