package coordinator

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// corruption is what goes wrong in one worker.
type corruption struct {
	victim   string
	at       uint64 // committed steps; of a gradient the step's number
	always   bool   // from then on
	bit      uint64 // of the state
	gradient bool   // of a replica that is audited; else memory, after a step
	done     bool
	in       uint64 // generation that it happened in first
}

func drawCorruption(t *rapid.T, w *world) *corruption {
	hosts := min(w.cfg.Replicas, len(w.workers))
	c := &corruption{
		victim:   w.sorted()[rapid.IntRange(0, hosts-1).Draw(t, "victim")].name,
		always:   rapid.Bool().Draw(t, "always"),
		gradient: rapid.Bool().Draw(t, "gradient"),
		bit:      rapid.SampledFrom([]uint64{1, statistics}).Draw(t, "bit"),
		at:       uint64(rapid.IntRange(1, int(w.cfg.TotalSteps)).Draw(t, "at")),
	}
	w.corrupt = true
	w.bent = func(o *simWorker) {
		if !c.gradient && o.name == c.victim && (o.step == c.at || c.always && o.step > c.at) && !(c.done && !c.always) {
			if o.state ^= c.bit; c.bit == statistics {
				o.state |= c.bit // twice wrong is not right
			}
			c.done = true
			w.note("== the memory of %s goes wrong after step %d", o.name, o.step)
		}
	}
	w.wrong = func(o *simWorker, step uint64, replica int) uint64 {
		k := w.cfg.VerifyEvery
		if !c.gradient || o.name != c.victim || step < c.at || step%k != 0 || replica != int(step/k)%w.cfg.Replicas || c.done && !c.always && (c.at != step || c.in != o.plan.Generation) {
			return 0
		}
		if !c.done {
			c.at, c.done, c.in = step, true, o.plan.Generation
		}
		w.note("== %s computes replica %d of step %d wrongly", o.name, replica, step)
		return 1
	}
	return c
}

// TestSilentCorruption: wrong bits in one worker are found, and the run goes on from before them: it ends with the bits of the
// undisturbed one, or says that it cannot. Nobody else is removed.
func TestSilentCorruption(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cfg := drawConfig(t)
		cfg.VerifyEvery = uint64(rapid.IntRange(1, 4).Draw(t, "every"))
		cfg.Replicas = rapid.SampledFrom([]int{2, 4, 8}).Draw(t, "more replicas")
		cfg.MinWorkers = rapid.IntRange(2, min(4, cfg.Replicas)).Draw(t, "crew")
		cfg.Group = 0
		w := newWorld(t, cfg)
		for range cfg.MinWorkers {
			w.join()
		}
		c := drawCorruption(t, w)
		if w.settle(4000); w.result == nil {
			w.fatal("no end in sight: %s", w.m.phase)
		}
		w.judgeCorruption(c)
	})
}

// TestSilentCorruptionAmidFaults: while others fail, wrong bits are still found out, as long as nobody copies them, and two are there to compare.
func TestSilentCorruptionAmidFaults(t *testing.T) {
	names := []string{"kill", "come back", "break", "half-open", "cut", "join", "fall", "fall within a step", "leave", "freeze", "thaw"}
	rapid.Check(t, func(t *rapid.T) {
		cfg := drawConfig(t)
		cfg.VerifyEvery = uint64(rapid.IntRange(1, 4).Draw(t, "every"))
		cfg.Replicas = rapid.SampledFrom([]int{2, 4, 8}).Draw(t, "more replicas")
		cfg.MinWorkers = rapid.IntRange(2, min(4, cfg.Replicas)).Draw(t, "crew")
		cfg.Group = 0
		w := drawWorld(t, cfg)
		c := drawCorruption(t, w)
		c.gradient, c.bit, w.disturbed = false, statistics, true
		for range rapid.IntRange(0, 8).Draw(t, "faults") {
			if w.settle(rapid.IntRange(0, 40).Draw(t, "turns")); w.result != nil {
				break
			}
			fault := rapid.SampledFrom(names).Draw(t, "fault")
			all := w.sorted()
			if o := all[rapid.IntRange(0, len(all)-1).Draw(t, "on")]; o.name != c.victim {
				w.note("== %s: %s", fault, o.name)
				faults[fault](w, o)
			}
		}
		faults["thaw"](w, nil)
		for i := 0; w.result == nil; i++ {
			for w.living() < w.cfg.MinWorkers {
				w.join()
			}
			if w.settle(200); i > 100 {
				w.fatal("no end in sight: %s", w.m.phase)
			}
		}
		if !w.closed && !w.spread && !w.lone && w.m.retries <= maxRetries {
			w.judgeCorruption(c)
		}
	})
}

func (w *world) judgeCorruption(c *corruption) {
	for _, name := range removals(w.journal) {
		if name != c.victim {
			w.fatal("%s was removed, the victim is %s", name, c.victim)
		}
	}
	var mismatch *HashMismatchError
	var unsaved *UnsavedError
	err := w.result.Err
	switch {
	case err == nil && w.lone:
		return
	case err == nil && w.restarted() && w.result.Result.Hash == "":
	case err == nil && w.result.Result.Hash != hashText(w.truth.states[w.cfg.TotalSteps]):
		w.fatal("%+v: the run ended with wrong bits", c)
	case errors.As(err, &mismatch) && !c.always:
		w.fatal("%+v happened once, but the run ended: %v", c, err)
	case errors.As(err, &mismatch) && !slices.Contains(mismatch.Workers, c.victim):
		w.fatal("%+v: the error does not name the victim: %v", c, err)
	case err != nil && mismatch == nil && !errors.As(err, &unsaved):
		w.fatal("%+v ended with %v", c, err)
	}
	for step, state := range w.disk {
		// One that fell behind and copied the state of others has never told of its own, of which there may be a checkpoint.
		if state != w.truth.states[step] && !(w.disturbed && step < w.cfg.TotalSteps) {
			w.fatal("the checkpoint of step %d has wrong bits", step)
		}
	}
	if certain := w.cfg.MinWorkers > 2 && !c.gradient; c.done && certain && !w.disturbed && !slices.Contains(removals(w.journal), c.victim) {
		w.fatal("%+v was outvoted, but not removed", c)
	}
}

func removals(journal []Entry) []string {
	var names []string
	for _, e := range journal {
		if e.Removal != nil {
			names = append(names, fmt.Sprint(e.Removal.Worker))
		}
	}
	return names
}
