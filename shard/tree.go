package shard

import (
	"cmp"
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
	label  int32 // of a .cls or .json in an archive; else noLabel
	crc    uint32

	leftOut bool // not held: by its name it belongs to another split
}

// A tree is everything found at a path: its members and the store that reads them. Folders, archives, shards and the built-in sample
// all become one, and what follows is the same for all.
type tree struct {
	what    string // for errors: the path
	members []member
	hashed  bool      // every member's crc is set
	files   []string  // the names of several archives; nil for one, or a folder
	classes []string  // sorted, where they are known otherwise than from the members
	split   string    // the one that all members belong to, where it was chosen by the names of shards
	packed  *pack.Set // what it is made of, where it is packed
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
	if t.labelled() {
		return t.webDataset(ctx, o)
	}
	return t.imageFolder(o)
}

// addTo makes a sample of a member.
func (t *tree) addTo(ds *Dataset, name string, m *member, label int32) error {
	if m.size > maxImageBytes {
		return fmt.Errorf("%s: %s has %d bytes: %w, an image may have %d", t.nameOf(m), m.name, m.size, ErrTooLarge, maxImageBytes)
	}
	return ds.add(name, sample{size: uint32(m.size), offset: m.offset, file: m.file, label: label, crc: m.crc})
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

// A placed image is a member whose split and class are known.
type placed struct {
	m     *member
	split int8   // place in splitNames; -1 where there are no split folders
	class int32  // place in placing.classes
	rest  uint16 // where what follows the class begins in the name
}

// A placing is the images of a tree with split and class read out of their paths: [TOP/]SPLIT/CLASS/..., or [TOP/]CLASS/... when no
// path begins with a split.
type placing struct {
	images  []placed
	classes []string // in the order they are met
	numbers map[string]int32
	splits  []string // those that occur, sorted
}

// place goes through the images without keeping their paths' parts, of which there would be four million.
func (t *tree) place() *placing {
	shape := t.shape()
	p := &placing{numbers: map[string]int32{}}
	for i := range t.members {
		m := &t.members[i]
		if !isImage(m.name) || len(m.name) > 1<<15 {
			continue
		}
		name, start := m.name, 0
		if shape.wrapped {
			start = strings.IndexByte(name, '/') + 1
		}
		split := int8(-1)
		if shape.splits {
			top, _, _ := strings.Cut(name[start:], "/")
			if split = int8(slices.Index(splitNames, top)); split < 0 {
				continue
			}
			start += len(top) + 1
		}
		class, rest, ok := strings.Cut(name[min(start, len(name)):], "/")
		if !ok {
			continue
		}
		p.add(m, split, class, len(name)-len(rest))
	}
	slices.Sort(p.splits)
	return p
}

func (p *placing) add(m *member, split int8, class string, rest int) {
	n, ok := p.numbers[class]
	if !ok {
		n = int32(len(p.classes))
		class = strings.Clone(class) // as in index.add
		p.numbers[class] = n
		p.classes = append(p.classes, class)
	}
	if split >= 0 && !slices.Contains(p.splits, splitNames[split]) {
		p.splits = append(p.splits, splitNames[split])
	}
	p.images = append(p.images, placed{m: m, split: split, class: n, rest: uint16(rest)})
}

// A treeShape says how the images' paths begin.
type treeShape struct {
	wrapped bool // by one top folder that is neither a split nor a class
	splits  bool // by splits, below that
}

// shape looks at the images' paths: they are wrapped if all lie under one top folder, and there are split folders right below it or
// no image lies less than two folders deep.
func (t *tree) shape() treeShape {
	top, one, deep, inner, outer := "", true, true, false, false
	for i := range t.members {
		name := t.members[i].name
		if !isImage(name) {
			continue
		}
		first, rest, _ := strings.Cut(name, "/")
		second, _, _ := strings.Cut(rest, "/")
		slashes := strings.Count(name, "/")
		if top == "" {
			top = first
		}
		one = one && slashes >= 1 && first == top
		deep = deep && slashes >= 2
		inner = inner || slashes >= 3 && slices.Contains(splitNames, second)
		outer = outer || slashes >= 2 && slices.Contains(splitNames, first)
	}
	wrapped := top != "" && one && !slices.Contains(splitNames, top) && (deep || inner)
	return treeShape{wrapped: wrapped, splits: wrapped && inner || !wrapped && outer}
}

// imageFolder builds the wanted split of an ImageFolder tree. Labels number the classes of train where there is a train split, so
// that a class missing from test does not shift the labels after it.
func (t *tree) imageFolder(o Options) (*Dataset, error) {
	all := t.place()
	if len(all.images) == 0 {
		return nil, fmt.Errorf("%s: %w (.jpg, .jpeg, .png) in class folders among %d files, nor with labels (.cls, .json) beside them: %s", t.what, ErrNoImages, len(t.members), accepted)
	}
	want, err := pickSplit(t.what, all.splits, o.Split)
	if err != nil {
		return nil, err
	}
	ds := &Dataset{classes: t.classesOf(all, o), hashed: t.hashed}
	label := make([]int32, len(all.classes))
	for n, c := range all.classes {
		at, ok := slices.BinarySearch(ds.classes, c)
		if o.ClassNames != nil {
			at = slices.Index(ds.classes, c)
			ok = at >= 0
		}
		if label[n] = int32(at); !ok {
			label[n] = -1
		}
	}
	picked := slices.DeleteFunc(all.images, func(p placed) bool { return want != "*" && want != "" && splitNames[p.split] != want })
	all.sort(picked)
	for i, p := range picked {
		if err := t.addPlaced(ds, all, p, label[p.class]); err != nil {
			return nil, err
		}
		if i > 0 && p.m.name == picked[i-1].m.name {
			return nil, fmt.Errorf("%s: %w: %s occurs twice", t.nameOf(p.m), ErrFormat, p.m.name)
		}
	}
	return ds, nil
}

func (t *tree) addPlaced(ds *Dataset, all *placing, p placed, label int32) error {
	if p.m.leftOut {
		return errLeftOut
	}
	if label < 0 {
		split := ""
		if p.split >= 0 {
			split = splitNames[p.split]
		}
		return fmt.Errorf("%s: %w: class %q of split %q is not a class of train", t.what, ErrFormat, all.classes[p.class], split)
	}
	return t.addTo(ds, p.m.name, p.m, label)
}

// sort orders images by class, then by the rest of their names, then by split.
func (p *placing) sort(images []placed) {
	order := make([]int32, len(p.classes)) // rank of each class
	byName := make([]int32, len(p.classes))
	for n := range byName {
		byName[n] = int32(n)
	}
	slices.SortFunc(byName, func(a, b int32) int { return strings.Compare(p.classes[a], p.classes[b]) })
	for rank, n := range byName {
		order[n] = int32(rank)
	}
	slices.SortFunc(images, func(a, b placed) int {
		if a.class != b.class {
			return cmp.Compare(order[a.class], order[b.class])
		}
		if c := strings.Compare(a.m.name[a.rest:], b.m.name[b.rest:]); c != 0 {
			return c
		}
		if a.split != b.split {
			return strings.Compare(splitNames[a.split], splitNames[b.split])
		}
		return cmp.Or(cmp.Compare(a.m.file, b.m.file), cmp.Compare(a.m.offset, b.m.offset))
	})
}

// classesOf lists the classes that labels number, in their order: those that the caller gives, that the archive names, or else of
// train where there is a train split.
func (t *tree) classesOf(all *placing, o Options) []string {
	if o.ClassNames != nil {
		return o.ClassNames
	}
	if t.classes != nil {
		return t.classes
	}
	train := int8(slices.Index(splitNames, "train"))
	if !slices.Contains(all.splits, "train") {
		train = -2 // all
	}
	used := make([]bool, len(all.classes))
	for i := range all.images {
		if p := &all.images[i]; train == -2 || p.split == train {
			used[p.class] = true
		}
	}
	var classes []string
	for n, c := range all.classes {
		if used[n] {
			classes = append(classes, c)
		}
	}
	slices.Sort(classes)
	return classes
}

// pickSplit maps a request to a split that exists: "*" for all of them, "" for a set without splits.
func pickSplit(what string, found []string, split string) (string, error) {
	if len(found) == 0 {
		if split == "train" || split == "all" {
			return "", nil
		}
		return "", fmt.Errorf("%s: %w %q: its names are without train and test; ask for train or all, or name where the other split lies", what, ErrNoSplit, split)
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
