package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/lockstep-ml/lockstep/checkpoint"
	"github.com/lockstep-ml/lockstep/coordinator"
	"github.com/lockstep-ml/lockstep/coordinator/journal"
	"github.com/lockstep-ml/lockstep/coordinator/server"
	"github.com/lockstep-ml/lockstep/internal/chaos"
	"github.com/lockstep-ml/lockstep/internal/gossip"
	"github.com/lockstep-ml/lockstep/internal/ledger"
	"github.com/lockstep-ml/lockstep/internal/telemetry"
)

// runOptions are what the coordinator's side of a run decides besides its settings; none changes the trained bits.
type runOptions struct {
	settings   *settings
	workers    int
	group      groups
	out        string
	resume     bool
	goOn       bool // resume if there is something to resume
	resumeFrom string
	stateDir   string
	verify     uint64
	assign     string // assignSpeed or assignEqual
	keep       int
	keepBest   bool
	listen     string
	control    string
	handOver   bool // SIGTERM ends the coordinator, not the run
	advertise  string
	otlp       string
	verbose    bool
	asJSON     bool
	source     sourceFlags
	sec        network
}

// The values of --assign.
const (
	assignSpeed = "speed"
	assignEqual = "equal"
)

func (o *runOptions) resuming() bool { return o.resume || o.resumeFrom != "" }

// addRunFlags adds what `train` and `coordinator` share.
func (o *runOptions) addRunFlags(f *pflag.FlagSet) {
	f.SortFlags = false
	f.AddFlagSet(o.settings.flags)
	f.IntVar(&o.workers, "workers", 2, "workers that the run begins with")
	f.Var(&o.group, "group", groupHelp)
	f.StringVar(&o.assign, "assign", assignSpeed, "which workers host how many replicas: speed, where they finish soonest by measured times, or equal")
	f.StringVar(&o.out, "out", "", "output folder; empty: runs/NETWORK-TIME")
	f.BoolVar(&o.resume, "resume", false, "go on with the run in --out, from its newest checkpoint")
	f.BoolVar(&o.goOn, "continue", false, "go on with the run in --out as --resume does, or begin it if the folder holds none")
	f.StringVar(&o.resumeFrom, "resume-from", "", "go on from this checkpoint")
	f.Uint64Var(&o.verify, "verify-every", 100, "steps between comparisons of the workers' states, to find bits that hardware got wrong; 0: never")
	f.IntVar(&o.keep, "keep", 3, "checkpoints to keep")
	o.source.add(f)
	f.BoolVar(&o.keepBest, "keep-best", true, "store a checkpoint at every evaluation, and keep the best one by top-1 as best.ckpt")
	f.String(configFlag, "", "YAML file with any of these settings by name")
	f.StringVar(&o.otlp, "otlp", "", "HOST:PORT of an OpenTelemetry collector (Jaeger, port 4317) for traces")
	f.BoolVar(&o.asJSON, "json", false, "print one JSON object as the last line")
	f.BoolVarP(&o.verbose, "verbose", "v", false, "log what the processes do")
}

// open completes and checks the options.
func (o *runOptions) open(cmd *cobra.Command) error {
	if err := loadSettings(cmd.Flags()); err != nil {
		return err
	}
	if o.workers < 1 {
		return fmt.Errorf("--workers %d: at least one", o.workers)
	}
	if err := o.group.check(o.workers); err != nil {
		return err
	}
	if o.assign != assignSpeed && o.assign != assignEqual {
		return fmt.Errorf("--assign %q is unknown: want %s or %s", o.assign, assignSpeed, assignEqual)
	}
	if o.out == "" {
		if o.resume || o.goOn {
			return errors.New("--resume and --continue need --out, the folder of the run to go on with")
		}
		o.out = filepath.Join("runs", o.settings.arch+"-"+time.Now().Format("20060102-150405"))
	}
	if err := o.sec.open(o.listen, o.control, o.otlp); err != nil {
		return err
	}
	var err error
	o.advertise, err = reachable(o.listen, o.advertise)
	return err
}

func coordinatorCommand() *cobra.Command {
	o := &runOptions{settings: newSettings()}
	cmd := &cobra.Command{
		Use:   "coordinator",
		Short: "Coordinate a run: wait for workers, plan, evaluate, checkpoint",
		Long: `Starts a run's coordinator, which waits for --workers workers to join at --listen and then trains. The workers find
everything but their own data and cores through it.`,
		Example: `  lockstep coordinator --listen 10.0.0.1:7946 --tls certs/node1 --workers 8 --arch resnet50 --data /data/imagenet --epochs 90 --out runs/r50
  lockstep worker --join 10.0.0.1:7946 --listen 10.0.0.2 --tls certs/node2 --data /data/imagenet      (on each machine)`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.open(cmd); err != nil {
				return err
			}
			return coordinate(cmd, o, nil)
		},
	}
	f := cmd.Flags()
	o.addRunFlags(f)
	f.StringVar(&o.stateDir, "state", "", "folder of the journal of decisions, for storage that another machine can take over with --resume; empty: --out")
	f.StringVar(&o.listen, "listen", "127.0.0.1:7946", "HOST:PORT where workers join (TCP and UDP)")
	f.StringVar(&o.control, "control", "", "HOST:PORT of the control service; empty: any free port on --listen's host")
	f.StringVar(&o.advertise, "advertise", "", "host under which workers reach this machine; empty: --listen's, or the only one this machine has")
	f.BoolVar(&o.handOver, "hand-over", false, "on SIGTERM leave the run as it is to the coordinator that follows; SIGINT ends it in good order")
	o.sec.addFlags(f)
	return cmd
}

// crew is what `train` adds to a coordinator: worker processes on this machine.
type crew interface {
	// start sets the workers going, to join at an address, and tells broken when one could not even do that.
	start(ctx context.Context, p *prepared, join string, broken func(error)) error
	// wait lets them end by themselves for so long, then ends them.
	wait(patience time.Duration)
}

// coordinate prepares a run and coordinates it to its end.
func coordinate(cmd *cobra.Command, o *runOptions, c crew) error {
	ctx := cmd.Context()
	out := &progressPrinter{w: cmd.ErrOrStderr(), terminal: isTerminal(cmd.ErrOrStderr())}
	if err := errors.Join(checkFree(o.listen), checkFree(o.control)); err != nil {
		return err
	}
	p, err := prepare(ctx, o)
	if err != nil {
		return err
	}
	defer p.close() // the process's end would do it too
	if c != nil {
		if err := p.forgetCrew(); err != nil {
			return err
		}
	}
	out.begin(p, o)
	res, err := serveRun(ctx, o, p, c, out)
	out.end()
	if !errors.Is(err, errHandedOver) && !errors.Is(err, journal.ErrFenced) { // else another coordinator has the folder
		err = errors.Join(err, p.folder.finish(res, err), p.folder.best.err())
	}
	var interrupted *coordinator.InterruptedError
	if errors.As(err, &interrupted) && p.damaged.over.Err() != nil {
		err = fmt.Errorf("%w: %w", errTooManyDamaged, err)
	} else if errors.As(err, &interrupted) {
		err = fmt.Errorf("%w: %w", errInterrupted, err)
	}
	if res.Step == 0 && err != nil { // nothing was trained that a report could be about
		return err
	}
	return errors.Join(err, report(cmd.OutOrStdout(), o, p, res))
}

// serveRun opens the sockets, runs the server and, with it, the crew.
func serveRun(ctx context.Context, o *runOptions, p *prepared, c crew, out *progressPrinter) (res server.Result, err error) {
	log := newLog(o.verbose, slog.LevelError, "coordinator") // what else happens is shown by out
	tele, finish, err := openTraces(ctx, o.otlp, &o.sec, "coordinator")
	if err != nil {
		return res, err
	}
	defer finish()
	name := p.runName()
	listener, node, err := meet(o, name, p.history.Epoch, log)
	if err != nil {
		return res, err
	}
	defer node.Close() // its goodbye is a courtesy

	if at := p.gossipers(); len(at) > 0 {
		out.event(fmt.Sprintf("coordinator %d of run %s: looking for its workers", p.history.Epoch, name))
		var seeking sync.WaitGroup
		sctx, found := context.WithCancel(ctx)
		seeking.Go(func() { seek(sctx, node, at) })
		defer func() { found(); seeking.Wait() }() //bounded: seek ends with its context, which found ends
	}
	cfg := serverConfig(o, p, c, name, listener, node, tele, log)
	var begun atomic.Bool // a step was done, so every worker had joined
	cfg.Evaluated = func(e coordinator.Evaluation) {
		p.folder.evaluated(e)
		out.evaluated(e)
	}
	cfg.Progress = func(g coordinator.Progress) {
		begun.Store(begun.Load() || g.Event == "")
		out.step(g)
	}
	s, err := server.New(cfg)
	if err != nil {
		return res, errors.Join(err, listener.Close())
	}
	defer context.AfterFunc(p.damaged.over, func() { s.Interrupt(p.damaged.reason()) })()
	defer p.folder.locate(s)
	if c == nil {
		out.event("workers join with: lockstep worker --join " + node.Addr())
		return runUntilTold(ctx, s, o.handOver)
	}
	stop := context.AfterFunc(ctx, func() { s.Interrupt("interrupted") })
	defer stop()
	return runWithCrew(context.WithoutCancel(ctx), s, p, c, node.Addr(), &begun) //bounded: Run returns when the run is over, or shortly after Interrupt
}

// runWithCrew runs the server and the workers that join it.
func runWithCrew(ctx context.Context, s *server.Server, p *prepared, c crew, join string, begun *atomic.Bool) (res server.Result, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	broken := func(err error) {
		if !begun.Load() { // else the coordinator deals with it, and may still be saving the state
			cancel(err)
		}
	}
	if err := c.start(ctx, p, join, broken); err != nil {
		return res, errors.Join(err, s.Close())
	}
	defer func() { c.wait(crewPatience(err)) }()
	res, err = s.Run(ctx)
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	return res, err
}

// meet opens what workers find the coordinator by: the control service's listener, and the gossip that tells its address.
func meet(o *runOptions, name string, epoch uint64, log *slog.Logger) (net.Listener, *gossip.Node, error) {
	listener, err := listenControl(o)
	if err != nil {
		return nil, nil, err
	}
	rpc, err := advertised(listener.Addr().String(), o.advertise)
	if err != nil {
		return nil, nil, errors.Join(err, listener.Close())
	}
	node, err := gossip.Start(gossip.Config{Name: fmt.Sprintf("coordinator-%d-%s", epoch, name), Role: gossip.Coordinator, BindAddr: o.listen, AdvertiseAddr: o.advertise,
		Meta: gossip.Meta{RPC: rpc, Run: name, Epoch: epoch, Version: buildVersion()}, Key: o.sec.gossipKey(), Label: gossipLabel, Log: log})
	if err != nil {
		return nil, nil, errors.Join(err, listener.Close())
	}
	return listener, node, nil
}

func serverConfig(o *runOptions, p *prepared, c crew, name string, l net.Listener, node *gossip.Node, tele *telemetry.Telemetry, log *slog.Logger) server.Config {
	cfg := server.DefaultConfig()
	m := &cfg.Machine
	m.Run, m.TotalSteps, m.FirstStep, m.StepsPerEpoch = name, p.total, p.initial.Step, p.perEpoch
	m.GlobalBatch, m.Replicas, m.MinWorkers = p.settings.batch, p.settings.replicas(), o.workers
	m.Group, m.EqualShares = int(o.group), o.assign == assignEqual
	m.CheckpointEvery, m.Resumed, m.Schedule = p.settings.checkpointEvery, p.resumed, p.schedule
	if m.Resumed == "" {
		m.Resumed = filepath.Join(checkpointDir(o.out), checkpoint.FileName(0))
	}
	m.Evaluate, m.CheckpointEvaluated = p.hasTest, o.keepBest
	m.EvalEvery, _ = coordinator.ParseSpan(p.settings.evalEvery) // validated before
	m.Version, m.Settings, m.FixedCrew = buildVersion(), p.settings.values(), c != nil
	m.DataFingerprint, m.DataSummary = p.record.Data, p.summary
	m.Epoch, m.VerifyEvery = p.history.Epoch, o.verify
	cfg.Journal, cfg.History = p.journal, p.history.Entries
	cfg.Listener, cfg.Initial, cfg.Store, cfg.Gossip, cfg.Log = l, p.initial, p.store, node.Events(), log
	if o.sec.identity != nil {
		cfg.TLS = o.sec.identity.Server()
	}
	cfg.Offset = clockOffset(os.Getenv(chaos.ClockVariable))
	cfg.StepReported = func(r coordinator.StepReport) {
		row := ledger.Row{Step: r.Step, Generation: r.Generation, Images: r.Images}
		copy(row.Sums[:], r.Samples)
		p.ledger.Add(row)
		p.folder.trained(r)
	}
	cfg.Skipped = p.damaged.add
	cfg.StepObserver = func(s coordinator.StepDone) {
		tele.RecordStep(context.Background(), name, s.Step-1, s.Start, s.End, s.Tail, s.DataWait) //bounded: it records a span and waits for nothing
	}
	return cfg
}

// gossipLabel keeps this program's gossip apart from other users of memberlist.
const gossipLabel = "lockstep"

func listenControl(o *runOptions) (net.Listener, error) {
	addr := o.control
	if addr == "" {
		host, _, err := net.SplitHostPort(o.listen)
		if err != nil {
			return nil, fmt.Errorf("--listen %q: want HOST:PORT: %w", o.listen, err)
		}
		addr = net.JoinHostPort(host, "0")
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, explainListen(err, addr)
	}
	return l, nil
}

// checkFree tries an address that will be listened on, before anything is loaded or written for a run that could not begin.
func checkFree(addr string) error {
	if addr == "" {
		return nil
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return explainListen(err, addr)
	}
	return l.Close()
}

// explainListen says what to do about an address that cannot be listened on.
func explainListen(err error, addr string) error {
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("%s is in use, perhaps by another coordinator: end that, or choose another address: %w", addr, err)
	}
	return err
}

// newLog writes to standard error: from a level on, or everything with --verbose.
func newLog(verbose bool, level slog.Level, process string) *slog.Logger {
	if verbose {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})).With("process", process)
}

// runReport is the last line of --json.
type runReport struct {
	Step            uint64   `json:"step"`
	Hash            string   `json:"hash"`
	Loss            float64  `json:"loss"`
	ImagesPerSecond float64  `json:"images_per_second"`
	Workers         int      `json:"workers"`
	TailSeconds     float64  `json:"tail_seconds"`      // of a step, the all-reduce that no computing hid
	DataWait        float64  `json:"data_wait_seconds"` // over all steps but the first, until the slowest worker's images were ready
	DataShare       float64  `json:"data_wait_share"`   // of those steps' time
	Skipped         []string `json:"skipped,omitempty"` // damaged images that others stood in for, or that an evaluation left out
	Top1            *float64 `json:"top1,omitempty"`    // of the newest evaluation, 0..1
	Top5            *float64 `json:"top5,omitempty"`
	TestLoss        *float64 `json:"test_loss,omitempty"`
	Out             string   `json:"out"`
	Checkpoint      string   `json:"checkpoint"`
}

func report(w io.Writer, o *runOptions, p *prepared, res server.Result) error {
	r := runReport{Step: res.Step, Hash: res.Hash, Loss: res.Loss, ImagesPerSecond: res.ImagesPerSecond, Workers: o.workers, TailSeconds: res.Tail.Seconds(),
		DataWait: res.DataWait.Seconds(), DataShare: res.DataShare, Skipped: p.damaged.names(), Out: o.out, Checkpoint: res.Path}
	if e := res.Evaluation; e != nil && e.Images > 0 {
		t1, t5 := e.Top1(), float64(e.Correct5)/float64(e.Images)
		r.Top1, r.Top5, r.TestLoss = &t1, &t5, &e.Loss
	}
	if o.asJSON {
		return printJSON(w, r)
	}
	if r.Step == p.initial.Step {
		_, err := fmt.Fprintf(w, "%s: step %d of %d, nothing was left to do\nhash %s\ncheckpoint %s\n", p.settings.arch, r.Step, p.total, r.Hash, r.Checkpoint)
		return err
	}
	_, err := fmt.Fprintf(w, "%s: step %d of %d, loss %.4f, %.0f img/s, all-reduce's tail %s a step, %.1f %% of the time without images\nhash %s\ncheckpoint %s\n", p.settings.arch, r.Step, p.total, r.Loss, r.ImagesPerSecond, milliseconds(res.Tail), 100*r.DataShare, r.Hash, r.Checkpoint)
	if err == nil && len(r.Skipped) > 0 {
		_, err = fmt.Fprintf(w, "damaged images passed over: %d (%s)\n", len(r.Skipped), listed(r.Skipped))
	}
	if err == nil && r.Top1 != nil {
		_, err = fmt.Fprintf(w, "test: top-1 %.2f %%, top-5 %.2f %%, loss %.4f\n", 100**r.Top1, 100**r.Top5, *r.TestLoss)
	}
	return err
}
