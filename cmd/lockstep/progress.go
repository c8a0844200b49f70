package main

import (
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/lockstep-ml/lockstep/coordinator"
	"github.com/lockstep-ml/lockstep/shard/source"
)

// progressPrinter writes a run's progress: one line that is written over on a terminal, else plain lines now and then. It is
// called by one goroutine at a time.
type progressPrinter struct {
	w        io.Writer
	terminal bool
	open     bool // the terminal's line has no end yet
	last     time.Time
	shown    uint64 // step of the newest line
}

// plainEvery is the distance of lines where there is no terminal: seldom enough for a log, often enough to see life.
const plainEvery = 5 * time.Second

// terminalEvery is how often the line on a terminal changes: faster than the eye only costs.
const terminalEvery = 100 * time.Millisecond

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// begin says what will be trained.
func (p *progressPrinter) begin(r *prepared, o *runOptions) {
	s := r.settings
	p.event(fmt.Sprintf("%s on %s (%s)", s.arch, source.Clean(s.data), r.summary))
	p.event(fmt.Sprintf("%d steps (%.1f epochs) of %d images in %d replicas, %d workers, LR %g %s, seed %d; output in %s",
		r.total, float64(r.total)/r.perEpoch, s.batch, s.replicas(), o.workers, s.lr, strings.TrimSpace(s.schedule+" "+s.warmup), s.seed, o.out))
	for _, line := range s.describe(r.overruled) {
		p.event(line)
	}
	switch {
	case len(r.gossipers()) > 0:
		p.event(fmt.Sprintf("the run may still have workers, to go on with; if none comes back, it resumes from %s", r.resumed))
	case r.resumed != "":
		p.event(fmt.Sprintf("resuming after step %d from %s", r.initial.Step, r.resumed))
	}
	for _, n := range r.noted() {
		p.event("note: " + n)
	}
}

// step is told every step and event.
func (p *progressPrinter) step(g coordinator.Progress) {
	if g.Event != "" {
		if g.Warning {
			g.Event = "warning: " + g.Event
		}
		p.event(g.Event)
		return
	}
	every := plainEvery
	if p.terminal {
		every = terminalEvery
	}
	if now := time.Now(); g.Step != p.shown && (now.Sub(p.last) >= every || g.Step == g.Total) {
		p.last, p.shown = now, g.Step
		p.line(fmt.Sprintf("epoch %.2f  step %d/%d  loss %.4f  top-1 %.1f %%  LR %.4g  %.0f img/s  tail %s  data %s  %s left",
			g.Epoch, g.Step, g.Total, g.Loss, 100*g.Top1, g.LR, g.ImagesPerSecond, milliseconds(g.Tail), milliseconds(g.DataWait), g.Remaining.Round(time.Second)))
	}
}

// milliseconds writes a short time, with three digits while it is below a second.
func milliseconds(d time.Duration) string {
	ms := d.Seconds() * 1e3
	digits := max(0, 2-int(math.Log10(max(ms, 1))))
	return strconv.FormatFloat(ms, 'f', digits, 64) + " ms"
}

// evaluated is told every evaluation.
func (p *progressPrinter) evaluated(e coordinator.Evaluation) {
	p.event(fmt.Sprintf("after step %d: test top-1 %.2f %%, top-5 %.2f %%, loss %.4f (%d images)",
		e.Step, 100*e.Top1(), 100*float64(e.Correct5)/float64(max(e.Images, 1)), e.Loss, e.Images))
}

func (p *progressPrinter) line(s string) {
	if !p.terminal {
		fmt.Fprintln(p.w, s)
		return
	}
	fmt.Fprint(p.w, "\r\x1b[K", s)
	p.open = true
}

// event writes a line that stays.
func (p *progressPrinter) event(s string) {
	if p.open {
		fmt.Fprint(p.w, "\r\x1b[K")
		p.open = false
	}
	fmt.Fprintln(p.w, s)
}

// end leaves the last progress line standing.
func (p *progressPrinter) end() {
	if p.open {
		fmt.Fprintln(p.w)
		p.open = false
	}
}
