package pack

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/lockstep-ml/lockstep/internal/vfs"
	"github.com/lockstep-ml/lockstep/shard/source"
)

func open(ctx context.Context, location string) (source.File, error) {
	return source.Open(ctx, location, source.Options{})
}

// images is a made-up split: names share beginnings, sizes go over a block's edge, and labels have one to five digits.
func images(n int) (entries []Entry, data [][]byte) {
	for i := range n {
		size := []int{1, 511, 512, 513, 700, 1024}[i%6]
		entries = append(entries, Entry{Ordinal: 2 * i, Label: i * 13 % 70 * 9, W: i + 1, H: 2*i + 1, Kind: ImageKind(i % 2), Name: fmt.Sprintf("train/class %d/image_%04d.JPEG", i/20, i*i)})
		data = append(data, bytes.Repeat([]byte{byte(i + 1)}, size))
	}
	return entries, data
}

const testRecipe = `{"format":1}`

// writeShard writes the samples at the places to a file, and gives what was made of it.
func writeShard(t testing.TB, dir, split string, number int, entries []Entry, data [][]byte, places []int) *Shard {
	t.Helper()
	var b bytes.Buffer
	w := NewShardWriter(&b, []byte(testRecipe), split, number)
	for _, i := range places {
		if err := w.Add(entries[i], data[i]); err != nil {
			t.Fatal(err)
		}
	}
	w.LeaveOut(1000+number, "train/bad.jpg", "no JPEG")
	s, err := w.Finish()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, filepath.FromSlash(ShardName(split, number)))
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	if s.Size != int64(b.Len()) {
		t.Fatalf("the writer counts %d bytes of %d", s.Size, b.Len())
	}
	return s
}

// writeSet makes a set of two splits, the samples of train in two shards and not in their order.
func writeSet(t testing.TB) (dir string, entries []Entry, data [][]byte) {
	t.Helper()
	dir = t.TempDir()
	entries, data = images(60)
	var odd, even []int
	for i := range entries {
		if i%2 == 0 {
			even = append(even, i)
		} else {
			odd = append(odd, i)
		}
	}
	slices.Reverse(even)
	train := []*Shard{writeShard(t, dir, "train", 0, entries, data, even), writeShard(t, dir, "train", 1, entries, data, odd)}
	val := []*Shard{writeShard(t, dir, "val", 0, entries, data, []int{3, 4, 5})}
	x := &Index{Recipe: []byte(testRecipe)}
	for i := range 700 {
		x.Classes = append(x.Classes, fmt.Sprintf("class %d", i))
	}
	for i, shards := range [][]*Shard{train, val} {
		s, err := NewSplitIndex(splitNames[i], shards)
		if err != nil {
			t.Fatal(err)
		}
		x.Splits = append(x.Splits, s)
	}
	if err := WriteIndex(vfs.OS{}, filepath.Join(dir, IndexName), x); err != nil {
		t.Fatal(err)
	}
	return dir, entries, data
}

func openSet(t testing.TB, dir string) *Set {
	t.Helper()
	set, err := Open(t.Context(), dir, open)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(set.Close(), set.Close()); err != nil {
			t.Error(err)
		}
	})
	return set
}

func TestSet(t *testing.T) {
	dir, entries, data := writeSet(t)
	set := openSet(t, dir)
	train := set.Split("train")
	if train.Len() != 60 || set.Split("test").Len() != 3 || set.Split("val") != set.Split("test") || set.Split("dev") != nil {
		t.Fatalf("%d training and %d other samples", train.Len(), set.Split("test").Len())
	}
	if l := train.Index().LeftOut; len(l) != 2 || l[1].Name != "train/bad.jpg" || l[1].Shard != 1 || l[1].Reason != "no JPEG" {
		t.Errorf("left out are %v", l)
	}
	var buf []byte
	for i := range train.Len() {
		b, err := train.Read(t.Context(), i, buf)
		if err != nil || !bytes.Equal(b, data[i]) {
			t.Fatalf("sample %d: %d bytes, %v", i, len(b), err)
		}
		buf = b
		got, want := train.Entry(i), entries[i]
		want.Shard, want.Offset, want.Size, want.CRC = got.Shard, got.Offset, int64(len(data[i])), got.CRC
		if got != want || got.Shard != i%2 {
			t.Errorf("sample %d is %+v, want %+v", i, got, want)
		}
	}
	if _, err := Open(t.Context(), t.TempDir(), open); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an empty folder: %v", err)
	}
}

// TestShardIsATar reads shards as any program does, and groups members as WebDataset does: by name up to the first dot.
func TestShardIsATar(t *testing.T) {
	dir, entries, data := writeSet(t)
	f, err := os.Open(filepath.Join(dir, "train", "train-000001.tar"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() // only read from
	r := tar.NewReader(f)
	for i := 1; i < 60; i += 2 {
		for k, ext := range []string{entries[i].Kind.extension(), "cls"} {
			h, err := r.Next()
			if err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(r)
			want := [][]byte{data[i], fmt.Append(nil, entries[i].Label)}[k]
			if err != nil || h.Name != fmt.Sprintf("%09d.%s", 2*i, ext) || !bytes.Equal(b, want) || h.Mode != 0o644 {
				t.Fatalf("member %q of %d bytes, %v", h.Name, len(b), err)
			}
		}
	}
	h, err := r.Next()
	if err != nil || strings.Contains(h.Name, ".") {
		t.Fatalf("the index: %+v, %v", h, err)
	}
	if _, err = r.Next(); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
}

// TestHeader compares with the standard library's writer of the same format.
func TestHeader(t *testing.T) {
	for _, size := range []int64{0, 1, 511, 512, 1 << 20, MaxImageBytes} {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		name := key(int(size)) + ".jpg"
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644, Format: tar.FormatUSTAR}); err != nil {
			t.Fatal(err)
		}
		if got := appendHeader(nil, name, size); !bytes.Equal(got, b.Bytes()[:blockBytes]) {
			t.Errorf("size %d:\n%q\nwant\n%q", size, got, b.Bytes()[:blockBytes])
		}
	}
}

// TestOrderDoesNotShow: the hash is the same however samples are spread over shards, and another one for any other content.
func TestOrderDoesNotShow(t *testing.T) {
	entries, data := images(40)
	hash := func(shards ...[]int) Digest {
		dir := t.TempDir()
		var all []*Shard
		for n, places := range shards {
			all = append(all, writeShard(t, dir, "train", n, entries, data, places))
		}
		s, err := NewSplitIndex("train", all)
		if err != nil {
			t.Fatal(err)
		}
		return s.Hash
	}
	want := hash([]int{0, 1, 2, 3, 4})
	if hash([]int{4, 1}, []int{3}, nil, []int{0, 2}) != want {
		t.Error("the split into shards shows in the hash")
	}
	entries[3].Label++
	if hash([]int{0, 1, 2, 3, 4}) == want {
		t.Error("a label does not")
	}
	entries[3].Label--
	entries[3].Name += "x"
	if hash([]int{0, 1, 2, 3, 4}) == want {
		t.Error("a name does not")
	}
	entries[3].Name = strings.TrimSuffix(entries[3].Name, "x")
	data[2] = slices.Clone(data[2])
	data[2][0] ^= 1
	if hash([]int{0, 1, 2, 3, 4}) == want || hash([]int{0, 1, 3, 4}) == want {
		t.Error("contents do not")
	}
}

func TestTable(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		names := rapid.SliceOfN(rapid.StringMatching(`[ab/]{1,12}`), 1, 80).Draw(rt, "names")
		var x table
		for i, n := range names {
			x.add(Entry{Ordinal: i, Offset: int64(i) * blockBytes, Size: 1, W: 1, H: 1, Name: n})
		}
		for i, e := range x.entries() {
			if e.Name != names[i] || x.name(i) != names[i] || e.Ordinal != i || e.Offset != int64(i)*blockBytes {
				rt.Fatalf("entry %d is %+v, by itself %q, want %q", i, e, x.name(i), names[i])
			}
		}
	})
}

func TestWriterRefuses(t *testing.T) {
	good := Entry{Label: 1, W: 1, H: 1, Name: "a"}
	for _, c := range []struct {
		name   string
		size   int
		change func(*Entry)
	}{
		{"empty", 0, func(*Entry) {}},
		{"too large", MaxImageBytes + 1, func(*Entry) {}},
		{"label", 1, func(e *Entry) { e.Label = MaxClasses }},
		{"negative label", 1, func(e *Entry) { e.Label = -1 }},
		{"no pixels", 1, func(e *Entry) { e.H = 0 }},
		{"no name", 1, func(e *Entry) { e.Name = "" }},
		{"long name", 1, func(e *Entry) { e.Name = strings.Repeat("n", maxName+1) }},
		{"kind", 1, func(e *Entry) { e.Kind = imageKinds }},
		{"ordinal", 1, func(e *Entry) { e.Ordinal = 1 << 32 }},
	} {
		e := good
		c.change(&e)
		w := NewShardWriter(io.Discard, nil, "train", 0)
		if err := w.Add(e, make([]byte, c.size)); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestJoin(t *testing.T) {
	for _, c := range [][3]string{
		{"data", "a/b", "data/a/b"}, {"data/", "x", "data/x"}, {"odd?name", "x", "odd?name/x"},
		{"s3://bucket/p?region=eu&endpoint=http://h:1", "train/x.tar", "s3://bucket/p/train/x.tar?region=eu&endpoint=http://h:1"},
		{"https://h/p/", "x", "https://h/p/x"},
	} {
		if got := Join(c[0], c[1]); got != c[2] {
			t.Errorf("%s and %s are %s, want %s", c[0], c[1], got, c[2])
		}
	}
}
