package main

import (
	"errors"
	"fmt"
	"math"
	"path/filepath"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/lockstep-ml/lockstep/core"
	"github.com/lockstep-ml/lockstep/core/reference"
	"github.com/lockstep-ml/lockstep/internal/experiment"
	"github.com/lockstep-ml/lockstep/internal/runfolder"
	"github.com/lockstep-ml/lockstep/internal/vfs"
	"github.com/lockstep-ml/lockstep/shard"
)

// responseOptions are the flags of layer-responses alone.
type responseOptions struct {
	weights, archs []string
	images         int
	mean, std      numbers
}

func (r *responseOptions) addFlags(f *pflag.FlagSet) {
	f.StringSliceVar(&r.weights, "weights", nil, "look at these weights (.safetensors, .ckpt, or a run's folder) instead of training; may be repeated")
	f.StringSliceVar(&r.archs, "arch", nil, "the network of each --weights, in their order")
	f.IntVar(&r.images, "images", 128, "test images to look at; the float64 engine's float32 form does it, slowly")
	f.Var(&r.mean, "mean", "with --weights: mean of the images' channels, if not the network's usual")
	f.Var(&r.std, "std", "with --weights: standard deviation of the images' channels")
}

func (r *responseOptions) given() bool { return len(r.weights) > 0 }

func (r *responseOptions) check() error {
	if len(r.weights) != len(r.archs) {
		return fmt.Errorf("%d --weights and %d --arch: give one for the other", len(r.weights), len(r.archs))
	}
	if r.given() && r.images < 1 {
		return fmt.Errorf("--images %d: at least one", r.images)
	}
	return nil
}

// respond looks at the networks that were trained, or at the weights that were given.
func (o *experimentOptions) respond(cmd *cobra.Command, plan *experiment.Plan, found []experiment.Finding) error {
	type subject struct {
		arch, weights, words string
		settings             *settings
	}
	var subjects []subject
	for _, f := range found {
		run, err := runfolder.ReadRun(o.runDir(f.Arch))
		if err != nil {
			return err
		}
		s, err := settingsFrom(run.Settings)
		if err != nil {
			return err
		}
		subjects = append(subjects, subject{f.Arch, filepath.Join(o.runDir(f.Arch), lastName), fmt.Sprintf("trained, %d steps", f.Steps), s})
	}
	for i, w := range o.responses.weights {
		s := newSettings()
		s.arch, s.data, s.mean, s.std = o.responses.archs[i], plan.Data, o.responses.mean, o.responses.std
		subjects = append(subjects, subject{s.arch, w, filepath.Base(w), s})
	}
	r := experimentReport{Kind: plan.Kind, Out: o.out, Report: filepath.Join(o.out, experiment.ReportName)}
	var all []experiment.Responses
	for i, sub := range subjects {
		fmt.Fprintf(cmd.ErrOrStderr(), "layer responses %d of %d: %s\n", i+1, len(subjects), sub.arch)
		layers, err := layerResponses(cmd, sub.settings, sub.weights, o.responses.images)
		if err != nil {
			return fmt.Errorf("layer responses of %s, %s: %w", sub.arch, sub.weights, err)
		}
		layers.Arch, layers.Weights = sub.arch, sub.words
		all = append(all, *layers)
		e := experimentResult{Network: sub.arch, MeanStd: runfolder.Known(meanOf(layers.Std))}
		if i < len(found) {
			e.Steps, e.TrainError, e.TestError = found[i].Steps, runfolder.Known(found[i].TrainError), runfolder.Known(found[i].TestError)
		}
		r.Networks = append(r.Networks, e)
	}
	if err := plan.WriteResponses(vfs.OS{}, o.out, found, all); err != nil {
		return err
	}
	return o.print(cmd.OutOrStdout(), r)
}

func meanOf(values []float64) float64 {
	sum := 0.0
	for _, v := range values {
		sum += v
	}
	return sum / float64(len(values))
}

// layerResponses takes test images through a network with given weights.
func layerResponses(cmd *cobra.Command, s *settings, weights string, images int) (*experiment.Responses, error) {
	ctx := cmd.Context()
	ds, err := shard.Open(ctx, shard.Options{Path: s.data, Split: "test", SkipDamaged: s.skipDamaged.any()})
	if err != nil {
		return nil, err
	}
	defer ds.Close() // only read from
	net, err := s.network(len(ds.Classes()))
	if err != nil {
		return nil, err
	}
	state, err := weightsFor(cmd, weights, net)
	if err != nil {
		return nil, err
	}
	const batch = 8 // more takes memory and saves nothing
	transform := s.transform(net, false)
	engine, err := reference.New[float32](net, core.CompileConfig{Batch: batch, Resolution: transform.Resolution, EvalOnly: true})
	if err != nil {
		return nil, err
	}
	defer engine.Close() // nothing is lost by it
	if err := engine.SetState(state); err != nil {
		return nil, err
	}
	p := newProbe(net)
	logits := make([]float32, batch*net.Classes)
	errEnough := errors.New("enough images")
	_, err = visitAll(ctx, shard.EvalConfig{Dataset: ds, Transform: transform, Batch: batch}, func(b core.Batch) error {
		n := min(len(b.Labels), images-p.images)
		per := len(b.Images) / len(b.Labels)
		if err := engine.Eval(core.Batch{Images: b.Images[:n*per], Labels: b.Labels[:n]}, logits[:n*net.Classes]); err != nil {
			return err
		}
		probeAdd(p, engine, n)
		if p.images >= images {
			return errEnough
		}
		return nil
	})
	if err != nil && !errors.Is(err, errEnough) {
		return nil, err
	}
	return p.responses(), nil
}

// weightsFor reads weights from a file, or from the newest checkpoint of a run's folder.
func weightsFor(cmd *cobra.Command, path string, net *core.Network) (*core.State[float32], error) {
	w, err := findWeights(cmd, path)
	if err != nil {
		return nil, err
	}
	s, err := w.state(net)
	if err != nil {
		return nil, err
	}
	return stateOf(s), nil
}

// probe gathers the first two moments of what each 3x3 layer gives after its batch normalisation, and before ReLU or sum.
type probe struct {
	names  []string
	nodes  []int // the batch normalisations behind 3x3 convolutions
	sums   [][2]float64
	counts []float64
	images int
}

func newProbe(net *core.Network) *probe {
	p := &probe{}
	for i, n := range net.Nodes {
		if n.Op != core.OpBatchNorm {
			continue
		}
		if conv := net.Nodes[n.Inputs[0]]; conv.Op == core.OpConv && conv.Kernel == 3 {
			p.names, p.nodes = append(p.names, conv.Name), append(p.nodes, i)
		}
	}
	p.sums, p.counts = make([][2]float64, len(p.nodes)), make([]float64, len(p.nodes))
	return p
}

// outputs is an engine that keeps what every node gave.
type outputs[F core.Float] interface{ Output(node, n int) []F }

// probeAdd takes the newest pass of n images.
func probeAdd[F core.Float](p *probe, e outputs[F], n int) {
	for k, node := range p.nodes {
		values := e.Output(node, n)
		for _, v := range values {
			p.sums[k][0] += float64(v)
			p.sums[k][1] += float64(float64(v) * float64(v))
		}
		p.counts[k] += float64(len(values))
	}
	p.images += n
}

// responses gives the standard deviations.
func (p *probe) responses() *experiment.Responses {
	r := &experiment.Responses{Layers: p.names}
	for k, s := range p.sums {
		mean := s[0] / p.counts[k]
		r.Std = append(r.Std, math.Sqrt(max(0, s[1]/p.counts[k]-float64(mean*mean))))
	}
	return r
}

var _ outputs[float32] = (*reference.Engine[float32])(nil)
