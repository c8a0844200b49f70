package experiment

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Kind names an experiment.
type Kind string

// The experiments.
const (
	Degradation    Kind = "degradation"     // plain and residual networks of growing depth: Figures 4 and 6, Table 2
	Depth          Kind = "depth"           // residual networks of growing depth: Tables 3 and 6
	Shortcuts      Kind = "shortcuts"       // options A, B and C: Table 3
	LayerResponses Kind = "layer-responses" // standard deviation of each 3x3 layer's output: Figure 7
)

// Kinds lists the experiments.
var Kinds = []Kind{Degradation, Depth, Shortcuts, LayerResponses}

// Family says whose networks are trained.
type Family string

// The families.
const (
	CIFAR    Family = "cifar"    // 6n+2 layers for images of 32x32
	ImageNet Family = "imagenet" // 18 to 152 layers
)

// Options are what a user asks for. The zero value of a field stands for its default.
type Options struct {
	Kind   Kind
	Family Family  // CIFAR
	Recipe string  // cifar-paper or imagenet-paper, by the family
	Depths []int   // the paper's
	Data   string  // data set, as train takes it
	Budget float64 // share of the recipe's length, above 0; 1
	Steps  uint64  // length of each run instead
	Seed   uint64  // 1
	Extra  []string
}

// Plan is an experiment that is settled. It is kept in the experiment's folder, so that it can be gone on with.
type Plan struct {
	Kind     Kind      `json:"kind"`
	Family   Family    `json:"family"`
	Recipe   string    `json:"recipe"`
	Data     string    `json:"data"`
	Budget   float64   `json:"budget,omitempty"` // share of the recipe's length; 0 where that is not known
	Length   []string  `json:"length,omitempty"` // flags that make the recipe so long; none for its own length
	Seed     uint64    `json:"seed"`
	Extra    []string  `json:"extra,omitempty"` // further flags of every run
	Networks []Network `json:"networks"`
}

// Network is one network of an experiment.
type Network struct {
	Arch  string   `json:"arch"`
	Paper *Figures `json:"paper,omitempty"`
}

// length is how long a recipe trains, in steps or epochs, and where it divides the learning rate, in shares of that.
type length struct {
	steps, epochs float64
	divide        []float64
}

var recipes = map[string]length{
	"cifar-paper":     {steps: 64_000, divide: []float64{32. / 64, 48. / 64}},
	"imagenet-paper":  {steps: 600_000}, // where the error stands still
	"imagenet-modern": {epochs: 90, divide: []float64{30. / 90, 60. / 90}},
}

// depths are the paper's, by kind and family.
func (o Options) depths() []int {
	switch {
	case len(o.Depths) > 0:
		return o.Depths
	case o.Family == ImageNet:
		return map[Kind][]int{Degradation: {18, 34}, Depth: {18, 34, 50, 101, 152}, Shortcuts: {34}, LayerResponses: {18, 34}}[o.Kind]
	}
	return map[Kind][]int{Degradation: {20, 32, 44, 56, 110}, Depth: {20, 32, 44, 56, 110, 1202}, Shortcuts: {20}, LayerResponses: {20, 56, 110}}[o.Kind]
}

// archs lists the networks of a depth.
func (o Options) archs(depth int) []string {
	d := strconv.Itoa(depth)
	plain, residual := "cifar-plain"+d, "cifar-resnet"+d
	if o.Family == ImageNet {
		plain, residual = "plain"+d, "resnet"+d
	}
	switch o.Kind {
	case Degradation:
		if o.Family == ImageNet {
			residual += "-A" // so that no network has more parameters than its plain counterpart
		}
		return []string{plain, residual}
	case Shortcuts:
		return []string{residual + "-A", residual + "-B", residual + "-C"}
	case LayerResponses:
		if depth > 56 {
			return []string{residual} // Figure 7 has no plain network so deep
		}
		return []string{plain, residual}
	}
	return []string{residual}
}

// Plan settles what is left open, and reports every fault at once.
func (o Options) Plan() (*Plan, error) {
	if o.Family == "" {
		o.Family = CIFAR
	}
	if o.Recipe == "" {
		o.Recipe = string(o.Family) + "-paper"
	}
	if o.Budget == 0 {
		o.Budget = 1
	}
	if o.Seed == 0 {
		o.Seed = 1
	}
	if err := o.validate(); err != nil {
		return nil, err
	}
	p := &Plan{Kind: o.Kind, Family: o.Family, Recipe: o.Recipe, Data: o.Data, Budget: o.Budget, Seed: o.Seed, Extra: o.Extra}
	for _, d := range o.depths() {
		for _, arch := range o.archs(d) {
			p.Networks = append(p.Networks, Network{Arch: arch, Paper: paper(o.Kind, arch)})
		}
	}
	r := recipes[o.Recipe]
	if o.Steps > 0 {
		p.Budget = 0
		if r.steps > 0 {
			p.Budget = float64(o.Steps) / r.steps
		}
		p.Length = append([]string{"--steps", strconv.FormatUint(o.Steps, 10)}, r.schedule(p.Budget)...)
	} else if o.Budget != 1 {
		p.Length = append(r.flags(o.Budget), r.schedule(o.Budget)...)
	}
	return p, nil
}

func (o Options) validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if !slices.Contains(Kinds, o.Kind) {
		bad("experiment %q is unknown: there are %v", o.Kind, Kinds)
	}
	if o.Family != CIFAR && o.Family != ImageNet {
		bad("--family %s: want %s or %s", o.Family, CIFAR, ImageNet)
	}
	if _, ok := recipes[o.Recipe]; !ok {
		bad("--recipe %s is unknown", o.Recipe)
	}
	if !(o.Budget > 0) || math.IsInf(o.Budget, 1) {
		bad("--budget %v: want a positive share of the recipe's length, 1 for all of it", o.Budget)
	}
	if o.Steps > 0 && o.Budget != 1 {
		bad("give --budget or --steps, not both")
	}
	for i, d := range o.Depths {
		if d < 1 || slices.Contains(o.Depths[:i], d) {
			bad("--depths: %d is no depth, or is given twice", d)
		}
	}
	return errors.Join(errs...)
}

// flags make a run a share of the recipe's length.
func (l length) flags(budget float64) []string {
	if l.epochs > 0 {
		return []string{"--epochs", strconv.FormatFloat(l.epochs*budget, 'g', -1, 64)}
	}
	return []string{"--steps", strconv.FormatFloat(max(1, math.Round(l.steps*budget)), 'f', 0, 64)}
}

// schedule moves the points at which the rate is divided with the length: per cents of the run. A budget of 1 leaves the recipe's own.
func (l length) schedule(budget float64) []string {
	if len(l.divide) == 0 || budget == 1 {
		return nil
	}
	var at []string
	for _, d := range l.divide {
		at = append(at, strconv.FormatFloat(100*d, 'f', -1, 64)+"%")
	}
	return []string{"--schedule", "steps:" + strings.Join(at, ",")}
}

// Flags are the flags with which `lockstep train` trains a network of the experiment, but for its folder and workers.
func (p *Plan) Flags(n Network) []string {
	flags := []string{"--recipe", p.Recipe, "--arch", n.Arch, "--seed", strconv.FormatUint(p.Seed, 10), "--eval-every", p.evalEvery()}
	if p.Data != "" {
		flags = append(flags, "--data", p.Data)
	}
	return append(append(flags, p.Length...), p.Extra...)
}

// evalEvery is the distance between evaluations. Whole runs get a hundred. As short ones have the same test images to look at, they get
// fewer: an evaluation of CIFAR-10 takes as long as some 25 steps.
func (p *Plan) evalEvery() string {
	switch {
	case p.Budget >= 0.5:
		return "1%"
	case p.Budget >= 0.1:
		return "2%"
	case p.Budget >= 0.02 || p.Budget == 0:
		return "5%"
	}
	return "10%"
}

// Scope says in a few words how the runs differ from the recipe, for every plot and the report.
func (p *Plan) Scope() string {
	s := p.Recipe
	switch {
	case len(p.Networks) == 0:
		s = "given weights"
	case p.Budget == 1:
		s += ", whole length"
	case p.Budget > 0:
		s += fmt.Sprintf(", budget %.3g: %.3g %% of its length, learning rate divided as much earlier", p.Budget, 100*p.Budget)
	default:
		s += ", " + strings.Join(p.Length, " ")
	}
	if len(p.Extra) > 0 {
		s += "; " + strings.Join(p.Extra, " ")
	}
	return s
}
