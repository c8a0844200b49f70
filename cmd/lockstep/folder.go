package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/lockstep-ml/lockstep/coordinator"
	"github.com/lockstep-ml/lockstep/coordinator/server"
	"github.com/lockstep-ml/lockstep/internal/plot"
	pb "github.com/lockstep-ml/lockstep/internal/proto/lockstep/v1"
	"github.com/lockstep-ml/lockstep/internal/runfolder"
	"github.com/lockstep-ml/lockstep/internal/vfs"
)

// trainingPlot is the base name of a run's curves.
const trainingPlot = "training"

// folder keeps what a run's folder says of the run. Its methods are called by the server's goroutine, but for bestKept's.
type folder struct {
	dir     string
	metrics *runfolder.MetricsWriter
	run     *runfolder.Run
	best    *bestKept
	epoch   float64         // steps of one
	hosts   map[string]bool // that workers were on
}

// openFolder takes the folder over; without --resume what an earlier run has left there gets other names.
func (p *prepared) openFolder(o *runOptions) (*folder, error) {
	f := &folder{dir: o.out, epoch: p.perEpoch, hosts: map[string]bool{}, run: &runfolder.Run{}}
	if o.resume {
		run, err := runfolder.ReadRun(o.out)
		if err == nil {
			f.run = run
		} else if !errors.Is(err, os.ErrNotExist) { // a run of an earlier version has none
			return nil, err
		}
	} else if err := p.setFolderAside(o.out); err != nil {
		return nil, err
	}
	var err error
	if f.best, err = openBest(o.out); err != nil {
		return nil, err
	}
	f.metrics, err = runfolder.OpenMetrics(vfs.OS{}, o.out)
	return f, err
}

// setFolderAside gives what this file writes the first free number, all the same one.
func (p *prepared) setFolderAside(dir string) error {
	names := []string{runfolder.RunName, runfolder.MetricsName, runfolder.TableName, bestName, bestRecordName, lastName, trainingPlot + ".svg", trainingPlot + ".png"}
	for _, name := range names {
		if err := p.setAside(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}

// begin writes down what is about to be trained, and where.
func (f *folder) begin(p *prepared, o *runOptions) error {
	r := f.run
	r.Recipe, r.Settings, r.Data, r.DataHash = p.settings.recipe, p.settings.values(), p.summary, p.record.Data
	r.Parameters, r.Steps, r.Result = p.network.ParamLen(), p.total, nil
	r.Starts = append(r.Starts, runfolder.Start{Time: time.Now().UTC().Truncate(time.Second), FromStep: p.initial.Step, Workers: o.workers, Environment: runfolder.Here(buildVersion())})
	return r.Write(vfs.OS{}, f.dir)
}

// trained takes a worker's report of a step.
func (f *folder) trained(r coordinator.StepReport) {
	if r.Images == 0 || r.Step == 0 {
		return
	}
	row := runfolder.Row{Step: r.Step, Epoch: float64(r.Step) / f.epoch, LR: runfolder.Known(r.LR), TrainLoss: runfolder.Known(r.Loss),
		TrainError: runfolder.Known(1 - float64(r.Correct1)/float64(r.Images))}
	if took := r.End.Sub(r.Start).Seconds(); took > 0 {
		row.ImagesPerSecond = runfolder.Known(float64(r.Images) / took)
	}
	f.metrics.Trained(r.Generation, row)
}

// evaluated takes an evaluation.
func (f *folder) evaluated(e coordinator.Evaluation) {
	if e.Images == 0 || e.Step == 0 {
		return
	}
	f.metrics.Evaluated(runfolder.Row{Step: e.Step, Epoch: float64(e.Step) / f.epoch, TestLoss: runfolder.Known(e.Loss),
		TestTop1: runfolder.Known(e.Top1()), TestTop5: runfolder.Known(float64(e.Correct5) / float64(e.Images))})
	f.best.evaluated(e)
}

// locate notes the hosts that workers are on.
func (f *folder) locate(s *server.Server) {
	st, err := s.Status(context.Background(), &pb.StatusRequest{}) //bounded: it reads a snapshot and waits for nothing
	if err != nil {
		return
	}
	for _, m := range st.Members {
		if host, _, err := net.SplitHostPort(m.RingAddress); err == nil {
			f.hosts[host] = true
		}
	}
}

// finish writes what the run came to: run.json, the table of metrics and the curves. failed is why the run ended early, if it did.
func (f *folder) finish(res server.Result, failed error) error {
	out := &runfolder.Result{Step: res.Step, Hash: res.Hash, Loss: runfolder.Known(res.Loss), ImagesPerSecond: runfolder.Known(res.ImagesPerSecond), Hosts: len(f.hosts)}
	if e := res.Evaluation; e != nil && e.Images > 0 {
		out.TestLoss, out.TestTop1, out.TestTop5 = runfolder.Known(e.Loss), runfolder.Known(e.Top1()), runfolder.Known(float64(e.Correct5)/float64(e.Images))
	}
	last := res.Step
	var interrupted *coordinator.InterruptedError
	if failed != nil {
		out.Error = failed.Error()
		if !errors.As(failed, &interrupted) {
			last = f.run.Steps // what came before the failure is of interest, though it was not kept
		}
	}
	f.run.Result = out
	rows, err := f.metrics.Finish(last)
	if err == nil {
		err = f.curves(rows)
	}
	if res.Path != "" {
		err = errors.Join(err, linkOver(res.Path, filepath.Join(f.dir, lastName)))
	}
	return errors.Join(err, f.run.Write(vfs.OS{}, f.dir))
}

// curves draws training and test error over the steps.
func (f *folder) curves(rows []runfolder.Row) error {
	train, test := plot.Line{Label: "training error", Dashed: true}, plot.Line{Label: "test error", Bold: true, Color: 1}
	for _, r := range runfolder.Thin(rows, max(1, uint64(len(rows))/plotPoints)) {
		if r.TrainError != nil {
			train.X, train.Y = append(train.X, float64(r.Step)), append(train.Y, 100**r.TrainError)
		}
		if r.TestTop1 != nil {
			test.X, test.Y = append(test.X, float64(r.Step)), append(test.Y, 100*(1-*r.TestTop1))
		}
	}
	s := f.run.Settings
	note := strings.TrimSpace(fmt.Sprintf("%s, batch %s, LR %s, %s %s", f.run.Recipe, s["batch"], s["lr"], s["schedule"], s["warmup"]))
	c := plot.Chart{Title: s["arch"], Note: strings.TrimPrefix(note, ", "), X: "step", Y: "error, %", Lines: []plot.Line{train, test}}
	return c.Write(vfs.OS{}, filepath.Join(f.dir, trainingPlot))
}

// plotPoints is about how many points a curve has: more cannot be seen.
const plotPoints = 300
