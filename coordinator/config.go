package coordinator

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Config is everything a Machine needs to know. DefaultConfig gives the deadlines; the caller fills in the run.
type Config struct {
	Run           string  // name of the run
	TotalSteps    uint64  // steps of the whole run
	FirstStep     uint64  // committed steps of the state that training starts from; 0 for a fresh run
	StepsPerEpoch float64 // images of the training split / global batch
	GlobalBatch   int     // images in a step, over all replicas
	Replicas      int     // logical shares of the global batch
	MinWorkers    int     // the run begins when so many are ready; from then on one is enough, and more are welcome
	// Group is how many workers a group of the ring has: 1 for a flat ring, 0 for what measured latency and rate of the links suggest.
	// A ring that does not divide into such groups is flat.
	Group int
	// EqualShares gives every worker as many replicas, whatever they cost it. Without it replicas go where they finish soonest.
	EqualShares bool
	// Epoch counts the coordinators of the run, from 1: one more than the newest in the journal.
	Epoch uint64
	// VerifyEvery has the workers' states compared after every multiple of so many steps, and one replica of the step behind each
	// computed twice; 0 compares at the windows' ends only.
	VerifyEvery uint64

	// CheckpointEvery asks for a checkpoint after every multiple of so many steps; 0 means at the end only.
	CheckpointEvery uint64
	// CheckpointEvaluated also asks for one after every evaluation, so that the best state can be kept.
	CheckpointEvaluated bool
	// NoStore means that no state is ever asked for: the run keeps nothing.
	NoStore bool
	// Resumed is the checkpoint that training starts from, empty for a fresh run. It is what stays if nothing newer is written.
	Resumed string

	// Evaluate says that there are validation images. EvalEvery is the distance between evaluations, zero for one at the end.
	Evaluate  bool
	EvalEvery Span

	// Schedule is the learning rate; the machine takes it over and feeds it evaluations. On resume the caller has Restored it.
	Schedule *Schedule

	// Version is this binary's; workers must have the same.
	Version string
	// Settings is the run's whole configuration, flag name to value. A setting that a worker was given by hand must agree.
	Settings map[string]string
	// DataFingerprint, DataSummary and Numerics are what workers must agree with. Empty ones are taken from the first ready worker.
	DataFingerprint string
	DataSummary     string
	Numerics        string

	// FixedCrew says that the workers were started with the coordinator and nobody else will come: to lose or refuse one before
	// the start, or all of them later, ends the run at once instead of leaving it waiting.
	FixedCrew bool

	// JoinTimeout bounds the wait for MinWorkers. Too short and machines that boot are missed; it is no failure detector.
	JoinTimeout time.Duration
	// DeadAfter is the silence after which a worker is lost. Workers send a heartbeat every second: below three seconds a busy
	// machine is taken for a dead one; above five the ten seconds in which a failure must be dealt with get tight. Before the first
	// plan it is three times as long, because loading data can starve a small machine.
	DeadAfter time.Duration
	// SuspectAfter replaces DeadAfter for a worker that the gossip holds for dead.
	SuspectAfter time.Duration
	// PauseTimeout bounds the wait for the survivors to come out of the step in flight, where twice the slowest step is not longer.
	PauseTimeout time.Duration
	// SaveTimeout bounds one survivor's sending of its state; the caller adds what a large state needs.
	SaveTimeout time.Duration
	// StoreTimeout bounds the writing of a state that has arrived. Generous: the state is safe in memory, and giving up loses it.
	StoreTimeout time.Duration
	// CollectNonFinite is how long to wait for the worker that can name replica and parameter.
	CollectNonFinite time.Duration
	// ReattachFirst bounds the wait, after a restart, for the first worker that was in the run: longer than a worker needs to find this
	// coordinator at a new address. Then nobody is left, and the newest checkpoint is what training goes on from.
	ReattachFirst time.Duration
	// ReattachTimeout bounds the wait for the others from the first one on: all look for the coordinator at the same pace, and who
	// comes later is only a newcomer again.
	ReattachTimeout time.Duration
	// StallTimeout is how long all workers may live without any of them reporting a step or an evaluation. It must exceed the
	// slowest step and the slowest evaluation.
	StallTimeout time.Duration
}

// DefaultConfig gives the deadlines and leaves the run to the caller.
func DefaultConfig() Config {
	return Config{
		MinWorkers:       1,
		Epoch:            1,
		JoinTimeout:      15 * time.Minute,
		DeadAfter:        4 * time.Second,
		SuspectAfter:     3 * time.Second,
		PauseTimeout:     2 * time.Second,
		SaveTimeout:      3 * time.Second,
		StoreTimeout:     time.Minute,
		CollectNonFinite: time.Second,
		ReattachFirst:    20 * time.Second,
		ReattachTimeout:  3 * time.Second,
		StallTimeout:     15 * time.Minute,
	}
}

// Validate reports every fault at once.
func (c *Config) Validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(c.Run != "", "run has no name")
	check(c.TotalSteps > 0, "a run needs at least one step")
	check(c.TotalSteps < 1<<62, "%d steps are too many", c.TotalSteps)
	check(c.FirstStep <= c.TotalSteps, "the state to start from has %d steps, the run only %d: ask for more with --steps or --epochs", c.FirstStep, c.TotalSteps)
	check(c.StepsPerEpoch > 0, "steps per epoch is %v, want a positive number: are there training images?", c.StepsPerEpoch)
	check(c.Replicas > 0 && c.GlobalBatch > 0 && c.GlobalBatch%max(c.Replicas, 1) == 0,
		"a batch of %d images does not divide into %d replicas", c.GlobalBatch, c.Replicas)
	check(c.MinWorkers > 0 && c.MinWorkers <= maxWorkers, "%d workers, want 1 to %d", c.MinWorkers, maxWorkers)
	check(c.Epoch > 0, "the coordinators of a run are counted from 1")
	check(c.Group >= 0 && c.MinWorkers%max(1, c.Group) == 0, "%d workers do not divide into groups of %d", c.MinWorkers, c.Group)
	check(c.Schedule != nil, "there is no learning-rate schedule")
	check(c.Schedule == nil || !c.Schedule.NeedsEvaluation() || (c.Evaluate && !c.EvalEvery.IsZero()),
		"a plateau schedule needs evaluations: give validation images and --eval-every")
	for _, d := range []struct {
		name  string
		value time.Duration
	}{
		{"JoinTimeout", c.JoinTimeout}, {"DeadAfter", c.DeadAfter}, {"SuspectAfter", c.SuspectAfter}, {"PauseTimeout", c.PauseTimeout},
		{"SaveTimeout", c.SaveTimeout}, {"StoreTimeout", c.StoreTimeout}, {"CollectNonFinite", c.CollectNonFinite}, {"ReattachFirst", c.ReattachFirst},
		{"ReattachTimeout", c.ReattachTimeout}, {"StallTimeout", c.StallTimeout},
	} {
		check(d.value > 0, "%s is %v, every wait needs a deadline", d.name, d.value)
	}
	return errors.Join(errs...)
}

// maxWorkers bounds the workers that are attached at one time.
const maxWorkers = 4096

// settingKeys lists the settings in a fixed order.
func settingKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }
