package shm

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// childEnv makes the test binary play the other side of a region, over its
// standard input and output.
const childEnv = "LOCKSTEP_SHM_TEST_CHILD"

func TestMain(m *testing.M) {
	var err error
	switch os.Getenv(childEnv) {
	case "receive":
		err = childReceive()
	case "send":
		err = childSend()
	default:
		os.Exit(m.Run())
	}
	if err != nil {
		fmt.Println("failed:", err)
		os.Exit(1)
	}
}

// childReceive opens the region on its first line, and for each further line
// receives a payload and answers with its header and checksum; it frees it
// unless the line says keep.
func childReceive() error {
	lines := bufio.NewScanner(os.Stdin)
	lines.Scan()
	b, err := hex.DecodeString(lines.Text())
	if err != nil {
		return err
	}
	o, err := DecodeOffer(b)
	if err != nil {
		return err
	}
	in, err := Open(o)
	if err != nil {
		return err
	}
	fmt.Println("open")
	for lines.Scan() {
		head := make([]byte, 3)
		p, loan, err := in.Receive(head)
		if err != nil {
			return err
		}
		fmt.Println(string(head), crc32.ChecksumIEEE(p))
		if lines.Text() != "keep" {
			loan.Free()
		}
	}
	return lines.Err()
}

// childSend makes a region, lends one slot and stays until its input ends.
func childSend() error {
	out, err := Create(small)
	if err != nil {
		return err
	}
	s, _ := out.Take(5)
	copy(s.Bytes(), "hello")
	s.Lend(nil)
	fmt.Println(hex.EncodeToString(out.Offer().Encode()))
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		out.Settle()
		fmt.Println("settled")
	}
	return lines.Err()
}

// child is a second process of this test.
type child struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func startChild(t *testing.T, role string, attr *syscall.SysProcAttr) (*child, error) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	c := &child{cmd: exec.CommandContext(ctx, self)}
	c.cmd.Env = append(os.Environ(), childEnv+"="+role)
	c.cmd.SysProcAttr = attr
	c.cmd.Stderr = os.Stderr
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	stdout, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.out = bufio.NewReader(stdout)
	if err := c.cmd.Start(); err != nil {
		cancel()
		return nil, err
	}
	t.Cleanup(func() { c.kill(); cancel() })
	return c, nil
}

// kill ends the child as a crash does, and waits for it.
func (c *child) kill() {
	_ = c.cmd.Process.Kill() // an error says that it has ended
	_ = c.cmd.Wait()
}

func (c *child) say(t *testing.T, format string, args ...any) {
	t.Helper()
	if _, err := fmt.Fprintf(c.in, format+"\n", args...); err != nil {
		t.Fatal(err)
	}
}

// hear reads the child's next line.
func (c *child) hear(t *testing.T) string {
	t.Helper()
	line, err := c.out.ReadString('\n')
	if err != nil {
		t.Fatalf("child: %v after %q", err, line)
	}
	return strings.TrimSpace(line)
}

func (c *child) expect(t *testing.T, want string) {
	t.Helper()
	if got := c.hear(t); got != want {
		t.Fatalf("child says %q, want %q", got, want)
	}
}

// receiver starts a second process that has opened the region.
func receiver(t *testing.T, out *Outlet) *child {
	t.Helper()
	c, err := startChild(t, "receive", nil)
	if err != nil {
		t.Fatal(err)
	}
	c.say(t, "%x", out.Offer().Encode())
	c.expect(t, "open")
	out.Settle()
	return c
}

func TestSecondProcessReads(t *testing.T) {
	out := mustCreate(t, Geometry{Slots: 2, SlotBytes: 64 << 10})
	c := receiver(t, out)
	var watch sync.WaitGroup
	watch.Go(out.Watch)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for i := range 50 {
		s, err := out.Await(ctx, 64<<10)
		if err != nil {
			t.Fatal(err)
		}
		for j := range s.Bytes() {
			s.Bytes()[j] = byte(i * j)
		}
		want := crc32.ChecksumIEEE(s.Bytes())
		if i%2 == 0 {
			c.say(t, "free") // it sleeps, or is about to
		}
		s.Lend([]byte("abc"))
		if i%2 == 1 {
			c.say(t, "free")
		}
		c.expect(t, fmt.Sprint("abc ", want))
	}
	out.Close()
	watch.Wait()
}

func TestReceiverDies(t *testing.T) {
	before := len(mappings(t))
	out := mustCreate(t, Geometry{Slots: 2, SlotBytes: 64})
	c := receiver(t, out)
	c.say(t, "keep")
	s := mustTake(t, out, 64)
	s.Lend(nil)
	c.hear(t)
	var watch sync.WaitGroup
	watch.Go(out.Watch)
	c.kill()
	watch.Wait() // notices
	again := mustTake(t, out, 64)
	if again == s {
		t.Error("the dead receiver's slot was given out")
	}
	if _, ok := out.Take(64); ok {
		t.Error("the dead receiver's slot was given out")
	}
	again.Lend(nil) // to nobody
	out.Close()
	if got := mappings(t); len(got) != before {
		t.Errorf("still mapped: %q", got)
	}
}

func TestSenderDies(t *testing.T) {
	before := len(mappings(t))
	c, err := startChild(t, "send", nil)
	if err != nil {
		t.Fatal(err)
	}
	o := c.offer(t)
	in := mustOpen(t, o)
	c.say(t, "settle")
	c.expect(t, "settled")
	c.kill()
	p, loan, err := in.Receive(nil)
	if err != nil {
		t.Fatal(err)
	}
	if string(p) != "hello" {
		t.Errorf("payload is %q", p)
	}
	loan.Free()
	if _, _, err := in.Receive(nil); !errors.Is(err, io.EOF) {
		t.Errorf("the sender is dead, yet %v", err)
	}
	in.Close()
	if got := mappings(t); len(got) != before {
		t.Errorf("still mapped: %q", got)
	}
	if _, err := Open(o); err == nil {
		t.Error("a dead sender's region can be opened")
	}
}

// offer reads what a sending child offers.
func (c *child) offer(t *testing.T) Offer {
	t.Helper()
	b, err := hex.DecodeString(c.hear(t))
	if err != nil {
		t.Fatal(err)
	}
	o, err := DecodeOffer(b)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// A process of another namespace has another number here, and must not be
// found by it.
func TestOtherProcessNamespace(t *testing.T) {
	c, err := startChild(t, "send", &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID})
	if err != nil {
		t.Skipf("no process namespaces here: %v", err)
	}
	o := c.offer(t)
	if o.pid == uint32(c.cmd.Process.Pid) {
		t.Fatal("the child sees itself under the number it has here")
	}
	if in, err := Open(o); err == nil {
		in.Close()
		t.Error("opened the memory of a process of another namespace")
	}
}

func TestOpenRefuses(t *testing.T) {
	before := len(mappings(t))
	out := mustCreate(t, small)
	good := out.Offer()
	other := mustCreate(t, small).Offer()
	if in, err := Open(good); err != nil {
		t.Fatal(err)
	} else {
		in.Close()
	}
	at := func(fd int) Offer {
		o := good
		o.file = uint32(fd)
		return o
	}
	otherToken, larger, nobody, noBell, fileBell := good, good, good, good, good
	noBell.lentBell = 1 << 20
	fileBell.freeBell = good.file
	otherToken.file = other.file
	larger.geometry.Slots++
	larger.geometry.SlotBytes *= 2
	nobody.pid = 1<<31 - 1
	for what, c := range map[string]struct {
		offer Offer
		want  string
	}{
		"another link's":     {otherToken, "token"},
		"another size":       {larger, "bytes"},
		"no process":         {nobody, "reached"},
		"no descriptor":      {at(1 << 20), "reached"},
		"a pipe":             {at(pipe(t)), "not part of a link"},
		"a file":             {at(file(t, good)), "not part of a link"},
		"no bell":            {noBell, "reached"},
		"a file as a bell":   {fileBell, "not part of a link"},
		"an unsealed region": {at(unsealed(t, good)), "not sealed"},
	} {
		in, err := Open(c.offer)
		if err == nil {
			in.Close()
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want an error with %q", what, err, c.want)
		}
	}
	if got := mappings(t); len(got) != before+4 {
		t.Errorf("refused regions stay mapped: %q", got)
	}
}

// pipe returns a descriptor on which an incautious open would wait for ever.
func pipe(t *testing.T) int {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	return int(r.Fd())
}

// file returns a descriptor of a file with the contents that a region would have.
func file(t *testing.T, o Offer) int {
	f, err := os.Create(t.TempDir() + "/region")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if _, err := f.Write(contents(o)); err != nil {
		t.Fatal(err)
	}
	return int(f.Fd())
}

// unsealed returns a descriptor of a region that lacks nothing but seals.
func unsealed(t *testing.T, o Offer) int {
	fd, err := memfd()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if _, err := unix.Write(fd, contents(o)); err != nil {
		t.Fatal(err)
	}
	return fd
}

func contents(o Offer) []byte {
	b := bytes.Repeat([]byte{0}, o.geometry.size())
	o.describe(b[o.geometry.slots():])
	return b
}
