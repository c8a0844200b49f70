package main

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lockstep-ml/lockstep/core"
	"github.com/lockstep-ml/lockstep/shard"
	"github.com/lockstep-ml/lockstep/shard/raster"
)

// predictOptions are the flags of lockstep predict.
type predictOptions struct {
	settings *settings // arch, mean, std, resolution, precision
	weights  string
	names    string // file of class names
	top      int
	threads  int
	asJSON   bool
}

// prediction is what the network says of one image.
type prediction struct {
	Image string  `json:"image"`
	Top   []guess `json:"top,omitempty"`
	Error string  `json:"error,omitempty"` // why there is none
}

type guess struct {
	Class       int     `json:"class"`
	Name        string  `json:"name,omitempty"`
	Probability float64 `json:"probability"`
	Logit       float32 `json:"logit"`
}

// predictBatch is how many images go through the network at a time: enough to keep the cores busy, and 40 MB of them at 224x224.
const predictBatch = 16

func predictCommand() *cobra.Command {
	o := predictOptions{settings: newSettings()}
	cmd := &cobra.Command{
		Use:   "predict --weights FILE|DIR IMAGE...",
		Short: "Say what is on images",
		Long: `Classifies JPEG and PNG images, seen as an evaluation sees them, and prints the most probable classes of each. An IMAGE is a file, a
folder whose images are all taken, or - for one image on standard input. Class names are the run's; other weights know none: --classes
gives a file with a name on each line, in the order of the classes.`,
		Example: `  lockstep predict --weights runs/mine cat.jpg holidays/
  lockstep predict --weights resnet50-11ad3fa6.pth --arch resnet50-v1.5 --classes imagenet.txt cat.jpg --json
  curl -s https://example.org/cat.jpg | lockstep predict --weights runs/mine -`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := loadSettings(cmd.Flags()); err != nil {
				return err
			}
			return o.run(cmd, args)
		},
	}
	f := cmd.Flags()
	for _, name := range append([]string{"precision"}, metaSettings...) {
		f.AddFlag(o.settings.flags.Lookup(name))
	}
	f.StringVar(&o.weights, "weights", "", weightsHelp)
	f.StringVar(&o.names, "classes", "", "file of class names, one a line, instead of those that came with the weights")
	f.IntVar(&o.top, "top", 5, "classes to print for each image")
	f.IntVar(&o.threads, "threads", 0, "cores; 0: all")
	f.BoolVar(&o.asJSON, "json", false, "print one JSON object")
	if err := cmd.MarkFlagRequired("weights"); err != nil {
		panic(err) // the flag is defined above
	}
	return cmd
}

func (o *predictOptions) run(cmd *cobra.Command, args []string) error {
	if o.top < 1 {
		return fmt.Errorf("--top %d: want 1 or more", o.top)
	}
	images, err := findImages(args)
	if err != nil {
		return err
	}
	t, err := openTrained(cmd, o.weights, o.settings)
	if err != nil {
		return err
	}
	if o.names != "" {
		if t.classes, err = readNames(o.names, t.net.Classes); err != nil {
			return err
		}
	}
	p, err := newPredictor(t, min(predictBatch, len(images)), o.top, o.threads)
	if err != nil {
		return err
	}
	defer p.engine.Close() // nothing is lost by it
	all, failed, err := p.predictAll(cmd, images, o.asJSON)
	if err != nil {
		return err
	}
	if o.asJSON {
		if err := printJSON(cmd.OutOrStdout(), map[string]any{"images": len(all), "predictions": all}); err != nil {
			return err
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d images could not be read", failed, len(all))
	}
	return nil
}

// predictAll classifies images batch by batch, prints each as it comes unless quiet, and counts those that could not be read.
func (p *predictor) predictAll(cmd *cobra.Command, images []string, quiet bool) (all []prediction, failed int, err error) {
	for some := range slices.Chunk(images, p.batch) {
		if cmd.Context().Err() != nil {
			return nil, 0, errInterrupted
		}
		got, err := p.predict(cmd, some)
		if err != nil {
			return nil, 0, err
		}
		for _, g := range got {
			if g.Error != "" {
				failed++
				fmt.Fprintf(cmd.ErrOrStderr(), "%s: %s\n", g.Image, g.Error)
			} else if !quiet {
				fmt.Fprintln(cmd.OutOrStdout(), g)
			}
		}
		all = append(all, got...)
	}
	return all, failed, nil
}

// String gives a line: the image, and its classes with their probabilities in per cent.
func (p prediction) String() string {
	var b strings.Builder
	b.WriteString(p.Image + ":")
	for i, g := range p.Top {
		if i > 0 {
			b.WriteByte(',')
		}
		name := g.Name
		if name == "" {
			name = fmt.Sprintf("class %d", g.Class)
		}
		fmt.Fprintf(&b, " %s %.1f %%", name, 100*g.Probability)
	}
	return b.String()
}

// predictor is a network ready for batches of images.
type predictor struct {
	*trained
	engine     core.Engine[float32]
	batch, top int
	decoder    shard.Decoder
	augmenter  *shard.Augmenter
	values     int // floats of an image
	images     []float32
	labels     []int32
	logits     []float32
}

func newPredictor(t *trained, batch, top, threads int) (*predictor, error) {
	if t.settings.pixelMean {
		return nil, errors.New("the run subtracted the mean of its training images at every pixel (--pixel-mean), which its weights do not hold: evaluate it with lockstep eval")
	}
	f := t.transform()
	if err := f.Validate(); err != nil {
		return nil, err
	}
	engine, err := evaluator(t.net, t.state, core.CompileConfig{Batch: batch, Resolution: f.Resolution, Threads: threads, Precision: core.Precision(t.settings.precision)})
	if err != nil {
		return nil, err
	}
	return &predictor{trained: t, engine: engine, batch: batch, top: min(top, t.net.Classes), augmenter: shard.NewAugmenter(f), values: f.Values(),
		images: make([]float32, batch*f.Values()), labels: make([]int32, batch), logits: make([]float32, batch*t.net.Classes)}, nil
}

// predict classifies up to a batch of images. One that cannot be read has its error in its place; an error is one of the engine.
func (p *predictor) predict(cmd *cobra.Command, paths []string) ([]prediction, error) {
	out := make([]prediction, len(paths))
	var good []int // of paths
	var img raster.Image
	for i, path := range paths {
		out[i].Image = path
		b, err := readImage(cmd.InOrStdin(), path)
		if err == nil {
			err = p.decoder.Decode(&img, b, shard.EncodedFile)
		}
		if err != nil {
			out[i].Error = err.Error()
			continue
		}
		p.augmenter.Apply(p.images[len(good)*p.values:][:p.values], &img, shard.Draw{})
		good = append(good, i)
	}
	n := len(good)
	if n == 0 {
		return out, nil
	}
	if err := p.engine.Eval(core.Batch{Images: p.images[:n*p.values], Labels: p.labels[:n]}, p.logits[:n*p.net.Classes]); err != nil {
		return nil, err
	}
	for k, i := range good {
		out[i].Top = p.best(p.logits[k*p.net.Classes:][:p.net.Classes])
	}
	return out, nil
}

// best gives the classes with the largest logits, and their probabilities by the softmax. Of equal ones the lower class comes first.
func (p *predictor) best(logits []float32) []guess {
	order := make([]int, len(logits))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(logits[b], logits[a]) })
	sum := 0.0
	for _, z := range logits {
		sum += math.Exp(float64(z) - float64(logits[order[0]]))
	}
	var out []guess
	for _, c := range order[:p.top] {
		g := guess{Class: c, Probability: math.Exp(float64(logits[c])-float64(logits[order[0]])) / sum, Logit: logits[c]}
		if c < len(p.classes) {
			g.Name = p.classes[c]
		}
		out = append(out, g)
	}
	return out
}

// readNames reads a file of class names.
func readNames(path string, classes int) ([]string, error) {
	text, err := readBounded(path, maxNames)
	if err != nil {
		return nil, err
	}
	var names []string
	for line := range strings.Lines(string(text)) {
		names = append(names, strings.TrimSpace(line))
	}
	for len(names) > 0 && names[len(names)-1] == "" {
		names = names[:len(names)-1]
	}
	if len(names) != classes {
		return nil, fmt.Errorf("--classes %s: it has %d lines, the network %d classes", path, len(names), classes)
	}
	return names, nil
}

const maxNames = 16 << 20 // bytes of a file of class names

// readBounded reads a file of up to so many bytes.
func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	b, err := readUpTo(f, limit)
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return b, nil
}
