package shard

import (
	"context"
	"fmt"
	"strconv"
)

// A wdSample is the members of one WebDataset sample, by their places in the tree; -1 where there is none.
type wdSample struct {
	key              string
	image, cls, meta int
}

// groups calls visit for the samples in the order of shards, and of files in each. Files of one key lie together.
func (t *tree) groups(visit func(s wdSample) error) error {
	s := wdSample{image: -1, cls: -1, meta: -1}
	for i := range t.members {
		m := &t.members[i]
		key, ext := splitKey(m.name)
		if i > 0 && (key != s.key || m.file != t.members[i-1].file) {
			if err := visit(s); err != nil {
				return err
			}
			s = wdSample{image: -1, cls: -1, meta: -1}
		}
		s.key = key
		place := &s.image
		switch {
		case ext == ".cls":
			place = &s.cls
		case ext == ".json":
			place = &s.meta
		case !isImage(m.name):
			continue
		}
		if *place >= 0 {
			return fmt.Errorf("%s: %w: %s and %s belong to one sample; give each sample a name of its own", t.nameOf(m), ErrFormat, t.members[*place].name, m.name)
		}
		*place = i
	}
	if len(t.members) == 0 {
		return nil
	}
	return visit(s)
}

// nameOf is a member's archive, where there are several, for errors.
func (t *tree) nameOf(m *member) string {
	if t.files == nil {
		return t.what
	}
	return t.what + ": " + t.files[m.file]
}

// labelled tells a WebDataset: there is an image that has its label beside it. A .json may also say something else of an image in a
// class folder, and in a folder of files nothing is looked for.
func (t *tree) labelled() bool {
	yes := false
	// A sample of two images says no more than that this is something else, or is found again by webDataset.
	_ = t.groups(func(s wdSample) error {
		yes = yes || s.image >= 0 && (s.cls >= 0 && t.members[s.cls].label != noLabel || s.meta >= 0 && t.members[s.meta].label >= 0)
		return nil
	})
	return yes
}

// webDataset makes samples of images and the labels beside them.
func (t *tree) webDataset(ctx context.Context, o Options) (*Dataset, error) {
	if t.split == "" {
		if _, err := pickSplit(t.what, nil, o.Split); err != nil {
			return nil, err
		}
	}
	ds := &Dataset{classes: o.ClassNames, hashed: t.hashed}
	top := int32(-1)
	err := t.groups(func(s wdSample) error {
		label, err := t.addSample(ctx, o, ds, s)
		top = max(top, label)
		return err
	})
	if err != nil {
		return nil, err
	}
	if name, twice := ds.twice(); twice {
		return nil, fmt.Errorf("%s: %w: %s occurs twice; give each sample a name of its own", t.what, ErrFormat, name)
	}
	for k := int32(len(ds.classes)); o.ClassNames == nil && k <= top; k++ {
		ds.classes = append(ds.classes, strconv.Itoa(int(k)))
	}
	return ds, nil
}

// addSample gives the label of what it adds, -1 where that is nothing.
func (t *tree) addSample(ctx context.Context, o Options, ds *Dataset, s wdSample) (int32, error) {
	if s.image < 0 && s.cls < 0 {
		return -1, nil // a .json of its own describes the set
	}
	if s.image < 0 {
		m := &t.members[s.cls]
		return 0, fmt.Errorf("%s: %w: %s (byte %d) has a label but no image", t.nameOf(m), ErrFormat, m.name, m.offset)
	}
	m := &t.members[s.image]
	if m.leftOut {
		return 0, errLeftOut
	}
	label, err := t.labelOf(ctx, s)
	if err != nil {
		return 0, err
	}
	if o.ClassNames != nil && int(label) >= len(o.ClassNames) {
		return 0, fmt.Errorf("%s: %w: %s (byte %d) has class %d of %d", t.nameOf(m), ErrFormat, m.name, m.offset, label, len(o.ClassNames))
	}
	name := m.name
	if t.files != nil {
		name = t.files[m.file] + "/" + name
	}
	return label, t.addTo(ds, name, m, label)
}

// labelOf gives the label beside an image, or says why there is none.
func (t *tree) labelOf(ctx context.Context, s wdSample) (int32, error) {
	at := s.cls
	if at < 0 {
		at = s.meta
	}
	image := &t.members[s.image]
	if at < 0 {
		return 0, fmt.Errorf("%s: %w: %s (byte %d) has no label: want %s.cls or %s.json beside it", t.nameOf(image), ErrFormat, image.name, image.offset, s.key, s.key)
	}
	m := &t.members[at]
	if m.label >= 0 {
		return m.label, nil
	}
	if m.size > maxLabelFile {
		return 0, fmt.Errorf("%s: %s (byte %d) has %d bytes: %w for a label", t.nameOf(m), m.name, m.offset, m.size, ErrTooLarge)
	}
	b, err := t.readMember(ctx, m)
	if err != nil {
		return 0, err
	}
	v, err := labelIn(m.name, b)
	if err != nil {
		return 0, fmt.Errorf("%s: %w: %s (byte %d): %w", t.nameOf(m), ErrFormat, m.name, m.offset, err)
	}
	return v, nil
}
