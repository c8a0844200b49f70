package chaos

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

// controlEnded looks at how a coordinator ended, and starts another one where that was neither a fault nor the end of the run.
func (r *round) controlEnded(ctx context.Context, p *process) {
	touched, doomed := p.marks()
	code := p.cmd.ProcessState.ExitCode()
	r.say("ended", "process", p.name, "code", code, "touched", touched, "doomed", doomed)
	if doomed {
		return
	}
	if code == 0 {
		r.mu.Lock()
		r.last = p
		r.mu.Unlock()
		close(r.over)
		return
	}
	what := fmt.Sprintf("the coordinator ended by itself, exit code %d: %s", code, tail(p.log, 3))
	r.again(ctx, what, touched, func() error { return r.startControl(ctx, true) })
}

// workerEnded does the same for a worker.
func (r *round) workerEnded(ctx context.Context, place int, p *process) {
	touched, doomed := p.marks()
	code := p.cmd.ProcessState.ExitCode()
	r.say("ended", "process", p.name, "code", code, "touched", touched, "doomed", doomed)
	if doomed {
		return
	}
	r.begun(func() {
		if code == 0 { // at the run's end workers may be quicker than the coordinator
			r.sleep(ctx, endLimit)
		}
		if r.isOver(ctx) {
			return // finish looks at its exit code
		}
		what := fmt.Sprintf("worker %s ended by itself, exit code %d: %s", p.name, code, tail(p.log, 2))
		r.again(ctx, what, touched || !r.watch.wasMember(workerName(p)), func() error { return r.startWorker(ctx, place, "") })
	})
}

// begun runs something in the background, unless the round is closing.
func (r *round) begun(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.closing {
		r.group.Go(f)
	}
}

// again starts a process once more, a moment later, and notes why. Where its end was not to be expected, that is a problem.
func (r *round) again(ctx context.Context, what string, expected bool, start func() error) {
	if !expected {
		r.problem("%s", what)
	}
	r.mu.Lock()
	r.restarts = append(r.restarts, what)
	many := len(r.restarts) > maxRestarts
	r.mu.Unlock()
	if many {
		r.problem("more than %d processes ended by themselves", maxRestarts)
		return
	}
	r.begun(func() {
		r.sleep(ctx, restartAfter)
		if r.isOver(ctx) {
			return
		}
		if err := start(); err != nil {
			r.problem("%v", err)
		}
	})
}

// finish waits for the run's end and looks at everything that has to be right then.
func (r *round) finish(ctx context.Context) {
	r.heal()
	select {
	case <-r.over:
	case <-ctx.Done():
		return
	}
	r.mu.Lock()
	p, workers := r.last, append([]*process{}, r.places...)
	r.mu.Unlock()
	for _, w := range workers {
		r.goodEnd(ctx, w)
	}
	var err error
	if r.end, err = lastReport(p.out); err != nil {
		r.problem("%v", err)
	} else if want := r.cfg.want; r.end != want {
		r.problem("THE BITS DIFFER: step %d, hash %s; undisturbed: step %d, hash %s", r.end.Step, r.end.Hash, want.Step, want.Hash)
	}
	if err := r.ledger(ctx); err != nil {
		r.problem("%v", err)
	}
}

// goodEnd wants a worker that lived to the run's end to end with code 0. One that a fault was happening to may end as it likes, but it has to end.
func (r *round) goodEnd(ctx context.Context, w *process) {
	if w == nil {
		return
	}
	touched, doomed := w.marks()
	if doomed {
		return
	}
	within := endLimit
	if touched || !r.watch.wasMember(workerName(w)) {
		within *= 4
	}
	code, err := w.wait(ctx, within)
	switch {
	case err != nil:
		r.problem("after the run's end: %v", err)
	case code != 0 && !touched && r.watch.wasMember(workerName(w)):
		r.problem("after the run's end, worker %s: exit code %d: %s", w.name, code, tail(w.log, 2))
	}
}

// ending is what a run leaves: how far it came, and the hash of its state.
type ending struct {
	Step uint64 `json:"step"`
	Hash string `json:"hash"`
}

// lastReport reads it from the last line of a command with --json.
func lastReport(path string) (e ending, err error) {
	last := tail(path, 1)
	if err := json.Unmarshal([]byte(last), &e); err != nil || e.Hash == "" {
		return e, fmt.Errorf("%s does not end with a report that has a hash, but with %q", path, last)
	}
	return e, nil
}

// ledgerLimit bounds the verification of the samples.
const ledgerLimit = time.Minute

// ledger has the program verify which samples were used, where it can.
func (r *round) ledger(ctx context.Context) error {
	if !r.cfg.hasLedger {
		return nil
	}
	out, err := output(ctx, r.cfg.Program, "data", "ledger", r.out)
	if ctx.Err() != nil {
		return nil // the round ends for another reason
	}
	if err != nil {
		return fmt.Errorf("THE SAMPLES DIFFER: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

// output runs a short command and gives what it says.
func output(ctx context.Context, program string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, ledgerLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.WaitDelay = time.Second
	return cmd.CombinedOutput()
}

// offersLedger says whether the program can verify samples.
func offersLedger(ctx context.Context, program string) bool {
	out, err := output(ctx, program, "data", "--help")
	return err == nil && strings.Contains(string(out), "\n  ledger")
}

// ClockVariable names the environment variable with the file that sets a coordinator's clock off; see clock-jump.
const ClockVariable = "LOCKSTEP_TEST_CLOCK"

// jump changes the offset of the coordinator's clock. It is written to one side, so that it is never read in halves.
func (r *round) jump(seconds float64) error {
	side := r.clock + ".new"
	if err := os.WriteFile(side, []byte(time.Duration(seconds*float64(time.Second)).String()), 0o644); err != nil {
		return err
	}
	return os.Rename(side, r.clock)
}
