package shard

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/lockstep-ml/lockstep/shard/pack"
)

// A member is one file of a folder or archive, before it is known what kind of data set it belongs to.
type member struct {
	name   string // slash-separated, relative, cleaned
	size   int64
	offset int64
	file   int32
	crc    uint32

	leftOut bool // not held: by its name it belongs to another split
}

// A tree is everything found at a path: its members and the store that reads them. Folder, tar, tar.gz and the built-in sample all
// become one, and what follows is the same for all.
type tree struct {
	what    string // for errors: the path
	members []member
	hashed  bool // every member's crc is set
	packed  *pack.Set
	store   store
}

// dataset recognises the kind of data set by the members' names.
func (t *tree) dataset(ctx context.Context, o Options) (*Dataset, error) {
	if t.packed != nil {
		return t.packedDataset(o.Split)
	}
	if k := t.cifarKind(); k != nil {
		return t.cifar(ctx, k, o.Split)
	}
	return t.imageFolder(o.Split)
}

var splitNames = []string{"train", "test", "val"}

// ofOtherSplit guesses from a name alone that the split does not need the member.
func ofOtherSplit(name, split string) bool {
	if split == "all" {
		return false
	}
	for _, k := range cifarKinds {
		base := path.Base(name)
		if split == "train" && slices.Contains(k.test, base) || split != "train" && slices.Contains(k.train, base) {
			return true
		}
	}
	parts := strings.SplitN(name, "/", 4)
	for i := range len(parts) - 2 {
		if slices.Contains(splitNames, parts[i]) {
			return canonicalSplit(parts[i]) != canonicalSplit(split)
		}
	}
	return false
}

// isImage tells an image by its extension, and leaves out the shadow files that macOS puts into archives.
func isImage(name string) bool {
	for part := range strings.SplitSeq(name, "/") {
		if strings.HasPrefix(part, ".") || part == "__MACOSX" {
			return false
		}
	}
	switch strings.ToLower(path.Ext(name)) {
	case ".jpg", ".jpeg", ".png":
		return true
	}
	return false
}

// A placed image is a member whose split ("" where there are no split folders) and class are known.
type placed struct {
	split, class, rest string
	m                  *member
}

// place reads split and class out of the images' paths: [TOP/]SPLIT/CLASS/..., or [TOP/]CLASS/... when no path begins with a split.
func (t *tree) place() []placed {
	var images []*member
	var parts [][]string
	for i := range t.members {
		if m := &t.members[i]; isImage(m.name) {
			images = append(images, m)
			parts = append(parts, strings.Split(m.name, "/"))
		}
	}
	if wrapped(parts) {
		for i := range parts {
			parts[i] = parts[i][1:]
		}
	}
	hasSplits := slices.ContainsFunc(parts, func(p []string) bool { return len(p) >= 3 && slices.Contains(splitNames, p[0]) })
	var out []placed
	for i, p := range parts {
		switch {
		case hasSplits && len(p) >= 3 && slices.Contains(splitNames, p[0]):
			out = append(out, placed{p[0], p[1], strings.Join(p[2:], "/"), images[i]})
		case !hasSplits && len(p) >= 2:
			out = append(out, placed{"", p[0], strings.Join(p[1:], "/"), images[i]})
		}
	}
	return out
}

// wrapped tells whether all images lie under one top folder that is neither a split nor a class: there are split folders right
// below it, or no image lies less than two folders deep.
func wrapped(parts [][]string) bool {
	if len(parts) == 0 || slices.Contains(splitNames, parts[0][0]) {
		return false
	}
	top, deep, splits := parts[0][0], true, false
	for _, p := range parts {
		if len(p) < 2 || p[0] != top {
			return false
		}
		deep = deep && len(p) >= 3
		splits = splits || len(p) >= 4 && slices.Contains(splitNames, p[1])
	}
	return deep || splits
}

// imageFolder builds the wanted split of an ImageFolder tree. Labels number the classes of train where there is a train split, so
// that a class missing from test does not shift the labels after it.
func (t *tree) imageFolder(split string) (*Dataset, error) {
	all := t.place()
	if len(all) == 0 {
		return nil, fmt.Errorf("%s: %w (.jpg, .jpeg, .png) in class folders among %d files: %s", t.what, ErrNoImages, len(t.members), accepted)
	}
	found := splitsOf(all)
	want, err := pickSplit(t.what, found, split)
	if err != nil {
		return nil, err
	}
	classes, label := classesOf(all, found)
	ds := &Dataset{classes: classes, hashed: t.hashed}
	picked := slices.DeleteFunc(all, func(p placed) bool { return want != "*" && p.split != want })
	slices.SortFunc(picked, func(a, b placed) int {
		if c := strings.Compare(a.class, b.class); c != 0 {
			return c
		}
		if c := strings.Compare(a.rest, b.rest); c != 0 {
			return c
		}
		return strings.Compare(a.split, b.split)
	})
	for i, p := range picked {
		if p.m.leftOut {
			return nil, errLeftOut
		}
		l, ok := label[p.class]
		if !ok {
			return nil, fmt.Errorf("%s: %w: class %q of split %q is not a class of train", t.what, ErrFormat, p.class, p.split)
		}
		if p.m.size > maxImageBytes {
			return nil, fmt.Errorf("%s: %s has %d bytes: %w, an image may have %d", t.what, p.m.name, p.m.size, ErrTooLarge, maxImageBytes)
		}
		if i > 0 && p.m.name == picked[i-1].m.name {
			return nil, fmt.Errorf("%s: %w: %s occurs twice", t.what, ErrFormat, p.m.name)
		}
		ds.samples = append(ds.samples, sample{name: p.m.name, size: p.m.size, offset: p.m.offset, file: p.m.file, label: l, crc: p.m.crc})
	}
	return ds, nil
}

func splitsOf(all []placed) []string {
	var found []string
	for _, p := range all {
		if p.split != "" && !slices.Contains(found, p.split) {
			found = append(found, p.split)
		}
	}
	slices.Sort(found)
	return found
}

// pickSplit maps a request to a split that exists: "*" for all of them, "" for a set without splits.
func pickSplit(what string, found []string, split string) (string, error) {
	if len(found) == 0 {
		if split == "train" || split == "all" {
			return "", nil
		}
		return "", fmt.Errorf("%s: %w %q: its images lie in class folders without train and test above them; ask for train or all", what, ErrNoSplit, split)
	}
	if split == "all" {
		return "*", nil
	}
	if slices.Contains(found, split) {
		return split, nil
	}
	other := map[string]string{"test": "val", "val": "test"}[split]
	if slices.Contains(found, other) {
		return other, nil
	}
	return "", fmt.Errorf("%s: %w %q: found %s", what, ErrNoSplit, split, strings.Join(found, ", "))
}

func classesOf(all []placed, found []string) ([]string, map[string]int32) {
	ref := "*"
	if slices.Contains(found, "train") {
		ref = "train"
	}
	label := map[string]int32{}
	var classes []string
	for _, p := range all {
		if _, ok := label[p.class]; !ok && (ref == "*" || p.split == ref) {
			label[p.class] = 0
			classes = append(classes, p.class)
		}
	}
	slices.Sort(classes)
	for i, c := range classes {
		label[c] = int32(i)
	}
	return classes, label
}
