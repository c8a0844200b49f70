package coordinator

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// untilError is a warm-up that lasts until the network has begun to learn: the paper's start for its 110 layers (He et al. 2015,
// section 4.2). The training error is taken over blocks of steps, each from the end of the one before it.
type untilError struct {
	below float64 // training error, from 0 to 1; 0: there is no such warm-up
	every uint64  // steps of a block
}

// defaultBlock is the steps of a block where none are given: 2,560 images at the paper's 128, which tell 80 % from 81 %. Shorter and
// one lucky batch ends the warm-up; longer and it ends late.
const defaultBlock = 20

// tally is what a block has come to so far.
type tally struct {
	Step    uint64 `json:"step"` // committed steps, the last one counted
	Images  uint64 `json:"images"`
	Correct uint64 `json:"correct"`
	Gap     bool   `json:"gap,omitempty"` // some step's counts are unknown: the block decides nothing
}

// parseUntilError reads "80%@0.01[,every=20]", what follows "error:".
func (w *warmup) parseUntilError(text string) error {
	body, setting, hasSetting := strings.Cut(text, ",")
	percent, start, _ := strings.Cut(body, "@")
	below, err := strconv.ParseFloat(strings.TrimSuffix(percent, "%"), 64)
	if err != nil || !strings.HasSuffix(percent, "%") || !(below > 0 && below < 100) {
		return fmt.Errorf("at character 7: %q is no training error: write error:80%%@RATE", percent)
	}
	w.until = untilError{below: below / 100, every: defaultBlock}
	errs := []error{parseNumber("@"+start, start, &w.start, func(v float64) bool { return v > 0 }, "the rate to begin with, above 0")}
	if hasSetting {
		n, err := strconv.ParseUint(strings.TrimPrefix(setting, "every="), 10, 32)
		if err != nil || n < 1 || !strings.HasPrefix(setting, "every=") {
			errs = append(errs, fmt.Errorf("at character %d: %q: only every=STEPS, 1 or more, is known", len("error:")+len(body)+2, setting))
		}
		w.until.every = n
	}
	return errors.Join(errs...)
}

// NeedsTraining says whether the schedule still learns from the training error, so that it must hear of every step and no rate is
// known beyond the block's end.
func (s *Schedule) NeedsTraining() bool { return s.warm.until.below > 0 && s.state.Warmed == nil }

// blockEnd is the first step after the given one at which a block of training steps ends.
func (s *Schedule) blockEnd(step uint64) uint64 {
	every := s.warm.until.every
	return (step/every + 1) * every
}

// counted is the newest step whose training counts are part of the state.
func (s *Schedule) counted() uint64 {
	if s.state.Tally == nil {
		return 0
	}
	return s.state.Tally.Step
}

// ObserveTraining tells the schedule what a step came to on the training images: step is the number of committed steps, this one
// included. A step that was told of before is ignored. It reports whether the warm-up is over from this step on.
func (s *Schedule) ObserveTraining(step, images, correct uint64) (ended bool) {
	if !s.NeedsTraining() || step <= s.counted() {
		return false
	}
	t := tally{Step: s.counted()}
	if s.state.Tally != nil {
		t = *s.state.Tally
	}
	t.Gap = t.Gap || step != t.Step+1 || images == 0
	t.Step, t.Images, t.Correct = step, t.Images+images, t.Correct+min(correct, images)
	if step%s.warm.until.every != 0 {
		s.state.Tally = &t
		return false
	}
	s.state.Tally = &tally{Step: step}
	if t.Gap || 1-float64(t.Correct)/float64(t.Images) >= s.warm.until.below {
		return false
	}
	s.state.Warmed, s.state.Tally = &step, nil
	return true
}

// trained tells the schedule of a step that a member has committed, and keeps what became of it. All members tell the same, as the
// counts come from the ring.
func (m *Machine) trained(r StepReport) {
	s := m.cfg.Schedule
	if !s.NeedsTraining() || r.Step <= s.counted() {
		return
	}
	if r.Step != s.counted()+1 {
		m.tell(true, "the training error of steps %d to %d is not known: it will not end the warm-up", s.counted()+1, r.Step-1)
	}
	ended := s.ObserveTraining(r.Step, r.Images, r.Correct1)
	m.history = append(m.history, scheduleAt{r.Step, s.MarshalState()})
	if ended {
		m.tell(false, "after step %d the training error is below %g %%: the warm-up is over, the learning rate now %v", r.Step, 100*s.warm.until.below, s.LR(r.Step))
	}
}

// recordTrained has in the journal what the schedule had learned from training by that many committed steps: in front of a plan, since
// no report that is older will be told again, and of a checkpoint, which may be gone back to without its file being read here.
func (m *Machine) recordTrained(step uint64) {
	if m.cfg.Schedule.warm.until.below > 0 && step > 0 {
		m.record(Entry{Trained: &TrainedEntry{Step: step, Schedule: m.scheduleState(step)}})
	}
}

// replayTrained takes an entry of the journal, which may be of an earlier step than the one before.
func (m *Machine) replayTrained(e *TrainedEntry) error {
	at := len(m.history)
	for at > 0 && m.history[at-1].step > e.Step {
		at--
	}
	if at == len(m.history) {
		if err := m.cfg.Schedule.Restore(e.Schedule); err != nil {
			return err
		}
	}
	m.history = slices.Insert(m.history, at, scheduleAt{e.Step, e.Schedule})
	return nil
}

// untold says whether a state is ahead of what its schedule has heard: stored so, a run that resumed from it would lack a step.
func (m *Machine) untold(step uint64) bool {
	return m.cfg.Schedule.NeedsTraining() && m.cfg.Schedule.counted() < step
}
