package experiment

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/lockstep-ml/lockstep/internal/vfs"
)

// The files of an experiment's folder.
const (
	PlanName      = "experiment.json"
	ResultsName   = "results.csv"
	CurvesName    = "curves.csv"
	ResponsesName = "responses.csv"
	ReportName    = "report.md"
)

// Write writes tables, charts and report of what was found so far into the experiment's folder.
func (p *Plan) Write(fsys vfs.FS, dir string, found []Finding) error {
	return errors.Join(
		vfs.WriteAtomic(fsys, filepath.Join(dir, ResultsName), 0o644, func(w io.Writer) error { return WriteResults(w, found) }),
		vfs.WriteAtomic(fsys, filepath.Join(dir, CurvesName), 0o644, func(w io.Writer) error { return WriteCurves(w, found) }),
		drawAll(fsys, dir, p.pictures(found)),
		p.writeReport(fsys, dir, p.trainedSection(found)),
	)
}

// WriteResponses does so for layer responses. found is empty where the weights were given.
func (p *Plan) WriteResponses(fsys vfs.FS, dir string, found []Finding, all []Responses) error {
	section := p.responseSection(all)
	if len(found) > 0 {
		section += "\n" + p.trainedSection(found)
	}
	return errors.Join(
		vfs.WriteAtomic(fsys, filepath.Join(dir, ResponsesName), 0o644, func(w io.Writer) error { return writeResponses(w, all) }),
		drawAll(fsys, dir, p.responsePictures(all)),
		p.writeReport(fsys, dir, section),
	)
}

func (p *Plan) writeReport(fsys vfs.FS, dir, body string) error {
	head := fmt.Sprintf("# %s\n\nRuns: %s. Data: %s.", p.Kind, p.Scope(), p.dataName())
	if len(p.Networks) > 0 {
		head += fmt.Sprintf(" Seed: %d.", p.Seed)
	}
	head += "\n"
	if len(p.Networks) > 0 && p.Budget != 1 {
		head += "\n**The runs are not of the paper's length: what follows shows tendencies, not the paper's figures.**\n"
	}
	return vfs.WriteAtomic(fsys, filepath.Join(dir, ReportName), 0o644, func(w io.Writer) error {
		_, err := io.WriteString(w, head+"\n"+body)
		return err
	})
}

func (p *Plan) dataName() string {
	if p.Data == "" {
		return "builtin"
	}
	return filepath.Base(p.Data)
}

// cell writes an error for a table.
func cell(v float64) string {
	if math.IsNaN(v) {
		return "-"
	}
	return strconv.FormatFloat(v, 'f', 2, 64)
}

func (p *Plan) trainedSection(found []Finding) string {
	var b strings.Builder
	if n := len(p.Networks) - len(found); n > 0 {
		fmt.Fprintf(&b, "Networks still to be trained: %d of %d.\n\n", n, len(p.Networks))
	}
	b.WriteString("| network | layers | parameters | steps | training error, % | test error, % | best test error, % | top-5 error, % | the paper's test error, % |\n|---|---|---|---|---|---|---|---|---|\n")
	for _, f := range found {
		fmt.Fprintf(&b, "| %s | %d | %d | %d | %s | %s | %s | %s | %s |\n", f.Arch, f.Layers, f.Parameters, f.Steps,
			cell(f.TrainError), cell(f.TestError), cell(f.BestError), cell(f.Test5Error), f.Paper)
	}
	b.WriteString("\nTraining error is the mean over the last stretch of steps, of images as they are trained on; test error is of one view of each image, after the last step.\n")
	if p.Family == ImageNet {
		b.WriteString("The paper's are of ten crops, which have a lower error than one.\n")
	}
	b.WriteString("\n" + p.verdict(found))
	for _, pic := range p.pictures(found) {
		fmt.Fprintf(&b, "\n![%s](%s.svg)\n", pic.name, pic.name)
	}
	return b.String()
}

// verdict says in words whether what the paper found was found here.
func (p *Plan) verdict(found []Finding) string {
	if p.Kind != Degradation {
		return ""
	}
	var b strings.Builder
	for _, kind := range []string{"plain", "resnet"} {
		of := slices.DeleteFunc(slices.Clone(found), func(f Finding) bool { return !strings.Contains(f.Arch, kind) })
		if len(of) < 2 {
			continue
		}
		first, last := of[0], of[len(of)-1]
		fmt.Fprintf(&b, "- From %s to %s the training error goes from %s to %s %%, the test error from %s to %s %%.\n", first.Arch, last.Arch,
			cell(first.TrainError), cell(last.TrainError), cell(first.TestError), cell(last.TestError))
	}
	if b.Len() == 0 {
		return ""
	}
	return "The paper finds that a deeper plain network has the *higher* training error, and a deeper residual one the lower. Here:\n\n" + b.String()
}

func (p *Plan) responseSection(all []Responses) string {
	var b strings.Builder
	b.WriteString("Standard deviation of each 3x3 layer's output, after batch normalisation and before ReLU or sum, on test images with running statistics.\n\n")
	b.WriteString("| network | weights | 3x3 layers | mean of the standard deviations | smallest | largest |\n|---|---|---|---|---|---|\n")
	for _, r := range all {
		if len(r.Std) == 0 {
			continue
		}
		fmt.Fprintf(&b, "| %s | %s | %d | %.4f | %.4f | %.4f |\n", r.Arch, r.Weights, len(r.Std), mean(r.Std), slices.Min(r.Std), slices.Max(r.Std))
	}
	b.WriteString("\nThe paper prints curves and no figures (Figure 7): residual networks have smaller responses than their plain counterparts, and deeper residual networks smaller ones still.\n")
	for _, pic := range p.responsePictures(all) {
		fmt.Fprintf(&b, "\n![%s](%s.svg)\n", pic.name, pic.name)
	}
	return b.String()
}

// writeResponses writes a row for each layer as CSV: its place in the network, and in the order of size, both from 1.
func writeResponses(w io.Writer, all []Responses) error {
	c := csv.NewWriter(w)
	errs := []error{c.Write([]string{"network", "layer", "name", "std", "rank"})}
	for _, r := range all {
		for i, v := range r.Std {
			rank := 1
			for k, o := range r.Std {
				if o > v || o == v && k < i {
					rank++
				}
			}
			errs = append(errs, c.Write([]string{r.Arch, strconv.Itoa(i + 1), r.Layers[i], text(v), strconv.Itoa(rank)}))
		}
	}
	c.Flush()
	return errors.Join(append(errs, c.Error())...)
}

// sorted gives the values from the largest to the smallest.
func sorted(values []float64) []float64 {
	out := slices.Clone(values)
	slices.Sort(out)
	slices.Reverse(out)
	return out
}
