package chaos

import (
	"fmt"
	"io"
	"slices"
	"time"
)

// Report is what a soak came to.
type Report struct {
	Seed     uint64        `json:"seed"`
	Want     string        `json:"hash"` // of the undisturbed run
	Rounds   []RoundReport `json:"rounds"`
	Kinds    []KindReport  `json:"kinds"`
	Injected int           `json:"injected"`
	Redone   uint64        `json:"redone_steps"`
	Skipped  []string      `json:"skipped,omitempty"` // what could not be done here, and why
	Logs     string        `json:"logs,omitempty"`    // folder
	skipped  []Kind
}

// RoundReport is what one round came to.
type RoundReport struct {
	Round       int       `json:"round"`
	Seconds     float64   `json:"seconds"`
	Step        uint64    `json:"step"`
	Hash        string    `json:"hash"`
	Planned     int       `json:"planned"`
	Injected    int       `json:"injected"`
	Generations uint64    `json:"generations"` // that were seen to begin
	Redone      uint64    `json:"redone_steps"`
	Problems    []string  `json:"problems,omitempty"`
	Restarts    []string  `json:"restarts,omitempty"` // processes that ended by themselves where that may be, and were started again
	Faults      []Outcome `json:"faults"`
}

// KindReport sums the faults of a kind up. The pause is the longest time without a step from the fault until it was over and
// the next one was due.
type KindReport struct {
	Kind          Kind    `json:"kind"`
	Injected      int     `json:"injected"`
	Skipped       int     `json:"skipped"`
	PauseSeconds  float64 `json:"pause_seconds"`       // median
	LongestPause  float64 `json:"longest_seconds"`     // of the pauses
	LastedSeconds float64 `json:"lasted_seconds"`      // median of how long the faults themselves lasted
	Unsettled     int     `json:"unsettled,omitempty"` // began before what had been was over
}

func newReport(c *Config) *Report { return &Report{Seed: c.Seed} }

// skip notes that a kind cannot be injected here.
func (r *Report) skip(k Kind, why error) {
	r.skipped = append(r.skipped, k)
	r.Skipped = append(r.Skipped, fmt.Sprintf("%s: %v", k, why))
}

func (r *Report) add(x *round, took time.Duration) {
	x.mu.Lock()
	defer x.mu.Unlock()
	o := RoundReport{Round: x.number, Seconds: took.Seconds(), Step: x.end.Step, Hash: x.end.Hash, Planned: len(x.plan.Faults),
		Generations: x.watch.rings, Redone: x.watch.redone, Problems: x.problems, Restarts: x.restarts, Faults: x.outcomes}
	for _, f := range x.outcomes {
		if f.Skipped == "" {
			o.Injected++
		}
	}
	r.Injected += o.Injected
	r.Redone += o.Redone
	r.Rounds = append(r.Rounds, o)
}

// of gives the faults of a kind that were injected.
func (r *Report) of(k Kind) (out []Outcome, skipped int) {
	for _, x := range r.Rounds {
		for _, f := range x.Faults {
			switch {
			case f.Kind != k:
			case f.Skipped != "":
				skipped++
			default:
				out = append(out, f)
			}
		}
	}
	return out, skipped
}

// enough says whether as much went wrong as was asked for.
func (r *Report) enough(c *Config) bool {
	if r.Injected < c.Faults {
		return false
	}
	for _, k := range c.Kinds {
		if n, _ := r.of(k); len(n) < c.Each && !slices.Contains(r.skipped, k) {
			return false
		}
	}
	return true
}

// sum fills the table by kind.
func (r *Report) sum(c *Config) {
	r.Kinds = nil
	for _, k := range Kinds() {
		faults, skipped := r.of(k)
		if len(faults) == 0 && skipped == 0 && !slices.Contains(c.Kinds, k) {
			continue
		}
		row := KindReport{Kind: k, Injected: len(faults), Skipped: skipped}
		var pauses, lasted []float64
		for _, f := range faults {
			pauses, lasted = append(pauses, f.Pause.Seconds()), append(lasted, f.For.Seconds())
			row.LongestPause = max(row.LongestPause, f.Pause.Seconds())
			if f.Unsettled {
				row.Unsettled++
			}
		}
		row.PauseSeconds, row.LastedSeconds = median(pauses), median(lasted)
		r.Kinds = append(r.Kinds, row)
	}
}

func median(x []float64) float64 {
	if len(x) == 0 {
		return 0
	}
	slices.Sort(x)
	return (x[(len(x)-1)/2] + x[len(x)/2]) / 2
}

// Good says that every round was played to its end without a problem.
func (r *Report) Good() bool {
	for _, x := range r.Rounds {
		if len(x.Problems) > 0 {
			return false
		}
	}
	return len(r.Rounds) > 0
}

// Write writes the report for people.
func (r *Report) Write(w io.Writer) error {
	out := &lines{w: w}
	out.say("| fault | injected | skipped | pause, s: median | longest | lasted, s: median | unsettled |")
	out.say("|---|---|---|---|---|---|---|")
	for _, k := range r.Kinds {
		out.say("| %s | %d | %d | %.2f | %.2f | %.1f | %d |", k.Kind, k.Injected, k.Skipped, k.PauseSeconds, k.LongestPause, k.LastedSeconds, k.Unsettled)
	}
	out.say("| **all** | %d | | | | | |\n", r.Injected)
	for _, x := range r.Rounds {
		out.say("round %d, seed %d: %d of %d faults in %.0f s, %d generations, %d steps done again, %d restarts, step %d, hash %s",
			x.Round, r.Seed, x.Injected, x.Planned, x.Seconds, x.Generations, x.Redone, len(x.Restarts), x.Step, x.Hash)
		for _, t := range x.Restarts {
			out.say("  started again: %s", t)
		}
		for _, p := range x.Problems {
			out.say("  PROBLEM: %s", p)
		}
		if len(x.Problems) > 0 {
			out.say("  again: lockstep soak --seed %d --round %d, with the same --workers, --per-round, --steps and --kinds", r.Seed, x.Round)
		}
	}
	out.say("undisturbed: hash %s", r.Want)
	for _, s := range r.Skipped {
		out.say("skipped: %s", s)
	}
	if r.Logs != "" {
		out.say("logs of all processes: %s", r.Logs)
	}
	return out.err
}

// lines writes lines until one cannot be written.
type lines struct {
	w   io.Writer
	err error
}

func (l *lines) say(format string, args ...any) {
	if l.err == nil {
		_, l.err = fmt.Fprintf(l.w, format+"\n", args...)
	}
}
