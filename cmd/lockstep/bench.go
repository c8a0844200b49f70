package main

import (
	"fmt"
	"io"
	"math"
	"runtime"
	"runtime/debug"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/lockstep-ml/lockstep/core"
	"github.com/lockstep-ml/lockstep/core/cpu"
	"github.com/lockstep-ml/lockstep/core/resnet"
)

func benchCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "bench", Short: "Measure parts of the trainer on this machine"}
	cmd.AddCommand(benchEngine(), benchAllreduce(), benchInput(), benchNetwork())
	return cmd
}

// engineBench is what `lockstep bench engine` reports.
type engineBench struct {
	Arch            string  `json:"arch"`
	Engine          string  `json:"engine"`
	Precision       string  `json:"precision"`
	Batch           int     `json:"batch"`
	Threads         int     `json:"threads"`
	ImagesPerSecond float64 `json:"images_per_second"` // median step
	GFLOPS          float64 `json:"gflops"`            // 6 FLOP a multiply-add and image: forward, and twice that backward
	ShareOfPeak     float64 `json:"share_of_peak"`     // of PeakGFLOPS
	PeakGFLOPS      float64 `json:"peak_gflops"`       // one core's, measured in registers, times the threads
	TogetherGFLOPS  float64 `json:"together_gflops"`   // all threads', measured at once
	ArenaBytes      int64   `json:"arena_bytes"`
	PeakRSSBytes    int64   `json:"peak_rss_bytes,omitempty"` // of the process while it trained
	deviation
	Layers *layerReport `json:"layers,omitempty"`
}

// benchOptions is what is to be measured.
type benchOptions struct {
	arch, precision       string
	batch, threads, steps int
	layers                bool
}

func benchEngine() *cobra.Command {
	var o benchOptions
	var asJSON, comparison bool
	cmd := &cobra.Command{
		Use:   "engine",
		Short: "Time full training steps on synthetic images, after a check against the reference engine",
		Long: `Times full steps (forward, backward, update) on synthetic images and prints the median. Before that, the loss and the gradients of the first and
of the last weights are compared with the float64 reference's on two images (of 64x64 for networks that want larger ones): nothing wrong is timed.

The peak is that of fused multiply-adds in registers, measured just before: one core's times the threads.`,
		Example: `  lockstep bench engine --arch cifar-resnet20 --batch 128 --threads 2 --json
  lockstep bench engine --arch resnet50 --batch 32 --layers
  lockstep bench engine --arch resnet50 --batch 32 --compare > compare.py`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if comparison {
				return printComparison(cmd.OutOrStdout(), o)
			}
			r, err := runEngineBench(o)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), r)
			}
			return r.print(cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.arch, "arch", "cifar-resnet20", "network: "+resnet.Grammar)
	f.IntVar(&o.batch, "batch", 128, "images of a step")
	f.StringVar(&o.precision, "precision", string(core.FP32), "arithmetic: fp32 or bf16")
	f.IntVar(&o.threads, "threads", 0, "cores; 0: all")
	f.IntVar(&o.steps, "steps", 7, "steps to time, after one to warm up")
	f.BoolVar(&o.layers, "layers", false, "time every pass of every layer too, beside the limits of arithmetic and memory")
	f.BoolVar(&comparison, "compare", false, "time nothing; print how to compare with PyTorch on this machine, as a Python script")
	f.BoolVar(&asJSON, "json", false, "print one JSON object")
	cmd.MarkFlagsMutuallyExclusive("compare", "json")
	cmd.MarkFlagsMutuallyExclusive("compare", "layers")
	return cmd
}

// network checks the options and builds what they name.
func (o *benchOptions) network() (*core.Network, error) {
	if err := core.Precision(o.precision).Validate(); err != nil {
		return nil, fmt.Errorf("--precision: %w", err)
	}
	if o.batch < 1 || o.steps < 1 || o.threads < 0 {
		return nil, fmt.Errorf("--batch %d and --steps %d must be positive, --threads %d not negative", o.batch, o.steps, o.threads)
	}
	if o.threads == 0 {
		o.threads = runtime.GOMAXPROCS(0)
	}
	return resnet.Build(o.arch, 0)
}

// runEngineBench makes the engine first: whether it fits is known at once. It touches its memory only when it trains.
func runEngineBench(o benchOptions) (*engineBench, error) {
	net, err := o.network()
	if err != nil {
		return nil, err
	}
	engine, err := cpu.New(net, core.CompileConfig{Batch: o.batch, Resolution: net.Resolution, Threads: o.threads, Precision: core.Precision(o.precision)})
	if err != nil {
		return nil, err
	}
	defer engine.Close() // nothing is lost by it
	dev, err := checkEngine(net, o.threads, core.Precision(o.precision))
	if err != nil {
		return nil, err
	}
	limits, err := cpu.MeasurePeak(o.threads)
	if err == nil && o.layers {
		err = limits.MeasureMemory()
	}
	if err != nil {
		return nil, err
	}
	r := &engineBench{Arch: net.Name, Engine: engine.Info().Name, Precision: o.precision, Batch: o.batch, Threads: o.threads, ArenaBytes: engine.Info().ArenaBytes, deviation: dev,
		PeakGFLOPS: limits.FLOPS() / 1e9, TogetherGFLOPS: limits.TogetherFLOPS / 1e9}
	return r, r.time(net, engine, o, limits)
}

// time trains and fills in what was measured.
func (r *engineBench) time(net *core.Network, engine *cpu.Engine, o benchOptions, limits cpu.Limits) error {
	state := core.NewState[float32](net)
	core.InitHe(net, 1, state)
	if err := engine.SetState(state); err != nil {
		return err
	}
	debug.FreeOSMemory() // what the check and the limits took is not the engine's
	alone := resetPeakRSS()
	took, profile, err := timeSteps(net, engine, o)
	if err != nil {
		return err
	}
	if alone {
		r.PeakRSSBytes = peakRSS()
	}
	if profile != nil {
		r.Layers = reportLayers(profile, limits, o, took)
	}
	slices.Sort(took)
	macs, err := net.MultiplyAdds(net.Resolution)
	if err != nil {
		return err
	}
	total := 0.0
	for _, m := range macs {
		total += float64(m)
	}
	r.ImagesPerSecond = float64(o.batch) / took[len(took)/2].Seconds()
	r.GFLOPS = r.ImagesPerSecond * 6 * total / 1e9
	r.ShareOfPeak = r.GFLOPS / r.PeakGFLOPS
	return nil
}

// timeSteps times whole steps, and with o.layers what each is made of.
func timeSteps(net *core.Network, engine *cpu.Engine, o benchOptions) (took []time.Duration, profile []cpu.PassTime, err error) {
	b, grads := synthetic(net, o.batch, net.Resolution), engine.NewGradients()
	var read func() []cpu.PassTime
	for i := range o.steps + 1 {
		begun := time.Now()
		if _, err := engine.Train(b, grads, core.Hooks{}); err != nil {
			return nil, nil, err
		}
		if err := engine.Update(grads, core.SGD{LR: 1e-4, Momentum: 0.9, WeightDecay: 1e-4}); err != nil {
			return nil, nil, err
		}
		switch {
		case i > 0:
			took = append(took, time.Since(begun))
		case o.layers:
			read = engine.Profile()
		}
	}
	if read != nil {
		profile = read()
	}
	return took, profile, nil
}

// synthetic makes n images and labels that are neither constant nor random from run to run.
func synthetic(net *core.Network, n, resolution int) core.Batch {
	b := core.Batch{Images: make([]float32, n*3*resolution*resolution), Labels: make([]int32, n)}
	for i := range b.Images {
		b.Images[i] = float32(math.Sin(float64(i)*0.37) + math.Cos(float64(i)*0.011))
	}
	for i := range b.Labels {
		b.Labels[i] = int32((7*i + 3) % net.Classes)
	}
	return b
}

func (r *engineBench) print(w io.Writer) error {
	fmt.Fprintf(w, "%s, batch %d, %s: %.1f img/s, %.1f GFLOP/s, %.1f %% of the peak\n",
		r.Arch, r.Batch, r.Engine, r.ImagesPerSecond, r.GFLOPS, 100*r.ShareOfPeak)
	fmt.Fprintf(w, "beside the float64 reference: loss within %.1e, gradient of the first weights within %.1e, of the last within %.1e\n", r.Loss, r.First, r.Last)
	fmt.Fprintf(w, "memory: %s planned for activations", size(r.ArenaBytes))
	if r.PeakRSSBytes > 0 {
		fmt.Fprintf(w, ", %s the process's most", size(r.PeakRSSBytes))
	}
	_, err := fmt.Fprintf(w, "\npeak: %.1f GFLOP/s, a core's times %d; %.1f measured together\n", r.PeakGFLOPS, r.Threads, r.TogetherGFLOPS)
	if err == nil && r.Layers != nil {
		err = r.Layers.print(w)
	}
	return err
}
