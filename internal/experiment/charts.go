package experiment

import (
	"fmt"
	"math"
	"path/filepath"
	"strings"

	"github.com/lockstep-ml/lockstep/internal/plot"
	"github.com/lockstep-ml/lockstep/internal/vfs"
)

// picture is a chart and the base name of its files.
type picture struct {
	name  string
	chart plot.Chart
}

// pictures are the experiment's charts.
func (p *Plan) pictures(found []Finding) []picture {
	isPlain := func(f Finding) bool { return strings.Contains(f.Arch, "plain") }
	not := func(is func(Finding) bool) func(Finding) bool { return func(f Finding) bool { return !is(f) } }
	switch p.Kind {
	case Degradation:
		return []picture{
			{"plain", p.curves("plain networks", found, isPlain)},
			{"residual", p.curves("residual networks", found, not(isPlain))},
		}
	case Depth:
		return []picture{{"curves", p.curves("residual networks by depth", found, nil)}, {"depth", p.byDepth(found)}}
	}
	return []picture{{"curves", p.curves(string(p.Kind), found, nil)}}
}

// curves is a chart in the manner of Figures 4 and 6: training error dashed, test error bold, a colour for each network.
func (p *Plan) curves(title string, found []Finding, choose func(Finding) bool) plot.Chart {
	c := plot.Chart{Title: title, Note: p.Scope(), X: "step", Y: "error, %"}
	for _, f := range found {
		if choose != nil && !choose(f) {
			continue
		}
		colour := len(c.Lines) / 2
		train, test := plot.Line{Label: f.Arch + ", training", Dashed: true, Color: colour}, plot.Line{Label: f.Arch + ", test", Bold: true, Color: colour}
		for _, pt := range f.Curve {
			x := float64(pt.Step)
			train.X, train.Y = append(train.X, x), append(train.Y, pt.TrainError)
			test.X, test.Y = append(test.X, x), append(test.Y, pt.TestError)
		}
		c.Lines = append(c.Lines, train, test)
	}
	return c
}

// byDepth sets the test error over the number of layers, with the paper's beside it.
func (p *Plan) byDepth(found []Finding) plot.Chart {
	c := plot.Chart{Title: "test error by depth", Note: p.Scope(), X: "layers", Y: "test error, %", LogX: true}
	here, paper := plot.Line{Label: "measured", Bold: true, Points: true}, plot.Line{Label: "the paper's, whole length", Dashed: true, Points: true, Color: 1}
	c.Ticks = map[float64]string{}
	for _, f := range found {
		x := float64(f.Layers)
		c.Ticks[x] = fmt.Sprint(f.Layers)
		here.X, here.Y = append(here.X, x), append(here.Y, f.TestError)
		if f.Paper != nil && f.Paper.Top1 > 0 {
			paper.X, paper.Y = append(paper.X, x), append(paper.Y, f.Paper.Top1)
		}
	}
	c.Lines = []plot.Line{here, paper}
	return c
}

// Responses are the standard deviations of a network's 3x3 layers, in the network's order.
type Responses struct {
	Arch    string
	Weights string // where they come from, in words
	Layers  []string
	Std     []float64
}

// responsePictures are the two halves of Figure 7: in the layers' order, and in that of size.
func (p *Plan) responsePictures(all []Responses) []picture {
	chart := func(title, x string, pick func(Responses) []float64) plot.Chart {
		c := plot.Chart{Title: title, Note: p.Scope(), X: x, Y: "standard deviation"}
		for i, r := range all {
			l := plot.Line{Label: r.Arch, Color: i, Dashed: strings.Contains(r.Arch, "plain"), Bold: !strings.Contains(r.Arch, "plain"), Y: pick(r)}
			for k := range l.Y {
				l.X = append(l.X, float64(k+1))
			}
			c.Lines = append(c.Lines, l)
		}
		return c
	}
	return []picture{
		{"responses", chart("layer responses", "layer", func(r Responses) []float64 { return r.Std })},
		{"responses-sorted", chart("layer responses, by size", "layer, sorted by size", func(r Responses) []float64 { return sorted(r.Std) })},
	}
}

func drawAll(fsys vfs.FS, dir string, pictures []picture) error {
	for _, pic := range pictures {
		if err := pic.chart.Write(fsys, filepath.Join(dir, pic.name)); err != nil {
			return err
		}
	}
	return nil
}

// mean of what is known; NaN without any.
func mean(values []float64) float64 {
	sum, n := 0.0, 0.0
	for _, v := range values {
		if !math.IsNaN(v) {
			sum, n = sum+v, n+1
		}
	}
	return sum / n
}
