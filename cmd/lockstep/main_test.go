package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The variables that turn this test binary into lockstep. Worker processes inherit them from the train that starts them.
const (
	asCommand = "LOCKSTEP_TEST_AS_COMMAND"
	asVersion = "LOCKSTEP_TEST_AS_VERSION"
	asSpoiled = "LOCKSTEP_TEST_AS_SPOILED" // "weights STEP" or "gradient STEP REPLICA": where a bit is flipped
)

// patience bounds every wait: far longer than anything here takes on an idle machine, so that a busy one passes too.
const patience = 90 * time.Second

func TestMain(m *testing.M) {
	if os.Getenv(asCommand) != "" {
		version = os.Getenv(asVersion)
		spoil = spoiled(os.Getenv(asSpoiled))
		main()
		return
	}
	code := m.Run()
	if err := os.RemoveAll(shared.dir()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// shared holds what is made once for all tests: a data set, and hashes of uninterrupted runs.
var shared = struct {
	dir    func() string
	images func() string
	mu     sync.Mutex
	hashes map[string]string
}{
	dir: sync.OnceValue(func() string {
		dir, err := os.MkdirTemp("", "lockstep-test-")
		if err != nil {
			panic(err)
		}
		return dir
	}),
	hashes: map[string]string{},
}

// process is a lockstep command under test.
type process struct {
	t      *testing.T
	cmd    *exec.Cmd
	stdout bytes.Buffer
	ended  chan struct{}

	mu      sync.Mutex
	lines   []string      // of standard error
	changed chan struct{} // closed and replaced at every new line, and at the end
}

// begin starts lockstep with these arguments; settings are added to the environment as NAME=VALUE.
func begin(t *testing.T, settings []string, args ...string) *process {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, cmd: exec.Command(self, args...), ended: make(chan struct{}), changed: make(chan struct{})}
	for _, v := range os.Environ() { // what the tests' caller has set must not reach the commands, but for the kernels to use
		if !strings.HasPrefix(v, "LOCKSTEP_") || strings.HasPrefix(v, "LOCKSTEP_SIMD=") {
			p.cmd.Env = append(p.cmd.Env, v)
		}
	}
	p.cmd.Env = append(append(p.cmd.Env, asCommand+"=1"), settings...)
	p.cmd.Dir = t.TempDir() // runs without --out go there
	p.cmd.Stdout = &p.stdout
	p.cmd.WaitDelay = 10 * time.Second
	pipe, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go p.read(pipe)
	t.Cleanup(func() {
		p.signal(syscall.SIGKILL)
		<-p.ended
	})
	return p
}

// read gathers standard error until its end, and then the process.
func (p *process) read(pipe io.Reader) {
	lines := bufio.NewScanner(pipe)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		p.mu.Lock()
		p.lines = append(p.lines, lines.Text())
		close(p.changed)
		p.changed = make(chan struct{})
		p.mu.Unlock()
	}
	p.cmd.Wait() // its error is in ProcessState
	close(p.ended)
}

// signal sends a signal; to a process that has ended it does nothing.
func (p *process) signal(s os.Signal) {
	p.cmd.Process.Signal(s) // fails for a process that has ended
}

// stderr is what standard error said so far.
func (p *process) stderr() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.lines, "\n")
}

// line waits for a line of standard error that matches, and returns the match and its groups.
func (p *process) line(pattern string) []string {
	p.t.Helper()
	return p.lineWithin(pattern, patience)
}

func (p *process) lineWithin(pattern string, limit time.Duration) []string {
	p.t.Helper()
	re := regexp.MustCompile(pattern)
	late := time.After(limit)
	for seen := 0; ; {
		p.mu.Lock()
		news, changed := p.lines[seen:], p.changed
		seen = len(p.lines)
		p.mu.Unlock()
		for _, l := range news {
			if m := re.FindStringSubmatch(l); m != nil {
				return m
			}
		}
		select {
		case <-changed:
		case <-p.ended:
			p.mu.Lock()
			over := seen == len(p.lines)
			p.mu.Unlock()
			if over {
				p.t.Fatalf("%v ended with code %d and no line like %q:\n%s", p.cmd.Args[1:], p.cmd.ProcessState.ExitCode(), pattern, p.stderr())
			}
		case <-late:
			p.t.Fatalf("%v has no line like %q after %v:\n%s", p.cmd.Args[1:], pattern, limit, p.stderr())
		}
	}
}

// wait waits for the end and checks the exit code.
func (p *process) wait(code int) *process {
	p.t.Helper()
	return p.waitFor(code, patience)
}

func (p *process) waitFor(code int, limit time.Duration) *process {
	p.t.Helper()
	select {
	case <-p.ended:
	case <-time.After(limit):
		p.t.Fatalf("%v has not ended within %v:\n%s", p.cmd.Args[1:], limit, p.stderr())
	}
	if got := p.cmd.ProcessState.ExitCode(); got != code {
		p.t.Fatalf("%v ended with code %d (%v), want %d:\n%s\n%s", p.cmd.Args[1:], got, p.cmd.ProcessState, code, p.stderr(), p.stdout.String())
	}
	if strings.Contains(p.stderr(), "DATA RACE") {
		p.t.Fatalf("%v has a data race:\n%s", p.cmd.Args[1:], p.stderr())
	}
	return p
}

// says checks that standard error has each of these texts.
func (p *process) says(texts ...string) *process {
	p.t.Helper()
	for _, text := range texts {
		if !strings.Contains(p.stderr(), text) {
			p.t.Errorf("%v does not say %q:\n%s", p.cmd.Args[1:], text, p.stderr())
		}
	}
	return p
}

// lastLine reads the last line of standard output as JSON.
func (p *process) lastLine(into any) {
	p.t.Helper()
	lines := strings.Split(strings.TrimSpace(p.stdout.String()), "\n")
	d := json.NewDecoder(strings.NewReader(lines[len(lines)-1]))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		p.t.Fatalf("%v: last line of output: %v:\n%s", p.cmd.Args[1:], err, p.stdout.String())
	}
}

func (p *process) report() runReport {
	p.t.Helper()
	var r runReport
	p.lastLine(&r)
	return r
}

// lockstep runs a command to its end.
func lockstep(t *testing.T, code int, args ...string) *process {
	t.Helper()
	return begin(t, nil, args...).wait(code)
}

// small are the settings of the run that most tests do: a fraction of a second on an idle machine.
func small(steps int, more ...string) []string {
	return append([]string{"--arch", "cifar-resnet8", "--batch", "32", "--replica-batch", "8", "--eval-every", "0",
		"--data", shared.images(), "--steps", fmt.Sprint(steps)}, more...)
}

// train is `lockstep train` of the small run, with JSON.
func train(steps int, more ...string) []string {
	return append(append([]string{"train", "--json"}, small(steps)...), more...)
}

// endless is more steps than any test waits for.
const endless = 1_000_000

// uninterrupted gives the hash of the small run after so many steps, by one worker and without a pause.
func uninterrupted(t *testing.T, steps int, more ...string) string {
	t.Helper()
	shared.mu.Lock()
	defer shared.mu.Unlock()
	key := fmt.Sprint(steps, more)
	if shared.hashes[key] == "" {
		r := lockstep(t, 0, train(steps, append([]string{"--workers", "1"}, more...)...)...).report()
		if r.Step != uint64(steps) || len(r.Hash) != 64 {
			t.Fatalf("a run of %d steps reports step %d and hash %q", steps, r.Step, r.Hash)
		}
		shared.hashes[key] = r.Hash
	}
	return shared.hashes[key]
}

// checkpoints lists the checkpoint files of a run's folder, oldest first.
func checkpoints(t *testing.T, out string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(checkpointDir(out), "*.ckpt"))
	if err != nil {
		t.Fatal(err)
	}
	return files
}
