package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/lockstep-ml/lockstep/coordinator"
	"github.com/lockstep-ml/lockstep/core/cpu"
	"github.com/lockstep-ml/lockstep/internal/ringbench"
	"github.com/lockstep-ml/lockstep/internal/tlsconf"
)

// allreduceOptions is what is to be measured, and where.
type allreduceOptions struct {
	workers, elements, bucket int
	replicas                  int // of each worker
	wire, rounds              int
	transport, coding         string
	group                     groups
	compute, timeout          time.Duration
	hosts                     []string
	asJSON                    bool

	verbose          bool
	serve, ofBench   bool // ofBench: started by another bench, for one session
	listen, ringHost string
	sec              network
}

const allreduceLong = `Reduces one gradient over a ring of processes, as a training step does: cut into the trainer's buckets, all buckets in flight at once, quantising and
decoding included. Before anything is timed, every bucket's bits are compared with those of a ring of one worker that holds all replicas.

Without --hosts the workers are processes of this machine. With it, they are those that you have started by hand, one a machine, with --serve.

The times are the slowest worker's of a round; the median round counts. Behind every round the same processes send as many bytes to the same neighbours over
plain TCP (TLS where --tls is given), with no arithmetic.

  seconds             median round                 best_seconds     the fastest
  algorithm_gb_per_s  4 * elements / seconds       bus_gb_per_s     algorithm_gb_per_s * 2 (N-1) / N: what each link direction carries at 4 bytes a value
  cpu_seconds_per_gb  user and system time of all workers for 4 * elements bytes, that is for one round, in GB
  raw_tcp_gb_per_s    bytes that a worker sends a second over plain TCP, all sending at once
  share_of_raw_tcp    plain TCP's median time / seconds
  sent_bytes, messages   what a worker sends in a round, headers included, before coding
  coding              with --wire 16: how many links code, and the mean over the links of what they carry without and with it, of what a core codes, in GB/s of
                      values, and of the bytes that are left of one
  hop_seconds         the least time that a byte takes to the neighbour over plain TCP
  ring_hop_seconds, ring_bytes_per_s   what the ring itself measures of a hop, handling included, and of what a worker sends, in the first ring
  estimated_seconds   a round by the model that --group auto chooses by, from these two
  step_seconds, exposed_seconds   with --compute: a step's time, and how much of it is left after the computing

With --compute D a step is timed too: its buckets become ready as a backward pass would have them, in the last two thirds of D, and the bucket of
statistics last. For ResNet-50's 25557032 elements the moments follow the layers' multiply-adds, else they are evenly spread. Nothing is computed: the
stand-in waits and takes no core, as a GPU would; an engine on the CPU shares its cores with the ring, which costs more.`

func benchAllreduce() *cobra.Command {
	var o allreduceOptions
	cmd := &cobra.Command{
		Use:   "allreduce",
		Short: "Time the exact ring over processes, after a check of its bits, beside plain TCP",
		Long:  allreduceLong,
		Example: `  lockstep bench allreduce --workers 4
  lockstep bench allreduce --workers 2 --elements 1000000 --wire 16 --bucket 65536 --json
  lockstep bench allreduce --workers 4 --compute 2s
  lockstep bench allreduce --serve --listen 10.0.0.2:7950 --tls certs/node2                       (on each machine)
  lockstep bench allreduce --hosts 10.0.0.2:7950,10.0.0.3:7950 --tls certs/node1                  (on any)`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.serve {
				return o.member(cmd)
			}
			return o.drive(cmd)
		},
	}
	o.addFlags(cmd.Flags())
	cmd.MarkFlagsMutuallyExclusive("hosts", "workers")
	cmd.MarkFlagsMutuallyExclusive("hosts", "serve")
	return cmd
}

func (o *allreduceOptions) addFlags(f *pflag.FlagSet) {
	f.SortFlags = false
	f.IntVar(&o.workers, "workers", 2, "processes to start on this machine")
	f.IntVar(&o.elements, "elements", resnet50Elements, "values of the gradient; the default is ResNet-50's")
	f.IntVar(&o.replicas, "replicas", 1, replicasHelp)
	f.IntVar(&o.wire, "wire", 32, "bits of a gradient value on the ring: 32 or 16")
	f.StringVar(&o.transport, "transport", transportAuto, "how neighbours are reached: auto (as the trainer does), grpc or shm")
	f.StringVar(&o.coding, "coding", codingAuto, codingHelp)
	o.group = 1
	f.Var(&o.group, "group", groupHelp)
	f.IntVar(&o.bucket, "bucket", 0, "values of a bucket, in whole blocks of 1024; 0: as the trainer cuts; --elements or more: a single bucket")
	f.IntVar(&o.rounds, "rounds", 7, "rounds to time, after one to warm up")
	f.DurationVar(&o.compute, "compute", 0, "time steps too, with so long a stand-in for computing")
	f.DurationVar(&o.timeout, "timeout", 2*time.Minute, "how long any worker may take for an answer")
	f.BoolVar(&o.asJSON, "json", false, "print one JSON object")
	f.StringSliceVar(&o.hosts, "hosts", nil, "HOST:PORT of workers that were started with --serve, in the ring's order, instead of --workers")
	f.BoolVar(&o.serve, "serve", false, "be a worker, for whoever calls with --hosts, until interrupted")
	f.StringVar(&o.listen, "listen", "127.0.0.1:7950", "with --serve: HOST:PORT where to be called")
	f.StringVar(&o.ringHost, "ring-host", "", "with --serve: host where ring neighbours connect, on any free ports; empty: --listen's")
	o.sec.addFlags(f)
	f.BoolVarP(&o.verbose, "verbose", "v", false, "with --serve: log sessions")
	f.BoolVar(&o.ofBench, "of-bench", false, "serve one session of the parent process, and end")
	if err := f.MarkHidden("of-bench"); err != nil {
		panic(err) // the flag is defined above
	}
}

const replicasHelp = "replicas that each worker hosts: more make the sums of 16 bits wider, as in a run"

// validate reports everything wrong that can be seen at once.
func (o *allreduceOptions) validate() error {
	var errs []error
	bad := func(is bool, format string, args ...any) {
		if is {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	bad(o.workers < 1 || o.workers > 64, "--workers %d: 1 to 64 processes", o.workers)
	bad(len(o.hosts) > ringbench.MaxMembers, "--hosts: %d hosts, at most %d", len(o.hosts), ringbench.MaxMembers)
	bad(o.elements < 1 || o.elements > ringbench.MaxElements, "--elements %d: 1 to %d", o.elements, ringbench.MaxElements)
	bad(o.replicas < 1 || o.replicas > 64, "--replicas %d: 1 to 64 on each worker", o.replicas)
	bad(o.bucket < 0, "--bucket %d cannot be negative", o.bucket)
	bad(o.rounds < 1 || o.rounds > 10000, "--rounds %d: 1 to 10000", o.rounds)
	bad(o.compute < 0, "--compute %v cannot be negative", o.compute)
	bad(o.timeout <= o.compute, "--timeout %v must exceed --compute %v", o.timeout, o.compute)
	bad(o.timeout <= 0, "--timeout %v must be positive", o.timeout)
	return errors.Join(append(errs, checkBenchLink(ringbench.Link{Wire: o.wire, Transport: o.transport, Coding: o.coding}))...)
}

// member serves sessions.
func (o *allreduceOptions) member(cmd *cobra.Command) error {
	host, _, err := net.SplitHostPort(o.listen)
	if err != nil {
		return fmt.Errorf("--listen %q: want HOST:PORT: %w", o.listen, err)
	}
	if o.ringHost == "" {
		o.ringHost = host
	}
	if err := o.sec.open(o.listen, o.ringHost); err != nil {
		return err
	}
	if _, err := advertised(net.JoinHostPort(o.ringHost, "0"), ""); err != nil {
		return fmt.Errorf("neighbours dial the ring's address, so it must be one of this machine's own: %w", err)
	}
	l, err := net.Listen("tcp", o.listen)
	if err != nil {
		return explainListen(err, o.listen)
	}
	m := ringbench.Member{
		Open: o.logged(openBenchRings(&o.sec)), Host: o.ringHost, Fits: fits, Once: o.ofBench, Patience: o.timeout,
		Allow: func(addr string) error { return tlsconf.CheckBind(addr, o.sec.dir != "", o.sec.insecure) },
		Log:   func(err error) { newLog(false, slog.LevelWarn, "bench").Warn("a session failed", "err", err) },
	}
	m.Server, m.Dial = o.sec.configs()
	out := cmd.ErrOrStderr()
	if o.ofBench {
		out = cmd.OutOrStdout() // which the parent reads
	}
	if _, err := fmt.Fprintln(out, "serving at", l.Addr()); err != nil {
		return errors.Join(err, l.Close())
	}
	err = m.Serve(cmd.Context(), l)
	if errors.Is(err, context.Canceled) {
		return errInterrupted
	}
	return err
}

// logged says with --verbose what a session is about.
func (o *allreduceOptions) logged(open func(ringbench.Link, string) (ringbench.Rings, error)) func(ringbench.Link, string) (ringbench.Rings, error) {
	log := newLog(o.verbose, slog.LevelWarn, "bench")
	return func(l ringbench.Link, host string) (ringbench.Rings, error) {
		log.Info("a session begins", "replicas", l.Replicas, "wire", l.Wire, "transport", l.Transport)
		return open(l, host)
	}
}

// drive measures, on processes of its own or on those of --hosts.
func (o *allreduceOptions) drive(cmd *cobra.Command) error {
	if err := o.validate(); err != nil {
		return err
	}
	if err := o.sec.open(o.hosts...); err != nil {
		return err
	}
	spec, spread, err := o.spec()
	if err != nil {
		return err
	}
	cfg := ringbench.Config{Members: o.hosts, Spec: spec, Alone: aloneRing, Rounds: o.rounds, Timeout: o.timeout}
	_, cfg.Dial = o.sec.configs()
	if len(o.hosts) == 0 {
		if err := fits(int64(o.workers) * spec.Memory()); err != nil {
			return fmt.Errorf("%d workers: %w", o.workers, err)
		}
		local, err := startMembers(cmd.Context(), o)
		if err != nil {
			return err
		}
		defer local.stop()
		cfg.Members, cfg.Died = local.addresses, local.died
	}
	if err := o.group.check(len(cfg.Members)); err != nil {
		return err
	}
	cfg.Group = max(1, int(o.group))
	if o.group == 0 {
		cfg.Choose = func(hop time.Duration, rate float64) int {
			return coordinator.ChooseGroup(len(cfg.Members), o.traffic(hop, rate, len(spec.Buckets)))
		}
	}
	res, err := ringbench.Drive(cmd.Context(), cfg)
	if errors.Is(err, context.Canceled) && cmd.Context().Err() != nil {
		return errInterrupted
	}
	if err != nil {
		return err
	}
	return newAllreduceReport(o, len(cfg.Members), spread, res).write(cmd.OutOrStdout(), o.asJSON)
}

// traffic is a round, as the choice of the ring's topology sees it.
func (o *allreduceOptions) traffic(hop time.Duration, rate float64, buckets int) coordinator.Traffic {
	return coordinator.Traffic{Hop: hop, BytesPerSecond: rate, StepBytes: uint64(o.elements) * uint64(o.wire) / 8, Buckets: buckets}
}

// fits refuses what the machine has no memory for.
func fits(bytes int64) error {
	if have, known := cpu.AvailableMemory(); known && bytes > have {
		return fmt.Errorf("gradients and results take %s, this machine has %s left: use fewer --elements", size(bytes), size(have))
	}
	return nil
}

// configs are the identity's TLS configurations, nil in clear.
func (n *network) configs() (server, client *tls.Config) {
	if n.identity == nil {
		return nil, nil
	}
	return n.identity.Server(), n.clientTLS()
}
