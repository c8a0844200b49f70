package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/lockstep-ml/lockstep/coordinator"
	"github.com/lockstep-ml/lockstep/core"
	"github.com/lockstep-ml/lockstep/core/cpu"
)

func trainCommand() *cobra.Command {
	o := &runOptions{settings: newSettings(), listen: "127.0.0.1:0"}
	var threads int
	var transport string
	var coding string
	var supply supplyFlags
	cmd := &cobra.Command{
		Use:   "train",
		Short: "Train on this machine: a coordinator and worker processes",
		Long: `Starts a coordinator and --workers worker processes on this machine and trains. Without --data it trains on the built-in
sample (5,000 training and 1,000 test images of CIFAR-10) with a recipe that takes a few minutes on two cores.

The trained bits depend on the settings, the seed and the data alone: not on --workers, --threads or interruptions.
The stream of images is continuous: every image is used once an epoch, nothing is padded or dropped at its end, and a step may hold images of
two epochs. A damaged image ends the run, unless --skip-damaged lets the next good one stand in for it.
Ctrl-C ends the run in good order; --resume goes on with it, with any number of workers.`,
		Example: `  lockstep train
  lockstep train --arch cifar-resnet56 --data cifar10.tar.gz --epochs 160 --schedule steps:50%,75% --out runs/r56
  lockstep train --out runs/r56 --resume --workers 4
  lockstep train --arch cifar-resnet20 --data cifar10.tar.gz --steps 40 --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.open(cmd); err != nil {
				return err
			}
			if err := cpu.Check(core.Precision(o.settings.precision)); errors.Is(err, cpu.ErrNoBF16) { // before anything is written
				return fmt.Errorf("--precision %s: %w", o.settings.precision, err)
			}
			if err := checkTransport(transport); err != nil {
				return err
			}
			if _, err := parseCoding(coding); err != nil {
				return err
			}
			return coordinate(cmd, o, &localCrew{o: o, threads: threads, transport: transport, coding: coding, supply: supply, stderr: cmd.ErrOrStderr()})
		},
	}
	f := cmd.Flags()
	o.addRunFlags(f)
	f.IntVar(&threads, "threads", 0, "cores of each worker's engine; 0: this machine's, shared out")
	f.StringVar(&transport, "transport", transportAuto, transportHelp)
	f.StringVar(&coding, "coding", codingAuto, codingHelp)
	supply.add(f)
	o.sec.addFlags(f)
	return cmd
}

// localCrew runs workers as processes of this machine.
type localCrew struct {
	o         *runOptions
	threads   int // of each; 0: shared out
	transport string
	coding    string
	supply    supplyFlags
	stderr    io.Writer

	mu     sync.Mutex // of stderr
	group  sync.WaitGroup
	cancel context.CancelFunc
}

// crewPatience is how long workers may take to end by themselves once the run is over: after a good end long enough to send the
// last traces, after a failure, when one of them may be frozen, no longer than what is left of ten seconds.
func crewPatience(err error) time.Duration {
	var interrupted *coordinator.InterruptedError
	if err == nil || errors.As(err, &interrupted) {
		return 10 * time.Second
	}
	return 2 * time.Second
}

// wordsPatience is how long the coordinator may take to hear of a worker's end; its words are better than an exit code.
const wordsPatience = 5 * time.Second

// start implements crew.
func (c *localCrew) start(ctx context.Context, p *prepared, join string, broken func(error)) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding this program to start workers with: %w", err)
	}
	ctx, c.cancel = context.WithCancel(ctx)
	threads := c.threads
	if threads == 0 {
		threads = max(1, runtime.GOMAXPROCS(0)/c.o.workers)
	}
	for i := range c.o.workers {
		name := "w" + strconv.Itoa(i+1)
		args := []string{"worker", "--of-train", "--join", join, "--name", name, "--threads", strconv.Itoa(threads), "--data", p.settings.data, "--val-data", p.settings.valData}
		args = append(append(args, c.passOn()...), c.supply.passOn(threads)...)
		args = append(args, c.o.source.passOn()...)
		cmd := exec.CommandContext(ctx, self, args...)
		cmd.Env = workerEnvironment()
		// Ctrl-C on the terminal reaches the whole process group; the workers are ended in order by the coordinator instead.
		cmd.SysProcAttr = childAttributes()
		cmd.WaitDelay = time.Second
		pipe, err := cmd.StderrPipe() //bounded: its reader ends with the worker, which ctx kills
		if err != nil {
			return err
		}
		if err := cmd.Start(); err != nil {
			c.cancel()
			return fmt.Errorf("starting worker %s: %w", name, err)
		}
		c.group.Go(func() { c.mind(cmd, name, pipe, broken) })
	}
	return nil
}

// workerEnvironment is this process's environment without settings: workers get the run's from the coordinator, and what was
// overruled here by a flag would be refused there.
func workerEnvironment() []string {
	setting := map[string]bool{}
	workerCommand().Flags().VisitAll(func(f *pflag.Flag) { setting[environmentName(f.Name)] = true })
	return slices.DeleteFunc(os.Environ(), func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		return setting[name]
	})
}

// passOn lists the flags that workers need too.
func (c *localCrew) passOn() []string {
	out := []string{"--transport", c.transport}
	if c.o.otlp != "" {
		out = append(out, "--otlp", c.o.otlp)
	}
	if c.o.sec.dir != "" {
		out = append(out, "--tls", c.o.sec.dir)
	}
	if c.o.sec.name != "" {
		out = append(out, "--tls-name", c.o.sec.name)
	}
	if c.o.sec.insecure {
		out = append(out, "--insecure")
	}
	if c.coding != codingAuto {
		out = append(out, "--coding", c.coding)
	}
	if c.o.verbose {
		out = append(out, "--verbose")
	}
	return out
}

// mind copies what a worker says and waits for its end. One that fails before the run does is heard of through the coordinator, unless it never
// got as far as that.
func (c *localCrew) mind(cmd *exec.Cmd, name string, pipe io.Reader, broken func(error)) {
	last := ""
	lines := bufio.NewScanner(pipe)
	for lines.Scan() {
		last = lines.Text()
		c.mu.Lock()
		fmt.Fprintf(c.stderr, "%s: %s\n", name, last)
		c.mu.Unlock()
	}
	if lines.Err() != nil { // a line beyond all bounds: it must not hold the worker up
		io.Copy(io.Discard, pipe) // the pipe's end is all that counts
	}
	err := cmd.Wait() //bounded: CommandContext kills it and WaitDelay ends its pipes
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() > 0 {
		// The coordinator has better words where the worker was attached; it needs a moment to find them.
		time.AfterFunc(wordsPatience, func() { broken(fmt.Errorf("worker %s failed: %s", name, last)) })
	}
}

// wait implements crew.
func (c *localCrew) wait(patience time.Duration) {
	kill := time.AfterFunc(patience, c.cancel)
	c.group.Wait() //bounded: kill ends the workers after patience
	kill.Stop()
	c.cancel()
}

// childAttributes puts a worker into a process group of its own, and has it killed should this process die.
func childAttributes() *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{Setpgid: true}
	dieWithParent(a)
	return a
}
