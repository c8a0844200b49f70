package chaos

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

	"github.com/lockstep-ml/lockstep/internal/netlab"
)

// leaveLimit is how long a worker may take to leave in order.
const leaveLimit = 30 * time.Second

// codeInterrupted is the exit code of a command that was told to end by a signal and did so in order.
const codeInterrupted = 130

// inject does what a fault says, and gives what is left to do: it waits until the fault has lasted, and undoes it.
func (r *round) inject(ctx context.Context, f Fault) (follow func() error, err error) {
	switch {
	case f.Kind == Join:
		return nil, r.startWorker(ctx, f.Place, "")
	case f.Kind == DiskFull:
		return r.fillDisk(ctx, f)
	case f.Kind == ClockJump:
		return nil, r.jump(f.Amount)
	case f.Kind == SecondStart:
		return r.secondStart(ctx), nil
	case f.Kind == NoWorkers:
		return r.noWorkers(ctx, f)
	case f.Kind == AllDead:
		return r.allDead(ctx, f)
	case f.Kind == CoordinatorKill, f.Kind == CoordinatorMove:
		if err := r.killControl(); err != nil {
			return nil, err
		}
		return r.controlReturns(ctx, f), nil
	}
	p, err := r.inPlace(f.Place)
	if err != nil {
		return nil, err
	}
	p.mark(f.Kind.is(losesWorker))
	if f.Kind.is(needLinks) {
		return r.onLink(ctx, f, p)
	}
	return r.onWorker(ctx, f, p)
}

// onWorker injects what needs the worker's process only.
func (r *round) onWorker(ctx context.Context, f Fault, p *process) (follow func() error, err error) {
	refill := func() error { return r.refill(ctx, f, p) }
	switch f.Kind {
	case Kill, KillGroup:
		return refill, p.kill(f.Kind == KillGroup)
	case CoordinatorBoth:
		if err := errors.Join(r.killControl(), p.kill(false)); err != nil {
			return nil, err
		}
		back := r.controlReturns(ctx, f)
		return func() error { return errors.Join(back(), refill()) }, nil
	case Leave:
		return func() error {
			code, err := p.wait(ctx, leaveLimit)
			if err == nil && code != 0 && code != codeInterrupted && !r.isOver(ctx) {
				err = fmt.Errorf("%s was told to leave and ended with code %d: %s", p.name, code, tail(p.log, 2))
			}
			return errors.Join(err, refill())
		}, p.signal(syscall.SIGTERM, false)
	case Pause:
		return func() error {
			r.sleep(ctx, f.For)
			return p.signal(syscall.SIGCONT, false)
		}, p.signal(syscall.SIGSTOP, false)
	case Freeze:
		return func() error {
			r.sleep(ctx, f.For)
			return errors.Join(p.kill(false), refill())
		}, p.signal(syscall.SIGSTOP, false)
	}
	panic("chaos: no way to inject " + string(f.Kind))
}

// onLink injects what happens to a worker's link.
func (r *round) onLink(ctx context.Context, f Fault, p *process) (follow func() error, err error) {
	bad := map[Kind]netlab.Impairment{
		Partition: netlab.Cut,
		HalfOpen:  netlab.Cut,
		OneWay:    {DropSent: true},
		Delay:     {Delay: time.Duration(f.Amount * float64(time.Second))},
		Loss:      {Loss: f.Amount},
		Slow:      {BitsPerSecond: int64(f.Amount)},
	}[f.Kind]
	if err := r.site.impair(f.Place, bad); err != nil {
		return nil, err
	}
	if f.Kind == HalfOpen {
		err = p.kill(false)
	}
	return func() error {
		r.sleep(ctx, f.For)
		err := r.site.impair(f.Place, netlab.Impairment{})
		if f.Kind == HalfOpen {
			err = errors.Join(err, r.refill(ctx, f, p))
		}
		return err
	}, err
}

// refill starts a worker in the place of one that is lost, if the fault says so.
func (r *round) refill(ctx context.Context, f Fault, lost *process) error {
	if f.Return == 0 {
		return nil
	}
	r.sleep(ctx, f.Return)
	if _, err := lost.wait(ctx, endLimit); err != nil && !r.isOver(ctx) {
		return err
	}
	return r.startWorker(ctx, f.Place, sameName(f, lost))
}

// sameName is the name of a lost worker where the next one is to have it.
func sameName(f Fault, lost *process) string {
	if f.Same {
		return workerName(lost)
	}
	return ""
}

// killControl kills the coordinator.
func (r *round) killControl() error {
	r.mu.Lock()
	p := r.control
	r.mu.Unlock()
	if p.ended() {
		return &skipError{"the coordinator was not there"}
	}
	if err := p.kill(false); err != nil {
		return err
	}
	return p.gone(endLimit)
}

// controlReturns starts the coordinator again after a while, on the other seat if it is to move.
func (r *round) controlReturns(ctx context.Context, f Fault) func() error {
	return func() error {
		r.sleep(ctx, f.For)
		if f.Kind == CoordinatorMove {
			r.mu.Lock()
			r.seat = 1 - r.seat
			r.mu.Unlock()
		}
		if r.isOver(ctx) {
			return nil
		}
		return r.startControl(ctx, true)
	}
}

// secondStart starts a coordinator for the same folder on the other seat, which has to refuse.
func (r *round) secondStart(ctx context.Context) func() error {
	return func() error {
		at := r.site.seat(1 - r.seatNow())
		cmd := r.site.command(ctx, at.node, r.cfg.Program, r.controlArgs(at, true)...)
		p, err := r.launcher.start(cmd, r.dir, r.numbered("second"), nil)
		if err != nil {
			return err
		}
		code, err := p.wait(ctx, refusalLimit)
		if err != nil {
			return errors.Join(err, p.kill(true))
		}
		if code == 0 {
			return fmt.Errorf("a second coordinator for the same folder was let in: %s", tail(p.log, 3))
		}
		r.say("refused", "what", strings.TrimPrefix(tail(p.log, 1), "lockstep: "))
		return nil
	}
}

// killWorkers kills all workers at once, and gives those places that had one.
func (r *round) killWorkers() (places []int, lost []*process, err error) {
	r.mu.Lock()
	all := append([]*process{}, r.places...)
	r.mu.Unlock()
	for i, p := range all {
		if p != nil && !p.ended() {
			places, lost = append(places, i), append(lost, p)
			err = errors.Join(err, p.kill(false))
		}
	}
	return places, lost, err
}

// crewReturns starts workers again where they were.
func (r *round) crewReturns(ctx context.Context, f Fault, places []int, lost []*process) error {
	var err error
	for i, place := range places {
		err = errors.Join(err, r.startWorker(ctx, place, sameName(f, lost[i])))
	}
	return err
}

// noWorkers kills all workers. What the coordinator does then is its own affair: if it ends it is started again.
func (r *round) noWorkers(ctx context.Context, f Fault) (follow func() error, err error) {
	r.mu.Lock()
	r.control.mark(false)
	r.mu.Unlock()
	places, lost, err := r.killWorkers()
	return func() error {
		r.sleep(ctx, f.For)
		return r.crewReturns(ctx, f, places, lost)
	}, err
}

// allDead kills everybody.
func (r *round) allDead(ctx context.Context, f Fault) (follow func() error, err error) {
	places, lost, err := r.killWorkers()
	if err = errors.Join(err, r.killControl()); err != nil {
		return nil, err
	}
	back := r.controlReturns(ctx, f)
	return func() error { return errors.Join(back(), r.crewReturns(ctx, f, places, lost)) }, nil
}

// fillDisk fills the disk that the coordinator writes to.
func (r *round) fillDisk(ctx context.Context, f Fault) (follow func() error, err error) {
	return func() error {
		r.sleep(ctx, f.For)
		return r.disk.free()
	}, r.disk.fill()
}
