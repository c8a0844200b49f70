package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/knadh/koanf/parsers/yaml"
	"github.com/knadh/koanf/providers/file"
	"github.com/knadh/koanf/v2"
	"github.com/spf13/pflag"

	"github.com/lockstep-ml/lockstep/coordinator"
	"github.com/lockstep-ml/lockstep/core"
	"github.com/lockstep-ml/lockstep/core/resnet"
	"github.com/lockstep-ml/lockstep/shard"
	"github.com/lockstep-ml/lockstep/shard/source"
)

// settings define a run: its trained bits are a function of these and of the data. They are flags, so that one
// definition serves the command line, the configuration file, the environment, the wire and the checkpoint.
type settings struct {
	flags *pflag.FlagSet

	recipe                         string
	arch, data, augment, precision string
	mean, std                      numbers
	classes, resolution            int
	valData                        string
	seed                           uint64
	batch, replicaBatch, wire      int
	lr, momentum, weightDecay      float64
	schedule, warmup, initFrom     string
	steps                          uint64
	epochs                         float64
	evalEvery                      string
	checkpointEvery                uint64
	skipDamaged                    skipLimit
	colour                         string
	pixelMean, reduce              bool
}

// The kinds of augmentation by the name a user gives; "" follows the network.
var augmentKinds = map[string]shard.Kind{"cifar": shard.KindCIFAR, "scale": shard.KindScale, "resized-crop": shard.KindResizedCrop}

// The kinds of colour augmentation by name.
var colourKinds = map[string]shard.Colour{"none": shard.ColourNone, "lighting": shard.ColourLighting}

func newSettings() *settings {
	s := &settings{flags: pflag.NewFlagSet("settings", pflag.ContinueOnError)}
	f := s.flags
	f.SortFlags = false
	f.StringVar(&s.recipe, "recipe", "", "published settings, each of which a flag overrules: "+recipeNames())
	f.StringVar(&s.arch, "arch", "cifar-resnet20", "network: "+resnet.Grammar)
	f.StringVar(&s.data, "data", shard.Builtin, "data set, on this machine or at a URL (https, s3, gs): a folder, archive or shards of train/CLASS/IMAGE and test/CLASS/IMAGE, the CIFAR-10 binary files, builtin, or synthetic[:HxW[:CLASSES[:IMAGES]]] (noise that costs nothing, to compare with)")
	f.StringVar(&s.valData, "val-data", "", "where the images to evaluate on lie, if that is not in --data")
	f.Float64Var(&s.epochs, "epochs", 0, "length of the run in passes over the training images")
	f.Uint64Var(&s.steps, "steps", 0, "length of the run in steps, instead of --epochs")
	f.IntVar(&s.batch, "batch", 256, "images of one step, over all workers")
	f.IntVar(&s.replicaBatch, "replica-batch", 32, "images of one replica: batch / replica-batch replicas share a step, each with batch statistics of its own")
	f.Uint64Var(&s.seed, "seed", 1, "seed of initialisation, order and augmentation")
	f.Float64Var(&s.lr, "lr", 0.1, "learning rate before the schedule divides it")
	f.StringVar(&s.schedule, "schedule", "constant", "learning-rate schedule: "+scheduleHelp)
	f.StringVar(&s.warmup, "warmup", "", "warm-up in front of the schedule: "+warmupHelp)
	f.Float64Var(&s.momentum, "momentum", 0.9, "momentum of SGD")
	f.Float64Var(&s.weightDecay, "weight-decay", 1e-4, "weight decay, on every parameter")
	f.StringVar(&s.precision, "precision", string(core.FP32), precisionHelp)
	f.IntVar(&s.wire, "wire", 32, "bits of a gradient value on the ring: 32 or 16")
	f.StringVar(&s.initFrom, "init", "", "start from these weights (safetensors, PyTorch's .pth, or .ckpt) instead of He initialisation; where they are for other classes, the last layer is drawn anew")
	f.IntVar(&s.classes, "classes", 0, "classes of the network; 0: those of the data set")
	f.IntVar(&s.resolution, "resolution", 0, "side of the training images; 0: what the network is made for")
	f.StringVar(&s.augment, "augment", "", "augmentation: cifar (pad 4, crop, flip), scale (the paper's for ImageNet) or resized-crop (torchvision's); empty: by the network")
	f.StringVar(&s.colour, "colour", "none", "augmentation of colours: none, or lighting (the paper's for ImageNet, along the principal components of its colours)")
	f.BoolVar(&s.reduce, "reduce", false, "decode JPEG files at 1/2, 1/4 or 1/8 of their size where what is cut out of them is twice as large as needed even so: faster, with pixels half a level off on average")
	f.Var(&s.mean, "mean", "mean of the images' channels r,g,b in 0..1; empty: CIFAR-10's or ImageNet's, by the network")
	f.Var(&s.std, "std", "standard deviation of the images' channels r,g,b; empty: by the network")
	f.BoolVar(&s.pixelMean, "pixel-mean", false, "with --augment cifar: subtract the training images' mean at every pixel instead of --mean, as the paper does; each worker computes it when it starts")
	f.StringVar(&s.evalEvery, "eval-every", "1e", "distance between evaluations: steps, 1e for epochs, 5% of the run; 0: only at the end")
	f.Uint64Var(&s.checkpointEvery, "checkpoint-every", 500, "steps between checkpoints; 0: only at the end")
	f.Var(&s.skipDamaged, skipFlag, skipFlagHelp)
	f.Lookup(skipFlag).NoOptDefVal = skipAllWord
	return s
}

const (
	precisionHelp = "arithmetic of the engine: fp32, or bf16 for activations, their gradients and weights in 16 bits, with sums and updates in float32"
	scheduleHelp  = "constant, steps:AT,AT (divide by 10 at each AT: a step, 30e for epochs, 60% of the run), or plateau[:patience=5,threshold=0] (divide by 10 when the validation error stands still)"
	warmupHelp    = "LENGTH[@RATE][,hold], e.g. 5e, 400@0.01, or 400@0.01,hold; or error:80%@RATE[,every=20], RATE until the training error over that many steps is below 80 %"
)

// values gives every setting as text.
func (s *settings) values() map[string]string {
	out := map[string]string{}
	s.flags.VisitAll(func(f *pflag.Flag) { out[f.Name] = f.Value.String() })
	return out
}

// given gives the settings that were set by flag, file or environment.
func (s *settings) given() map[string]string {
	out := map[string]string{}
	s.flags.VisitAll(func(f *pflag.Flag) {
		if f.Changed { // not Visit: a command's own set parses the flags, and only they know of it
			out[f.Name] = f.Value.String()
		}
	})
	return out
}

// numbers is a flag's value of numbers with commas between them. pflag's own writes them with six decimals, which would make
// other bits of a mean that was given with more.
type numbers []float64

func (n *numbers) Type() string { return "float64Slice" }

func (n *numbers) String() string {
	out := make([]string, len(*n))
	for i, v := range *n {
		out[i] = strconv.FormatFloat(v, 'g', -1, 64)
	}
	return strings.Join(out, ",")
}

// Set replaces the numbers; an empty text is none.
func (n *numbers) Set(text string) error {
	*n = nil
	if text == "" {
		return nil
	}
	for _, part := range strings.Split(text, ",") {
		v, err := strconv.ParseFloat(strings.TrimSpace(part), 64)
		if err != nil || math.IsNaN(v) || math.IsInf(v, 0) {
			return fmt.Errorf("%q is not a number", part)
		}
		*n = append(*n, v)
	}
	return nil
}

// settingsFrom reads back what values gave. Unknown names are an error: they come from another version.
func settingsFrom(values map[string]string) (*settings, error) {
	s := newSettings()
	var errs []error
	for name, v := range values {
		f := s.flags.Lookup(name)
		if f == nil {
			errs = append(errs, fmt.Errorf("unknown setting %q", name))
			continue
		}
		if err := s.flags.Set(name, v); err != nil {
			errs = append(errs, fmt.Errorf("setting %s: %w", name, err))
		}
	}
	return s, errors.Join(errs...)
}

// configFlag names the flag that gives a configuration file.
const configFlag = "config"

// loadSettings fills flags that were not given from --config FILE (YAML) and from LOCKSTEP_NAME in the
// environment, the latter winning. Every key of the file must be a flag of the command.
func loadSettings(flags *pflag.FlagSet) error {
	k := koanf.New("\x00") // no nesting: a key is a flag's name
	path := os.Getenv(environmentName(configFlag))
	if f := flags.Lookup(configFlag); f == nil {
		path = "" // this command has no such file
	} else if f.Changed {
		path = f.Value.String()
	}
	if path != "" {
		if err := k.Load(file.Provider(path), yaml.Parser()); err != nil {
			return fmt.Errorf("configuration file %s: %w", path, err)
		}
		for _, key := range k.Keys() {
			if flags.Lookup(key) == nil {
				return fmt.Errorf("configuration file %s: %q is not a setting; --help lists them", path, key)
			}
		}
	}
	var errs []error
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Changed {
			return
		}
		where, v, ok := "environment", "", false
		if v, ok = os.LookupEnv(environmentName(f.Name)); !ok && k.Exists(f.Name) {
			where, ok = "configuration file", true
			v = k.String(f.Name)
			if list := k.Strings(f.Name); len(list) > 0 {
				v = strings.Join(list, ",")
			}
		}
		if !ok {
			return
		}
		if err := flags.Set(f.Name, v); err != nil {
			errs = append(errs, fmt.Errorf("%s: %s: %w", where, f.Name, err))
		}
	})
	return errors.Join(errs...)
}

// environmentName is the variable that sets a flag.
func environmentName(flag string) string {
	return "LOCKSTEP_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// validate reports everything wrong that can be seen without the data.
func (s *settings) validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if _, err := resnet.Parse(s.arch); err != nil {
		errs = append(errs, err)
	}
	if s.batch < 1 || s.replicaBatch < 1 || s.batch%s.replicaBatch != 0 {
		bad("--batch %d does not divide into replicas of --replica-batch %d images: %s", s.batch, s.replicaBatch, s.divisors())
	}
	if s.steps > 0 && s.epochs > 0 {
		bad("give --steps or --epochs, not both")
	}
	if s.epochs < 0 {
		bad("--epochs cannot be negative")
	}
	if _, err := coordinator.ParseSpan(s.evalEvery); err != nil {
		bad("--eval-every: %w", err)
	}
	if err := core.Precision(s.precision).Validate(); err != nil {
		bad("--precision: %w", err)
	}
	if s.wire != 32 && s.wire != 16 {
		bad("--wire %d: gradients travel in 32 or 16 bits", s.wire)
	}
	if s.lr <= 0 || s.momentum < 0 || s.momentum >= 1 || s.weightDecay < 0 {
		bad("--lr must be positive, --momentum in [0, 1), --weight-decay not negative")
	}
	if _, ok := augmentKinds[s.augment]; s.augment != "" && !ok {
		bad("--augment %s: the kinds are cifar, scale and resized-crop", s.augment)
	}
	if _, ok := colourKinds[s.colour]; !ok {
		bad("--colour %s: the kinds are none and lighting", s.colour)
	}
	for _, c := range []struct {
		name   string
		values []float64
	}{{"mean", s.mean}, {"std", s.std}} {
		if n := len(c.values); n != 0 && n != 3 {
			bad("--%s wants three numbers r,g,b, not %d", c.name, n)
		}
	}
	return errors.Join(errs...)
}

// divisors suggests batches near the one asked for.
func (s *settings) divisors() string {
	if s.replicaBatch < 1 || s.batch < 1 {
		return "both must be positive"
	}
	down := s.batch / s.replicaBatch * s.replicaBatch
	if down == 0 {
		return "the nearest batch is " + strconv.Itoa(s.replicaBatch)
	}
	return fmt.Sprintf("the nearest batches are %d and %d", down, down+s.replicaBatch)
}

func (s *settings) replicas() int { return s.batch / s.replicaBatch }

// network builds the run's network for a data set of that many classes.
func (s *settings) network(dataClasses int) (*core.Network, error) {
	classes := s.classes
	if classes == 0 {
		classes = dataClasses
	}
	if classes < dataClasses {
		return nil, fmt.Errorf("--classes %d: the data set has %d", classes, dataClasses)
	}
	return resnet.Build(s.arch, classes)
}

// dataOptions say what a run opens, with each machine's way to read it.
func (s *settings) dataOptions(src source.Options) shard.Options {
	return shard.Options{Path: s.data, ValPath: s.valData, SkipDamaged: s.skipDamaged.any(), Source: src}
}

// transform says how images become inputs of the network.
func (s *settings) transform(n *core.Network, train bool) shard.Transform {
	cifar := n.Resolution == 32
	t := shard.Transform{Kind: shard.KindScale, Resolution: n.Resolution, Mean: shard.ImageNetMean, Std: shard.ImageNetStd}
	if cifar {
		t = shard.CIFARTransform(train)
	}
	t.Train = train
	if k, ok := augmentKinds[s.augment]; ok {
		t.Kind = k
	}
	t.Colour, t.Reduce = colourKinds[s.colour], s.reduce
	if s.resolution > 0 {
		t.Resolution = s.resolution
	}
	for i := range s.mean {
		t.Mean[i] = float32(s.mean[i])
	}
	for i := range s.std {
		t.Std[i] = float32(s.std[i])
	}
	return t
}

// transforms are those of training and evaluation. The mean of every pixel, if there is to be one, is that of the training split.
func (s *settings) transforms(ctx context.Context, n *core.Network, train *shard.Dataset) (training, evaluation shard.Transform, err error) {
	if err := s.checkTransform(n); err != nil {
		return training, evaluation, err
	}
	training, evaluation = s.transform(n, true), s.transform(n, false)
	if s.pixelMean {
		if training.PixelMean, err = shard.MeanOf(ctx, train, training.Resolution); err != nil {
			return training, evaluation, fmt.Errorf("--pixel-mean: %w", err)
		}
		evaluation.PixelMean = training.PixelMean
	}
	return training, evaluation, nil
}

// checkTransform reports what the network's transforms would not take, before there is any data.
func (s *settings) checkTransform(n *core.Network) error {
	t := s.transform(n, true)
	if s.pixelMean && t.Kind != shard.KindCIFAR {
		return fmt.Errorf("--pixel-mean goes with --augment cifar, and this is %v", t.Kind)
	}
	return t.Validate()
}

// absolute makes paths independent of the working directory, for processes started elsewhere.
func (s *settings) absolute() error {
	for _, p := range []*string{&s.data, &s.valData, &s.initFrom} {
		if *p == "" || *p == shard.Builtin || shard.IsSynthetic(*p) || source.Remote(*p) {
			continue
		}
		abs, err := filepath.Abs(*p)
		if err != nil {
			return fmt.Errorf("%s: %w", *p, err)
		}
		*p = abs
	}
	return nil
}
