package simulate

import (
	"slices"
	"time"
)

// Result is what came of a simulated run. Times are in seconds of virtual time.
type Result struct {
	Workers    int     `json:"workers"`
	Replicas   int     `json:"replicas"`
	Group      int     `json:"group"`      // of the whole cluster's ring; 1: flat
	IdealStep  float64 `json:"ideal_step"` // of a whole cluster, without failures
	IdealTail  float64 `json:"ideal_tail"` // what of the all-reduce no computing hides then
	StepBytes  float64 `json:"step_bytes"` // that a worker sends for it
	Start      float64 `json:"start"`      // until the first step began; no part of what follows
	Elapsed    float64 `json:"elapsed"`    // from then on
	Steps      uint64  `json:"steps"`      // committed
	StepTime   float64 `json:"mean_step"`  // of the committed ones, while they ran
	Efficiency float64 `json:"efficiency"` // steps * ideal step / elapsed
	ImagesPerS float64 `json:"images_per_second"`

	Failures     int    `json:"failures"`     // of workers, spares included
	Broken       int    `json:"broken_steps"` // done again
	Leaves       int    `json:"leaves"`       // workers that asked to go
	Coordinators int    `json:"coordinators"` // that failed
	Generations  int    `json:"generations"`  // rings made
	Healed       int    `json:"healed"`       // workers that had to fetch a state while all waited
	Events       uint64 `json:"events"`       // that the coordinator took

	Lost Lost `json:"lost"` // seconds, of elapsed

	Stalls       int     `json:"stalls"` // times without a step after something died
	MeanStall    float64 `json:"mean_stall"`
	LongestStall float64 `json:"longest_stall"`

	RingBytes    float64 `json:"ring_bytes"`    // sent by all workers
	StateBytes   float64 `json:"state_bytes"`   // of training states copied
	ControlBytes float64 `json:"control_bytes"` // of plans
}

// Lost is where the time went that brought no step forward, in seconds.
type Lost struct {
	Redone    float64 `json:"redone"`    // steps that were broken off
	Slower    float64 `json:"slower"`    // steps that took longer than the ideal one, for want of workers
	Detecting float64 `json:"detecting"` // until the coordinator knew of a death
	Regroup   float64 `json:"regroup"`   // until the survivors were out of their step and had the next plan
	Linking   float64 `json:"linking"`   // of new rings
	Healing   float64 `json:"healing"`   // copying states that all waited for
	Changing  float64 `json:"changing"`  // from one plan to the next, unforced
	Measuring float64 `json:"measuring"` // links
	Away      float64 `json:"away"`      // waiting while there was no coordinator
}

func (s *sim) result() *Result {
	a := &s.acc
	a.enter(a.current, s.now)
	// Spares train as long as there are replicas for them.
	ideal, group := s.model.Ideal(min(s.cfg.Workers+s.cfg.Spares, s.cfg.Replicas), s.cfg.Replicas, s.cfg.Group)
	r := &Result{
		Workers: s.cfg.Workers, Replicas: s.cfg.Replicas, Group: group, IdealStep: ideal.Took.Seconds(), IdealTail: ideal.Tail.Seconds(), StepBytes: ideal.Bytes,
		Start: a.began.Seconds(), Elapsed: (s.now - a.began).Seconds(), Steps: a.committed,
		Failures: a.failures, Broken: a.breaks, Leaves: a.leaves, Coordinators: a.coordinators, Generations: a.generations, Healed: a.healed, Events: a.events,
		RingBytes: a.sent, StateBytes: a.copied, ControlBytes: a.control, Stalls: len(a.stalls),
	}
	r.Lost = Lost{
		Redone: a.redone.Seconds(), Slower: a.steps.Seconds() - float64(a.committed)*r.IdealStep, Detecting: a.detecting.Seconds(), Regroup: a.regroup.Seconds(),
		Linking: a.linking.Seconds(), Healing: a.healing.Seconds(), Changing: a.changing.Seconds(), Measuring: a.measuring.Seconds(), Away: a.away.Seconds(),
	}
	if r.Elapsed > 0 {
		r.Efficiency = float64(a.committed) * r.IdealStep / r.Elapsed
		r.ImagesPerS = float64(a.committed) * float64(s.cfg.Batch) / r.Elapsed
	}
	if a.committed > 0 {
		r.StepTime = a.steps.Seconds() / float64(a.committed)
	}
	if len(a.stalls) > 0 {
		sum := time.Duration(0)
		for _, d := range a.stalls {
			sum += d
		}
		r.MeanStall, r.LongestStall = sum.Seconds()/float64(len(a.stalls)), slices.Max(a.stalls).Seconds()
	}
	return r
}
