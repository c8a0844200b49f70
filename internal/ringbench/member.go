package ringbench

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"
)

// Member takes part in benchmarks that somebody else drives.
type Member struct {
	// Open makes this process's part in a session's rings, listening on a host.
	Open func(l Link, host string) (Rings, error)
	// Host is where the rings listen, and what neighbours dial.
	Host string
	// Server and Dial protect the session and the plain ring; nil speaks in clear.
	Server, Dial *tls.Config
	// Allow refuses addresses that this process may not dial; the driver names them.
	Allow func(addr string) error
	// Fits refuses a session that takes more memory, in bytes, than there is.
	Fits func(bytes int64) error
	// Once ends Serve after the first session, or when none has begun within Patience.
	Once bool
	// Patience bounds each wait for the driver and for neighbours.
	Patience time.Duration
	// Log is told of sessions that failed; nil tells nobody.
	Log func(error)
}

// Serve takes sessions, one after another, until ctx ends. It closes l.
func (m *Member) Serve(ctx context.Context, l net.Listener) error {
	defer context.AfterFunc(ctx, func() { l.Close() })() // wakes Accept
	defer l.Close()                                      // may be closed already
	for {
		if t, ok := l.(*net.TCPListener); ok && m.Once {
			if err := t.SetDeadline(time.Now().Add(m.Patience)); err != nil {
				return err
			}
		}
		c, err := l.Accept() //bounded: waits for a driver for as long as the member serves: until ctx ends, or Patience with Once
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			return fmt.Errorf("waiting for a driver: %w", err)
		}
		err = m.session(ctx, c)
		if m.Once {
			return err
		}
		if err != nil && m.Log != nil {
			m.Log(err)
		}
	}
}

// session serves one driver until it hangs up.
func (m *Member) session(ctx context.Context, c net.Conn) error {
	if m.Server != nil {
		c = tls.Server(c, m.Server)
	}
	nc := newConn(c)
	ctx, cancel := context.WithCancelCause(ctx)
	requests := make(chan *request)
	read := make(chan struct{})
	go func() { // ends with the connection, which is closed below
		defer close(read)
		cancel(nc.readAll(ctx, requests, m.Patience))
	}()
	s := &seat{member: m}
	err := s.answer(ctx, nc, requests)
	err = errors.Join(err, s.close())
	cancel(nil)
	c.Close() // wakes the reader; nothing is lost by it
	<-read    //bounded: the connection is closed
	return err
}

// errHungUp ends a session that the driver has left; whatever was under way then is given up.
var errHungUp = errors.New("the driver has hung up")

// idleLimit bounds how long a driver may ask nothing: it waits for a round, or works out what the bits should be.
const idleLimit = 15 * time.Minute

// readAll hands on what the driver asks until the connection ends, and says why it did. The first request has to come within patience.
func (c *conn) readAll(ctx context.Context, to chan<- *request, patience time.Duration) error {
	for {
		r := new(request)
		if err := c.receive(r, patience); err != nil {
			return fmt.Errorf("%w: %w", errHungUp, err)
		}
		patience = idleLimit
		select {
		case to <- r:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// answer does what the driver asks, one thing after another. A failure is answered too, and ends the session.
func (s *seat) answer(ctx context.Context, c *conn, requests <-chan *request) error {
	for {
		var r *request
		select {
		case r = <-requests:
		case <-ctx.Done():
			if s.ring != nil { // the driver's ordinary goodbye
				return nil
			}
			return context.Cause(ctx)
		}
		out, err := s.do(ctx, r)
		if err != nil {
			out = &reply{Error: err.Error()}
		}
		if e := c.send(out, s.member.Patience); e != nil || err != nil {
			return errors.Join(err, e)
		}
	}
}
