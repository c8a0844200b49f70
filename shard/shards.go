package shard

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/lockstep-ml/lockstep/shard/source"
)

// openAtOnce is how many archives are indexed at a time: most of that is waiting for a disk or a server.
const openAtOnce = 16

// openPattern opens the shards that a pattern stands for.
func openPattern(ctx context.Context, o Options) (*tree, error) {
	locations, err := source.Expand(o.Path)
	if err != nil {
		return nil, err
	}
	if len(locations) == 1 {
		o.Path = locations[0]
		return openPath(ctx, o, true)
	}
	return openShards(ctx, o, source.Clean(o.Path), locations, slices.Repeat([]string{""}, len(locations)))
}

// openShardsBelow opens the shards of a folder, in the order of their names, and only those of the wanted split where their names
// tell of splits. Of other splits train's too are read where labels number the classes of train.
func openShardsBelow(ctx context.Context, o Options, root string, names []string) (*tree, error) {
	slices.Sort(names)
	var found []string
	for _, n := range names {
		if s := splitOf(n); s != "" && !slices.Contains(found, s) {
			found = append(found, s)
		}
	}
	slices.Sort(found)
	what, want := source.Clean(root), ""
	if len(found) > 0 {
		var err error
		if want, err = pickSplit(what, found, o.Split); err != nil {
			return nil, err
		}
	}
	some := func(wanted func(split string) bool) (*tree, error) {
		var where, of []string
		for _, n := range names {
			if s := splitOf(n); wanted(s) {
				where, of = append(where, source.Join(root, n)), append(of, s)
			}
		}
		t, err := openShards(ctx, o, what, where, of)
		if err == nil {
			t.split = want
		}
		return t, err
	}
	t, err := some(func(s string) bool { return s == want || want == "*" })
	if err != nil || t.labelled() || o.ClassNames != nil || canonicalSplit(want) != "test" || !slices.Contains(found, "train") {
		return t, err
	}
	// Class folders without train's would be numbered by what this split happens to have.
	if err := t.store.Close(); err != nil {
		return nil, err
	}
	return some(func(s string) bool { return s == want || s == "train" })
}

// splitOf reads a split out of a shard's path: a folder train, a name imagenet1k-validation-07.tar.
func splitOf(name string) string {
	words := strings.FieldsFunc(strings.ToLower(name), func(r rune) bool { return strings.ContainsRune("/-_.", r) })
	for _, w := range words {
		switch w {
		case "train", "training":
			return "train"
		case "val", "validation", "valid":
			return "val"
		case "test":
			return "test"
		}
	}
	return ""
}

// openShards opens and indexes archives, several at a time; their order is that of locations.
func openShards(ctx context.Context, o Options, what string, locations, splits []string) (t *tree, err error) {
	files := make([]source.File, len(locations))
	lists := make([][]member, len(locations))
	defer func() {
		if err != nil {
			err = errors.Join(err, closeAll(files))
		}
	}()
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(openAtOnce)
	for i, where := range locations {
		g.Go(func() (err error) {
			files[i], lists[i], err = openShard(gctx, o, where, splits[i], int32(i))
			return err
		})
	}
	if err := g.Wait(); err != nil { //bounded: each shard's reads are, and end with ctx
		return nil, err
	}
	t = &tree{what: what, store: &fileStore{files}, files: make([]string, len(files))}
	for i, f := range files {
		t.files[i] = source.Base(f.Name())
	}
	for i := range lists {
		t.members = append(t.members, lists[i]...)
		lists[i] = nil
	}
	return t, nil
}

// openShard indexes one archive. Where the shard's name tells a split and its members' do not, they are put below a folder of it.
func openShard(ctx context.Context, o Options, where, split string, file int32) (source.File, []member, error) {
	f, err := o.opener.Open(ctx, where)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("%s: %w: the shard is missing; download it, or name fewer", source.Clean(where), ErrNoData)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("open data: %w", err)
	}
	p, head, err := sniff(ctx, f)
	switch {
	case err != nil:
	case p == gzipTar || p == zstdTar:
		err = fmt.Errorf("%s: %w: a shard among several must be a plain .tar, for it is read at random; unpack it (gunzip, unzstd)", f.Name(), ErrFormat)
	case p == notTar && len(head) == 0:
		err = &TruncatedError{File: f.Name(), Err: errors.New("the shard is empty")}
	case p == notTar:
		err = fmt.Errorf("%s: %w: %s", f.Name(), ErrFormat, lookalike(head))
	}
	if err != nil {
		return f, nil, err
	}
	members, err := scanArchive(ctx, o, f, file)
	if err != nil {
		return f, nil, err
	}
	if split != "" && !(&tree{members: members}).labelled() {
		var names arena
		for i := range members {
			if top, _, _ := strings.Cut(members[i].name, "/"); !slices.Contains(splitNames, top) {
				members[i].name = names.keep(path.Join(split, members[i].name))
			}
		}
	}
	return f, members, nil
}

func closeAll(files []source.File) error {
	var errs []error
	for _, f := range files {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}
