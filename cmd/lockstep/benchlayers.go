package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/lockstep-ml/lockstep/core/cpu"
)

// layerReport is what each pass over each layer costs, and what the machine would allow.
type layerReport struct {
	StepMS    float64   `json:"step_ms"`       // mean of the timed steps
	ReadGB    float64   `json:"read_gb_per_s"` // limits of memory, all threads at once
	CopyGB    float64   `json:"copy_gb_per_s"`
	IdleShare float64   `json:"idle_share"` // of the threads' time: waiting for one another, for a part that one does alone, or for the loss
	Passes    []passRow `json:"passes"`     // in the order of the program
	Kinds     []passRow `json:"kinds"`      // the same by pass, the longest first
}

// passRow is one pass, or several of a kind. Rates are those of all threads while they work on it.
type passRow struct {
	Layer     string  `json:"layer,omitempty"`
	Pass      string  `json:"pass"`
	MS        float64 `json:"ms"`         // a step: time of all threads, divided by their number
	TimeShare float64 `json:"time_share"` // of the step
	GFLOPS    float64 `json:"gflops,omitempty"`
	GBPerS    float64 `json:"gb_per_s,omitempty"`
	OfLimit   float64 `json:"share_of_limit,omitempty"` // of the peak for a pass with products, of memory for others; above 1: caches

	flops, bytes int64 // of a step
}

// smallShare of a step's time is where the printed table stops listing passes one by one.
const smallShare = 0.001

// reportLayers sets times that were summed over the threads and the steps against the limits.
func reportLayers(times []cpu.PassTime, limits cpu.Limits, o benchOptions, took []time.Duration) *layerReport {
	wall := time.Duration(0)
	for _, t := range took {
		wall += t
	}
	r := &layerReport{StepMS: wall.Seconds() * 1e3 / float64(len(took)), ReadGB: limits.ReadBytes / 1e9, CopyGB: limits.CopyBytes / 1e9, IdleShare: 1}
	for _, t := range times {
		r.Passes = append(r.Passes, passRow{Layer: t.Layer, Pass: t.Pass, MS: t.Seconds * 1e3 / float64(o.threads*len(took)), flops: t.FLOPs, bytes: t.Bytes})
	}
	r.Kinds = kindsOf(r.Passes)
	for _, rows := range [][]passRow{r.Passes, r.Kinds} {
		for i := range rows {
			rows[i].rate(limits, r.StepMS)
		}
	}
	for _, k := range r.Kinds {
		r.IdleShare -= k.TimeShare
	}
	r.IdleShare = max(0, r.IdleShare)
	return r
}

// kindsOf adds up the passes of each kind, the longest first.
func kindsOf(passes []passRow) (kinds []passRow) {
	index := map[string]int{}
	for _, p := range passes {
		if p.Pass == "forward" && p.flops == 0 {
			p.Pass = "forward, no products" // what is held against memory is not added to what is held against the peak
		}
		at, known := index[p.Pass]
		if !known {
			at = len(kinds)
			index[p.Pass] = at
			kinds = append(kinds, passRow{Pass: p.Pass})
		}
		k := &kinds[at]
		k.MS, k.flops, k.bytes = k.MS+p.MS, k.flops+p.flops, k.bytes+p.bytes
	}
	slices.SortStableFunc(kinds, func(a, b passRow) int { return cmp.Compare(b.MS, a.MS) })
	return kinds
}

// rate sets the pass's speed. What took no time has none: nothing divides by zero.
func (p *passRow) rate(limits cpu.Limits, stepMS float64) {
	p.TimeShare = p.MS / stepMS
	switch {
	case p.MS <= 0:
	case p.flops > 0:
		p.GFLOPS = float64(p.flops) / p.MS / 1e6
		p.OfLimit = p.GFLOPS * 1e9 / limits.FLOPS()
	case p.bytes > 0:
		p.GBPerS = float64(p.bytes) / p.MS / 1e6
		p.OfLimit = p.GBPerS * 1e9 / limits.Bytes()
	}
}

func (r *layerReport) print(w io.Writer) error {
	fmt.Fprintf(w, "memory: %.1f GB/s read, %.1f GB/s copied (read and written)\n\n", r.ReadGB, r.CopyGB)
	fmt.Fprintf(w, "A step of %.2f ms; the threads were idle for %.1f %% of it. Milliseconds are those of all threads divided by their number. Passes with\n"+
		"products are held against the peak, the others against memory; more than 100 %% comes out of the caches.\n\n", r.StepMS, 100*r.IdleShare)
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "layer\tpass\t      ms\t  time\tspeed\tof limit")
	few, rest := 0, passRow{}
	for _, p := range r.Passes {
		if p.TimeShare < smallShare {
			few++
			rest.MS += p.MS
			rest.TimeShare += p.TimeShare
			continue
		}
		fmt.Fprintf(tw, "%s\t%s\n", p.Layer, p.cells())
	}
	if few > 0 {
		rest.Pass = fmt.Sprintf("%d passes below %g %% each", few, 100*smallShare)
		fmt.Fprintf(tw, "...\t%s\n", rest.cells())
	}
	fmt.Fprintln(tw, "\t\t\t\t\t\nall layers\t\t\t\t\t")
	for _, k := range r.Kinds {
		fmt.Fprintf(tw, "\t%s\n", k.cells())
	}
	return tw.Flush()
}

// cells are the columns after the layer.
func (p passRow) cells() string {
	speed, limit := "", ""
	switch {
	case p.GFLOPS > 0:
		speed = fmt.Sprintf("%7.1f GFLOP/s", p.GFLOPS)
	case p.GBPerS > 0:
		speed = fmt.Sprintf("%7.1f GB/s", p.GBPerS)
	}
	if p.OfLimit > 0 {
		limit = fmt.Sprintf("%5.1f %%", 100*p.OfLimit)
	}
	return fmt.Sprintf("%s\t%8.3f\t%4.1f %%\t%s\t%s", p.Pass, p.MS, 100*p.TimeShare, speed, limit)
}
