package ringgrpc

import (
	"net"
	"testing"
	"time"
)

// A connection whose reader takes nothing is busy, though every write to it that
// still fits a buffer returns at once.
func TestBusyTimeSeesWhatBuffersHold(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
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
	for busyTime(tcp) == 0 {
		if time.Now().After(deadline) {
			t.Fatal("never busy, with nobody who reads")
		}
		if err := c.SetWriteDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		_, _ = c.Write(chunk) // a full buffer is what it is about
	}
	c.Close()
	if busy := busyTime(tcp); busy != 0 {
		t.Errorf("busy for %v once closed", busy)
	}
}
