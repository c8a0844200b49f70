package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/lockstep-ml/lockstep/shard"
	"github.com/lockstep-ml/lockstep/shard/pack"
	"github.com/lockstep-ml/lockstep/shard/pack/packer"
)

// lsPacked is what is to be said of a packed set.
type lsPacked struct {
	Shards  int             `json:"shards"`
	Bytes   int64           `json:"bytes"`
	Hash    string          `json:"hash"`
	Recipe  json.RawMessage `json:"recipe"`
	LeftOut []string        `json:"left_out"`
}

// packedOf describes a packed set, nil if it is none.
func packedOf(set *pack.Set) *lsPacked {
	if set == nil {
		return nil
	}
	x := set.Index()
	hash := x.Hash()
	out := &lsPacked{Hash: hex.EncodeToString(hash[:]), LeftOut: []string{}, Recipe: json.RawMessage("null")}
	if json.Valid(x.Recipe) {
		out.Recipe = x.Recipe
	}
	for i := range x.Splits {
		out.Shards += len(x.Splits[i].Shards)
		for _, size := range x.Splits[i].Shards {
			out.Bytes += size
		}
		for _, l := range x.Splits[i].LeftOut {
			out.LeftOut = append(out.LeftOut, l.Name)
		}
	}
	return out
}

// place says where training sample i of a packed set lies.
func (s *lsSample) place(set *pack.Set, i int) {
	if set == nil {
		return
	}
	e := set.Split("train").Entry(i)
	s.Shard, s.Offset, s.Width, s.Height = pack.ShardName("train", e.Shard), e.Offset, e.W, e.H
}

// packOptions are the flags of data pack.
type packOptions struct {
	data      dataFlags
	split     string
	shardSize byteSize
	seed      uint64
	asJSON    bool
	config    packer.Config
}

// packReport is what data pack says as JSON.
type packReport struct {
	Train   int      `json:"train"`
	Test    int      `json:"test"`
	Shards  int      `json:"shards"`
	Kept    int      `json:"shards_kept"`
	Bytes   int64    `json:"bytes"`
	Hash    string   `json:"hash"`
	LeftOut []string `json:"left_out"`
	Seconds float64  `json:"seconds"`
}

func dataPack() *cobra.Command {
	var o packOptions
	cmd := &cobra.Command{
		Use:   "pack SRC OUT",
		Short: "Pack a data set into indexed, checksummed shards",
		Long: `Writes the data set at SRC to the folder OUT as shards: plain tar files of KEY.jpg and KEY.cls, which any tar and WebDataset read, and one
index with each sample's place, label and checksum. A packed set opens at once, reads each sample with one request, and tells damage by name.
Its samples, their order and labels are those of SRC: training on it gives the same weights, unless images are encoded again.

Every image is decoded once, to find damage now. The bytes written depend on data and options alone. Interrupted, the same command goes on:
it checks the shards that are finished and keeps them.`,
		Example: "  lockstep data pack imagenet/ imagenet-packed\n  lockstep data pack imagenet/ imagenet-256 --shorter-side 256 --quality 90 --shuffle-seed 1",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.run(cmd, args[0], args[1])
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.split, "split", "all", "what to pack: train, val, or all there is")
	o.data.add(f)
	o.shardSize = packer.DefaultShardBytes
	f.Var(&o.shardSize, "shard-size", "what a shard may hold")
	f.IntVar(&o.config.ShorterSide, "shorter-side", 0, "resize images whose shorter side is longer than so many pixels; 0: none")
	f.IntVar(&o.config.Quality, "quality", 0, fmt.Sprintf("JPEG quality of images that are encoded again, 1 to 100; 0: %d for resized ones. Without --shorter-side all are encoded again", packer.DefaultQuality))
	f.IntVar(&o.config.Workers, "workers", runtime.GOMAXPROCS(0), "shards to write at a time")
	f.Uint64Var(&o.seed, "shuffle-seed", 0, "spread samples over the shards in an order drawn from this seed, for readers that go through shards in sequence; Lockstep's own order stays")
	f.IntVar(&o.config.SkipDamaged, "skip-damaged", 0, "damaged samples that may be left out")
	f.BoolVar(&o.asJSON, "json", false, "print one JSON object")
	return cmd
}

func (o *packOptions) run(cmd *cobra.Command, src, out string) (err error) {
	c := o.config
	c.ShardBytes, c.Out, c.Shuffle, c.ShuffleSeed = int64(o.shardSize), out, cmd.Flags().Changed("shuffle-seed"), o.seed
	m := newMeter(cmd.ErrOrStderr(), "images")
	m.event("opening " + src)
	splits, err := splitsToPack(cmd.Context(), o.data.options(cmd, src), o.split)
	if err != nil {
		return err
	}
	defer func() {
		for _, s := range splits {
			err = errors.Join(err, s.Data.Close())
		}
	}()
	c.Splits = splits
	c.Progress = func(p packer.Progress) { m.show(p.Images, p.Total, p.Kept, p.Bytes) }
	c.Log = m.event
	r, err := packer.Pack(cmd.Context(), c)
	m.end()
	if err != nil && cmd.Context().Err() != nil {
		return fmt.Errorf("%w: what is finished in %s stays; the same command goes on from there", errInterrupted, out)
	}
	if err != nil {
		return err
	}
	return o.report(cmd, out, r, m)
}

func (o *packOptions) report(cmd *cobra.Command, out string, r *packer.Report, m *meter) error {
	j := packReport{Train: r.Images["train"], Test: r.Images["val"], Shards: r.Shards, Kept: r.Kept, Bytes: r.Bytes, Hash: r.Hash, LeftOut: []string{}, Seconds: m.seconds()}
	for _, l := range r.LeftOut {
		j.LeftOut = append(j.LeftOut, l.Name)
	}
	if o.asJSON {
		return printJSON(cmd.OutOrStdout(), j)
	}
	_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s: %d training and %d other images in %d shards (%d kept), %s, %d damaged ones left out, hash %s\n",
		out, j.Train, j.Test, j.Shards, j.Kept, formatBytes(j.Bytes), len(j.LeftOut), j.Hash)
	return err
}

// splitsToPack opens what is to be packed.
func splitsToPack(ctx context.Context, opt shard.Options, which string) ([]packer.Split, error) {
	var names []string
	switch which {
	case "all":
		names = []string{"train", "val"}
	case "train", "val", "test":
		names = []string{which}
	default:
		return nil, fmt.Errorf("--split %s: want train, val or all", which)
	}
	var out []packer.Split
	for _, n := range names {
		opt.Split = n
		if n != "train" && len(out) > 0 && opt.ValPath != "" {
			opt.ClassNames = out[0].Data.Classes()
		}
		d, err := shard.Open(ctx, opt)
		if which == "all" && n == "val" && errors.Is(err, shard.ErrNoSplit) {
			continue
		}
		if err != nil {
			for _, s := range out {
				err = errors.Join(err, s.Data.Close())
			}
			return nil, err
		}
		if n == "test" {
			n = "val"
		}
		out = append(out, packer.Split{Name: n, Data: d})
	}
	return out, nil
}
