package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lockstep-ml/lockstep/core/resnet"
	"github.com/lockstep-ml/lockstep/internal/experiment"
	"github.com/lockstep-ml/lockstep/internal/runfolder"
	"github.com/lockstep-ml/lockstep/internal/vfs"
)

// experimentOptions are the flags of one `lockstep experiment` command.
type experimentOptions struct {
	experiment.Options
	family    string
	out       string
	workers   int
	resume    bool
	asJSON    bool
	responses responseOptions
}

// planFlags say what is trained; an experiment that is gone on with has them in its folder.
var planFlags = []string{"family", "recipe", "depths", "data", "budget", "steps", "seed"}

func experimentCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "experiment",
		Short: "The experiments of the paper: train several networks and compare them",
		Long: `Trains networks one after another, each as 'lockstep train' would, and sets what came of it beside the paper's figures: as CSV, as SVG and PNG,
and as a report. An experiment that was interrupted or killed goes on with --resume, from the checkpoint of the run in progress.
Whatever follows -- is passed on to every run.`,
	}
	for _, c := range []struct {
		kind         experiment.Kind
		short, lines string
	}{
		{experiment.Degradation, "Plain against residual networks of growing depth (Figures 4 and 6, Table 2)",
			"  lockstep experiment degradation --data cifar10.tar.gz --out runs/degradation\n  lockstep experiment degradation --family imagenet --data /data/imagenet --out runs/fig4"},
		{experiment.Depth, "Residual networks of growing depth (Table 6; Table 3 for ImageNet)",
			"  lockstep experiment depth --data cifar10.tar.gz --depths 20,56,110 --budget 0.1 --out runs/depth -- --precision bf16"},
		{experiment.Shortcuts, "Shortcuts of options A, B and C (Table 3)",
			"  lockstep experiment shortcuts --family imagenet --data /data/imagenet --out runs/shortcuts"},
		{experiment.LayerResponses, "Standard deviation of each 3x3 layer's output (Figure 7)",
			"  lockstep experiment layer-responses --data cifar10.tar.gz --out runs/fig7\n  lockstep experiment layer-responses --weights r20.safetensors --arch cifar-resnet20 --data cifar10.tar.gz --out runs/fig7"},
	} {
		cmd.AddCommand(oneExperiment(c.kind, c.short, c.lines))
	}
	return cmd
}

func oneExperiment(kind experiment.Kind, short, example string) *cobra.Command {
	o := &experimentOptions{Options: experiment.Options{Kind: kind}}
	cmd := &cobra.Command{Use: string(kind), Short: short, Example: example, RunE: func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 && cmd.ArgsLenAtDash() != 0 {
			return fmt.Errorf("%q is no flag: what every run is to be given goes behind --", args[0])
		}
		o.Extra = args
		if err := loadSettings(cmd.Flags()); err != nil {
			return err
		}
		return o.run(cmd)
	}}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&o.Data, "data", "builtin", "data set, as train takes it")
	f.StringVar(&o.family, "family", string(experiment.CIFAR), "whose networks: cifar or imagenet")
	f.StringVar(&o.Recipe, "recipe", "", "settings of every run: "+recipeNames()+"; empty: cifar-paper or imagenet-paper, by the family")
	f.IntSliceVar(&o.Depths, "depths", nil, "layers of the networks; empty: the paper's")
	f.Float64Var(&o.Budget, "budget", 1, "length of each run as a share of the recipe's; the learning rate is divided as much earlier")
	f.Uint64Var(&o.Steps, "steps", 0, "length of each run in steps, instead of --budget")
	f.Uint64Var(&o.Seed, "seed", 1, "seed of every run")
	f.StringVar(&o.out, "out", "", "folder of the experiment; empty: runs/KIND-TIME")
	f.IntVar(&o.workers, "workers", 1, "worker processes of each run; changes no bit")
	f.BoolVar(&o.resume, "resume", false, "go on with the experiment in --out")
	f.BoolVar(&o.asJSON, "json", false, "print one JSON object as the last line")
	if kind == experiment.LayerResponses {
		o.responses.addFlags(f)
	}
	return cmd
}

// run does the experiment, or what is left of it.
func (o *experimentOptions) run(cmd *cobra.Command) error {
	if o.out == "" && !o.resume {
		o.out = filepath.Join("runs", string(o.Kind)+"-"+time.Now().Format("20060102-150405"))
	}
	if o.out == "" {
		return errors.New("--resume needs --out, the folder of the experiment to go on with")
	}
	if o.workers < 1 {
		return fmt.Errorf("--workers %d: at least one", o.workers)
	}
	plan, err := o.plan(cmd)
	if err != nil {
		return err
	}
	lock, err := vfs.Lock(filepath.Join(o.out, "lock"))
	if err != nil {
		return fmt.Errorf("an experiment is writing to %s: wait for its end, or choose another --out: %w", o.out, err)
	}
	defer lock.Close() // the process's end would do it too
	fmt.Fprintf(cmd.ErrOrStderr(), "experiment %s: %s; output in %s\n", plan.Kind, plan.Scope(), o.out)
	found, err := o.train(cmd, plan)
	if err != nil {
		return err
	}
	if plan.Kind == experiment.LayerResponses {
		return o.respond(cmd, plan, found)
	}
	if err := plan.Write(vfs.OS{}, o.out, found); err != nil {
		return err
	}
	return o.report(cmd.OutOrStdout(), found)
}

// plan settles the experiment and keeps it in its folder, or takes it from there.
func (o *experimentOptions) plan(cmd *cobra.Command) (*experiment.Plan, error) {
	path := filepath.Join(o.out, experiment.PlanName)
	_, err := os.Stat(path)
	there := err == nil
	if there && !o.resume {
		return nil, fmt.Errorf("%s holds an experiment already: go on with it by --resume, or choose another --out", o.out)
	}
	fresh, err := o.settle()
	if err != nil {
		return nil, err
	}
	if !there {
		if o.resume {
			return nil, fmt.Errorf("%s holds no experiment to go on with: leave --resume out", o.out)
		}
		if err := os.MkdirAll(o.out, 0o755); err != nil {
			return nil, err
		}
		return fresh, vfs.WriteAtomic(vfs.OS{}, path, 0o644, func(w io.Writer) error {
			e := json.NewEncoder(w)
			e.SetIndent("", "  ")
			return e.Encode(fresh)
		})
	}
	var kept experiment.Plan
	if err := readJSON(path, &kept); err != nil {
		return nil, err
	}
	given := len(o.Extra) > 0 || kept.Kind != o.Kind
	for _, name := range planFlags {
		given = given || cmd.Flags().Changed(name)
	}
	if given && !reflect.DeepEqual(&kept, fresh) {
		return nil, fmt.Errorf("%s was begun with other flags (see %s): leave them out to go on with it, or choose another --out", o.out, path)
	}
	return &kept, nil
}

// settle makes a plan of the flags.
func (o *experimentOptions) settle() (*experiment.Plan, error) {
	o.Family = experiment.Family(o.family)
	if o.Recipe != "" && recipes[o.Recipe].source == "" {
		return nil, fmt.Errorf("--recipe %s is unknown: the recipes are %s", o.Recipe, recipeNames())
	}
	if o.Data != "" && o.Data != "builtin" {
		abs, err := filepath.Abs(o.Data)
		if err != nil {
			return nil, err
		}
		o.Data = abs
	}
	if err := o.responses.check(); err != nil {
		return nil, err
	}
	plan, err := o.Options.Plan()
	if err != nil {
		return nil, err
	}
	if o.responses.given() {
		plan.Networks = nil
	}
	for _, n := range plan.Networks {
		if _, err := resnet.Parse(n.Arch); err != nil {
			return nil, fmt.Errorf("--depths: %w", err)
		}
	}
	return plan, nil
}

// train trains what is not trained yet, and gives what came of all.
func (o *experimentOptions) train(cmd *cobra.Command, plan *experiment.Plan) ([]experiment.Finding, error) {
	var found []experiment.Finding
	for i, n := range plan.Networks {
		dir := o.runDir(n.Arch)
		run, err := runfolder.ReadRun(dir)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		if err != nil || !run.Done() {
			fmt.Fprintf(cmd.ErrOrStderr(), "run %d of %d: %s\n", i+1, len(plan.Networks), n.Arch)
			if err := o.trainOne(cmd, plan.Flags(n), dir); err != nil {
				return nil, fmt.Errorf("experiment %s, run %d of %d, %s: %w; go on with: lockstep experiment %s --resume --out %s",
					plan.Kind, i+1, len(plan.Networks), n.Arch, err, plan.Kind, o.out)
			}
		}
		f, err := findingOf(plan, n, dir)
		if err != nil {
			return nil, err
		}
		found = append(found, f)
		if plan.Kind != experiment.LayerResponses {
			if err := plan.Write(vfs.OS{}, o.out, found); err != nil { // so that an experiment of days can be looked at
				return nil, err
			}
		}
	}
	return found, nil
}

func (o *experimentOptions) runDir(arch string) string { return filepath.Join(o.out, "runs", arch) }

// trainOne runs `lockstep train` to its end. An interruption is passed on, and the run ends in good order.
func (o *experimentOptions) trainOne(cmd *cobra.Command, flags []string, dir string) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding this program: %w", err)
	}
	args := append([]string{"train", "--out", dir, "--continue", "--workers", strconv.Itoa(o.workers)}, flags...)
	train := exec.CommandContext(cmd.Context(), self, args...)
	train.Stdout, train.Stderr = cmd.ErrOrStderr(), cmd.ErrOrStderr()
	train.SysProcAttr = childAttributes() // Ctrl-C reaches this process alone, which passes it on once
	train.Cancel = func() error { return train.Process.Signal(os.Interrupt) }
	train.WaitDelay = interruptPatience
	err = train.Run()
	if cause := context.Cause(cmd.Context()); err != nil && cause != nil {
		return errInterrupted
	}
	return err
}

// interruptPatience is how long a run may take to store its state and end once it was interrupted.
const interruptPatience = 2 * time.Minute

// sameRun compares a run with what the plan would have trained: somebody else may have put it there, as the runs of a cluster are.
func sameRun(plan *experiment.Plan, n experiment.Network, run *runfolder.Run) error {
	want := newSettings()
	flags := plan.Flags(n)
	want.flags.ParseErrorsAllowlist.UnknownFlags = true // those of train alone
	if err := want.flags.Parse(flags); err != nil {
		return err
	}
	if _, err := applyRecipe(want); err != nil {
		return err
	}
	var errs []error
	for _, name := range []string{"recipe", "arch", "seed", "batch", "replica-batch", "lr", "schedule", "warmup", "momentum", "weight-decay", "augment", "precision", "wire"} {
		if w, has := want.flags.Lookup(name).Value.String(), run.Settings[name]; w != has {
			errs = append(errs, fmt.Errorf("it was trained with --%s %q, not %q", name, has, w))
		}
	}
	if want.steps > 0 && run.Steps != want.steps {
		errs = append(errs, fmt.Errorf("it has %d steps, not %d", run.Steps, want.steps))
	}
	return errors.Join(errs...)
}

// findingOf reads what a run came to.
func findingOf(plan *experiment.Plan, n experiment.Network, dir string) (f experiment.Finding, err error) {
	run, err := runfolder.ReadRun(dir)
	if err != nil {
		return f, err
	}
	if err := sameRun(plan, n, run); err != nil {
		return f, fmt.Errorf("the run in %s is not this experiment's: %w", dir, err)
	}
	rows, err := runfolder.ReadMetrics(filepath.Join(dir, runfolder.MetricsName))
	if err != nil {
		return f, err
	}
	layers, err := strconv.Atoi(strings.TrimLeft(strings.SplitN(strings.TrimPrefix(n.Arch, "cifar-"), "-", 2)[0], "resntplai"))
	if err != nil {
		return f, fmt.Errorf("network %s: %w", n.Arch, err)
	}
	return experiment.Find(n, layers, run, rows), nil
}

// experimentReport is the last line of --json.
type experimentReport struct {
	Kind     experiment.Kind    `json:"experiment"`
	Out      string             `json:"out"`
	Report   string             `json:"report"`
	Networks []experimentResult `json:"networks"`
}

type experimentResult struct {
	Network    string   `json:"network"`
	Steps      uint64   `json:"steps"`
	TrainError *float64 `json:"train_error,omitempty"` // per cent
	TestError  *float64 `json:"test_error,omitempty"`
	PaperError *float64 `json:"paper_error,omitempty"`
	MeanStd    *float64 `json:"mean_std,omitempty"` // of layer responses
}

func (o *experimentOptions) report(w io.Writer, found []experiment.Finding) error {
	r := experimentReport{Kind: o.Kind, Out: o.out, Report: filepath.Join(o.out, experiment.ReportName)}
	for _, f := range found {
		e := experimentResult{Network: f.Arch, Steps: f.Steps, TrainError: runfolder.Known(f.TrainError), TestError: runfolder.Known(f.TestError)}
		if f.Paper != nil && f.Paper.Top1 > 0 {
			e.PaperError = &f.Paper.Top1
		}
		r.Networks = append(r.Networks, e)
	}
	return o.print(w, r)
}

func (o *experimentOptions) print(w io.Writer, r experimentReport) error {
	if o.asJSON {
		return printJSON(w, r)
	}
	_, err := fmt.Fprintf(w, "%s: %d networks, report in %s\n", r.Kind, len(r.Networks), r.Report)
	return err
}
