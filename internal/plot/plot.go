package plot

import (
	"fmt"
	"image/color"
	"io"
	"math"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
	"gonum.org/v1/plot/vg/vgsvg"

	"github.com/lockstep-ml/lockstep/internal/vfs"
)

// Line is a curve. Points that are no finite numbers are left out.
type Line struct {
	Label  string // in the legend; empty: not there
	X, Y   []float64
	Dashed bool
	Bold   bool
	Points bool // mark the points
	Color  int  // lines of one number have one colour
}

// Chart is a picture of lines. Its size is fixed, so that charts can be laid side by side.
type Chart struct {
	Title, X, Y string
	Note        string  // a second line of the title, for what the reader must know
	YMin, YMax  float64 // both 0: what the lines need
	LogX        bool
	Ticks       map[float64]string // of the x axis, if they are not to be chosen
	Lines       []Line
}

// Width and Height are a chart's size; DPI is the resolution of its PNG.
const (
	Width  = 8 * vg.Inch
	Height = 5 * vg.Inch
	DPI    = 120
)

// colours are Okabe and Ito's, which the colour-blind can tell apart.
var colours = []color.Color{
	color.RGBA{R: 0, G: 114, B: 178, A: 255}, color.RGBA{R: 213, G: 94, B: 0, A: 255}, color.RGBA{R: 0, G: 158, B: 115, A: 255},
	color.RGBA{R: 204, G: 121, B: 167, A: 255}, color.RGBA{R: 230, G: 159, B: 0, A: 255}, color.RGBA{R: 86, G: 180, B: 233, A: 255},
	color.RGBA{A: 255}, color.RGBA{R: 120, G: 120, B: 120, A: 255},
}

// Write draws the chart into base.svg and base.png.
func (c Chart) Write(fsys vfs.FS, base string) error {
	p, err := c.draw()
	if err != nil {
		return fmt.Errorf("plot %s: %w", base, err)
	}
	svg := vgsvg.New(Width, Height)
	p.Draw(draw.New(svg))
	if err := write(fsys, base+".svg", svg); err != nil {
		return err
	}
	img := vgimg.PngCanvas{Canvas: vgimg.NewWith(vgimg.UseWH(Width, Height), vgimg.UseDPI(DPI))}
	p.Draw(draw.New(img))
	return write(fsys, base+".png", img)
}

func write(fsys vfs.FS, path string, from io.WriterTo) error {
	return vfs.WriteAtomic(fsys, path, 0o644, func(w io.Writer) error {
		_, err := from.WriteTo(w)
		return err
	})
}

func (c Chart) draw() (*plot.Plot, error) {
	p := plot.New()
	p.Title.Text = c.Title
	if c.Note != "" {
		p.Title.Text += "\n" + c.Note
	}
	p.Title.Padding = vg.Points(6)
	p.X.Label.Text, p.Y.Label.Text = c.X, c.Y
	p.BackgroundColor = color.White
	p.Legend.Top, p.Legend.Padding = true, vg.Points(2)
	grid := plotter.NewGrid()
	grid.Vertical.Color, grid.Horizontal.Color = color.Gray{Y: 225}, color.Gray{Y: 225}
	p.Add(grid)
	points := 0
	for _, l := range c.Lines {
		n, err := l.add(p, c.LogX)
		if err != nil {
			return nil, fmt.Errorf("line %q: %w", l.Label, err)
		}
		points += n
	}
	if points == 0 { // axes without a range cannot be drawn
		p.X.Min, p.X.Max, p.Y.Min, p.Y.Max = 1, 2, 0, 1
	}
	c.scale(p)
	return p, nil
}

// scale settles the axes once the lines have said what they need.
func (c Chart) scale(p *plot.Plot) {
	if c.YMin != 0 || c.YMax != 0 {
		p.Y.Min, p.Y.Max = c.YMin, c.YMax
	}
	if p.Y.Min == p.Y.Max {
		p.Y.Max++
	}
	if p.X.Min == p.X.Max {
		p.X.Max++
	}
	if c.LogX {
		p.X.Scale, p.X.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
	}
	if c.Ticks != nil {
		var ticks plot.ConstantTicks
		for v, label := range c.Ticks {
			ticks = append(ticks, plot.Tick{Value: v, Label: label})
		}
		p.X.Tick.Marker = ticks
	}
}

// add draws the line's finite points and gives their number.
func (l Line) add(p *plot.Plot, logX bool) (int, error) {
	if len(l.X) != len(l.Y) {
		return 0, fmt.Errorf("%d places for %d values", len(l.X), len(l.Y))
	}
	var xys plotter.XYs
	for i, x := range l.X {
		if finite(x) && finite(l.Y[i]) && (x > 0 || !logX) {
			xys = append(xys, plotter.XY{X: x, Y: l.Y[i]})
		}
	}
	if len(xys) == 0 {
		return 0, nil
	}
	line, marks, err := plotter.NewLinePoints(xys)
	if err != nil {
		return 0, err
	}
	line.Color, line.Width = colours[l.Color%len(colours)], vg.Points(1)
	if l.Bold {
		line.Width = vg.Points(2)
	}
	if l.Dashed {
		line.Dashes = []vg.Length{vg.Points(4), vg.Points(3)}
	}
	p.Add(line)
	if l.Points || len(xys) == 1 {
		marks.Color, marks.Shape, marks.Radius = line.Color, draw.CircleGlyph{}, vg.Points(2.5)
		p.Add(marks)
	}
	if l.Label != "" {
		p.Legend.Add(l.Label, line)
	}
	return len(xys), nil
}

func finite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }
