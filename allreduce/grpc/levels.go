package ringgrpc

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/lockstep-ml/lockstep/allreduce"
)

// membership is the transport of one generation: a link for each level, which share
// an inbox, so that a bucket waits in one place for whatever comes.
type membership struct {
	node       *Node
	generation uint64
	inbox      *allreduce.Inbox
	links      []*link // by level
}

var _ allreduce.Transport = (*membership)(nil)

// newMembership makes the links of rank's seats; addr gives where a rank listens.
func newMembership(n *Node, generation uint64, rank, size, group int, addr func(rank int) string) *membership {
	m := &membership{node: n, generation: generation}
	seats := allreduce.Seats(rank, size, group)
	for level, seat := range seats {
		l := newLink(n, generation, rank, size, addr(seat.Right()))
		l.level, l.seat, l.group = allreduce.Level(level), seat, seats[allreduce.Inner].Size
		m.links = append(m.links, l)
	}
	m.inbox = m.links[allreduce.Inner].inbox
	if len(m.links) > 1 {
		inner, outer := m.links[allreduce.Inner], m.links[allreduce.Outer]
		outer.inbox, outer.sibling, inner.sibling = m.inbox, inner, outer
	}
	return m
}

// linksOf returns the links to neighbours of a membership, by level; none of any
// other transport.
func linksOf(t allreduce.Transport) []*link {
	if m, ok := t.(*membership); ok && m.links[allreduce.Inner].size > 1 {
		return m.links
	}
	return nil
}

// connect links to the neighbours of all levels at once.
func (m *membership) connect(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, l := range m.links {
		g.Go(func() error {
			err := l.connect(ctx)
			if err != nil && len(m.links) > 1 {
				err = fmt.Errorf("%v level: %w", l.level, err)
			}
			return err
		})
	}
	return g.Wait() //bounded: linking ends with ctx, which JoinTimeout bounds
}

// Buffer implements allreduce.Transport.
func (m *membership) Buffer(ctx context.Context, to allreduce.Level, n int) (allreduce.Message, error) {
	return m.links[to].Buffer(ctx, n)
}

// Send implements allreduce.Transport.
func (m *membership) Send(ctx context.Context, msg allreduce.Message) error {
	return m.links[msg.Header.Phase.Level()].Send(ctx, msg)
}

// Recv implements allreduce.Transport.
func (m *membership) Recv(ctx context.Context, k allreduce.Key) (allreduce.Message, error) {
	return m.inbox.Recv(ctx, k)
}

// Forget implements allreduce.Transport.
func (m *membership) Forget(step uint64, bucket uint32) { m.inbox.Forget(step, bucket) }

// Abort implements allreduce.Transport.
func (m *membership) Abort(err error) { m.links[allreduce.Inner].fail(err) }

// Close implements allreduce.Transport. The levels must be closed at the same time:
// each waits for the other.
func (m *membership) Close() error {
	var g errgroup.Group
	for _, l := range m.links {
		g.Go(l.Close)
	}
	err := g.Wait() //bounded: each level waits CloseTimeout and abortGrace at most
	m.node.remove(m)
	return err
}
