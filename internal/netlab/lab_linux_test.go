package netlab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

// role is the variable that turns this test binary into an end of a TCP connection: "serve ADDRESS BYTES", "dial ADDRESS BYTES", or
// "echo ADDRESS 0".
const role = "NETLAB_TEST_ROLE"

// patience bounds every wait, far above what anything takes on an idle machine.
const patience = 60 * time.Second

func TestMain(m *testing.M) {
	if r := os.Getenv(role); r != "" {
		if err := play(strings.Fields(r)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func play(r []string) error {
	bytes, err := strconv.Atoi(r[2])
	if err != nil {
		return err
	}
	if r[0] == "dial" {
		return call(r[1], bytes)
	}
	l, err := net.Listen("tcp", r[1])
	if err != nil {
		return err
	}
	fmt.Println("listening")
	c, err := l.Accept()
	if err != nil {
		return err
	}
	if r[0] == "echo" {
		_, err := io.Copy(c, c)
		return errors.Join(err, l.Close())
	}
	return errors.Join(c.SetDeadline(time.Now().Add(patience)), serve(c, bytes), c.Close(), l.Close())
}

// pings is how often a byte goes there and back.
const pings = 10

// serve gives bytes back, then takes many and answers with one.
func serve(c net.Conn, bytes int) error {
	if _, err := io.CopyN(c, c, pings); err != nil {
		return err
	}
	if _, err := io.CopyN(io.Discard, c, int64(bytes)); err != nil {
		return err
	}
	_, err := c.Write([]byte{1})
	return err
}

// call prints the least time there and back, and that of many bytes, in nanoseconds.
func call(addr string, bytes int) error {
	c, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		return err
	}
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	least, b := time.Hour, make([]byte, 1)
	for range pings {
		begun := time.Now()
		if _, err := c.Write(b); err != nil {
			return err
		}
		if _, err := io.ReadFull(c, b); err != nil {
			return err
		}
		least = min(least, time.Since(begun))
	}
	begun := time.Now()
	if _, err := c.Write(make([]byte, bytes)); err != nil {
		return err
	}
	if _, err := io.ReadFull(c, b); err != nil {
		return err
	}
	fmt.Println(least.Nanoseconds(), time.Since(begun).Nanoseconds())
	return c.Close()
}

// A connection between two nodes is as slow as it was asked to be: never faster than rate and delay allow, whatever else the machine does.
func TestLab(t *testing.T) {
	if err := Missing(); err != nil {
		t.Skip("no lab here:", err)
	}
	const rate, bytes = 200e6, 20 << 20
	for _, delay := range []time.Duration{0, 3 * time.Millisecond} {
		t.Run(delay.String(), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			lab, err := New(ctx, Config{Nodes: 3, BitsPerSecond: rate, Delay: delay})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { lab.Close() }) // a test that failed leaves nothing behind either
			rtt, took := measure(t, ctx, lab, bytes)
			// What is less than a burst of 1 ms, at least 128 KiB, may leave at once.
			if least := time.Duration((bytes - 256<<10) * 8 / rate * 1e9); took < least {
				t.Errorf("%d bytes took %v, at %g bit/s they need %v", bytes, took, float64(rate), least)
			}
			if rtt < 2*delay {
				t.Errorf("there and back in %v, with a delay of %v each way", rtt, delay)
			}
			t.Logf("%s: %v there and back, %.0f Mbit/s", lab.Method(), rtt, float64(bytes)*8/took.Seconds()/1e6)
			prefix := lab.prefix
			if err := errors.Join(lab.Close(), lab.Close()); err != nil {
				t.Error(err)
			}
			left, err := exec.CommandContext(ctx, "ip", "netns", "list").CombinedOutput()
			if err != nil || strings.Contains(string(left), prefix) {
				t.Errorf("namespaces are left: %v\n%s", err, left)
			}
		})
	}
}

// measure moves bytes from node 2 to node 0.
func measure(t *testing.T, ctx context.Context, lab *Lab, bytes int) (rtt, took time.Duration) {
	t.Helper()
	addr := net.JoinHostPort(lab.Data(0), "7000")
	server := lab.Command(ctx, 0, os.Args[0])
	server.Env = append(os.Environ(), fmt.Sprintf("%s=serve %s %d", role, addr, bytes))
	server.Stderr = os.Stderr
	out, err := server.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, len("listening\n"))); err != nil {
		t.Fatal(err)
	}
	client := lab.Command(ctx, 2, os.Args[0])
	client.Env = append(os.Environ(), fmt.Sprintf("%s=dial %s %d", role, addr, bytes))
	client.Stderr = os.Stderr
	figures, err := client.Output()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Sscan(string(figures), (*int64)(&rtt), (*int64)(&took)); err != nil {
		t.Fatal(err)
	}
	if err := server.Wait(); err != nil {
		t.Error(err)
	}
	return rtt, took
}

// echo starts a process in node 0 that gives bytes back, and connects to it from node 1.
func echo(t *testing.T, lab *Lab) net.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	addr := net.JoinHostPort(lab.Data(0), "7001")
	server := lab.Command(ctx, 0, os.Args[0])
	server.Env = append(os.Environ(), fmt.Sprintf("%s=echo %s 0", role, addr))
	out, err := server.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); server.Wait() }) // killed: its error is known
	if _, err := io.ReadFull(out, make([]byte, len("listening\n"))); err != nil {
		t.Fatal(err)
	}
	c, err := lab.Dial(ctx, 1, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// back sends a byte and says whether it came back within a time.
func back(t *testing.T, c net.Conn, b byte, within time.Duration) bool {
	t.Helper()
	if _, err := c.Write([]byte{b}); err != nil {
		t.Fatal(err)
	}
	return comes(t, c, b, within)
}

// comes says whether a byte comes within a time; another error than the deadline's would be a connection that broke.
func comes(t *testing.T, c net.Conn, b byte, within time.Duration) bool {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(within)); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 1)
	_, err := io.ReadFull(c, got)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	if err != nil || got[0] != b {
		t.Fatalf("%d: %v, want %d", got[0], err, b)
	}
	return true
}

// While a link is cut nothing arrives and nobody hears of it; afterwards the same connection goes on.
func TestImpair(t *testing.T) {
	if err := Missing(); err != nil {
		t.Skip("no lab here:", err)
	}
	lab, err := New(t.Context(), Config{Nodes: 2, BitsPerSecond: 1e9, Impairable: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { lab.Close() })
	c := echo(t, lab)
	impair := func(node int, i Impairment) {
		t.Helper()
		if err := lab.Impair(node, i); err != nil {
			t.Fatal(err)
		}
	}
	for n, x := range []struct {
		node int
		Impairment
	}{{0, Cut}, {1, Cut}, {0, Impairment{DropSent: true}}, {1, Impairment{DropReceived: true}}, {1, Impairment{Loss: 1}}} {
		b := byte(n)
		if !back(t, c, 100+b, patience) {
			t.Fatalf("%+v: nothing comes back over a link in order", x)
		}
		impair(x.node, x.Impairment)
		if back(t, c, b, 300*time.Millisecond) {
			t.Errorf("%+v: a byte came back", x)
			continue
		}
		impair(x.node, Impairment{})
		if !comes(t, c, b, patience) {
			t.Fatalf("%+v: the byte never came", x)
		}
	}
	if err := errors.Join(lab.Impair(2, Cut), lab.Impair(0, Impairment{Loss: 2})); err == nil || !strings.Contains(err.Error(), "node 2") || !strings.Contains(err.Error(), "loss of 2") {
		t.Error("impairments that cannot be:", err)
	}
}

func TestImpairedPace(t *testing.T) {
	if err := Missing(); err != nil {
		t.Skip("no lab here:", err)
	}
	lab, err := New(t.Context(), Config{Nodes: 2, BitsPerSecond: 1e9, Impairable: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { lab.Close() })
	c := echo(t, lab)
	const delay, bytes, rate = 20 * time.Millisecond, 300 << 10, 10e6
	if err := lab.Impair(0, Impairment{Delay: delay}); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	if !back(t, c, 1, patience) || time.Since(begun) < 2*delay {
		t.Errorf("there and back in %v, with %v each way", time.Since(begun), delay)
	}
	if err := lab.Impair(0, Impairment{BitsPerSecond: rate}); err != nil {
		t.Fatal(err)
	}
	begun = time.Now()
	go c.Write(make([]byte, bytes)) // ends with the connection; what it says, the reader finds out
	if err := c.SetReadDeadline(begun.Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(io.Discard, c, bytes); err != nil {
		t.Fatal(err)
	}
	if took, least := time.Since(begun), time.Duration(bytes*8/rate*1e9); took < least {
		t.Errorf("%d bytes in %v, at %g bit/s they need %v", int(bytes), took, rate, least)
	}
}

func TestReceiver(t *testing.T) {
	packet := make([]byte, virtioHeader+20)
	packet[virtioHeader] = 0x45
	copy(packet[virtioHeader+destination:], []byte{198, 19, 0, 2})
	if got := receiver(packet, 3); got != 1 {
		t.Errorf("node %d, want 1", got)
	}
	for name, spoil := range map[string]func() []byte{
		"short":   func() []byte { return packet[:virtioHeader+19] },
		"IPv6":    func() []byte { p := append([]byte{}, packet...); p[virtioHeader] = 0x60; return p },
		"nobody":  func() []byte { p := append([]byte{}, packet...); p[virtioHeader+destination+3] = 4; return p },
		"outside": func() []byte { p := append([]byte{}, packet...); p[virtioHeader+destination] = 10; return p },
	} {
		if got := receiver(spoil(), 3); got != -1 {
			t.Errorf("%s: node %d", name, got)
		}
	}
}
