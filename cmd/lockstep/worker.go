package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime"
	"strconv"
	"time"

	"github.com/lockstep-ml/lockstep/internal/gossip"
	"github.com/lockstep-ml/lockstep/internal/telemetry"
	"github.com/lockstep-ml/lockstep/worker"
	"github.com/spf13/cobra"
)

// workerOptions are the flags of lockstep worker.
type workerOptions struct {
	settings  *settings // those given must agree with the run's
	join      []string
	name      string
	listen    string
	transport string
	gossip    string
	advertise string
	threads   int
	supply    supplyFlags
	source    sourceFlags
	wait      time.Duration
	patience  time.Duration // with a coordinator that is away
	leave     time.Duration
	coding    string
	otlp      string
	verbose   bool
	ofTrain   bool // started by train, which tells how the run ended
	sec       network
}

func workerCommand() *cobra.Command {
	o := &workerOptions{settings: newSettings()}
	cmd := &cobra.Command{
		Use:   "worker --join HOST:PORT",
		Short: "Work for a run",
		Long: `Joins a run at its coordinator (or any other member) and trains until it ends. The run's settings come from the
coordinator; one that is given here must be the same there. Only --data may differ: it says where this machine has the data.`,
		Example: `  lockstep worker --join 10.0.0.1:7946 --listen 10.0.0.2 --tls certs/node2 --data /data/imagenet
  lockstep worker --join 127.0.0.1:7946 --threads 4`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := loadSettings(cmd.Flags()); err != nil {
				return err
			}
			if len(o.join) == 0 { // not a required flag to cobra, which would not look into file and environment
				return errors.New("--join HOST:PORT is needed: where the coordinator or another member listens")
			}
			if err := checkTransport(o.transport); err != nil {
				return err
			}
			if _, err := parseCoding(o.coding); err != nil {
				return err
			}
			return work(cmd.Context(), o)
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringSliceVar(&o.join, "join", nil, "HOST:PORT of the coordinator or another member; several may be given")
	f.StringVar(&o.name, "name", "", "name of this worker, unique in the run; empty: host and process")
	f.StringVar(&o.listen, "listen", "127.0.0.1", "host or HOST:PORT where ring neighbours connect")
	f.StringVar(&o.transport, "transport", transportAuto, transportHelp)
	f.StringVar(&o.gossip, "gossip", "", "HOST:PORT for gossip (TCP and UDP); empty: any free port on --listen's host")
	f.StringVar(&o.advertise, "advertise", "", "host under which others reach this machine; empty: --listen's, or the only one this machine has")
	f.IntVar(&o.threads, "threads", 0, "cores for the engine; 0: all")
	o.supply.add(f)
	o.source.add(f)
	f.StringVar(&o.coding, "coding", codingAuto, codingHelp)
	f.DurationVar(&o.wait, "wait", time.Minute, "how long to try to reach the coordinator")
	f.DurationVar(&o.patience, "coordinator-timeout", worker.DefaultConfig().CoordinatorPatience, "how long to go on, or wait, without a coordinator before giving up")
	f.DurationVar(&o.leave, "leave-timeout", worker.DefaultConfig().LeaveTimeout, "after SIGTERM: how long the ring may take to do without this worker")
	f.String(configFlag, "", "YAML file with any of these settings by name")
	f.StringVar(&o.otlp, "otlp", "", "HOST:PORT of an OpenTelemetry collector for traces")
	f.BoolVarP(&o.verbose, "verbose", "v", false, "log what this worker does")
	f.BoolVar(&o.ofTrain, "of-train", false, "leave it to the parent process to say how the run ended")
	o.sec.addFlags(f)
	f.AddFlagSet(o.settings.flags)
	if err := f.MarkHidden("of-train"); err != nil {
		panic(err) // the flag is defined above
	}
	return cmd
}

// spoil is what a test has this process compute wrongly; nil in every real one.
var spoil *worker.Faults

// work joins a run and works for it.
func work(ctx context.Context, o *workerOptions) error {
	if _, _, e := net.SplitHostPort(o.listen); e != nil {
		o.listen = net.JoinHostPort(o.listen, "0")
	}
	if o.gossip == "" {
		host, _, err := net.SplitHostPort(o.listen)
		if err != nil {
			return fmt.Errorf("--listen %q: %w", o.listen, err)
		}
		o.gossip = net.JoinHostPort(host, "0")
	}
	if err := o.sec.open(append([]string{o.listen, o.gossip, o.otlp}, o.join...)...); err != nil {
		return err
	}
	var err error
	if o.advertise, err = reachable(o.listen, o.advertise); err != nil {
		return err
	}
	if o.name == "" {
		host, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("this machine has no name: give --name: %w", err)
		}
		o.name = host + "-" + strconv.Itoa(os.Getpid())
	}
	log := newLog(o.verbose, slog.LevelWarn, o.name)
	tele, finish, err := openTraces(ctx, o.otlp, &o.sec, "worker "+o.name)
	if err != nil {
		return err
	}
	defer finish()
	node, err := o.find(ctx)
	if err != nil {
		return err
	}
	defer node.Close() // its goodbye is a courtesy
	o.gossip = node.Addr()
	given := o.settings.given()
	delete(given, "val-data")
	delete(given, "data") // each machine has it where it has it; the fingerprint is compared
	cfg := worker.DefaultConfig()
	cfg.Name, cfg.Version, cfg.Settings = o.name, buildVersion(), given
	cfg.Dial = (&finder{node: node, join: o.join, sec: &o.sec}).dial
	cfg.Tracer, cfg.StepContext, cfg.Log = tele.Tracer(), telemetry.StepContext, log
	cfg.CoordinatorPatience, cfg.LeaveTimeout = o.patience, o.leave
	cfg.Build, cfg.Faults = o.build, spoil
	w, err := worker.New(cfg)
	if err != nil {
		return err
	}
	err = w.Run(ctx)
	switch {
	case ctx.Err() != nil && errors.Is(err, ctx.Err()):
		return fmt.Errorf("%w: worker %s has left the run", errInterrupted, o.name)
	case o.ofTrain && errors.Is(err, worker.ErrRunFailed):
		return nil
	}
	return err
}

// maxControlMessage bounds what the coordinator may send: a chunk of state, or a plan with a learning rate for every step of a warm-up.
const maxControlMessage = 16 << 20

// build implements worker.Config.Build.
func (o *workerOptions) build(ctx context.Context, run string, values map[string]string) (*worker.Job, error) {
	s, err := settingsFrom(values)
	if err != nil {
		return nil, fmt.Errorf("the run's settings: %w", err)
	}
	if err := s.validate(); err != nil {
		return nil, err
	}
	j := jobOptions{threads: o.threads, supply: o.supply, source: o.source, ringListen: o.listen, transport: o.transport, advertise: o.advertise, coding: o.coding, gossip: o.gossip, log: newLog(o.verbose, slog.LevelWarn, o.name)}
	if _, given := o.settings.given()["data"]; given {
		j.data = o.settings.data
	}
	if _, given := o.settings.given()["val-data"]; given {
		j.valData = o.settings.valData
	}
	if j.threads == 0 {
		j.threads = runtime.GOMAXPROCS(0)
	}
	return buildJob(ctx, run, s, j, &o.sec)
}

// find joins the gossip and waits until it knows of a coordinator, trying again until --wait is over.
func (o *workerOptions) find(ctx context.Context) (*gossip.Node, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, o.wait, fmt.Errorf("gave up after %v", o.wait))
	defer cancel()
	cfg := gossip.Config{Name: o.name, Role: gossip.Worker, BindAddr: o.gossip, AdvertiseAddr: o.advertise,
		Meta: gossip.Meta{Version: buildVersion()}, Key: o.sec.gossipKey(), Join: o.join, Label: gossipLabel, Log: newLog(o.verbose, slog.LevelWarn, o.name)}
	retry := time.NewTicker(500 * time.Millisecond)
	defer retry.Stop()
	for {
		node, err := gossip.Start(cfg)
		if err == nil {
			if _, err := node.Coordinator(ctx); err != nil {
				return nil, errors.Join(err, node.Close())
			}
			return node, nil
		}
		if !errors.Is(err, gossip.ErrNobody) {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", err, context.Cause(ctx))
		case <-retry.C:
		}
	}
}
