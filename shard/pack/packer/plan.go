package packer

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/lockstep-ml/lockstep/shard"
	"github.com/lockstep-ml/lockstep/shard/pack"
)

// A recipe is all that decides a set's bytes, and nothing else: not the number of workers, nor where the source lies.
type recipe struct {
	Format      int               `json:"format"`
	Source      map[string]string `json:"source"` // each split's fingerprint
	ShardBytes  int64             `json:"shard_bytes"`
	ShorterSide int               `json:"shorter_side,omitempty"`
	Quality     int               `json:"quality,omitempty"`
	ShuffleSeed *uint64           `json:"shuffle_seed,omitempty"`
}

func (c *Config) recipe() ([]byte, error) {
	r := recipe{Format: 1, Source: map[string]string{}, ShardBytes: c.ShardBytes, ShorterSide: c.ShorterSide, Quality: c.Quality}
	if c.ShorterSide > 0 {
		r.Quality = c.quality()
	}
	for _, s := range c.Splits {
		r.Source[s.Name] = s.Data.Fingerprint()
	}
	if c.Shuffle {
		r.ShuffleSeed = &c.ShuffleSeed
	}
	return json.Marshal(r)
}

// A job is one shard to write: the samples at places from to to-1 of its split's order.
type job struct {
	split    int
	number   int
	from, to int
	bytes    int64 // estimate of the shard's size
}

// estimateFrom is how many images tell how much smaller, or larger, images become by encoding.
const estimateFrom = 64

// plan cuts every split into shards.
func (c *Config) plan(ctx context.Context) ([]job, error) {
	var jobs []job
	for k, s := range c.Splits {
		out, in, err := c.ratio(ctx, s)
		if err != nil {
			return nil, err
		}
		order := c.order(s)
		j := job{split: k}
		for at := range s.Data.Len() {
			size := pack.SampleBytes(max(1, s.Data.Size(order(at))*out/in))
			if j.to > j.from && j.bytes+size > c.ShardBytes {
				jobs = append(jobs, j)
				j = job{split: k, number: j.number + 1, from: at, to: at}
			}
			j.bytes += size
			j.to++
		}
		jobs = append(jobs, j)
	}
	return jobs, nil
}

// order gives which sample stands at a place of the shards.
func (c *Config) order(s Split) func(at int) int {
	if !c.Shuffle {
		return func(at int) int { return at }
	}
	p := shard.NewPermutation(c.ShuffleSeed, 0, s.Data.Len())
	return p.At
}

// ratio gives as a fraction how images' sizes change, from evenly spaced ones. Damaged ones do not count.
func (c *Config) ratio(ctx context.Context, s Split) (out, in int64, err error) {
	if c.copies(s) {
		return 1, 1, nil
	}
	r := c.newRecoder()
	var buf []byte
	n := min(estimateFrom, s.Data.Len())
	for k := range n {
		i := k * s.Data.Len() / n
		b, err := readSample(ctx, s.Data, i, buf)
		if err != nil {
			return 0, 0, fmt.Errorf("estimate sizes: %w", err)
		}
		var e pack.Entry
		if enc, err := r.recode(&e, b, s.Data.Encoding()); err == nil {
			out, in = out+int64(len(enc)), in+int64(len(b))
		}
		buf = b[:0:0]
	}
	if in == 0 {
		return 1, 1, nil // all are damaged, which packing will say better
	}
	return out, in, nil
}

// readSample reads a sample's bytes, into buf where they have to be copied.
func readSample(ctx context.Context, d *shard.Dataset, i int, buf []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return d.Read(ctx, i, buf)
}
