package shard

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/klauspost/compress/gzip"
	"golang.org/x/sync/errgroup"

	"github.com/lockstep-ml/lockstep/shard/source"
)

// The files of ImageNet's classification task as its site gives them. The train archive holds one archive a class, of the class's
// name; the val archive holds images without classes, which are in the devkit, or in a table.
const (
	ilsvrcTrain  = "ILSVRC2012_img_train.tar"
	ilsvrcVal    = "ILSVRC2012_img_val.tar"
	ilsvrcDevkit = "ILSVRC2012_devkit_t12.tar.gz"

	maxILSVRCClasses = 100_000
	// maxTable bounds a table of labels: the real ones have 2 MB.
	maxTable = 64 << 20
	// maxDevkit bounds what the devkit unpacks to: the real one has 3 MB.
	maxDevkit = 64 << 20
)

// valTables are the names under which a table of the val images' classes is looked for.
var valTables = []string{"LOC_val_solution.csv", "ILSVRC2012_val_labels.csv", "val_labels.csv", "val.csv"}

// An ilsvrc is a folder of ImageNet's archives.
type ilsvrc struct {
	o    Options
	t    *tree  // of the folder
	root string // the folder's location
	dir  string // of the archives in it, "." for itself
}

// openILSVRC makes of ImageNet's archives the tree that unpacking them into train/CLASS and val/CLASS would give.
func openILSVRC(ctx context.Context, o Options, folder *tree, dir string) (*tree, error) {
	s := &ilsvrc{o: o, t: folder, root: folder.store.(*folderStore).root, dir: dir}
	var found []string
	for split, name := range map[string]string{"train": ilsvrcTrain, "val": ilsvrcVal} { // sorted below
		if s.has(name) {
			found = append(found, split)
		}
	}
	slices.Sort(found)
	want, err := pickSplit(folder.what, found, o.Split)
	if err != nil {
		return nil, err
	}
	out := &tree{what: folder.what, store: &fileStore{}}
	if slices.Contains(found, "train") {
		err = s.train(ctx, out, want != "val")
	}
	if err == nil && want != "train" && slices.Contains(found, "val") {
		err = s.val(ctx, out)
	}
	if err != nil {
		return nil, errors.Join(err, out.store.Close())
	}
	return out, nil
}

func (s *ilsvrc) has(name string) bool {
	return s.t.find(func(m *member) bool { return m.name == path.Join(s.dir, name) }) != nil
}

func (s *ilsvrc) open(ctx context.Context, name string) (source.File, error) {
	return s.o.opener.Open(ctx, source.Join(s.root, path.Join(s.dir, name)))
}

// add puts a file into the tree's store.
func (s *ilsvrc) add(ctx context.Context, out *tree, name string) (source.File, int32, error) {
	f, err := s.open(ctx, name)
	if err != nil {
		return nil, 0, err
	}
	store := out.store.(*fileStore)
	store.files = append(store.files, f)
	return f, int32(len(store.files) - 1), nil
}

// train lists the classes, and with images what is in their archives.
func (s *ilsvrc) train(ctx context.Context, out *tree, images bool) error {
	f, file, err := s.add(ctx, out, ilsvrcTrain)
	if err != nil {
		return err
	}
	classes, err := s.classTars(ctx, f)
	if err != nil {
		return err
	}
	for _, c := range classes {
		out.classes = append(out.classes, c.name)
	}
	slices.Sort(out.classes)
	if !images {
		return nil
	}
	members, err := s.trainMembers(ctx, f, file, classes)
	out.members = append(out.members, members...)
	return err
}

// classTars lists the archives in the train archive. Each member's name is its class.
func (s *ilsvrc) classTars(ctx context.Context, f source.File) ([]member, error) {
	var out []member
	seen := map[string]bool{}
	wanted := func(name string) bool { return strings.HasSuffix(name, ".tar") }
	err := scanPart(ctx, f.Name(), f, 0, f.Size(), wanted, func(h *tar.Header, offset int64, _ io.Reader) error {
		if len(out) >= maxILSVRCClasses {
			return fmt.Errorf("%s: %w: more than %d classes", f.Name(), ErrTooLarge, maxILSVRCClasses)
		}
		class := strings.TrimSuffix(path.Base(h.Name), ".tar")
		if seen[class] {
			return fmt.Errorf("%s: %w: %s occurs twice", f.Name(), ErrFormat, h.Name)
		}
		seen[class] = true
		out = append(out, member{name: class, size: h.Size, offset: offset})
		return nil
	})
	if err == nil && len(out) == 0 {
		err = fmt.Errorf("%s: %w: it holds no archives of classes (n01440764.tar, ...)", f.Name(), ErrFormat)
	}
	return out, err
}

// trainMembers lists the images of all classes, several archives at a time.
func (s *ilsvrc) trainMembers(ctx context.Context, f source.File, file int32, classes []member) ([]member, error) {
	key := indexKey(f)
	if key != "" {
		key += " with the archives in it"
	}
	if members := keptMembers(s.o, key, f.Size(), file); members != nil {
		return members, nil
	}
	lists := make([][]member, len(classes))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(openAtOnce)
	for i, c := range classes {
		g.Go(func() error {
			var names arena
			what := f.Name() + ": " + c.name + ".tar"
			return scanPart(ctx, what, f, c.offset, c.offset+c.size, isImage, func(h *tar.Header, offset int64, _ io.Reader) error {
				lists[i] = append(lists[i], member{name: names.keep("train/" + c.name + "/" + path.Base(h.Name)), size: h.Size, offset: offset, file: file, label: noLabel})
				return nil
			})
		})
	}
	if err := g.Wait(); err != nil { //bounded: each archive's reads are, and end with ctx
		return nil, err
	}
	members := slices.Concat(lists...)
	keepMembers(s.o, key, members)
	return members, nil
}

// val lists the val images, under the classes that the devkit or a table gives them.
func (s *ilsvrc) val(ctx context.Context, out *tree) error {
	f, file, err := s.add(ctx, out, ilsvrcVal)
	if err != nil {
		return err
	}
	classOf, from, err := s.valClasses(ctx)
	if err != nil {
		return err
	}
	members, err := scanArchive(ctx, s.o, f, file)
	if err != nil {
		return err
	}
	var names arena
	for _, m := range members {
		if !isImage(m.name) {
			continue
		}
		base := path.Base(m.name)
		class, ok := classOf[stem(base)]
		if !ok {
			return fmt.Errorf("%s: %w: %s gives no class for %s", f.Name(), ErrFormat, from, m.name)
		}
		m.name = names.keep("val/" + class + "/" + base)
		out.members = append(out.members, m)
	}
	if out.classes == nil {
		for _, c := range classOf { // sorted below
			out.classes = append(out.classes, c)
		}
		slices.Sort(out.classes)
		out.classes = slices.Compact(out.classes)
	}
	return nil
}

// stem is a file's name without its extension.
func stem(name string) string { return strings.TrimSuffix(name, path.Ext(name)) }

// valClasses reads the classes of the val images, by their names' stems, and says where from.
func (s *ilsvrc) valClasses(ctx context.Context) (map[string]string, string, error) {
	for _, name := range valTables {
		if s.has(name) {
			b, err := s.text(ctx, name)
			if err != nil {
				return nil, "", err
			}
			m, err := parseTable(b)
			if err != nil {
				return nil, "", fmt.Errorf("%s: %s: %w", s.t.what, name, err)
			}
			return m, name, nil
		}
	}
	m, err := s.devkit(ctx)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, "", fmt.Errorf("%s: %w: there is neither %s nor one of %s beside %s: the images' classes are in those", s.t.what, ErrFormat, ilsvrcDevkit,
			strings.Join(valTables, ", "), ilsvrcVal)
	}
	return m, ilsvrcDevkit, err
}

func (s *ilsvrc) text(ctx context.Context, name string) (b []byte, err error) {
	f, err := s.open(ctx, name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return textOf(ctx, f, maxTable)
}

// devkit reads the ground truth, a class number a line, and the numbers' classes.
func (s *ilsvrc) devkit(ctx context.Context) (map[string]string, error) {
	b, err := s.text(ctx, ilsvrcDevkit)
	if err != nil {
		return nil, err
	}
	what := s.t.what + ": " + ilsvrcDevkit
	files, err := unpackDevkit(ctx, what, b)
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"meta.mat", "ILSVRC2012_validation_ground_truth.txt"} {
		if files[name] == nil {
			return nil, fmt.Errorf("%s: %w: it has no data/%s; download it again", what, ErrFormat, name)
		}
	}
	synsets, err := parseSynsets(files["meta.mat"])
	if err != nil {
		return nil, fmt.Errorf("%s: meta.mat: %w", what, err)
	}
	m, err := parseTruth(files["ILSVRC2012_validation_ground_truth.txt"], synsets)
	if err != nil {
		return nil, fmt.Errorf("%s: ground truth: %w", what, err)
	}
	return m, nil
}

// unpackDevkit gives the files of the devkit by the last elements of their names.
func unpackDevkit(ctx context.Context, what string, b []byte) (map[string][]byte, error) {
	zr, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, &TruncatedError{File: what, Err: err}
	}
	files := map[string][]byte{}
	tail := &tailReader{r: io.LimitReader(zr, maxDevkit)}
	wanted := func(name string) bool { return path.Base(path.Dir(name)) == "data" }
	err = scanTar(ctx, what, tail, tail, wanted, func(h *tar.Header, body io.Reader) error {
		b, err := io.ReadAll(body)
		if err != nil {
			return &TruncatedError{File: what, Offset: tail.offset, Err: err}
		}
		files[path.Base(h.Name)] = b
		return nil
	})
	return files, err
}

// parseTruth gives each image's class: line n is that of ILSVRC2012_val_n, n from 1 in eight digits.
func parseTruth(b []byte, synsets map[int]string) (map[string]string, error) {
	out := map[string]string{}
	line := 0
	for text := range strings.Lines(string(b)) {
		line++
		text = strings.TrimSpace(text)
		id, err := strconv.Atoi(text)
		class, ok := synsets[id]
		if err != nil || !ok {
			return nil, fmt.Errorf("%w: line %d: %.32q is no class of meta.mat", ErrFormat, line, text)
		}
		out[fmt.Sprintf("ILSVRC2012_val_%08d", line)] = class
	}
	return out, nil
}

// parseTable reads lines FILE,CLASS, or LOC_val_solution.csv's, where the class is the first word of the second column. A first line
// whose class is no synset is the columns' names.
func parseTable(b []byte) (map[string]string, error) {
	out := map[string]string{}
	lines := bufio.NewScanner(bytes.NewReader(b))
	lines.Buffer(nil, 1<<20)
	for n := 1; lines.Scan(); n++ {
		text := strings.TrimSpace(strings.TrimPrefix(lines.Text(), "\ufeff"))
		if text == "" {
			continue
		}
		file, rest, ok := strings.Cut(text, ",")
		words := strings.Fields(rest)
		if !ok || file == "" || len(words) == 0 {
			return nil, fmt.Errorf("%w: line %d: want FILE,CLASS, got %.64q", ErrFormat, n, text)
		}
		class := strings.TrimRight(words[0], ",")
		if n == 1 && isHeading(file) {
			continue
		}
		if class == "" || class == "." || class == ".." || strings.ContainsAny(class, "/\\") {
			return nil, fmt.Errorf("%w: line %d: %.64q cannot be the name of a class", ErrFormat, n, class)
		}
		key := stem(path.Base(file))
		if _, twice := out[key]; twice {
			return nil, fmt.Errorf("%w: line %d: %.64q occurs twice", ErrFormat, n, file)
		}
		out[key] = class
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%w: it lists no images", ErrFormat)
	}
	return out, nil
}

// isHeading tells a table's first line that names its columns.
func isHeading(file string) bool {
	return slices.Contains([]string{"imageid", "filename", "file", "image", "name"}, strings.ToLower(strings.Trim(file, `"`)))
}
