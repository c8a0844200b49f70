package main

import (
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"

	"github.com/spf13/cobra"

	"github.com/lockstep-ml/lockstep/shard"
	"github.com/lockstep-ml/lockstep/shard/pack"
)

// verifyReport is what data verify says as JSON.
type verifyReport struct {
	Good    bool          `json:"good"`
	Packed  bool          `json:"packed"`
	Images  int           `json:"images"`
	Bytes   int64         `json:"bytes"`
	Damaged []pack.Damage `json:"damaged"`
	Seconds float64       `json:"seconds"`
}

func dataVerify() *cobra.Command {
	var asJSON bool
	var workers int
	var data dataFlags
	cmd := &cobra.Command{
		Use:   "verify PATH",
		Short: "Read a data set whole, and name all that is damaged",
		Long: `Of a packed set every byte is compared with what its index says: images by their checksums, and the set by its hash. Of any other set every
image is decoded. Each damaged place is named on a line of its own; the exit code is 1 if there is one.`,
		Example: "  lockstep data verify imagenet-packed\n  lockstep data verify imagenet.tar --json",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if workers < 1 {
				return fmt.Errorf("--workers %d: want at least 1", workers)
			}
			return runVerify(cmd, data.options(cmd, args[0]), workers, asJSON)
		},
	}
	data.add(cmd.Flags())
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	cmd.Flags().IntVar(&workers, "workers", runtime.GOMAXPROCS(0), "shards to read, or images to decode, at a time")
	return cmd
}

func runVerify(cmd *cobra.Command, o shard.Options, workers int, asJSON bool) error {
	m := newMeter(cmd.ErrOrStderr(), "images")
	m.event("opening " + o.Path)
	r := verifyReport{Damaged: []pack.Damage{}}
	set, err := shard.OpenPacked(cmd.Context(), o)
	switch {
	case err != nil:
	case set != nil:
		err = r.packed(cmd, set, workers, m)
	default:
		err = r.decoded(cmd, o, workers, m)
	}
	m.end()
	if err != nil && cmd.Context().Err() != nil {
		return errInterrupted
	}
	if err != nil {
		return err
	}
	r.Good, r.Seconds = len(r.Damaged) == 0, m.seconds()
	return r.print(cmd, o.Path, asJSON)
}

// openAny opens what there is of training and test images.
func openAny(cmd *cobra.Command, o shard.Options) (*dataset, error) {
	d, err := openSplits(cmd.Context(), o)
	if !errors.Is(err, shard.ErrNoSplit) {
		return d, err
	}
	o.Split = "test"
	test, err := shard.Open(cmd.Context(), o)
	return &dataset{train: test}, err
}

func (r *verifyReport) packed(cmd *cobra.Command, set *pack.Set, workers int, m *meter) (err error) {
	r.Packed = true
	done := 0
	for i := range set.Index().Splits {
		r.Images += set.Index().Splits[i].Len()
	}
	defer func() { err = errors.Join(err, set.Close()) }()
	found, err := set.Verify(cmd.Context(), pack.VerifyConfig{Workers: workers, Done: func(samples int, bytes int64) {
		done, r.Bytes = done+samples, r.Bytes+bytes
		m.show(done, r.Images, 0, r.Bytes)
	}})
	r.Damaged = append(r.Damaged, found...)
	return err
}

func (r *verifyReport) decoded(cmd *cobra.Command, o shard.Options, workers int, m *meter) (err error) {
	d, err := openAny(cmd, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.close()) }()
	r.Images = d.train.Len() + lengthOf(d.test)
	var done, read atomic.Int64
	defer func() { r.Bytes = read.Load() }()
	for _, x := range []*shard.Dataset{d.train, d.test} {
		if x == nil {
			continue
		}
		bad, err := x.Verify(cmd.Context(), workers, func(bytes int64) {
			m.show(int(done.Add(1)), r.Images, 0, read.Add(bytes))
		})
		for _, b := range bad {
			if damaged := (*shard.DamagedError)(nil); errors.As(b.Err, &damaged) {
				b.Err = damaged.Err // without the name, which stands beside it
			}
			r.Damaged = append(r.Damaged, pack.Damage{Shard: o.Path, Sample: b.Name, Offset: x.Offset(b.Index), What: b.Err.Error()})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *verifyReport) print(cmd *cobra.Command, path string, asJSON bool) error {
	for _, d := range r.Damaged {
		fmt.Fprintln(cmd.ErrOrStderr(), "damaged:", d.Error())
	}
	if asJSON {
		if err := printJSON(cmd.OutOrStdout(), r); err != nil {
			return err
		}
	}
	if !r.Good {
		return fmt.Errorf("%s: %d damaged places among %d images", path, len(r.Damaged), r.Images)
	}
	if asJSON {
		return nil
	}
	how := "every image decodes"
	if r.Packed {
		how = "every byte is as it was packed"
	}
	_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s: good: %d images, %s: %s\n", path, r.Images, formatBytes(r.Bytes), how)
	return err
}
