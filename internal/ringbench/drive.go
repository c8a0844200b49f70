package ringbench

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// Config says what Drive is to measure.
type Config struct {
	// Members are where they serve, in the ring's order.
	Members []string
	// Dial protects the sessions; nil speaks in clear.
	Dial *tls.Config
	// Spec is what is reduced; Run and Replicas are set by Drive.
	Spec Spec
	// Alone makes the ring of one worker to compare with.
	Alone func(l Link) (Ring, error)
	// Group is how many members a group of the ring has; 0 and 1 stand for a flat one.
	Group int
	// Choose gives another Group, upon what was measured of the first ring; nil keeps it.
	Choose func(hop time.Duration, bytesPerSecond float64) int
	// Rounds to time.
	Rounds int
	// Timeout bounds the wait for each answer of a member.
	Timeout time.Duration
	// Died says why a member's process has ended, for errors; nil or "" where nobody knows.
	Died func(member int) string
}

// Result is what was measured. Times are the slowest member's of a round.
type Result struct {
	Rounds   []time.Duration // the ring's
	Raw      []time.Duration // the plain ring's, with as many bytes; none for one member
	CPU      time.Duration   // of all members in the ring's rounds
	Hop      time.Duration   // of a byte over plain TCP to the neighbour; the least seen
	Messages int64           // of a round, the most that a member sends
	Bytes    int64           // likewise, headers included
	Steps    []time.Duration // with a stand-in for computing
	Exposed  []time.Duration // of them, after the computing
	Buckets  int
	Group    int           // of the ring that was timed
	RingHop  time.Duration // as the ring itself measures it, the middle of the members' figures; none for one member
	RingRate float64       // bytes a second, likewise
	Coding   []Coding      // of each link of each member, after the last round of the ring's
	Ways     []string      // likewise, how its messages travel
}

// driver holds the sessions.
type driver struct {
	cfg    Config
	conns  []*conn
	asking sync.WaitGroup
	place  Place
	step   uint64
}

// Drive runs a benchmark. The error names the member that failed or did not answer in time.
func Drive(ctx context.Context, cfg Config) (*Result, error) {
	cfg.Spec.Run, cfg.Spec.Replicas = rand.Text(), len(cfg.Members)*cfg.Spec.hosts()
	if err := cfg.Spec.Validate(); err != nil {
		return nil, err
	}
	d := &driver{cfg: cfg, conns: make([]*conn, len(cfg.Members))}
	defer d.close()
	if err := d.connect(ctx); err != nil {
		return nil, err
	}
	if err := d.prepare(ctx); err != nil {
		return nil, err
	}
	r := &Result{Buckets: len(cfg.Spec.Buckets)}
	if err := d.arrange(ctx, r); err != nil {
		return nil, err
	}
	if err := d.time(ctx, r); err != nil {
		return nil, err
	}
	return r, nil
}

func (d *driver) close() {
	for _, c := range d.conns {
		if c != nil {
			c.Close() // the members' goodbye
		}
	}
	d.asking.Wait() //bounded: the connections are closed
}

// prepare has the members make their gradients and listen.
func (d *driver) prepare(ctx context.Context) error {
	replies, err := d.all(ctx, &request{Op: opPrepare, Spec: &d.cfg.Spec})
	if err != nil {
		return err
	}
	d.place.Names = d.cfg.Members
	for _, r := range replies {
		d.place.Addresses = append(d.place.Addresses, r.Address)
		d.place.Raw = append(d.place.Raw, r.Raw)
	}
	return nil
}

// join begins a new generation.
func (d *driver) join(ctx context.Context, counted bool) error {
	d.place.Generation++
	_, err := d.each(ctx, func(i int) *request {
		p := d.place
		p.Rank = i
		return &request{Op: opJoin, Place: &p, Counted: counted}
	})
	return err
}

// arrange makes the ring that will be timed, and has its links measured and its bits verified.
func (d *driver) arrange(ctx context.Context, r *Result) error {
	d.place.Group = d.cfg.Group
	if err := d.verify(ctx, r); err != nil {
		return err
	}
	if err := d.measure(ctx, r); err != nil {
		return err
	}
	if d.cfg.Choose != nil && len(d.conns) > 1 {
		if g := d.cfg.Choose(r.RingHop, r.RingRate); g != d.place.Group {
			d.place.Group, r.Messages, r.Bytes = g, 0, 0
			if err := d.verify(ctx, r); err != nil {
				return err
			}
		}
	}
	r.Group = d.place.Group
	return nil
}

// measure asks the ring for its links' figures.
func (d *driver) measure(ctx context.Context, r *Result) error {
	if len(d.conns) < 2 {
		return nil
	}
	replies, err := d.all(ctx, d.next(opMeasure))
	if err != nil {
		return err
	}
	var took []time.Duration
	var rates []float64
	for _, a := range replies {
		took, rates = append(took, a.Took), append(rates, a.Rate)
	}
	slices.Sort(took)
	slices.Sort(rates)
	r.RingHop, r.RingRate = took[len(took)/2], rates[len(rates)/2]
	return nil
}

// verify compares the bits with those of a ring of one worker, over a ring that is counted and over the one that will be timed.
func (d *driver) verify(ctx context.Context, r *Result) error {
	alone, err := d.cfg.Alone(d.cfg.Spec.Link)
	if err != nil {
		return err
	}
	want, err := reference(ctx, alone, &d.cfg.Spec)
	if err = errors.Join(err, alone.Close()); err != nil {
		return err
	}
	for _, counted := range []bool{true, false} {
		if err := d.join(ctx, counted); err != nil {
			return err
		}
		replies, err := d.all(ctx, d.next(opVerify))
		if err != nil {
			return err
		}
		for i, got := range replies {
			if err := d.compare(i, got.Digests, want); err != nil {
				return err
			}
			r.Messages, r.Bytes = max(r.Messages, got.Messages), max(r.Bytes, got.Bytes)
		}
	}
	return nil
}

func (d *driver) compare(member int, got, want []uint64) error {
	if len(got) != len(want) {
		return fmt.Errorf("%s reports %d buckets, want %d", d.name(member), len(got), len(want))
	}
	for b := range want {
		if got[b] != want[b] {
			s := d.cfg.Spec.Buckets[b]
			return fmt.Errorf("%s: bucket %d, values [%d, %d): the bits differ from those of a ring of one worker; nothing is timed", d.name(member), b, s.Lo, s.Hi)
		}
	}
	return nil
}

// next is a request with a step number of its own.
func (d *driver) next(op string) *request {
	d.step++
	return &request{Op: op, Step: d.step}
}

// hops is how often a byte goes round; the least counts, for whatever else runs only adds.
const hops = 20

// time does the rounds, the ring's and the plain one's in turn, so that both see the same machine.
func (d *driver) time(ctx context.Context, r *Result) error {
	plain := len(d.cfg.Members) > 1
	for range d.cfg.Rounds {
		replies, err := d.round(ctx, d.next(opRound), &r.Rounds, nil, &r.CPU)
		if err != nil {
			return err
		}
		r.links(replies)
		if plain {
			if _, err := d.round(ctx, &request{Op: opRaw, Bytes: r.Bytes}, &r.Raw, nil, nil); err != nil {
				return err
			}
		}
	}
	for i := range hops {
		if !plain {
			break
		}
		var took []time.Duration
		if _, err := d.round(ctx, &request{Op: opHop}, &took, nil, nil); err != nil {
			return err
		}
		if hop := took[0] / time.Duration(len(d.cfg.Members)); i == 0 || hop < r.Hop {
			r.Hop = hop
		}
	}
	for range d.cfg.Rounds {
		if d.cfg.Spec.Compute == 0 {
			break
		}
		if _, err := d.round(ctx, d.next(opStep), &r.Steps, &r.Exposed, nil); err != nil {
			return err
		}
	}
	return nil
}

// round has all members do one thing and adds the slowest one's time, and what it says of exposure and CPU time.
func (d *driver) round(ctx context.Context, q *request, took, exposed *[]time.Duration, cpu *time.Duration) ([]reply, error) {
	replies, err := d.all(ctx, q)
	if err != nil {
		return nil, err
	}
	var slowest, most time.Duration
	for _, r := range replies {
		slowest, most = max(slowest, r.Took), max(most, r.Exposed)
		if cpu != nil {
			*cpu += r.CPU
		}
	}
	*took = append(*took, slowest)
	if exposed != nil {
		*exposed = append(*exposed, most)
	}
	return replies, nil
}

// links keeps what members say of their links.
func (r *Result) links(replies []reply) {
	r.Coding, r.Ways = r.Coding[:0], r.Ways[:0]
	for _, a := range replies {
		r.Coding, r.Ways = append(r.Coding, a.Coding...), append(r.Ways, a.Ways...)
	}
}
