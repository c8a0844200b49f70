package ringbench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/lockstep-ml/lockstep/internal/tlsconf"
)

func (d *driver) name(member int) string {
	return fmt.Sprintf("member %d (%s)", member, d.cfg.Members[member])
}

// connect dials all members.
func (d *driver) connect(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, d.cfg.Timeout)
	defer cancel()
	errs := make([]error, len(d.conns))
	var group sync.WaitGroup
	for i, addr := range d.cfg.Members {
		group.Go(func() {
			c, err := dial(ctx, d.cfg.Dial, addr)
			if err != nil {
				errs[i] = fmt.Errorf("%s: %w%s", d.name(i), tlsconf.Explain(err), d.died(i))
				return
			}
			d.conns[i] = newConn(c)
		})
	}
	group.Wait() //bounded: dialling ends within Timeout
	return errors.Join(errs...)
}

// died is what is known of a member's end, as an addition to an error.
func (d *driver) died(member int) string {
	if d.cfg.Died == nil {
		return ""
	}
	if why := d.cfg.Died(member); why != "" {
		return ": " + why
	}
	return ""
}

// all asks every member the same.
func (d *driver) all(ctx context.Context, q *request) ([]reply, error) {
	return d.each(ctx, func(int) *request { return q })
}

// answered is one member's answer.
type answered struct {
	member int
	reply  reply
	err    error
	gone   bool // the session is over: its own end, not a neighbour's
}

// afterFirst is how long the others may take to fail once one has: when a member dies, a neighbour often notices before
// the driver does, and knows less.
const afterFirst = time.Second

// each asks every member and waits for all answers, at most Timeout.
func (d *driver) each(ctx context.Context, ask func(member int) *request) ([]reply, error) {
	answers := make(chan answered, len(d.conns))
	for i := range d.conns {
		//bounded: answers has room for all; a member is asked for Timeout at most, or until close
		d.asking.Go(func() { answers <- d.ask(i, ask(i)) }) // ends within Timeout, or when close closes the connection
	}
	replies := make([]reply, len(d.conns))
	var failed []answered
	var grace <-chan time.Time
	for range d.conns {
		select {
		case a := <-answers:
			replies[a.member] = a.reply
			if a.err == nil {
				continue
			}
			if failed = append(failed, a); grace == nil {
				grace = time.After(afterFirst)
			}
		case <-grace:
			return nil, blame(failed)
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	if failed != nil {
		return nil, blame(failed)
	}
	return replies, nil
}

// blame tells what went wrong: which members are gone, if any are, or else what each has to say, for any of them may be the cause of the
// others'.
func blame(failed []answered) error {
	slices.SortFunc(failed, func(a, b answered) int { return a.member - b.member })
	var gone, all []error
	for _, a := range failed {
		if all = append(all, a.err); a.gone {
			gone = append(gone, a.err)
		}
	}
	if gone != nil {
		return errors.Join(gone...)
	}
	return errors.Join(all...)
}

func (d *driver) ask(member int, q *request) answered {
	a := answered{member: member}
	err := d.conns[member].send(q, d.cfg.Timeout)
	if err == nil {
		err = d.conns[member].receive(&a.reply, d.cfg.Timeout)
	}
	switch {
	case errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE):
		a.gone, a.err = true, fmt.Errorf("%s is gone during %q: %w%s", d.name(member), q.Op, err, d.died(member))
		if q.Op == opPrepare && d.cfg.Dial == nil {
			a.err = fmt.Errorf("%w; it may want TLS, which this side was not given", a.err)
		}
	case err != nil:
		a.gone, a.err = true, fmt.Errorf("%s has not answered %q: %w%s", d.name(member), q.Op, err, d.died(member))
	case a.reply.Error != "":
		a.err = fmt.Errorf("%s: %s", d.name(member), a.reply.Error)
	}
	return a
}
