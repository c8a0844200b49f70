package experiment

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"

	"github.com/lockstep-ml/lockstep/internal/runfolder"
)

// Finding is what training a network came to. Errors are in per cent; NaN stands for what is not known.
type Finding struct {
	Network
	Layers     int
	Parameters int
	Steps      uint64 // done
	TrainError float64
	TestError  float64 // after the last step
	BestError  float64 // of all evaluations
	Test5Error float64
	Curve      []Point
}

// Point is one evaluation.
type Point struct {
	Step       uint64
	TrainError float64 // mean over the steps since the point before, of images as they are trained on
	TestError  float64
}

// Find reads a finding from a run's figures.
func Find(n Network, layers int, run *runfolder.Run, rows []runfolder.Row) Finding {
	f := Finding{Network: n, Layers: layers, Parameters: run.Parameters, TrainError: math.NaN(), TestError: math.NaN(), BestError: math.NaN(), Test5Error: math.NaN()}
	wrong, steps := 0.0, 0.0
	for i, r := range rows {
		if r.TrainError != nil {
			wrong, steps, f.Steps = wrong+*r.TrainError, steps+1, r.Step
		}
		if !r.Evaluated() && i < len(rows)-1 {
			continue
		}
		p := Point{Step: r.Step, TrainError: 100 * wrong / steps, TestError: math.NaN()}
		if r.TestTop1 != nil {
			p.TestError = 100 * (1 - *r.TestTop1)
			f.TestError = p.TestError
			if !(f.BestError <= p.TestError) {
				f.BestError = p.TestError
			}
		}
		if r.TestTop5 != nil {
			f.Test5Error = 100 * (1 - *r.TestTop5)
		}
		f.TrainError = p.TrainError
		f.Curve = append(f.Curve, p)
		wrong, steps = 0, 0
	}
	return f
}

// text writes a number for a CSV file; what is not known stays empty.
func text(v float64) string {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return ""
	}
	return strconv.FormatFloat(v, 'g', 10, 64)
}

var resultHeads = []string{"network", "layers", "parameters", "steps", "train_error", "test_error", "best_test_error", "test_top5_error", "paper_top1_error", "paper_top5_error"}

// WriteResults writes a row for each network as CSV, errors in per cent.
func WriteResults(w io.Writer, found []Finding) error {
	c := csv.NewWriter(w)
	errs := []error{c.Write(resultHeads)}
	for _, f := range found {
		var paper Figures
		if f.Paper != nil {
			paper = *f.Paper
		}
		known := func(v float64) string {
			if v == 0 {
				return ""
			}
			return text(v)
		}
		errs = append(errs, c.Write([]string{f.Arch, strconv.Itoa(f.Layers), strconv.Itoa(f.Parameters), strconv.FormatUint(f.Steps, 10),
			text(f.TrainError), text(f.TestError), text(f.BestError), text(f.Test5Error), known(paper.Top1), known(paper.Top5)}))
	}
	c.Flush()
	return errors.Join(append(errs, c.Error())...)
}

var curveHeads = []string{"network", "step", "train_error", "test_error"}

// WriteCurves writes every point of every network as CSV.
func WriteCurves(w io.Writer, found []Finding) error {
	c := csv.NewWriter(w)
	errs := []error{c.Write(curveHeads)}
	for _, f := range found {
		for _, p := range f.Curve {
			errs = append(errs, c.Write([]string{f.Arch, strconv.FormatUint(p.Step, 10), text(p.TrainError), text(p.TestError)}))
		}
	}
	c.Flush()
	return errors.Join(append(errs, c.Error())...)
}

// ReadCurves reads what WriteCurves wrote: points by network, to ten digits.
func ReadCurves(r io.Reader) (map[string][]Point, error) {
	c := csv.NewReader(r)
	c.FieldsPerRecord = len(curveHeads)
	all, err := c.ReadAll()
	if err != nil {
		return nil, err
	}
	if len(all) == 0 || !slices.Equal(all[0], curveHeads) {
		return nil, fmt.Errorf("curves begin with %v", curveHeads)
	}
	out := map[string][]Point{}
	for i, record := range all[1:] {
		p := Point{TrainError: math.NaN(), TestError: math.NaN()}
		if p.Step, err = strconv.ParseUint(record[1], 10, 64); err != nil {
			return nil, fmt.Errorf("row %d: %w", i+2, err)
		}
		for k, to := range []*float64{&p.TrainError, &p.TestError} {
			if s := record[2+k]; s != "" {
				if *to, err = strconv.ParseFloat(s, 64); err != nil {
					return nil, fmt.Errorf("row %d: %w", i+2, err)
				}
			}
		}
		out[record[0]] = append(out[record[0]], p)
	}
	return out, nil
}
