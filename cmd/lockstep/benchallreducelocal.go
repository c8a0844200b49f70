package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// localMembers are worker processes of a benchmark on this machine.
type localMembers struct {
	addresses []string
	cancel    context.CancelFunc
	group     sync.WaitGroup
	members   []*localMember
}

// localMember is one of them.
type localMember struct {
	cmd   *exec.Cmd
	said  tail
	ended chan struct{}
}

// memberStart bounds how long a process may take to say where it serves.
const memberStart = 30 * time.Second

// startMembers starts --workers processes of this binary, which end with this one or after their session.
func startMembers(ctx context.Context, o *allreduceOptions) (*localMembers, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("finding this program to start workers with: %w", err)
	}
	m := &localMembers{}
	ctx, m.cancel = context.WithCancel(ctx)
	args := []string{"bench", "allreduce", "--serve", "--of-bench", "--listen", "127.0.0.1:0", "--timeout", o.timeout.String()}
	if o.sec.dir != "" {
		args = append(args, "--tls", o.sec.dir)
	}
	for i := range o.workers {
		if err := m.start(ctx, exec.CommandContext(ctx, self, args...)); err != nil {
			m.cancel()
			m.group.Wait() //bounded: the processes are killed
			return nil, fmt.Errorf("worker %d: %w", i, err)
		}
	}
	return m, nil
}

// start starts one and waits until it serves.
func (m *localMembers) start(ctx context.Context, cmd *exec.Cmd) error {
	w := &localMember{cmd: cmd, ended: make(chan struct{})}
	w.cmd.Stderr = &w.said
	w.cmd.SysProcAttr = childAttributes()
	w.cmd.WaitDelay = time.Second
	out, err := w.cmd.StdoutPipe() //bounded: read for one line by mind: the process is killed if that is late
	if err != nil {
		return err
	}
	if err := w.cmd.Start(); err != nil {
		return err
	}
	m.members = append(m.members, w)
	address := make(chan string, 1)
	m.group.Go(func() { w.mind(out, address) })
	late := time.NewTimer(memberStart)
	defer late.Stop()
	select {
	case a := <-address:
		if a == "" {
			return w.silent(late.C)
		}
		m.addresses = append(m.addresses, a)
		return nil
	case <-late.C:
		return fmt.Errorf("the process has not said within %v where it serves", memberStart)
	case <-ctx.Done():
		return errInterrupted
	}
}

// silent says why a process that has not said where it serves will not: it has ended, or it stays and says something else.
func (w *localMember) silent(late <-chan time.Time) error {
	select {
	case <-w.ended:
		return fmt.Errorf("the process has ended: %s", w.fate())
	case <-late:
		return fmt.Errorf("the process runs, but has not said within %v where it serves: %s", memberStart, w.said.last())
	}
}

// mind reads where a process serves, "" if it ends before, and waits for its end.
func (w *localMember) mind(out io.Reader, address chan<- string) {
	line, _ := bufio.NewReader(io.LimitReader(out, 1<<10)).ReadString('\n') // what is missing is missed below
	_, a, _ := strings.Cut(strings.TrimSpace(line), "serving at ")
	address <- a //bounded: it has room for the one address
	//bounded: the context kills it, or its session ends; pipes are given up after WaitDelay
	w.cmd.Wait() // its error is in ProcessState
	close(w.ended)
}

// fate says how an ended process ended.
func (w *localMember) fate() string {
	return strings.TrimSpace(w.cmd.ProcessState.String() + " " + w.said.last())
}

// deathPatience is how long a process whose session broke may take to be seen as dead.
const deathPatience = 500 * time.Millisecond

// died implements ringbench.Config.Died.
func (m *localMembers) died(i int) string {
	select {
	case <-m.members[i].ended:
		return "its process has ended: " + m.members[i].fate()
	case <-time.After(deathPatience):
		return ""
	}
}

// stop ends the processes that have not ended by themselves.
func (m *localMembers) stop() {
	kill := time.AfterFunc(2*time.Second, m.cancel)
	m.group.Wait() //bounded: those that do not end are killed two seconds later
	kill.Stop()
	m.cancel()
}

// tail keeps the end of what a process says.
type tail struct {
	mu   sync.Mutex
	text []byte
}

// maxTail is more than an error's last line has.
const maxTail = 4 << 10

// Write implements io.Writer.
func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, b...)
	if n := len(t.text) - maxTail; n > 0 {
		t.text = append(t.text[:0], t.text[n:]...)
	}
	return len(b), nil
}

// last is the last line.
func (t *tail) last() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	lines := strings.Split(strings.TrimSpace(string(t.text)), "\n")
	return lines[len(lines)-1]
}
