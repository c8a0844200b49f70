package packer

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/lockstep-ml/lockstep/internal/vfs"
	"github.com/lockstep-ml/lockstep/shard/pack"
)

// A Report says what was packed.
type Report struct {
	Images  map[string]int // by split
	Shards  int
	Kept    int   // shards that an earlier call had finished
	Bytes   int64 // of all shards
	Hash    string
	LeftOut []pack.LeftOut
}

// ErrSpace: the file system has too little room for the set.
var ErrSpace = errors.New("not enough room")

// A packing is one call of Pack.
type packing struct {
	Config
	recipe []byte
	jobs   []job
	done   []*pack.Shard // by job
	kept   []bool

	recoders chan *recoder // as many as workers

	mu       sync.Mutex
	progress Progress
}

// Pack writes a set. What fails leaves the shards that are finished, for the next call with the same data and options to keep; the
// set's index, without which there is no set, is written last.
func Pack(ctx context.Context, c Config) (r *Report, err error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if c.FS == nil {
		c.FS = vfs.OS{}
	}
	p := &packing{Config: c, recoders: make(chan *recoder, c.Workers)}
	for range c.Workers {
		p.recoders <- c.newRecoder() //bounded: there is room for all
	}
	if p.recipe, err = c.recipe(); err != nil {
		return nil, err
	}
	unlock, err := p.claim()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	if p.jobs, err = c.plan(ctx); err != nil {
		return nil, err
	}
	for _, s := range c.Splits {
		p.progress.Total += s.Data.Len()
	}
	if err := p.room(); err != nil {
		return nil, err
	}
	if err := p.shards(ctx); err != nil {
		return nil, err
	}
	return p.finish()
}

// shards makes all shards that are not there yet.
func (p *packing) shards(ctx context.Context) error {
	p.done, p.kept = make([]*pack.Shard, len(p.jobs)), make([]bool, len(p.jobs))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(p.Workers)
	for i := range p.jobs {
		group.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			s, kept, err := p.shard(ctx, &p.jobs[i])
			p.done[i], p.kept[i] = s, kept
			return err
		})
	}
	return group.Wait() //bounded: each ends with its samples, or with ctx
}

// shard keeps a shard that is finished and good, or writes it.
func (p *packing) shard(ctx context.Context, j *job) (s *pack.Shard, kept bool, err error) {
	name := p.Splits[j.split].Name
	path := p.path(j)
	if s, err = p.keep(ctx, j, path); s != nil || err != nil {
		return s, true, err
	}
	err = vfs.WriteAtomic(p.FS, path, 0o644, func(w io.Writer) error {
		buffered := bufio.NewWriterSize(w, 1<<20)
		out := pack.NewShardWriter(buffered, p.recipe, name, j.number)
		if err := p.samples(ctx, j, out); err != nil {
			return err
		}
		if s, err = out.Finish(); err != nil {
			return err
		}
		return buffered.Flush()
	})
	return s, false, err
}

// samples writes a shard's samples.
func (p *packing) samples(ctx context.Context, j *job, out *pack.ShardWriter) error {
	r := <-p.recoders                  //bounded: there are as many as workers
	defer func() { p.recoders <- r }() //bounded: there is room for all
	data := p.Splits[j.split].Data
	order := p.order(p.Splits[j.split])
	var buf []byte
	for at := j.from; at < j.to; at++ {
		i := order(at)
		b, err := readSample(ctx, data, i, buf)
		if err != nil {
			return err
		}
		e := pack.Entry{Ordinal: i, Label: data.Label(i), Name: data.Name(i)}
		image, err := r.recode(&e, b, data.Encoding())
		if err != nil {
			if err := p.leaveOut(out, i, e.Name, err); err != nil {
				return err
			}
			continue
		}
		if err := out.Add(e, image); err != nil {
			return err
		}
		p.tell(func(g *Progress) { g.Images++; g.Bytes += int64(len(image)) })
		if data.Copies() {
			buf = b
		}
	}
	return nil
}

// leaveOut notes a damaged sample, or fails with it when there are too many.
func (p *packing) leaveOut(out *pack.ShardWriter, i int, name string, cause error) error {
	out.LeaveOut(i, name, cause.Error())
	n := p.tell(func(g *Progress) { g.Images++; g.LeftOut++ })
	if n.LeftOut > p.SkipDamaged {
		return p.tooMany(n.LeftOut, fmt.Errorf("damaged image %s: %w", name, cause))
	}
	p.log(fmt.Sprintf("left out: %s: %v", name, cause))
	return nil
}

func (p *packing) tooMany(n int, cause error) error {
	return fmt.Errorf("%w; that is damaged sample number %d, and %d may be left out: replace it, or allow more with --skip-damaged", cause, n, p.SkipDamaged)
}

// tell changes the progress, passes it on and gives it.
func (p *packing) tell(change func(*Progress)) Progress {
	p.mu.Lock()
	defer p.mu.Unlock()
	change(&p.progress)
	if p.Progress != nil {
		p.Progress(p.progress)
	}
	return p.progress
}

func (p *packing) log(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.Log != nil {
		p.Log(text)
	}
}

// finish writes the set's index.
func (p *packing) finish() (*Report, error) {
	x := &pack.Index{Recipe: p.recipe, Classes: p.Splits[0].Data.Classes()}
	r := &Report{Images: map[string]int{}, Shards: len(p.jobs)}
	for k, s := range p.Splits {
		var shards []*pack.Shard
		for i, j := range p.jobs {
			if j.split == k {
				shards = append(shards, p.done[i])
				r.Bytes += p.done[i].Size
			}
		}
		split, err := pack.NewSplitIndex(s.Name, shards)
		if err != nil {
			return nil, err
		}
		if split.Len() == 0 {
			return nil, fmt.Errorf("pack: no sample of split %s is good", s.Name)
		}
		r.Images[s.Name], r.LeftOut = split.Len(), append(r.LeftOut, split.LeftOut...)
		x.Splits = append(x.Splits, split)
	}
	for _, kept := range p.kept {
		if kept {
			r.Kept++
		}
	}
	hash := x.Hash()
	r.Hash = hex.EncodeToString(hash[:])
	return r, p.seal(x)
}
