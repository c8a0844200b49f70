package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/lockstep-ml/lockstep/coordinator/simulate"
	"github.com/lockstep-ml/lockstep/core/resnet"
	"github.com/lockstep-ml/lockstep/worker"
)

// simulateOptions are what `lockstep simulate` is told.
type simulateOptions struct {
	cfg                 simulate.Config
	arch                string
	replicaBatch        int
	bandwidth           string
	group               groups
	fromRun, fromBench  string
	ringCPU             float64
	asJSON, verbose     bool
	compute, perMessage time.Duration
}

func simulateCommand() *cobra.Command {
	o := &simulateOptions{cfg: simulate.DefaultConfig()}
	cmd := &cobra.Command{
		Use:   "simulate",
		Short: "Foretell step time and efficiency of a cluster that fails, with the coordinator's own decisions, in virtual time",
		Long: `The coordinator's state machine runs as it does in training; workers, links and failures are models of which docs/design/0010-simulation.md
tells. With --from-run and --from-bench a model takes its figures from the output of "train --workers 1 --json" and "bench allreduce --json".`,
		Example: `  lockstep simulate --workers 1024 --bandwidth 10G --latency 50us --mtbf 17h --compute-time 400ms
  lockstep simulate --workers 1024 --spares 8 --mtbf 17h --detect 4s --compute-time 400ms --json
  lockstep simulate --workers 2 --arch cifar-resnet20 --batch 256 --from-run run.json --from-bench bench.json --cores-shared 2`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd) },
	}
	o.addFlags(cmd.Flags())
	return cmd
}

func (o *simulateOptions) addFlags(f *pflag.FlagSet) {
	c, m := &o.cfg, &o.cfg.Model
	f.SortFlags = false
	f.IntVar(&c.Workers, "workers", c.Workers, "workers that the run begins with")
	f.IntVar(&c.Spares, "spares", 0, "more workers: they wait until one is lost, or train too if there are replicas for them")
	f.StringVar(&o.arch, "arch", "resnet50", "network: "+resnet.Grammar)
	f.IntVar(&c.Batch, "batch", 0, "images of one step, over all workers; 0: --replica-batch for each worker")
	f.IntVar(&o.replicaBatch, "replica-batch", 32, "images of one replica")
	f.DurationVar(&o.compute, "compute-time", 0, "forward and backward pass of one replica, on a worker that has its cores for itself")
	f.DurationVar(&m.Update, "update-time", 0, "applying the gradient")
	f.StringVar(&o.bandwidth, "bandwidth", "10G", "rate of a worker's link in bit/s, with M or G behind")
	f.DurationVar(&m.Hop, "latency", 50*time.Microsecond, "of a message to a neighbour, the handling at both ends included")
	f.DurationVar(&o.perMessage, "message-time", 20*time.Microsecond, "processor's time for one more message on the ring")
	f.IntVar(&m.Wire, "wire", 32, "bits of a gradient value on the ring: 32 or 16")
	f.Var(&o.group, "group", groupHelp)
	f.Uint64Var(&c.Steps, "steps", 0, "length of the run; 0: as long as --for")
	f.DurationVar(&c.For, "for", c.For, "virtual time to look at, from the first step on")
	f.DurationVar(&c.MTBF, "mtbf", 0, "mean time between failures of one worker; 0: none fails. 17h is one a minute among 1024")
	f.DurationVar(&c.Detect, "detect", c.Detect, "until a failure is noticed: below 1s connections end, as those of a killed process; else the worker falls silent for so long")
	f.DurationVar(&c.Replace, "replace", c.Replace, "until a machine in a lost worker's place attaches")
	f.DurationVar(&c.Load, "load", c.Load, "until a worker that has attached is ready")
	f.DurationVar(&c.LeaveEvery, "leave-every", 0, "mean time until one worker asks to leave; 0: none does")
	f.DurationVar(&c.CoordinatorMTBF, "coordinator-mtbf", 0, "mean time between failures of the coordinator; 0: it never fails")
	f.DurationVar(&c.CoordinatorBack, "coordinator-back", c.CoordinatorBack, "until the next coordinator is there")
	f.Float64Var(&c.Spread, "spread", 0, "standard deviation of the workers' speeds, relative to their mean")
	f.IntVar(&m.Cores, "cores-shared", 0, "cores of the one machine on which all workers are; 0: each has a machine of its own")
	f.IntVar(&m.Threads, "threads", 1, "cores that a worker uses, if they are shared")
	f.Float64Var(&o.ringCPU, "ring-cpu", 0, "processor's seconds, of all workers, for a GB of gradient in the ring; counts where cores are shared")
	f.StringVar(&o.fromRun, "from-run", "", "take --compute-time from this last line of train --workers 1 --json, with the same --arch, --batch and --replica-batch")
	f.StringVar(&o.fromBench, "from-bench", "", "take --latency, --bandwidth and --ring-cpu from this last line of bench allreduce --json")
	f.Uint64Var(&c.Seed, "seed", c.Seed, "seed of the failures")
	f.BoolVar(&o.asJSON, "json", false, "print one JSON object")
	f.BoolVarP(&o.verbose, "verbose", "v", false, "print what the coordinator decides, at what virtual time")
}

func (o *simulateOptions) run(cmd *cobra.Command) error {
	if err := o.complete(); err != nil {
		return err
	}
	if o.verbose {
		o.cfg.Log = func(at time.Duration, text string) {
			fmt.Fprintf(cmd.ErrOrStderr(), "%12v %s\n", at.Round(time.Millisecond), text)
		}
	}
	r, err := simulate.Run(cmd.Context(), o.cfg)
	if errors.Is(err, context.Canceled) && cmd.Context().Err() != nil {
		return errInterrupted
	}
	if err != nil {
		return err
	}
	if o.asJSON {
		return printJSON(cmd.OutOrStdout(), r)
	}
	return o.write(cmd.OutOrStdout(), r)
}

// complete fills in what flags mean together.
func (o *simulateOptions) complete() error {
	c, m := &o.cfg, &o.cfg.Model
	if c.Batch == 0 {
		c.Batch = c.Workers * o.replicaBatch
	}
	if o.replicaBatch < 1 || c.Batch%o.replicaBatch != 0 {
		return fmt.Errorf("--batch %d does not divide into replicas of --replica-batch %d images", c.Batch, o.replicaBatch)
	}
	c.Replicas, c.Group = c.Batch/o.replicaBatch, int(o.group)
	if err := o.group.check(c.Workers); err != nil {
		return err
	}
	bits, err := parseRate(o.bandwidth)
	if err != nil {
		return fmt.Errorf("--bandwidth: %w", err)
	}
	m.BytesPerSecond, m.Compute, m.Message, m.RingCPU = float64(bits)/8, o.compute, o.perMessage, o.ringCPU/1e9
	if err := o.network(); err != nil {
		return err
	}
	if err := errors.Join(o.takeRun(), o.takeBench()); err != nil {
		return err
	}
	if m.Compute <= 0 {
		return errors.New("give --compute-time, or --from-run: what a replica's pass takes is for the engine to say")
	}
	return c.Validate()
}

// network cuts the gradient as the trainer does.
func (o *simulateOptions) network() error {
	m := &o.cfg.Model
	net, err := resnet.Build(o.arch, 0)
	if err != nil {
		return err
	}
	done, err := backwardDone(net)
	if err != nil {
		return err
	}
	for _, s := range worker.BucketSpans(net.ParamLen()) {
		// The forward pass is a third, as in bench allreduce.
		m.Buckets = append(m.Buckets, simulate.Bucket{Values: s.Hi - s.Lo, Ready: min(1, (1+2*done(s.Lo))/3)})
	}
	m.Statistics = worker.StatisticsLen(net.NormLen())
	return nil
}

// takeRun reads what a run of one worker took.
func (o *simulateOptions) takeRun() error {
	if o.fromRun == "" {
		return nil
	}
	var run struct {
		Workers         int     `json:"workers"`
		ImagesPerSecond float64 `json:"images_per_second"`
		Tail            float64 `json:"tail_seconds"`
	}
	if err := readJSON(o.fromRun, &run); err != nil {
		return fmt.Errorf("--from-run: %w", err)
	}
	if run.Workers != 1 || run.ImagesPerSecond <= 0 {
		return fmt.Errorf("--from-run %s: want a run of one worker, this has %d and %v images/s: with more the ring is in it", o.fromRun, run.Workers, run.ImagesPerSecond)
	}
	c := &o.cfg
	step := time.Duration(float64(c.Batch) / run.ImagesPerSecond * float64(time.Second))
	step -= time.Duration(run.Tail*float64(time.Second)) + c.Model.Update
	c.Model.Compute = step / time.Duration(c.Replicas)
	return nil
}

// takeBench reads what the ring's benchmark found.
func (o *simulateOptions) takeBench() error {
	if o.fromBench == "" {
		return nil
	}
	var b allreduceReport
	if err := readJSON(o.fromBench, &b); err != nil {
		return fmt.Errorf("--from-bench: %w", err)
	}
	if b.RingHopSeconds <= 0 || b.RingBytesPerS <= 0 {
		return fmt.Errorf("--from-bench %s: no ring_hop_seconds and ring_bytes_per_s in it: want two workers or more", o.fromBench)
	}
	m := &o.cfg.Model
	m.Hop, m.BytesPerSecond = time.Duration(b.RingHopSeconds*float64(time.Second)), b.RingBytesPerS
	m.RingCPU = b.CPUSecondsPerGB / 1e9
	return nil
}

// maxReport bounds a file of figures.
const maxReport = 1 << 20

func readJSON(path string, into any) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if info.Size() > maxReport {
		return fmt.Errorf("%s: %d bytes are no line of figures", path, info.Size())
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}
