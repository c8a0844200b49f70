package coordinator

import "fmt"

// Saved says what a run that ended early left behind. It is part of the errors below.
type Saved struct {
	Run  string
	Step uint64 // committed steps in the checkpoint
	Path string // empty: there is none
	// Unsaved says why a newer state was not kept; empty if there was no trouble.
	Unsaved string
}

// String says which checkpoint stays and how to go on.
func (s Saved) String() string {
	if s.Path == "" && s.Unsaved == "" {
		return "there is no checkpoint"
	}
	if s.Path == "" {
		return "there is no checkpoint: " + s.Unsaved
	}
	if s.Unsaved != "" {
		return fmt.Sprintf("a newer state was not saved (%s); resume from step %d with --resume (checkpoint %s)", s.Unsaved, s.Step, s.Path)
	}
	return fmt.Sprintf("resume from step %d with --resume (checkpoint %s)", s.Step, s.Path)
}

// WorkerLostError says that a worker failed and ended the run.
type WorkerLostError struct {
	Saved
	Worker string
	How    string // how it was noticed
	AtStep uint64 // newest committed step that was heard of
}

func (e *WorkerLostError) Error() string {
	return fmt.Sprintf("run %s: worker %s was lost at step %d: %s; %s", e.Run, e.Worker, e.AtStep, e.How, e.Saved)
}

// NonFiniteError says that training blew up: a gradient was NaN or infinite.
type NonFiniteError struct {
	Saved
	Worker string // that told it best
	AtStep uint64 // committed steps; the gradient belongs to the next
	Reason string // replica and parameter, where known
}

func (e *NonFiniteError) Error() string {
	return fmt.Sprintf("run %s: training blew up after %d steps: %s (worker %s); %s", e.Run, e.AtStep, e.Reason, e.Worker, e.Saved)
}

// DamagedDataError says that an image of the data set cannot be decoded, on any worker that has tried.
type DamagedDataError struct {
	Saved
	Worker string // that tried last
	AtStep uint64
	Reason string // shard, image, offset and what to do
}

func (e *DamagedDataError) Error() string {
	return fmt.Sprintf("run %s: the data is damaged (worker %s after step %d): %s; %s", e.Run, e.Worker, e.AtStep, e.Reason, e.Saved)
}

// HashMismatchError says that workers disagree about the state, which equal inputs cannot explain: one of them computes wrongly.
type HashMismatchError struct {
	Saved
	AtStep  uint64
	What    string   // differs, with the evidence
	Workers []string // in ring order
	Hashes  []string // of the worker at the same index
	Odd     []string // those outvoted; empty if there is no majority
}

func (e *HashMismatchError) Error() string {
	text := fmt.Sprintf("run %s: %s", e.Run, e.What)
	if len(e.Odd) > 0 {
		text += fmt.Sprintf("; outvoted: %v, check that machine's memory and processor", e.Odd)
	} else {
		text += "; there is no majority to tell which is right, check the machines' memory and processors"
	}
	if e.Path != "" && e.Step == e.AtStep {
		return fmt.Sprintf("%s; checkpoint %s was taken at that very step from %s: do not trust it, resume from one before it", text, e.Path, e.Workers[0])
	}
	return text + "; " + e.Saved.String()
}

// InterruptedError says that the run was asked to end.
type InterruptedError struct {
	Saved
	AtStep uint64
	Reason string
}

func (e *InterruptedError) Error() string {
	return fmt.Sprintf("run %s: %s at step %d; %s", e.Run, e.Reason, e.AtStep, e.Saved)
}

// MissingWorkersError says that not enough workers came in time.
type MissingWorkersError struct {
	Run         string
	Ready, Want int
	Waited      string
	NotReady    []string // attached, but still loading
}

func (e *MissingWorkersError) Error() string {
	text := fmt.Sprintf("run %s: only %d of %d workers were ready within %s", e.Run, e.Ready, e.Want, e.Waited)
	if len(e.NotReady) > 0 {
		text += fmt.Sprintf(" (still loading: %v)", e.NotReady)
	}
	return text + ": start the missing ones, or lower --workers"
}

// StalledError says that all workers live but none made progress.
type StalledError struct {
	Saved
	AtStep  uint64
	Waited  string
	Workers []string // that did not report
}

func (e *StalledError) Error() string {
	return fmt.Sprintf("run %s: no progress for %s at step %d, waiting for %v; %s", e.Run, e.Waited, e.AtStep, e.Workers, e.Saved)
}

// UnsavedError says that all steps were done but the final state could not be kept.
type UnsavedError struct {
	Saved
	AtStep uint64
}

func (e *UnsavedError) Error() string {
	return fmt.Sprintf("run %s: all %d steps are done; %s", e.Run, e.AtStep, e.Saved)
}

// RefusedError says that a worker was turned away while the run could not do without it (Config.FixedCrew).
type RefusedError struct {
	Run    string
	Worker string
	Kind   Refusal
	Reason string
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("run %s: worker %s was refused: %s", e.Run, e.Worker, e.Reason)
}

func shortHash(h string) string {
	if len(h) > 16 {
		return h[:16]
	}
	return h
}
