package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

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

// unitsOfBytes are what a size may end in, longest first.
var unitsOfBytes = []struct {
	name string
	size float64
}{{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3}, {"KB", 1e3}, {"B", 1}, {"", 1}}

// parseBytes reads a size such as 256MiB, 1.5GB or 1000000.
func parseBytes(s string) (int64, error) {
	for _, u := range unitsOfBytes {
		number, ok := strings.CutSuffix(s, u.name)
		if !ok {
			continue
		}
		v, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
		if err != nil || !(v >= 0) || v*u.size >= math.MaxInt64 {
			break
		}
		return int64(v * u.size), nil
	}
	return 0, fmt.Errorf("%q is no size: want one such as 256MiB, 1.5GB or 1000000", s)
}

// formatBytes writes a size with three digits or so.
func formatBytes(n int64) string {
	for _, u := range unitsOfBytes[4:] {
		if v := float64(n) / u.size; u.size > 1 && v >= 1 {
			return strconv.FormatFloat(v, 'f', max(0, 2-int(math.Log10(v))), 64) + " " + u.name
		}
	}
	return fmt.Sprintf("%d B", n)
}

// lsOptions are the flags of data ls.
type lsOptions struct {
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
			d, err := openData(cmd.Context(), args[0], false)
			if err != nil {
				return err
			}
			defer d.close() // only read from
			set, err := shard.OpenPacked(cmd.Context(), shard.Options{Path: args[0]})
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
