package netlab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// dialer connects from within namespaces, on a thread of its own that goes from one to the other and never comes back. It lives as long as the lab
// does: with a thread, the kernel ends the processes that it has started if they asked for that.
type dialer struct {
	work chan func()
	once sync.Once
	done chan struct{}
}

func newDialer() *dialer {
	d := &dialer{work: make(chan func()), done: make(chan struct{})}
	go func() { // until close
		defer close(d.done)
		runtime.LockOSThread()
		for f := range d.work { //bounded: close closes the channel, or the process ends
			f()
		}
	}()
	return d
}

// close waits for the thread's end. May be called twice, but not beside dial.
func (d *dialer) close() {
	d.once.Do(func() { close(d.work) })
	<-d.done //bounded: the thread ends once the channel is closed and its last dial, which has a context, is over
}

// dial connects to an IP address and port.
func (d *dialer) dial(ctx context.Context, namespace, address string) (conn net.Conn, err error) {
	done := make(chan struct{})
	work := func() {
		defer close(done)
		conn, err = dialIn(ctx, namespace, address)
	}
	select {
	case d.work <- work:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	//bounded: dialIn ends with ctx
	<-done // ends with ctx
	return conn, err
}

// dialIn moves this thread into a namespace and connects there.
func dialIn(ctx context.Context, namespace, address string) (net.Conn, error) {
	ns, err := os.Open(filepath.Join("/run/netns", namespace))
	if err != nil {
		return nil, err
	}
	err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
	if err = errors.Join(err, ns.Close()); err != nil {
		return nil, fmt.Errorf("entering namespace %s: %w", namespace, err)
	}
	return new(net.Dialer).DialContext(ctx, "tcp", address)
}
