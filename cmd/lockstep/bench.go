package main

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/lockstep-ml/lockstep/core"
	"github.com/lockstep-ml/lockstep/core/cpu"
	"github.com/lockstep-ml/lockstep/core/reference"
	"github.com/lockstep-ml/lockstep/core/resnet"
)

func benchCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "bench", Short: "Measure parts of the trainer on this machine"}
	cmd.AddCommand(benchEngine())
	return cmd
}

type engineBench struct {
	Arch            string  `json:"arch"`
	Engine          string  `json:"engine"`
	Precision       string  `json:"precision"`
	Batch           int     `json:"batch"`
	ImagesPerSecond float64 `json:"images_per_second"` // median step
	GFLOPS          float64 `json:"gflops"`            // 6 FLOP a multiply-add and image: forward, and twice that backward
	LossDeviation   float64 `json:"loss_deviation"`    // of two images, from the float64 reference, relative
}

// maxLossDeviation is what the check before timing lets pass: a hundred times what float32 needs, and for bf16 what batch statistics over
// two images make of a rounding to 8 bits.
func maxLossDeviation(p core.Precision) float64 {
	if p == core.BF16 {
		return 0.1
	}
	return 1e-3
}

func benchEngine() *cobra.Command {
	var arch, precision string
	var batch, threads, steps int
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "engine",
		Short:   "Time full training steps on synthetic images, after a check against the reference engine",
		Example: "  lockstep bench engine --arch cifar-resnet20 --batch 128 --threads 2 --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			net, err := resnet.Build(arch, 0)
			if err != nil {
				return err
			}
			cfg := core.CompileConfig{Batch: batch, Resolution: net.Resolution, Threads: threads, Precision: core.Precision(precision)}
			r, err := timeEngine(net, cfg, steps)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), r)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s, batch %d, %s: %.1f img/s, %.1f GFLOP/s (loss within %.1e of the reference)\n",
				r.Arch, r.Batch, r.Engine, r.ImagesPerSecond, r.GFLOPS, r.LossDeviation)
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&arch, "arch", "cifar-resnet20", "network: "+resnet.Grammar)
	f.IntVar(&batch, "batch", 128, "images of a step")
	f.StringVar(&precision, "precision", string(core.FP32), "arithmetic: fp32 or bf16")
	f.IntVar(&threads, "threads", 0, "cores; 0: all")
	f.IntVar(&steps, "steps", 7, "steps to time, after one to warm up")
	f.BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

// synthetic makes n images and labels that are neither constant nor random from run to run.
func synthetic(net *core.Network, n int) core.Batch {
	b := core.Batch{Images: make([]float32, n*3*net.Resolution*net.Resolution), Labels: make([]int32, n)}
	for i := range b.Images {
		b.Images[i] = float32(math.Sin(float64(i)*0.37) + math.Cos(float64(i)*0.011))
	}
	for i := range b.Labels {
		b.Labels[i] = int32((7*i + 3) % net.Classes)
	}
	return b
}

// checkEngine compares the loss of two images with the reference's.
func checkEngine(net *core.Network, cfg core.CompileConfig) (float64, error) {
	cfg.Batch = 2
	b := synthetic(net, 2)
	engine, err := cpu.New(net, cfg)
	if err != nil {
		return 0, err
	}
	defer engine.Close() // nothing is lost by it
	exact := cfg
	exact.Precision = core.FP32
	ref, err := reference.New[float64](net, exact)
	if err != nil {
		return 0, err
	}
	defer ref.Close() // nothing is lost by it
	got, err := lossOf(net, engine, b)
	if err != nil {
		return 0, err
	}
	want, err := lossOf(net, ref, b)
	if err != nil {
		return 0, err
	}
	dev := math.Abs(got-want) / math.Abs(want)
	if !(dev <= maxLossDeviation(cfg.Precision)) {
		return dev, fmt.Errorf("the engine's loss is %v, the reference's %v: not timing a wrong result", got, want)
	}
	return dev, nil
}

func lossOf[F core.Float](net *core.Network, e core.Engine[F], b core.Batch) (float64, error) {
	s := core.NewState[F](net)
	core.InitHe(net, 1, s)
	if err := e.SetState(s); err != nil {
		return 0, err
	}
	m, err := e.Train(b, e.NewGradients(), core.Hooks{})
	return m.LossSum, err
}

func timeEngine(net *core.Network, cfg core.CompileConfig, steps int) (*engineBench, error) {
	batch := cfg.Batch
	if batch < 1 || steps < 1 {
		return nil, fmt.Errorf("--batch %d and --steps %d must be positive", batch, steps)
	}
	dev, err := checkEngine(net, cfg)
	if err != nil {
		return nil, err
	}
	engine, err := cpu.New(net, cfg)
	if err != nil {
		return nil, err
	}
	defer engine.Close() // nothing is lost by it
	b, grads := synthetic(net, batch), engine.NewGradients()
	state := core.NewState[float32](net)
	core.InitHe(net, 1, state)
	if err := engine.SetState(state); err != nil {
		return nil, err
	}
	var took []time.Duration
	for i := range steps + 1 {
		begun := time.Now()
		if _, err := engine.Train(b, grads, core.Hooks{}); err != nil {
			return nil, err
		}
		if err := engine.Update(grads, core.SGD{LR: 1e-4, Momentum: 0.9, WeightDecay: 1e-4}); err != nil {
			return nil, err
		}
		if i > 0 {
			took = append(took, time.Since(begun))
		}
	}
	slices.Sort(took)
	macs, err := net.MultiplyAdds(net.Resolution)
	if err != nil {
		return nil, err
	}
	total := 0.0
	for _, m := range macs {
		total += float64(m)
	}
	rate := float64(batch) / took[len(took)/2].Seconds()
	return &engineBench{Arch: net.Name, Engine: engine.Info().Name, Precision: string(cfg.Precision), Batch: batch, ImagesPerSecond: rate, GFLOPS: rate * 6 * total / 1e9, LossDeviation: dev}, nil
}
