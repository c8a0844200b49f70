package coordinator

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Kind is the shape of a Schedule.
type Kind string

// The kinds of schedule.
const (
	Constant Kind = "constant" // one rate for the whole run
	StepList Kind = "steps"    // divided at given points
	Plateau  Kind = "plateau"  // divided when the validation error stops falling: the paper's rule (He et al. 2015, section 3.4)
)

// Schedule gives the learning rate of every step. LR is a pure function of the step and of the state, which only Observe changes;
// MarshalState and Restore carry the state through a checkpoint.
type Schedule struct {
	kind      Kind
	base      float64
	scale     Scale
	at        []Span
	factor    float64
	patience  int
	threshold float64
	minLR     float64
	warm      warmup
	state     scheduleState
}

// warmup is a stretch at the start of the run with rates of its own.
type warmup struct {
	length Span
	start  float64 // rate of step 0; 0 means a tenth of the schedule's
	hold   bool    // stay at start, then jump; otherwise rise in a straight line
	until  untilError
}

// scheduleState is what training has taught the schedule. It is stored as JSON in checkpoints.
type scheduleState struct {
	Kind      Kind     `json:"kind"`
	Evaluated *uint64  `json:"evaluated,omitempty"` // step of the newest evaluation
	Best      *float64 `json:"best,omitempty"`      // lowest validation error that counted as an improvement
	Bad       int      `json:"bad,omitempty"`       // evaluations since then, or since the last division
	Drops     []uint64 `json:"drops,omitempty"`     // steps at which a plateau divided the rate
	Tally     *tally   `json:"tally,omitempty"`     // of a warm-up by training error that is not over
	Warmed    *uint64  `json:"warmed,omitempty"`    // step at which it was over
}

// LRSpan says that the rate is Value from FirstStep on, until the next span begins.
type LRSpan struct {
	FirstStep uint64
	Value     float64
}

// ParseSchedule reads a schedule and a warm-up. base is the learning rate before any division.
//
// A schedule is a kind and, after a colon, items with commas between them:
//
//	constant
//	steps:32000,48000              divided by 10 at steps 32000 and 48000
//	steps:60%,90%,factor=5         points may be steps (32000), epochs (30e) or per cent of the run (60%)
//	plateau:patience=5,threshold=0.001,factor=10,min-lr=0.0001
//
// plateau divides when 1 - top-1 of the validation images has not fallen by more than threshold (default 0) for patience
// (default 5) evaluations; min-lr bounds it from below.
//
// A warm-up is empty, or a span and how to begin:
//
//	5e               a straight line from a tenth of the rate to the rate
//	5e@0.01          a straight line from 0.01
//	400@0.01,hold    0.01 for 400 steps, then the rate at once
//	error:80%@0.01   0.01 until the training error is below 80 %, then the rate at once (the paper's start for its 110 layers); it
//	                 is looked at after every 20 steps, over those, or as many as a further ,every=STEPS says
//
// Every fault is reported at once, with the item that it lies in.
func ParseSchedule(schedule, warm string, base float64, scale Scale) (*Schedule, error) {
	s := &Schedule{base: base, scale: scale, factor: 10, patience: 5}
	var errs []error
	if !(base > 0) || math.IsInf(base, 1) {
		errs = append(errs, fmt.Errorf("learning rate %v must be a positive number", base))
	}
	if !(scale.StepsPerEpoch > 0) || math.IsInf(scale.StepsPerEpoch, 1) {
		errs = append(errs, fmt.Errorf("steps per epoch is %v: are there training images?", scale.StepsPerEpoch))
	}
	if err := s.parse(schedule); err != nil {
		errs = append(errs, fmt.Errorf("schedule %q: %w", schedule, err))
	}
	if err := s.warm.parse(warm); err != nil {
		errs = append(errs, fmt.Errorf("warm-up %q: %w", warm, err))
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	s.state.Kind = s.kind
	return s, nil
}

func (s *Schedule) parse(text string) error {
	kind, rest, found := strings.Cut(text, ":")
	s.kind = Kind(kind)
	switch s.kind {
	case Constant, StepList, Plateau:
	default:
		return fmt.Errorf("unknown kind %q at character 1: write constant, steps:AT[,AT...] or plateau", kind)
	}
	var errs []error
	if found {
		at := len(kind) + 2
		for _, item := range strings.Split(rest, ",") {
			if err := s.parseItem(item); err != nil {
				errs = append(errs, fmt.Errorf("at character %d: %w", at, err))
			}
			at += len(item) + 1
		}
	}
	if s.kind == StepList && len(s.at) == 0 && len(errs) == 0 {
		errs = append(errs, errors.New("no point is given: write steps:AT[,AT...], as in steps:60%,90%"))
	}
	for i := 1; i < len(s.at); i++ {
		if s.at[i].Steps(s.scale) <= s.at[i-1].Steps(s.scale) {
			errs = append(errs, fmt.Errorf("%s does not come after %s: give the points in rising order", s.at[i], s.at[i-1]))
		}
	}
	return errors.Join(errs...)
}

func (s *Schedule) parseItem(item string) error {
	key, value, isSetting := strings.Cut(item, "=")
	if !isSetting {
		if s.kind != StepList {
			return fmt.Errorf("%s takes no points, only settings: %q", s.kind, item)
		}
		at, err := ParseSpan(item)
		if err == nil && at.IsZero() {
			err = fmt.Errorf("%q divides the rate before the first step: set the learning rate instead", item)
		}
		s.at = append(s.at, at)
		return err
	}
	switch {
	case key == "factor" && s.kind != Constant:
		return parseNumber(item, value, &s.factor, func(v float64) bool { return v > 1 }, "a number above 1")
	case key == "threshold" && s.kind == Plateau:
		return parseNumber(item, value, &s.threshold, func(v float64) bool { return v >= 0 && v < 1 }, "a share of images from 0 to 1")
	case key == "min-lr" && s.kind == Plateau:
		return parseNumber(item, value, &s.minLR, func(v float64) bool { return v >= 0 && v <= s.base }, "a rate from 0 to the learning rate")
	case key == "patience" && s.kind == Plateau:
		n, err := strconv.Atoi(value)
		if err != nil || n < 1 {
			return fmt.Errorf("%q: want a number of evaluations, 1 or more", item)
		}
		s.patience = n
		return nil
	}
	return fmt.Errorf("%s knows no setting %q", s.kind, key)
}

func parseNumber(item, text string, to *float64, ok func(float64) bool, want string) error {
	v, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsInf(v, 0) || !ok(v) {
		return fmt.Errorf("%q: want %s", item, want)
	}
	*to = v
	return nil
}

func (w *warmup) parse(text string) error {
	if text == "" {
		return nil
	}
	if rest, found := strings.CutPrefix(text, "error:"); found {
		return w.parseUntilError(rest)
	}
	body, mode, hasMode := strings.Cut(text, ",")
	length, start, hasStart := strings.Cut(body, "@")
	var errs []error
	var err error
	if w.length, err = ParseSpan(length); err != nil {
		errs = append(errs, err)
	}
	if hasStart {
		positive := func(v float64) bool { return v > 0 }
		errs = append(errs, parseNumber("@"+start, start, &w.start, positive, "the rate to begin with, above 0"))
	}
	if hasMode {
		w.hold = mode == "hold"
		if !w.hold || !hasStart {
			errs = append(errs, fmt.Errorf("at character %d: %q: only SPAN@RATE,hold is known", len(body)+2, mode))
		}
	}
	return errors.Join(errs...)
}

// String gives the schedule as ParseSchedule reads it, without the warm-up.
func (s *Schedule) String() string {
	var items []string
	for _, at := range s.at {
		items = append(items, at.String())
	}
	if s.kind == Plateau {
		items = append(items, fmt.Sprintf("patience=%d", s.patience), fmt.Sprintf("threshold=%v", s.threshold), fmt.Sprintf("min-lr=%v", s.minLR))
	}
	if s.kind != Constant {
		items = append(items, fmt.Sprintf("factor=%v", s.factor))
	}
	if len(items) == 0 {
		return string(s.kind)
	}
	return string(s.kind) + ":" + strings.Join(items, ",")
}

// NeedsEvaluation says whether the schedule learns from evaluations, so that the run must have some.
func (s *Schedule) NeedsEvaluation() bool { return s.kind == Plateau }

// LR is the learning rate of a step, numbered from 0.
func (s *Schedule) LR(step uint64) float64 {
	rate := s.rate(step)
	if s.warm.until.below > 0 && (s.state.Warmed == nil || step < *s.state.Warmed) {
		return s.warm.start
	}
	length := s.warm.length.Steps(s.scale)
	if step >= length {
		return rate
	}
	start := s.warm.start
	if start == 0 {
		start = rate / 10
	}
	if s.warm.hold {
		return start
	}
	// The conversion keeps the product from being fused into the sum: every machine gets the same bits.
	return start + float64((rate-start)*(float64(step)/float64(length)))
}

// rate is the schedule without its warm-up.
func (s *Schedule) rate(step uint64) float64 {
	rate := s.base
	for _, at := range s.at {
		if step >= at.Steps(s.scale) {
			rate /= s.factor
		}
	}
	for _, at := range s.state.Drops {
		if step >= at {
			rate /= s.factor
		}
	}
	return max(rate, s.minLR)
}

// Spans lists the rates of the steps [first, until): one entry at first and one at every step that changes the rate.
func (s *Schedule) Spans(first, until uint64) []LRSpan {
	var spans []LRSpan
	for step := first; step < until; step = s.nextChange(step) {
		if lr := s.LR(step); len(spans) == 0 || spans[len(spans)-1].Value != lr {
			spans = append(spans, LRSpan{FirstStep: step, Value: lr})
		}
	}
	return spans
}

// nextChange is the first step after the given one at which the rate may differ.
func (s *Schedule) nextChange(step uint64) uint64 {
	length := s.warm.length.Steps(s.scale)
	if step < length && !s.warm.hold {
		return step + 1
	}
	next := uint64(math.MaxUint64)
	consider := func(at uint64) {
		if at > step {
			next = min(next, at)
		}
	}
	consider(length)
	if s.state.Warmed != nil {
		consider(*s.state.Warmed)
	}
	for _, at := range s.at {
		consider(at.Steps(s.scale))
	}
	for _, at := range s.state.Drops {
		consider(at)
	}
	return next
}

// Observe tells the schedule the validation error (1 - top-1, from 0 to 1) after that many committed steps. It reports whether
// the rate drops from this step on. An evaluation of a step that was observed already is ignored.
func (s *Schedule) Observe(step uint64, validationError float64) (dropped bool) {
	if s.Evaluated(step) {
		return false
	}
	s.state.Evaluated = &step
	if s.kind != Plateau {
		return false
	}
	if s.state.Best == nil || validationError < *s.state.Best-s.threshold {
		s.state.Best, s.state.Bad = &validationError, 0
		return false
	}
	if s.state.Bad++; s.state.Bad < s.patience {
		return false
	}
	s.state.Bad = 0
	if s.rate(step) <= s.minLR {
		return false
	}
	s.state.Drops = append(s.state.Drops, step)
	return true
}

// Evaluated says whether the evaluation after that many committed steps has been observed.
func (s *Schedule) Evaluated(step uint64) bool {
	return s.state.Evaluated != nil && *s.state.Evaluated >= step
}

// MarshalState gives the state as JSON, for a checkpoint.
func (s *Schedule) MarshalState() json.RawMessage {
	b, err := json.Marshal(s.state)
	if err != nil {
		panic(fmt.Sprintf("coordinator: a schedule's state of numbers does not marshal: %v", err))
	}
	return b
}

// Restore takes the state that MarshalState gave. Empty JSON is the state of a run that has not begun.
func (s *Schedule) Restore(state json.RawMessage) error {
	if len(state) == 0 || string(state) == "null" {
		s.state = scheduleState{Kind: s.kind}
		return nil
	}
	var st scheduleState
	if err := json.Unmarshal(state, &st); err != nil {
		return fmt.Errorf("schedule state of the checkpoint: %w", err)
	}
	switch {
	case st.Kind != s.kind:
		return fmt.Errorf("the checkpoint was written under schedule %q, this run has %q: resume with the schedule it began with", st.Kind, s.kind)
	case st.Best != nil && !(*st.Best >= 0 && *st.Best <= 1), st.Bad < 0, len(st.Drops) > maxDrops, !slices.IsSorted(st.Drops):
		return fmt.Errorf("schedule state of the checkpoint makes no sense: %.200s", state)
	case (st.Tally != nil || st.Warmed != nil) != (s.warm.until.below > 0) && (st.Tally != nil || st.Warmed != nil):
		return fmt.Errorf("the checkpoint was written under a warm-up by training error, this run has none: resume with the warm-up it began with")
	case st.Tally != nil && (st.Warmed != nil || st.Tally.Correct > st.Tally.Images):
		return fmt.Errorf("schedule state of the checkpoint makes no sense: %.200s", state)
	}
	s.state = st
	return nil
}

// maxDrops bounds what is read from a file. A rate divided by even 1.01 this often is zero.
const maxDrops = 100_000

// clone is a copy that shares no state.
func (s *Schedule) clone() *Schedule {
	c := *s
	if err := c.Restore(s.MarshalState()); err != nil {
		panic(fmt.Sprintf("coordinator: a schedule's own state does not restore: %v", err))
	}
	return &c
}
