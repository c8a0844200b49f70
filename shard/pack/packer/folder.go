package packer

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/lockstep-ml/lockstep/internal/vfs"
	"github.com/lockstep-ml/lockstep/shard/pack"
	"github.com/lockstep-ml/lockstep/shard/source"
)

const (
	// recipeName holds the recipe while a set is being made.
	recipeName = "lockstep.packing"
	lockName   = ".lockstep-pack.lock"
	maxRecipe  = 1 << 16
)

// ErrOther: the folder holds something else than an unfinished set of the same data and options.
var ErrOther = errors.New("the folder is taken")

// claim takes the output folder, and leaves in it what this recipe has made so far. The function it gives lets the folder go.
func (p *packing) claim() (unlock func() error, err error) {
	if err := p.FS.MkdirAll(p.Out); err != nil {
		return nil, err
	}
	lock, err := vfs.Lock(filepath.Join(p.Out, lockName))
	if err != nil {
		return nil, fmt.Errorf("pack into %s: %w", p.Out, err)
	}
	unlock = func() error { return errors.Join(p.remove(lockName), lock.Close()) }
	if err := p.settle(); err != nil {
		return nil, errors.Join(err, unlock())
	}
	return unlock, nil
}

// remove removes a file of the output folder, if it is there.
func (p *packing) remove(name string) error {
	if err := p.FS.Remove(filepath.Join(p.Out, name)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// settle looks at what is in the folder, and prepares it.
func (p *packing) settle() error {
	found, err := p.recipeThere()
	if err != nil {
		return err
	}
	if found != nil && !bytes.Equal(found, p.recipe) {
		return fmt.Errorf("%s: %w: it holds a set of other data or options (%s; now %s); choose another folder, or remove it", p.Out, ErrOther, found, p.recipe)
	}
	if _, err := vfs.CleanTemp(p.FS, p.Out); err != nil {
		return err
	}
	if found == nil {
		err := vfs.WriteAtomic(p.FS, filepath.Join(p.Out, recipeName), 0o644, func(w io.Writer) error {
			_, err := w.Write(p.recipe)
			return err
		})
		if err != nil {
			return err
		}
	}
	for _, s := range p.Splits {
		dir := filepath.Join(p.Out, s.Name)
		if err := p.FS.MkdirAll(dir); err != nil {
			return err
		}
		if _, err := vfs.CleanTemp(p.FS, dir); err != nil {
			return err
		}
	}
	return nil
}

// recipeThere gives the recipe of what is in the folder, nil when it is empty.
func (p *packing) recipeThere() ([]byte, error) {
	if b, err := readSmall(p.FS, filepath.Join(p.Out, recipeName)); !errors.Is(err, fs.ErrNotExist) {
		return b, err
	}
	entries, err := p.FS.ReadDir(p.Out)
	if err != nil {
		return nil, err
	}
	var others []string
	for _, e := range entries {
		if e.Name() == pack.IndexName {
			return p.recipeOfSet()
		}
		if e.Name() != lockName && !vfs.IsTemp(e.Name()) {
			others = append(others, e.Name())
		}
	}
	if len(others) > 0 {
		return nil, fmt.Errorf("%s: %w: it holds %s; choose an empty folder", p.Out, ErrOther, strings.Join(others[:min(len(others), 5)], ", "))
	}
	return nil, nil
}

func (p *packing) recipeOfSet() ([]byte, error) {
	set, err := pack.Open(context.Background(), p.Out, p.open) //bounded: a file of this machine
	if err != nil {
		return nil, err
	}
	return set.Index().Recipe, set.Close()
}

func readSmall(fsys vfs.FS, name string) (b []byte, err error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return io.ReadAll(io.LimitReader(f, maxRecipe))
}

// A localFile is what packing itself has written, through the seam by which it was.
type localFile struct {
	vfs.File
	name string
	size int64
}

func (p *packing) open(_ context.Context, name string) (source.File, error) {
	f, err := p.FS.Open(name)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &localFile{f, name, info.Size()}, nil
}

func (f *localFile) Name() string { return f.name }
func (f *localFile) Size() int64  { return f.size }

func (f *localFile) ReadAt(ctx context.Context, b []byte, off int64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	n, err := f.File.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	return fmt.Errorf("%s: bytes %d to %d of %d: %w", f.name, off, off+int64(len(b)), f.size, err)
}

// room compares what is still to be written with what the file system has.
func (p *packing) room() error {
	var need int64
	for _, j := range p.jobs {
		f, err := p.FS.Open(p.path(&j))
		if errors.Is(err, fs.ErrNotExist) {
			need += j.bytes
			continue
		}
		if err != nil {
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
	free, err := p.FS.Free(p.Out)
	if err != nil {
		return err
	}
	if free >= 0 && need > free {
		return fmt.Errorf("%s: %w: the shards to be written take some %d MB and %d MB are free; make room, or write elsewhere", p.Out, ErrSpace, need/1e6, free/1e6)
	}
	return nil
}

func (p *packing) path(j *job) string {
	return filepath.Join(p.Out, filepath.FromSlash(pack.ShardName(p.Splits[j.split].Name, j.number)))
}

// keep gives the shard that is at path, if it is this job's and whole; nil if there is none, or a damaged one.
func (p *packing) keep(ctx context.Context, j *job, path string) (*pack.Shard, error) {
	f, err := p.open(ctx, path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	s, damage, err := p.checked(ctx, j, f)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	if damage != nil {
		p.log(fmt.Sprintf("made again: %v", damage))
		return nil, nil
	}
	n := p.tell(func(g *Progress) {
		g.Images, g.Kept = g.Images+j.to-j.from, g.Kept+j.to-j.from
		g.LeftOut += len(s.Index.LeftOut)
		g.Bytes += s.Size
	})
	if len(s.Index.LeftOut) > 0 && n.LeftOut > p.SkipDamaged {
		l := s.Index.LeftOut[0]
		return nil, p.tooMany(n.LeftOut, fmt.Errorf("damaged image %s: %s", l.Name, l.Reason))
	}
	return s, nil
}

// checked reads a finished shard whole. damage says why it must be made again.
func (p *packing) checked(ctx context.Context, j *job, f source.File) (s *pack.Shard, damage, err error) {
	x, err := pack.ReadShardIndex(ctx, f)
	if errors.Is(err, pack.ErrFormat) || errors.Is(err, pack.ErrVersion) {
		return nil, err, nil
	}
	if err != nil {
		return nil, nil, err
	}
	if x.Recipe != sha256.Sum256(p.recipe) || x.Split != p.Splits[j.split].Name || x.Number != j.number || x.Len()+len(x.LeftOut) != j.to-j.from {
		return nil, fmt.Errorf("%s is of another set", f.Name()), nil
	}
	found, sums, err := pack.CheckShard(ctx, f, x)
	if err != nil {
		return nil, nil, err
	}
	if len(found) > 0 {
		return nil, found[0], nil
	}
	return &pack.Shard{Index: x, Size: f.Size(), Sums: sums}, nil, nil
}

// seal writes the set's index, with which the set is there, and removes what was only of use until then.
func (p *packing) seal(x *pack.Index) error {
	if err := p.FS.SyncDir(p.Out); err != nil {
		return err
	}
	if err := pack.WriteIndex(p.FS, filepath.Join(p.Out, pack.IndexName), x); err != nil {
		return err
	}
	if err := p.remove(recipeName); err != nil {
		return err
	}
	return p.FS.SyncDir(p.Out)
}
