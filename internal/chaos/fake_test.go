package chaos

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	pb "github.com/lockstep-ml/lockstep/internal/proto/lockstep/v1"
	"github.com/lockstep-ml/lockstep/internal/tlsconf"
	"github.com/lockstep-ml/lockstep/internal/vfs"
)

// role is the variable that turns this test binary into a stand-in for lockstep, with the flaws that it lists. The stand-in trains nothing: its
// coordinator counts steps while workers are connected.
const role = "CHAOS_TEST_ROLE"

// The flaws.
const (
	flawHash      = "hash"      // the run ends with another hash
	flawShort     = "short"     // the run ends before its last step
	flawHang      = "hang"      // no step is made in the second half
	flawRude      = "rude"      // workers end with code 3
	flawQuitter   = "quitter"   // a worker ends by itself in the middle
	flawStays     = "stays"     // workers do not end
	flawWelcoming = "welcoming" // a second coordinator is let in
	flawLedger    = "ledger"    // a sample was used twice
	noFlawSwift   = "swift"     // not one: the workers complete the run while the coordinator is away
	flawStubborn  = "stubborn"  // a worker that is told to leave ends with code 4
)

func TestMain(m *testing.M) {
	if _, ok := os.LookupEnv(role); !ok {
		os.Exit(m.Run())
	}
	code, err := standIn(os.Args[1], os.Args[2:])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	os.Exit(code)
}

func flawed(f string) bool { return slices.Contains(strings.Split(os.Getenv(role), ","), f) }

func standIn(command string, args []string) (int, error) {
	flags := map[string]string{}
	for i := 0; i+1 < len(args); i++ {
		if name, ok := strings.CutPrefix(args[i], "--"); ok {
			flags[name] = args[i+1]
		}
	}
	switch command {
	case "train":
		fmt.Printf(`{"step":%s,"hash":"good"}`+"\n", flags["steps"])
		return 0, nil
	case "data":
		if args[0] == "--help" {
			fmt.Println("Commands:\n  ledger   proves")
		} else if flawed(flawLedger) {
			return 1, errors.New("step 7: image 12 twice")
		}
		return 0, nil
	case "coordinator":
		return 0, newFakeCoordinator(flags).run()
	case "worker":
		return fakeWorker(flags)
	case "parent": // has a child, and says which
		child := exec.Command("sleep", "1000")
		if err := child.Start(); err != nil {
			return 1, err
		}
		fmt.Println(child.Process.Pid)
		return 0, child.Wait()
	}
	return 1, fmt.Errorf("no command %q", command)
}

type fakeCoordinator struct {
	pb.UnimplementedControlServer
	flags map[string]string
	out   string

	mu      sync.Mutex
	step    uint64
	total   uint64
	rings   uint64
	members map[string]net.Conn
}

func newFakeCoordinator(flags map[string]string) *fakeCoordinator {
	total, err := strconv.ParseUint(flags["steps"], 10, 64)
	if err != nil {
		panic(err)
	}
	c := &fakeCoordinator{flags: flags, out: flags["out"], total: total, rings: uint64(time.Now().UnixMilli()), members: map[string]net.Conn{}}
	if b, err := os.ReadFile(filepath.Join(c.out, "step")); err == nil {
		if c.step, err = strconv.ParseUint(string(b), 10, 64); err != nil {
			panic(err)
		}
		if flawed(noFlawSwift) {
			c.step = c.total
		}
	}
	return c
}

func (c *fakeCoordinator) Status(context.Context, *pb.StatusRequest) (*pb.StatusResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := &pb.StatusResponse{Step: c.step, TotalSteps: c.total, Generation: c.rings}
	for name := range c.members {
		r.Members = append(r.Members, &pb.Member{Worker: name})
	}
	return r, nil
}

func (c *fakeCoordinator) run() error {
	if err := os.MkdirAll(c.out, 0o755); err != nil {
		return err
	}
	lock, err := vfs.Lock(filepath.Join(c.out, "lock"))
	if err != nil && !flawed(flawWelcoming) {
		return err
	}
	if err != nil {
		return nil
	}
	defer lock.Close()
	control, err := net.Listen("tcp", c.flags["control"])
	if err != nil {
		return err
	}
	creds := insecure.NewCredentials()
	if dir := c.flags["tls"]; dir != "" {
		id, err := tlsconf.Load(dir)
		if err != nil {
			return err
		}
		creds = credentials.NewTLS(id.Server())
	}
	s := grpc.NewServer(grpc.Creds(creds))
	pb.RegisterControlServer(s, c)
	go s.Serve(control) // ends with the process
	join, err := net.Listen("tcp", c.flags["listen"])
	if err != nil {
		return err
	}
	go func() {
		for {
			conn, err := join.Accept()
			if err != nil {
				return
			}
			go c.attend(conn)
		}
	}()
	return c.train()
}

// attend holds a worker as a member for as long as it is connected.
func (c *fakeCoordinator) attend(conn net.Conn) {
	in := bufio.NewScanner(conn)
	if !in.Scan() {
		return
	}
	name := in.Text()
	c.change(func() { c.members[name] = conn })
	in.Scan() // nothing comes but the end
	c.change(func() {
		if c.members[name] == conn {
			delete(c.members, name)
		}
	})
}

func (c *fakeCoordinator) change(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
	c.rings++
}

// train makes a step every few milliseconds while there is a worker.
func (c *fakeCoordinator) train() error {
	for range time.Tick(2 * time.Millisecond) {
		c.mu.Lock()
		if len(c.members) > 0 && !(flawed(flawHang) && c.step > c.total/2) {
			c.step++
		}
		step, last := c.step, c.total
		c.mu.Unlock()
		if flawed(flawShort) {
			last -= 5
		}
		if err := vfs.WriteAtomic(vfs.OS{}, filepath.Join(c.out, "step"), 0o644, func(w io.Writer) error {
			_, err := fmt.Fprint(w, step)
			return err
		}); err != nil && !errors.Is(err, syscall.ENOSPC) {
			return err
		}
		if step < last {
			continue
		}
		hash := "good"
		if flawed(flawHash) {
			hash = "bad"
		}
		c.change(func() {
			for _, conn := range c.members {
				fmt.Fprintln(conn, "stop") // a worker that is gone need not hear it
			}
		})
		fmt.Printf(`{"step":%d,"hash":%q}`+"\n", step, hash)
		return nil
	}
	return nil
}

// unheard reads a byte; that none comes in time is no error.
func unheard(conn net.Conn) error {
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("something came instead of the deadline: %v", err)
	}
	return nil
}

// fakeWorker connects until it is told to stop.
func fakeWorker(flags map[string]string) (int, error) {
	left := make(chan os.Signal, 1)
	signal.Notify(left, syscall.SIGTERM)
	go func() {
		<-left
		if flawed(flawStubborn) {
			os.Exit(4)
		}
		os.Exit(codeInterrupted)
	}()
	retry, late := time.NewTicker(20*time.Millisecond), time.After(time.Minute)
	for {
		select {
		case <-retry.C:
		case <-late:
			return 1, errors.New("no coordinator")
		}
		for _, at := range strings.Split(flags["join"], ",") {
			conn, err := net.Dial("tcp", at)
			if err != nil {
				continue
			}
			fmt.Fprintln(conn, flags["name"])
			if flawed(flawQuitter) && strings.HasPrefix(flags["name"], "w0-2") {
				// It gives up when it has not heard anything for a second: in the middle of the run.
				return 5, errors.Join(errors.New("tired"), conn.SetReadDeadline(time.Now().Add(time.Second)), unheard(conn))
			}
			if in := bufio.NewScanner(conn); in.Scan() && in.Text() == "stop" {
				if flawed(flawStays) {
					select {}
				}
				if flawed(flawRude) {
					return 3, errors.New("rude")
				}
				return 0, nil
			}
			if flawed(noFlawSwift) {
				return 0, nil
			}
		}
	}
}
