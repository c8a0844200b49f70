package main

import (
	"fmt"
	"io"

	"github.com/lockstep-ml/lockstep/coordinator/simulate"
)

// write prints what was foretold, for people, and what it rests on.
func (o *simulateOptions) write(w io.Writer, r *simulate.Result) error {
	c, m := &o.cfg, &o.cfg.Model
	topology := "a flat ring"
	if r.Group > 1 {
		topology = fmt.Sprintf("a ring of two levels, groups of %d", r.Group)
	}
	machines := "machines of their own"
	if m.Cores > 0 {
		machines = fmt.Sprintf("%d cores that all share", m.Cores)
	}
	p := printer{w: w}
	p.line("assumed: %s, %d workers and %d spares on %s, %d replicas of %d images, %v to compute one", o.arch, c.Workers, c.Spares, machines, r.Replicas, o.replicaBatch, m.Compute)
	p.line("         %.2f Gbit/s, %v to a neighbour, %v a message; detection %v, replacement %v, loading %v, journal %v, linking %v",
		m.BytesPerSecond*8/1e9, m.Hop, m.Message, c.Detect, c.Replace, c.Load, c.Sync, c.Link)
	if c.Replicas == c.Workers && c.MTBF > 0 {
		p.line("         one replica for each worker: while one is missing, another computes two, and all wait for it")
	}
	p.line("a step without failures: %.4f s, of which %.4f s after the computing; %s; a worker sends %s", r.IdealStep, r.IdealTail, topology, size(int64(r.StepBytes)))
	p.line("started after %.1f s; then %d steps in %.0f s: %.1f images/s, efficiency %.2f %%", r.Start, r.Steps, r.Elapsed, r.ImagesPerS, 100*r.Efficiency)
	p.line("%d failures, %d workers left, %d coordinators lost; %d rings made, %d steps done again, %d workers healed while others waited",
		r.Failures, r.Leaves, r.Coordinators, r.Generations, r.Broken, r.Healed)
	o.writeLost(&p, r)
	p.line("sent: %s on the ring, %s of states, %s of plans", size(int64(r.RingBytes)), size(int64(r.StateBytes)), size(int64(r.ControlBytes)))
	return p.err
}

// writeLost says where the time went.
func (o *simulateOptions) writeLost(p *printer, r *simulate.Result) {
	if r.Elapsed <= 0 {
		return
	}
	if r.Stalls > 0 {
		p.line("after a failure nobody trains for %.3f s, at the longest %.3f s", r.MeanStall, r.LongestStall)
	}
	l := &r.Lost
	for _, part := range []struct {
		name    string
		seconds float64
	}{
		{"steps broken off and done again", l.Redone},
		{"steps longer than that without failures", l.Slower},
		{"until failures were noticed", l.Detecting},
		{"until survivors had the next plan", l.Regroup},
		{"linking rings", l.Linking},
		{"copying states that all waited for", l.Healing},
		{"from plan to plan, unforced", l.Changing},
		{"measuring links", l.Measuring},
		{"waiting without a coordinator", l.Away},
	} {
		p.line("  %8.2f s  %5.2f %%  %s", part.seconds, 100*part.seconds/r.Elapsed, part.name)
	}
}

// printer keeps the first error of several lines.
type printer struct {
	w   io.Writer
	err error
}

func (p *printer) line(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format+"\n", args...)
	}
}
