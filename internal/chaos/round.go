package chaos

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/lockstep-ml/lockstep/internal/netlab"
)

// Outcome is what came of one fault.
type Outcome struct {
	Fault
	Pause     time.Duration `json:"pause"`               // longest time without a step, from the fault until it was over and the next one was due
	Unsettled bool          `json:"unsettled,omitempty"` // what came before was not over
	Skipped   string        `json:"skipped,omitempty"`   // why it was not injected
	meter     *meter
}

// round is one run and what happens to it.
type round struct {
	cfg    *Config
	number int
	plan   Plan
	dir    string // logs
	out    string // the run's folder
	clock  string // file that a coordinator's clock is set off by

	site     site
	disk     *disk
	launcher *launcher
	watch    *watcher
	log      *slog.Logger
	group    sync.WaitGroup // of undoing, supervising and watching

	mu       sync.Mutex
	places   []*process // newest in each place; nil where there is none
	started  int        // processes, for their names
	control  *process
	seat     int
	restarts []string // processes that ended by themselves without that being a fault, and why
	problems []string
	over     chan struct{} // closed when a coordinator has ended in order
	closing  bool          // nothing is started any more
	last     *process      // the coordinator that did
	outcomes []Outcome
	end      ending
}

const (
	// settleLimit is how long a fault waits for what came before to be over.
	settleLimit = 40 * time.Second
	// endLimit is how long workers may take to end once the run is over; those that a fault was happening to, four times as long.
	endLimit = 30 * time.Second
	// refusalLimit is how long a second coordinator may take to find that there is one.
	refusalLimit = 30 * time.Second
	// restartAfter is what a service manager might wait before it starts a process again.
	restartAfter = time.Second
	// maxRestarts of processes that end by themselves, in one round.
	maxRestarts = 20
)

// play plays the round to its end and gives what was wrong.
func (r *round) play(parent context.Context) []string {
	ctx, fail := context.WithCancelCause(parent)
	defer fail(nil)
	limit := time.AfterFunc(r.cfg.Limit, func() { fail(fmt.Errorf("the round is not over after %v", r.cfg.Limit)) })
	defer limit.Stop()
	r.group.Go(func() { r.watch.run(ctx) })
	r.group.Go(func() { r.guard(ctx, fail) })
	if err := r.begin(ctx); err != nil {
		r.problem("beginning: %v", err)
	} else {
		r.work(ctx)
		r.finish(ctx)
	}
	if err := context.Cause(ctx); err != nil {
		r.problem("%v", err)
		r.dump()
	}
	fail(nil)
	r.stop()
	return r.problems
}

// begin starts the coordinator and the first crew.
func (r *round) begin(ctx context.Context) error {
	if err := r.startControl(ctx, false); err != nil {
		return err
	}
	for i := range r.plan.Crew {
		if err := r.startWorker(ctx, i, ""); err != nil {
			return err
		}
	}
	return nil
}

// guard ends the round when no step has come for too long.
func (r *round) guard(ctx context.Context, fail context.CancelCauseFunc) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.over:
			return
		case <-tick.C:
			if v := r.watch.now(); time.Since(v.advanced) > r.cfg.Patience {
				fail(fmt.Errorf("it hangs: no step for %v after step %d in generation %d, phase %q, members %v", r.cfg.Patience, v.Step, v.Generation, v.Phase, v.Members))
				return
			}
		}
	}
}

// work injects the plan's faults, until they are all done or the run is over.
func (r *round) work(ctx context.Context) {
	var undoing sync.WaitGroup
	for _, f := range r.plan.Faults {
		o := Outcome{Fault: f}
		if f.Soon > 0 {
			r.sleep(ctx, f.Soon)
		} else {
			undoing.Wait() //bounded: faults last for seconds, and end with ctx
			o.Unsettled = !r.settle(ctx, f.Step)
			r.readPauses()
		}
		if v := r.watch.now(); r.isOver(ctx) || v.Step > r.cfg.Steps*95/100 {
			break
		}
		o.meter = r.watch.measure()
		r.say("fault", "kind", f.Kind, "place", f.Place, "for", f.For, "return", f.Return, "amount", f.Amount, "soon", f.Soon, "unsettled", o.Unsettled)
		follow, err := r.inject(ctx, f)
		var skip *skipError
		if errors.As(err, &skip) {
			o.Skipped = skip.why
		} else if err != nil {
			r.problem("injecting %s: %v", f.Kind, err)
		}
		r.outcomes = append(r.outcomes, o)
		if follow != nil {
			undoing.Go(func() {
				if err := follow(); err != nil {
					r.problem("%s: %v", f.Kind, err)
				}
			})
		}
	}
	undoing.Wait() //bounded: as above, faults end by themselves
	r.settle(ctx, 0)
	r.readPauses()
}

// readPauses ends the measurements of the faults that are over. Of two that fell into each other, both have the pause that they led to.
func (r *round) readPauses() {
	for i := range r.outcomes {
		if o := &r.outcomes[i]; o.meter != nil {
			o.Pause, o.meter = r.watch.read(o.meter), nil
		}
	}
}

// settle waits until a step is reached and everybody who lives is in the ring, which has stood for some steps. False says that it took too long.
func (r *round) settle(ctx context.Context, step uint64) bool {
	if !r.watch.until(ctx, r.cfg.Limit, func(v view) bool { return v.seen && v.Step >= step || r.isOver(ctx) }) {
		return false
	}
	settled := func(v view) bool {
		return v.seen && v.Step >= v.settled+settledSteps && r.all(v.Members) || r.isOver(ctx)
	}
	ok := r.watch.until(ctx, settleLimit, settled)
	if ok {
		r.absolve()
	}
	return ok
}

// all says whether the members are those who live.
func (r *round) all(members []string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, p := range r.places {
		if p == nil || p.ended() {
			continue
		}
		if n++; !slices.Contains(members, workerName(p)) {
			return false
		}
	}
	return n == len(members)
}

// absolve forgets the faults that were, now that all are members again: from here on they have to behave.
func (r *round) absolve() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range append([]*process{r.control}, r.places...) {
		if p != nil {
			p.mu.Lock()
			p.touched = p.doomed
			p.mu.Unlock()
		}
	}
}

// workerName is how a worker is known in the run; its files have a number behind.
func workerName(p *process) string {
	name, _, _ := strings.Cut(p.name, ".")
	return name
}

func (r *round) isOver(ctx context.Context) bool {
	select {
	case <-r.over:
		return true
	default:
		return ctx.Err() != nil
	}
}

// sleep waits, but no longer than the run lasts.
func (r *round) sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d / time.Duration(max(1, r.cfg.haste)))
	defer t.Stop()
	select {
	case <-t.C:
	case <-r.over:
	case <-ctx.Done():
	}
}

func (r *round) problem(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	r.say("PROBLEM", "what", text)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.problems = append(r.problems, text)
}

func (r *round) say(what string, args ...any) {
	v := r.watch.now()
	r.log.Info(what, append([]any{"step", v.Step, "generation", v.Generation}, args...)...)
}

// numbered gives a process's name, different from all before.
func (r *round) numbered(name string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.started++
	return name + "." + strconv.Itoa(r.started)
}

// controlArgs are a coordinator's, on a seat.
func (r *round) controlArgs(at seat, resume bool) []string {
	workers := r.plan.Crew
	if resume {
		workers = 1 // whoever is there first goes on
	}
	args := []string{"coordinator", "--json", "--out", r.out, "--listen", at.listen, "--control", at.control, "--workers", strconv.Itoa(workers)}
	if dir := r.site.tls(at.node); dir != "" {
		args = append(args, "--tls", dir)
	}
	if resume {
		args = append(args, "--resume")
	}
	return append(args, r.cfg.settings()...)
}

// startControl starts a coordinator on the present seat.
func (r *round) startControl(ctx context.Context, resume bool) error {
	at := r.site.seat(r.seatNow())
	cmd := r.site.command(ctx, at.node, r.cfg.Program, r.controlArgs(at, resume)...)
	cmd.Env = append(os.Environ(), ClockVariable+"="+r.clock)
	r.watch.follow(at)
	r.mu.Lock()
	closing := r.closing
	r.mu.Unlock()
	if closing {
		return nil
	}
	p, err := r.launcher.start(cmd, r.dir, r.numbered("coordinator"), func(p *process) { r.controlEnded(ctx, p) })
	if err != nil {
		return err
	}
	r.mu.Lock()
	r.control = p
	r.mu.Unlock()
	r.say("started", "process", p.name, "pid", p.cmd.Process.Pid, "at", at.listen)
	return nil
}

func (r *round) seatNow() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.seat
}

// startWorker starts a worker in a place, under a name or a new one.
func (r *round) startWorker(ctx context.Context, place int, name string) error {
	r.mu.Lock()
	closing := r.closing
	r.mu.Unlock()
	if closing || r.isOver(ctx) {
		return nil
	}
	full := r.numbered("w" + strconv.Itoa(place))
	if name == "" {
		name = strings.ReplaceAll(full, ".", "-")
	}
	full = name + full[strings.Index(full, "."):]
	join := r.site.seat(0).listen + "," + r.site.seat(1).listen
	args := []string{"worker", "--join", join, "--name", name, "--listen", r.site.host(place), "--threads", "1", "--decoders", "1", "--wait", "2m"}
	if dir := r.site.tls(place); dir != "" {
		// Namespaces do not part memory: what a ring sends through that would never see its links.
		args = append(args, "--tls", dir, "--transport", "grpc")
	}
	cmd := r.site.command(ctx, place, r.cfg.Program, args...)
	p, err := r.launcher.start(cmd, r.dir, full, func(p *process) { r.workerEnded(ctx, place, p) })
	if err != nil {
		return err
	}
	r.mu.Lock()
	r.places[place] = p
	r.mu.Unlock()
	r.say("started", "process", p.name, "pid", p.cmd.Process.Pid)
	return nil
}

// inPlace is the worker of a place, an error if there is none that lives.
func (r *round) inPlace(place int) (*process, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p := r.places[place]; p != nil && !p.ended() {
		return p, nil
	}
	return nil, &skipError{fmt.Sprintf("no worker lives in place %d", place)}
}

// skipError says why a fault was not injected.
type skipError struct{ why string }

func (e *skipError) Error() string { return e.why }

// everybody gives all processes of the round that live.
func (r *round) everybody() []*process {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []*process
	for _, p := range append([]*process{r.control}, r.places...) {
		if p != nil && !p.ended() {
			out = append(out, p)
		}
	}
	return out
}

// heal takes every fault back that can be.
func (r *round) heal() {
	if _, ok := r.site.(*loopback); !ok {
		for i := range r.cfg.Workers {
			if err := r.site.impair(i, netlab.Impairment{}); err != nil {
				r.problem("healing: %v", err)
			}
		}
	}
	if r.disk != nil {
		if err := r.disk.free(); err != nil {
			r.problem("healing: %v", err)
		}
	}
	for _, p := range r.everybody() {
		if err := p.signal(syscall.SIGCONT, false); err != nil {
			r.problem("healing: %v", err)
		}
	}
}

// dump has everybody who is left write down what all goroutines do.
func (r *round) dump() {
	for _, p := range r.everybody() {
		p.mark(true)
		if err := errors.Join(p.signal(syscall.SIGCONT, false), p.signal(syscall.SIGQUIT, false)); err != nil {
			r.problem("%v", err)
		}
	}
	for _, p := range r.everybody() {
		_ = p.gone(5 * time.Second) // who does not answer to this is killed next
	}
}

// stop ends whatever is left, and waits for all that belongs to the round.
func (r *round) stop() {
	r.mu.Lock()
	r.closing = true
	r.mu.Unlock()
	for _, p := range r.everybody() {
		if err := p.kill(true); err != nil {
			r.problem("%v", err)
		}
		if err := p.gone(endLimit); err != nil {
			r.problem("%v, although it was killed", err)
		}
	}
	r.group.Wait() //bounded: all of it ends with the round's context, which play has ended
	r.launcher.close()
}

// keep copies what a run's folder has besides checkpoints to the logs.
func (r *round) keep() error {
	return filepath.WalkDir(r.out, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasSuffix(path, ".ckpt") || d.Name() == "ballast" {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(r.out, path)
		if err != nil {
			return err
		}
		to := filepath.Join(r.dir, "out", rel)
		return errors.Join(os.MkdirAll(filepath.Dir(to), 0o755), os.WriteFile(to, b, 0o644))
	})
}
