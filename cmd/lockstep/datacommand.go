package main

import (
	"fmt"
	"math"
	"strconv"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/lockstep-ml/lockstep/shard"
	"github.com/lockstep-ml/lockstep/shard/pack"
)

func dataCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "data", Short: "Fetch, list, pack and verify data sets",
		Example: `  lockstep data fetch cifar10
  lockstep data ls imagenet.tar --classes
  lockstep data pack imagenet/ imagenet-packed --shorter-side 256
  lockstep data verify imagenet-packed`}
	cmd.AddCommand(dataFetch(), dataLs(), dataPack(), dataVerify(), ledgerCommand())
	return cmd
}

// unitsOfBytes are what sizes are written in, largest first.
var unitsOfBytes = []struct {
	name string
	size float64
}{{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3}}

// dataFlags say where a command's data lie, besides the path, and how they are read.
type dataFlags struct {
	valData string
	source  sourceFlags
}

func (d *dataFlags) add(f *pflag.FlagSet) {
	f.StringVar(&d.valData, "val-data", "", "where the images to evaluate on lie, if that is not in PATH")
	d.source.add(f)
}

func (d *dataFlags) options(cmd *cobra.Command, path string) shard.Options {
	warn := func(err error) { fmt.Fprintln(cmd.ErrOrStderr(), "warning:", err) }
	return shard.Options{Path: path, ValPath: d.valData, Source: d.source.options(warn)}
}

// formatBytes writes a size with three digits or so.
func formatBytes(n int64) string {
	for _, u := range unitsOfBytes {
		if v := float64(n) / u.size; v >= 1 {
			return strconv.FormatFloat(v, 'f', max(0, 2-int(math.Log10(v))), 64) + " " + u.name
		}
	}
	return fmt.Sprintf("%d B", n)
}

// lsOptions are the flags of data ls.
type lsOptions struct {
	data            dataFlags
	asJSON, classes bool
	samples         int
}

// lsReport is what data ls says as JSON.
type lsReport struct {
	Train       int         `json:"train"`
	Test        *int        `json:"test,omitempty"`
	Classes     []string    `json:"classes"`
	PerClass    []classSize `json:"per_class,omitempty"`
	Samples     []lsSample  `json:"samples,omitempty"`
	Fingerprint string      `json:"fingerprint"`
	Packed      *lsPacked   `json:"packed,omitempty"`
}

type classSize struct {
	Class string `json:"class"`
	Train int    `json:"train"`
	Test  int    `json:"test"`
}

type lsSample struct {
	Index  int    `json:"index"`
	Name   string `json:"name"`
	Class  string `json:"class"`
	Bytes  int64  `json:"bytes"`
	Shard  string `json:"shard,omitempty"`
	Offset int64  `json:"offset,omitempty"`
	Width  int    `json:"width,omitempty"`
	Height int    `json:"height,omitempty"`
}

func dataLs() *cobra.Command {
	var o lsOptions
	cmd := &cobra.Command{
		Use:     "ls PATH",
		Short:   "Say what a data set holds",
		Example: "  lockstep data ls cifar10.tar.gz\n  lockstep data ls builtin --json\n  lockstep data ls imagenet-packed --classes --samples 10",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			opt := o.data.options(cmd, args[0])
			d, err := openSplits(cmd.Context(), opt)
			if err != nil {
				return err
			}
			defer d.close() // only read from
			set, err := shard.OpenPacked(cmd.Context(), opt)
			if err != nil {
				return err
			}
			r := lsOf(d, set, o)
			if o.asJSON {
				return printJSON(cmd.OutOrStdout(), r)
			}
			return r.print(cmd, args[0], d, o)
		},
	}
	o.data.add(cmd.Flags())
	cmd.Flags().BoolVar(&o.asJSON, "json", false, "print one JSON object")
	cmd.Flags().BoolVar(&o.classes, "classes", false, "count each class's images")
	cmd.Flags().IntVar(&o.samples, "samples", 0, "list so many of the first training samples")
	return cmd
}

// lsOf looks into a data set; set is nil where it is not packed.
func lsOf(d *dataset, set *pack.Set, o lsOptions) lsReport {
	r := lsReport{Train: d.train.Len(), Classes: d.train.Classes(), Fingerprint: d.fingerprint(), Packed: packedOf(set)}
	if d.test != nil {
		n := d.test.Len()
		r.Test = &n
	}
	if o.classes {
		r.PerClass = perClass(d)
	}
	for i := range min(max(o.samples, 0), d.train.Len()) {
		s := lsSample{Index: i, Name: d.train.Name(i), Class: r.Classes[d.train.Label(i)], Bytes: d.train.Size(i)}
		s.place(set, i)
		r.Samples = append(r.Samples, s)
	}
	return r
}

func perClass(d *dataset) []classSize {
	out := make([]classSize, len(d.train.Classes()))
	for i, c := range d.train.Classes() {
		out[i].Class = c
	}
	for i := range d.train.Len() {
		out[d.train.Label(i)].Train++
	}
	for i := range lengthOf(d.test) {
		out[d.test.Label(i)].Test++
	}
	return out
}

func lengthOf(d *shard.Dataset) int {
	if d == nil {
		return 0
	}
	return d.Len()
}

func (r *lsReport) print(cmd *cobra.Command, path string, d *dataset, o lsOptions) error {
	w := cmd.OutOrStdout()
	fmt.Fprintf(w, "%s: %s\n", path, d.summary())
	if !o.classes {
		fmt.Fprintf(w, "classes: %v\n", r.Classes)
	}
	for _, c := range r.PerClass {
		fmt.Fprintf(w, "%8d train %8d test  %s\n", c.Train, c.Test, c.Class)
	}
	for _, s := range r.Samples {
		fmt.Fprintf(w, "%8d  %-9s %s", s.Index, formatBytes(s.Bytes), s.Name)
		if s.Shard != "" {
			fmt.Fprintf(w, "  %d x %d, %s at %d", s.Width, s.Height, s.Shard, s.Offset)
		}
		fmt.Fprintln(w)
	}
	if p := r.Packed; p != nil {
		fmt.Fprintf(w, "packed: %d shards of %s in all, %d damaged samples left out, hash %s\nmade with: %s\n", p.Shards, formatBytes(p.Bytes), len(p.LeftOut), p.Hash, p.Recipe)
	}
	_, err := fmt.Fprintf(w, "fingerprint: %s\n", r.Fingerprint)
	return err
}
