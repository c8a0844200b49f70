package shard

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/lockstep-ml/lockstep/shard/source"
)

// openFolder lists a folder, or what a bucket has below a prefix, and finds out what kind of data set it holds.
func openFolder(ctx context.Context, o Options, root string) (*tree, error) {
	if t, err := openPacked(ctx, o, root); t != nil || err != nil {
		return t, err
	}
	store := &folderStore{opener: o.opener, root: root}
	t := &tree{what: source.Clean(root), store: store}
	var names arena
	var archives []string
	files := 0
	err := o.opener.List(ctx, root, func(e source.Entry) error {
		if files++; files > maxMembers {
			return fmt.Errorf("%w: more than %d files", ErrTooLarge, maxMembers)
		}
		if isArchive(e.Name) {
			archives = append(archives, e.Name)
		}
		if source.Remote(root) {
			store.versions = append(store.versions, names.keep(e.Version))
			store.sizes = append(store.sizes, e.Size)
		}
		t.members = append(t.members, member{name: names.keep(e.Name), size: e.Size, file: int32(len(t.members)), label: noLabel})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list data folder: %w", err)
	}
	if files == 0 && source.Remote(root) {
		return nil, fmt.Errorf("%s: %w: %s", t.what, ErrNoData, accepted)
	}
	if i := slices.IndexFunc(archives, func(n string) bool { return path.Base(n) == ilsvrcTrain || path.Base(n) == ilsvrcVal }); i >= 0 {
		return openILSVRC(ctx, o, t, path.Dir(archives[i]))
	}
	if len(archives) > 0 && !slices.ContainsFunc(t.members, func(m member) bool { return isImage(m.name) || isCIFARFile(path.Base(m.name)) }) {
		return openShardsBelow(ctx, o, root, archives)
	}
	return t, nil
}

// isArchive tells a shard by its name. Compressed ones are told apart later, with an error that says what to do.
func isArchive(name string) bool {
	for part := range strings.SplitSeq(name, "/") {
		if strings.HasPrefix(part, ".") {
			return false
		}
	}
	lower := strings.ToLower(name)
	for _, end := range []string{".tar", ".tar.gz", ".tgz", ".tar.zst"} {
		if strings.HasSuffix(lower, end) {
			return true
		}
	}
	return false
}

// openPath opens what lies at one location, which is no pattern.
func openPath(ctx context.Context, o Options, guess bool) (*tree, error) {
	if strings.HasSuffix(pathOf(o.Path), "/") && source.Remote(o.Path) {
		return openFolder(ctx, o, o.Path)
	}
	if isFolder(o.Path) {
		return openFolder(ctx, o, o.Path)
	}
	if source.Remote(o.Path) && !source.Lists(o.Path) && !isArchive(path.Base(pathOf(o.Path))) { // over HTTP nothing but its index tells a folder
		if t, err := openPacked(ctx, o, o.Path); t != nil || err != nil {
			return t, err
		}
	}
	f, err := o.opener.Open(ctx, o.Path)
	if errors.Is(err, fs.ErrNotExist) {
		if source.Lists(o.Path) {
			return openFolder(ctx, o, o.Path)
		}
		return nil, fmt.Errorf("%s: %w: %s", source.Clean(o.Path), ErrNoData, accepted)
	}
	if err != nil {
		return nil, fmt.Errorf("open data: %w", err)
	}
	t, err := openArchive(ctx, o, f, guess)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return t, nil
}

// pathOf is a location without its parameters.
func pathOf(location string) string {
	p, _, _ := strings.Cut(location, "?")
	return p
}
