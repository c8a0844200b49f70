package examples

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
)

func groups(wg *sync.WaitGroup, g *errgroup.Group, c *sync.Cond) error {
	wg.Wait()       // want waits for all of a group
	defer wg.Wait() // want waits for all of a group
	end := wg.Wait  // want waits for all of a group
	end()
	c.Wait()        // want waits for a signal
	wg.Wait()       //bounded: its members only compute
	return g.Wait() // want waits for all of a group
}

func children(ctx context.Context) {
	a := exec.Command("a")
	a.Run() // want waits for a child process
	b := exec.CommandContext(ctx, "b")
	b.Output() // want waits for a child process
	c := exec.CommandContext(ctx, "c")
	c.WaitDelay = time.Second
	c.Wait()
	d := exec.Command("d")
	d.WaitDelay = time.Second
	d.StdoutPipe() // want gives an end of a pipe
	d.Wait()       // want waits for a child process
}

func contexts(ctx context.Context, client remote) error {
	client.Do(context.Background()) // want calls a server // want never ends
	client.Do(ctx)                  // want calls a server
	slog.InfoContext(context.Background(), "no wait")
	free := context.WithoutCancel(ctx)                  // want never ends
	child, cancel := context.WithCancel(context.TODO()) // want never ends
	defer cancel()
	client.Do(child) // want calls a server
	_ = free
	short, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	g, of := errgroup.WithContext(short)
	g.SetLimit(1)
	return errors.Join(client.Do(short), client.Do(of))
}

// A remote is what protoc makes of a service.
type remote interface {
	Do(ctx context.Context, opts ...grpc.CallOption) error
	Open(ctx context.Context, opts ...grpc.CallOption) (grpc.ClientStream, error)
}

func streams(ctx context.Context, client remote, s grpc.ServerStream) {
	s.RecvMsg(nil)              // want waits for the other end of a stream
	long, _ := client.Open(ctx) // want calls a server
	long.SendMsg(nil)           // want waits for the other end of a stream
	t, cancel := context.WithDeadline(ctx, time.Now())
	defer cancel()
	short, _ := client.Open(t)
	short.RecvMsg(nil)
}

func serving(s *grpc.Server, l net.Listener, t *net.TCPListener) {
	s.Serve(l)       // want serves until
	s.GracefulStop() // want waits for all calls
	l.Accept()       // want waits for somebody to connect
	t.AcceptTCP()    // want waits for somebody to connect
}

type dated struct{ c net.Conn }

func (d *dated) arm() { d.c.SetDeadline(time.Now()) }

func (d *dated) read(b []byte) { d.c.Read(b) }

type undated struct{ c net.Conn }

func (d *undated) read(b []byte) {
	d.c.Read(b) // want waits for the other end
}

func connections(ctx context.Context, c *net.TCPConn, b []byte) {
	c.Write(b)                       // want waits for the other end
	io.Copy(io.Discard, c)           // want reads or writes a connection
	bufio.NewReader(c)               // want reads or writes a connection
	net.Dial("tcp", "a")             // want dials without a deadline
	(&net.Dialer{}).Dial("tcp", "a") // want dials without a deadline
	(&net.Dialer{Timeout: time.Second}).Dial("tcp", "a")
	(&net.Dialer{}).DialContext(ctx, "tcp", "a")
	net.DialTimeout("tcp", "a", time.Second)
}

func limited(c net.Conn, b []byte) {
	c.SetReadDeadline(time.Now())
	io.ReadFull(c, b)
	c.Read(b)
}

func web() {
	http.Get("a")          // want uses a client of HTTP
	_ = http.DefaultClient // want uses a client of HTTP
	_ = &http.Client{}     // want has no Timeout
	_ = &http.Client{Timeout: time.Second}
	_ = http.Server{ReadHeaderTimeout: 1, ReadTimeout: 1, WriteTimeout: 1} // want has no IdleTimeout
	http.ListenAndServe("a", nil)                                          // want serves until
}

func system(fd int, timeout int, p []unix.PollFd) {
	unix.Poll(p, -1)      // want polls without a timeout
	unix.Poll(p, timeout) // want polls without a timeout
	unix.Poll(p, 1000)
	syscall.Flock(fd, syscall.LOCK_EX) // want waits for a lock
	syscall.Flock(fd, syscall.LOCK_EX|syscall.LOCK_NB)
	unix.Syscall6(unix.SYS_FUTEX, 0, 0, 0, 0, 0, 0) // want calls the system to wait
	unix.Syscall(unix.SYS_GETPID, 0, 0, 0)
	io.Pipe()            // want gives an end of a pipe
	io.ReadAll(os.Stdin) // want waits for whoever types
}

func loops(ctx context.Context, ready func() bool, end time.Time) {
	time.Sleep(1)
	for !ready() {
		time.Sleep(1) // want sleeps in a loop
	}
	for {
		runtime.Gosched() // want spins in a loop
	}
	for i := 0; i < 10; i++ {
		time.Sleep(1)
	}
	for range 3 {
		time.Sleep(1)
	}
	for !ready() && ctx.Err() == nil {
		time.Sleep(1)
	}
	for time.Now().Before(end) {
		runtime.Gosched()
	}
}
