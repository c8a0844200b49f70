package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/lockstep-ml/lockstep/core"
	"github.com/lockstep-ml/lockstep/core/cpu"
	"github.com/lockstep-ml/lockstep/core/resnet"
)

// modelRow is a layer of the table that `lockstep model` prints.
type modelRow struct {
	Name         string `json:"name"`
	Op           string `json:"op"`
	Shape        [3]int `json:"shape"` // C, H, W of its output
	Kernel       int    `json:"kernel,omitempty"`
	Stride       int    `json:"stride,omitempty"`
	Parameters   int    `json:"parameters"`
	MultiplyAdds int64  `json:"multiply_adds"`
}

type modelTable struct {
	Network      string     `json:"network"`
	Resolution   int        `json:"resolution"`
	Classes      int        `json:"classes"`
	Layers       []modelRow `json:"layers"`
	Parameters   int        `json:"parameters"`
	MultiplyAdds int64      `json:"multiply_adds"`

	Memory *modelMemory `json:"memory,omitempty"` // for a batch
}

// modelMemory is what the CPU engine takes for a batch: a worker with one replica, or an evaluation.
type modelMemory struct {
	Batch      int   `json:"batch"`
	Eval       bool  `json:"eval"`
	Arena      int64 `json:"arena_bytes"`
	Weights    int64 `json:"weights_bytes"`
	Momentum   int64 `json:"momentum_bytes"`
	Gradients  int64 `json:"gradients_bytes"`
	LaidOut    int64 `json:"laid_out_bytes"`
	Statistics int64 `json:"statistics_bytes"`
	Total      int64 `json:"total_bytes"`
}

func modelCommand() *cobra.Command {
	var classes, resolution, batch int
	var asJSON, eval bool
	cmd := &cobra.Command{
		Use:   "model NAME",
		Short: "Print a network's layers, shapes, parameters and multiply-adds, and the memory that a batch takes",
		Long: "Names: " + resnet.Grammar + "\n\nMultiply-adds are counted as in the paper's Table 1: one for each weight used at each place, convolutions and fc.\n\n" +
			"With --batch, the CPU engine's memory is planned, not taken: that of a worker with one replica of so many images, or with --eval that of an " +
			"evaluation. A worker that hosts more replicas takes the gradients again for each; images being read and decoded come on top.",
		Example: `  lockstep model resnet50
  lockstep model cifar-resnet110 --json
  lockstep model resnet152 --batch 32              memory to train, and to evaluate:
  lockstep model resnet152 --batch 256 --eval`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			net, err := resnet.Build(args[0], classes)
			if err != nil {
				return err
			}
			if resolution == 0 {
				resolution = net.Resolution
			}
			t, err := tableOf(net, resolution)
			if err != nil {
				return err
			}
			if batch != 0 || eval {
				if t.Memory, err = memoryOf(net, core.CompileConfig{Batch: batch, Resolution: resolution, EvalOnly: eval}); err != nil {
					return err
				}
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), t)
			}
			return t.print(cmd.OutOrStdout())
		},
	}
	cmd.Flags().IntVar(&classes, "classes", 0, "classes; 0: those the name implies")
	cmd.Flags().IntVar(&resolution, "resolution", 0, "side of the images; 0: what the network is made for")
	cmd.Flags().IntVar(&batch, "batch", 0, "tell the memory that a batch of so many images takes; 0: do not")
	cmd.Flags().BoolVar(&eval, "eval", false, "with --batch: the memory to evaluate, not to train")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

func memoryOf(net *core.Network, cfg core.CompileConfig) (*modelMemory, error) {
	if cfg.Batch < 1 {
		return nil, fmt.Errorf("--batch %d: memory is that of a batch, give a positive number of images", cfg.Batch)
	}
	m, err := cpu.Plan(net, cfg)
	if err != nil {
		return nil, err
	}
	return &modelMemory{Batch: cfg.Batch, Eval: cfg.EvalOnly, Arena: m.Arena, Weights: m.Weights, Momentum: m.Momentum, Gradients: m.Gradients,
		LaidOut: m.LaidOut, Statistics: m.Statistics, Total: m.Total()}, nil
}

func tableOf(net *core.Network, resolution int) (*modelTable, error) {
	shapes, err := net.Shapes(resolution)
	if err != nil {
		return nil, err
	}
	macs, err := net.MultiplyAdds(resolution)
	if err != nil {
		return nil, err
	}
	t := &modelTable{Network: net.Name, Resolution: resolution, Classes: net.Classes, Parameters: net.ParamLen()}
	params := make([]int, len(net.Nodes))
	for _, p := range net.Params() {
		params[p.Node] += p.Len
	}
	for i, n := range net.Nodes {
		t.MultiplyAdds += macs[i]
		t.Layers = append(t.Layers, modelRow{Name: n.Name, Op: n.Op.String(), Shape: [3]int{shapes[i].C, shapes[i].H, shapes[i].W},
			Kernel: n.Kernel, Stride: n.Stride, Parameters: params[i], MultiplyAdds: macs[i]})
	}
	return t, nil
}

func (t *modelTable) print(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "layer\toperation\toutput\tparameters\tmultiply-adds")
	for _, r := range t.Layers {
		op := r.Op
		if r.Kernel > 0 {
			op = fmt.Sprintf("%s %dx%d", r.Op, r.Kernel, r.Kernel)
		}
		if r.Stride > 1 {
			op += fmt.Sprintf("/%d", r.Stride)
		}
		fmt.Fprintf(tw, "%s\t%s\t%dx%dx%d\t%s\t%s\n", r.Name, op, r.Shape[0], r.Shape[1], r.Shape[2], count(int64(r.Parameters)), count(r.MultiplyAdds))
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "\n%s at %dx%d, %d classes: %s parameters, %s multiply-adds an image (%.2f x 10^9)\n",
		t.Network, t.Resolution, t.Resolution, t.Classes, count(int64(t.Parameters)), count(t.MultiplyAdds), float64(t.MultiplyAdds)/1e9)
	if err == nil && t.Memory != nil {
		err = t.Memory.print(w)
	}
	return err
}

func (m *modelMemory) print(w io.Writer) error {
	what := "to train, one replica"
	if m.Eval {
		what = "to evaluate"
	}
	fmt.Fprintf(w, "\nMemory of the CPU engine for a batch of %d, %s: %s\n", m.Batch, what, size(m.Total))
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range []struct {
		name  string
		bytes int64
	}{
		{"activations and their gradients (arena)", m.Arena}, {"weights", m.Weights}, {"momentum", m.Momentum},
		{"gradients, a replica", m.Gradients}, {"weights laid out for the kernels", m.LaidOut}, {"statistics", m.Statistics},
	} {
		if row.bytes > 0 {
			fmt.Fprintf(tw, "  %s\t%s\n", row.name, size(row.bytes))
		}
	}
	return tw.Flush()
}

// count writes a number with its thousands apart; nothing for zero.
func count(n int64) string {
	if n == 0 {
		return ""
	}
	s := fmt.Sprint(n)
	var b strings.Builder
	for i, c := range s {
		if i > 0 && (len(s)-i)%3 == 0 {
			b.WriteByte(',')
		}
		b.WriteRune(c)
	}
	return b.String()
}
