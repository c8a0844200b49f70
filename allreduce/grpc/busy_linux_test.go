package ringgrpc

import (
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// A connection that moves data is busy for some time, and not before.
func TestBusyTime(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		if in, err := l.Accept(); err == nil {
			_, _ = io.Copy(io.Discard, in) // until it is closed below
			in.Close()
		}
	})
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	tcp := c.(*net.TCPConn)
	if busy := busyTime(tcp); busy != 0 {
		t.Errorf("busy for %v before anything was sent", busy)
	}
	deadline := time.Now().Add(20 * time.Second)
	chunk := make([]byte, 1<<20)
	if err := c.SetWriteDeadline(deadline); err != nil {
		t.Fatal(err)
	}
	for busyTime(tcp) == 0 {
		if _, err := c.Write(chunk); err != nil {
			t.Fatalf("never busy: %v", err)
		}
	}
	c.Close()
	if busy := busyTime(tcp); busy != 0 {
		t.Errorf("busy for %v once closed", busy)
	}
}
