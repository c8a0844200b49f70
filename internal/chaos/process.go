package chaos

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// launcher starts processes, all from one thread that lives until close: a child that is to die with its parent dies with the thread that
// started it.
type launcher struct {
	work    chan func()
	done    chan struct{}
	once    sync.Once
	minders sync.WaitGroup // of the processes
}

func newLauncher() *launcher {
	l := &launcher{work: make(chan func()), done: make(chan struct{})}
	go func() { // until close
		defer close(l.done)
		runtime.LockOSThread()
		for f := range l.work { //bounded: close closes it
			f()
		}
	}()
	return l
}

// close ends the thread, and with it, on Linux, what it has started. May be called twice, but not beside start.
func (l *launcher) close() {
	l.once.Do(func() { close(l.work) })
	<-l.done         //bounded: starting a process takes no time
	l.minders.Wait() //bounded: its processes end with the thread; elsewhere than on Linux their owner has killed them
}

// process is one that was started, in a process group of its own. Its output is in files.
type process struct {
	name string
	cmd  *exec.Cmd
	out  string // file of standard output
	log  string // file of standard error
	done chan struct{}

	mu      sync.Mutex
	touched bool // a fault happened to it, so it may end as it likes
	doomed  bool // it was killed, or told to end
}

// start starts a command with its output in DIR/NAME.out and DIR/NAME.log. ended, if not nil, is called once it is over.
func (l *launcher) start(cmd *exec.Cmd, dir, name string, ended func(*process)) (*process, error) {
	p := &process{name: name, cmd: cmd, done: make(chan struct{}), out: filepath.Join(dir, name+".out"), log: filepath.Join(dir, name+".log")}
	var files []*os.File
	for _, path := range []string{p.out, p.log} {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
		if err != nil {
			return nil, err
		}
		defer f.Close() // the process has its own
		files = append(files, f)
	}
	cmd.Stdout, cmd.Stderr = files[0], files[1]
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	dieWithParent(cmd.SysProcAttr)
	begun := make(chan error, 1)
	l.work <- func() { begun <- cmd.Start() } //bounded: the thread does nothing else
	if err := <-begun; err != nil {           //bounded: as long as it takes to start a process
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	l.minders.Go(func() {
		cmd.Wait() //bounded: close ends it. How it ended is asked of ProcessState
		close(p.done)
		if ended != nil {
			ended(p)
		}
	})
	return p, nil
}

// signal sends a signal to the process, or to its whole group. One that has ended is none of an error.
func (p *process) signal(s syscall.Signal, group bool) error {
	select {
	case <-p.done: // its number may be another's by now
		return nil
	default:
	}
	pid := p.cmd.Process.Pid
	if group {
		pid = -pid
	}
	if err := syscall.Kill(pid, s); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("%v to %s: %w", s, p.name, err)
	}
	return nil
}

// kill ends the process and says that this is our doing.
func (p *process) kill(group bool) error {
	p.mark(true)
	return p.signal(syscall.SIGKILL, group)
}

// mark notes that a fault happens to the process, and whether it is its end.
func (p *process) mark(end bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.touched, p.doomed = true, p.doomed || end
}

func (p *process) marks() (touched, doomed bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.touched, p.doomed
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// wait waits for the end and gives the exit code, -1 after a signal.
func (p *process) wait(ctx context.Context, within time.Duration) (int, error) {
	limit := time.NewTimer(within)
	defer limit.Stop()
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode(), nil
	case <-limit.C:
		return 0, fmt.Errorf("%s has not ended within %v", p.name, within)
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
}

// gone waits for the end of a process that was killed, whatever else ends.
func (p *process) gone(within time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*within)
	defer cancel()
	_, err := p.wait(ctx, within)
	return err
}

// tail is the end of a file, for a message.
func tail(path string, lines int) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
