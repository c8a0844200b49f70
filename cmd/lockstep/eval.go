package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/lockstep-ml/lockstep/checkpoint"
	"github.com/lockstep-ml/lockstep/core"
	"github.com/lockstep-ml/lockstep/core/cpu"
	"github.com/lockstep-ml/lockstep/internal/snapshot"
	"github.com/lockstep-ml/lockstep/shard"
)

// evalOptions are the flags of lockstep eval.
type evalOptions struct {
	settings *settings // those of evalSettings
	weights  string
	split    string
	batch    int
	crops    int
	threads  int
	asJSON   bool
}

// evalSettings are the settings that eval takes by hand.
var evalSettings = []string{"arch", "data", "mean", "std", "pixel-mean", "augment", "resolution", "classes", "precision", "skip-damaged"}

type evalResult struct {
	Images          int     `json:"images"`
	Correct1        int     `json:"correct1"`
	Correct5        int     `json:"correct5"`
	Loss            float64 `json:"loss"`
	ImagesPerSecond float64 `json:"images_per_second"`
}

func evalCommand() *cobra.Command {
	o := evalOptions{settings: newSettings()}
	cmd := &cobra.Command{
		Use:   "eval --weights FILE|DIR --data PATH",
		Short: "Evaluate weights on images",
		Long: `Evaluates weights on a split of a data set: top-1, top-5 and mean cross-entropy.
A checkpoint or a run's folder brings its own network, normalisation and precision, and what lockstep exported its network and
normalisation; other weights (safetensors, PyTorch's .pth) need --arch.

With --crops 10 the four corners, the centre and their mirror images are evaluated instead of the centre alone, and their probabilities averaged.`,
		Example: `  lockstep eval --weights runs/mine --data cifar10.tar.gz
  lockstep eval --arch resnet50-v1.5 --weights resnet50.safetensors --data imagenet --split val --crops 10
  lockstep eval --arch cifar-resnet20 --weights w.safetensors --data cifar10.tar.gz --split test --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := loadSettings(cmd.Flags()); err != nil {
				return err
			}
			return evaluate(cmd, o)
		},
	}
	f := cmd.Flags()
	for _, name := range evalSettings {
		f.AddFlag(o.settings.flags.Lookup(name))
	}
	f.StringVar(&o.weights, "weights", "", weightsHelp)
	f.StringVar(&o.split, "split", "test", "which images: train, test, val or all")
	f.IntVar(&o.batch, "eval-batch", 100, "images at a time; changes speed and memory only")
	f.IntVar(&o.crops, "crops", 1, "views of an image whose probabilities are averaged: 1 or 10")
	f.IntVar(&o.threads, "threads", 0, "cores; 0: all")
	f.BoolVar(&o.asJSON, "json", false, "print one JSON object")
	if err := cmd.MarkFlagRequired("weights"); err != nil {
		panic(err) // the flag is defined above
	}
	return cmd
}

// adopt opens the weights, and takes the settings that come with them where no flag says otherwise.
func (o *evalOptions) adopt(cmd *cobra.Command) (*weightsFile, error) {
	w, err := findWeights(cmd, o.weights)
	if err != nil {
		return nil, err
	}
	if w.ckpt == nil {
		return w, w.adopt(o.settings)
	}
	r, s, err := recordOf(w.ckpt.Config)
	if err != nil {
		return nil, err
	}
	if err := s.override(o.settings); err != nil {
		return nil, err
	}
	if s.classes == 0 {
		s.classes = len(r.Classes)
	}
	o.settings = s
	return w, nil
}

func evaluate(cmd *cobra.Command, o evalOptions) error {
	ctx := cmd.Context()
	w, err := o.adopt(cmd)
	if err != nil {
		return err
	}
	s := o.settings
	if err := s.validate(); err != nil {
		return err
	}
	ds, err := shard.Open(ctx, shard.Options{Path: s.data, Split: o.split, SkipDamaged: s.skipDamaged.any()})
	if err != nil {
		return err
	}
	defer ds.Close() // only read from
	classes := len(ds.Classes())
	if s.classes == 0 { // a network may tell apart more classes than a data set has
		classes = max(classes, checkpoint.Classes(w.arrays))
	}
	net, err := s.network(classes)
	if err != nil {
		return err
	}
	state, err := w.state(net)
	if err != nil {
		return err
	}
	for _, n := range w.remarks(net) {
		fmt.Fprintln(cmd.ErrOrStderr(), "note:", n)
	}
	transform, err := o.transform(ctx, net)
	if err != nil {
		return err
	}
	images := max(1, o.batch/transform.ViewCount())
	engine, err := evaluator(net, state, core.CompileConfig{Batch: images * transform.ViewCount(), Resolution: transform.Resolution, Threads: o.threads, Precision: core.Precision(s.precision)})
	if err != nil {
		return err
	}
	defer engine.Close() // nothing is lost by it
	res, err := evalOn(ctx, engine, net, shard.EvalConfig{Dataset: ds, Transform: transform, Batch: images})
	if err != nil {
		return err
	}
	damaged := ds.Damaged()
	for _, name := range damaged {
		fmt.Fprintln(cmd.ErrOrStderr(), "warning: left out, damaged:", name)
	}
	if s.skipDamaged.exceeded(len(damaged)) {
		return fmt.Errorf("%w: %d, --%s %v allows no more", errTooManyDamaged, len(damaged), skipFlag, &s.skipDamaged)
	}
	return res.print(cmd.OutOrStdout(), o.asJSON)
}

// evaluator compiles the fast engine for evaluation alone, with a state.
func evaluator(net *core.Network, state *snapshot.Snapshot, cfg core.CompileConfig) (core.Engine[float32], error) {
	cfg.EvalOnly = true
	engine, err := cpu.New(net, cfg)
	if err != nil {
		return nil, err
	}
	if err := engine.SetState(stateOf(state)); err != nil {
		return nil, errors.Join(err, engine.Close())
	}
	return engine, nil
}

func (res *evalResult) print(w io.Writer, asJSON bool) error {
	if asJSON {
		return printJSON(w, res)
	}
	n := float64(res.Images)
	_, err := fmt.Fprintf(w, "%d images: top-1 %.2f %%, top-5 %.2f %%, loss %.4f (%.0f img/s)\n",
		res.Images, 100*float64(res.Correct1)/n, 100*float64(res.Correct5)/n, res.Loss, res.ImagesPerSecond)
	return err
}

// transform is that of the evaluation, with as many views as are asked for.
func (o *evalOptions) transform(ctx context.Context, net *core.Network) (shard.Transform, error) {
	s := o.settings
	if o.batch < 1 || o.crops != 1 && o.crops != 10 {
		return shard.Transform{}, fmt.Errorf("--eval-batch %d must be positive, --crops %d 1 or 10", o.batch, o.crops)
	}
	if err := s.checkTransform(net); err != nil {
		return shard.Transform{}, err
	}
	t := s.transform(net, false)
	t.Views = o.crops
	if s.pixelMean {
		train, err := shard.Open(ctx, shard.Options{Path: s.data, Split: "train", SkipDamaged: s.skipDamaged.any()})
		if err != nil {
			return t, fmt.Errorf("--pixel-mean is that of the training images: %w", err)
		}
		defer train.Close() // only read from
		if t.PixelMean, err = shard.MeanOf(ctx, train, t.Resolution); err != nil {
			return t, fmt.Errorf("--pixel-mean: %w", err)
		}
	}
	if o.crops > 1 && t.Kind == shard.KindCIFAR {
		return t, fmt.Errorf("--crops %d: images of CIFAR's kind are evaluated whole; --augment scale or resized-crop have crops", o.crops)
	}
	return t, t.Validate()
}

// evalOn runs an engine over a split.
func evalOn(ctx context.Context, engine core.Engine[float32], net *core.Network, c shard.EvalConfig) (*evalResult, error) {
	var m core.Metrics
	begun := time.Now()
	views := c.Transform.ViewCount()
	logits := make([]float32, c.Batch*views*net.Classes)
	labels := make([]int32, c.Batch*views)
	mean := make([]float32, net.Classes)
	_, err := visitAll(ctx, c, func(b core.Batch) error {
		z, l := logits[:len(b.Labels)*views*net.Classes], labels[:len(b.Labels)*views]
		for i := range l {
			l[i] = b.Labels[i/views]
		}
		if err := engine.Eval(core.Batch{Images: b.Images, Labels: l}, z); err != nil {
			return err
		}
		for i := range b.Labels { // one by one, so that the sum does not depend on the batch
			m.Add(core.Score(average(mean, z[i*views*net.Classes:(i+1)*views*net.Classes]), b.Labels[i:i+1], net.Classes, nil))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if m.Images == 0 {
		return nil, fmt.Errorf("no image of %s could be evaluated", c.Dataset.Split())
	}
	return &evalResult{Images: m.Images, Correct1: m.Correct1, Correct5: m.Correct5, Loss: m.LossSum / float64(m.Images),
		ImagesPerSecond: float64(m.Images) / time.Since(begun).Seconds()}, nil
}

// average gives logits whose softmax is the mean of the views' softmaxes, in mean. A single view's are its own.
func average(mean, views []float32) []float32 {
	classes := len(mean)
	if len(views) == classes {
		return views
	}
	sums := make([]float64, classes)
	for v := 0; v < len(views); v += classes {
		z := views[v : v+classes]
		top, total := float64(slices.Max(z)), 0.0
		for _, x := range z {
			total += math.Exp(float64(x) - top)
		}
		for i, x := range z {
			sums[i] += math.Exp(float64(x)-top) / total
		}
	}
	for i, s := range sums {
		mean[i] = float32(math.Log(s * float64(classes) / float64(len(views))))
	}
	return mean
}
