package shard

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/jpeg"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"

	"github.com/lockstep-ml/lockstep/shard/builtin"
	"github.com/lockstep-ml/lockstep/shard/raster"
)

// A file is one file of a made-up data set.
type file struct {
	name string
	data []byte
}

// picture is a small JPEG of its own, told apart by n.
func picture(t testing.TB, n int) []byte {
	t.Helper()
	img := image.NewRGBA(image.Rect(0, 0, 32, 32))
	for y := range 32 {
		for x := range 32 {
			img.Set(x, y, color.RGBA{uint8(n * 37), uint8(8 * x), uint8(8*y + n), 255})
		}
	}
	var b bytes.Buffer
	if err := jpeg.Encode(&b, img, nil); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// pictures makes an ImageFolder; the names come in an order that is not sorted.
func pictures(t testing.TB, names ...string) []file {
	var out []file
	for i, n := range names {
		out = append(out, file{n, picture(t, i)})
	}
	return out
}

func writeFolder(t testing.TB, files []file) string {
	t.Helper()
	dir := t.TempDir()
	for _, f := range files {
		p := filepath.Join(dir, filepath.FromSlash(f.name))
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, f.data, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func tarBytes(t testing.TB, files []file) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := &tar.Header{Name: f.name, Typeflag: tar.TypeReg, Size: int64(len(f.data)), Mode: 0o644}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(f.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func gzipBytes(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func writeFile(t testing.TB, name string, b []byte) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(p, b, 0o644); err != nil {
		t.Fatal(err)
	}
	return p
}

// threeWays stores the files as folder, tar and tar.gz. The names of the archives mislead on purpose: content decides.
func threeWays(t testing.TB, files []file) map[string]string {
	b := tarBytes(t, files)
	return map[string]string{"folder": writeFolder(t, files), "tar": writeFile(t, "data.bin", b), "tar.gz": writeFile(t, "data.tar", gzipBytes(t, b))}
}

func names(ds *Dataset) []string {
	var out []string
	for i := range ds.Len() {
		out = append(out, fmt.Sprintf("%s=%d", ds.Name(i), ds.Label(i)))
	}
	return out
}

var mixed = []string{"train/pear/b.JPEG", "train/apple/z.jpg", "train/apple/sub/a.png.jpg", "train/pear/a.jpeg", "val/pear/x.jpg",
	"train/.hidden/a.jpg", "train/apple/._z.jpg"}

func TestImageFolder(t *testing.T) {
	files := append(pictures(t, mixed...), file{"README.txt", []byte("not an image")}, file{"logo.jpg", picture(t, 1)})
	var wrapped []file
	for _, f := range files {
		wrapped = append(wrapped, file{"top/" + f.name, f.data})
	}
	for prefix, set := range map[string][]file{"": files, "top/": wrapped} {
		for kind, p := range threeWays(t, set) {
			ds := open(t, Options{Path: p})
			want := []string{"train/apple/sub/a.png.jpg=0", "train/apple/z.jpg=0", "train/pear/a.jpeg=1", "train/pear/b.JPEG=1"}
			for i := range want {
				want[i] = prefix + want[i]
			}
			if got := names(ds); !slices.Equal(got, want) {
				t.Errorf("%s, prefix %q: samples %v, want %v", kind, prefix, got, want)
			}
			if got := ds.Classes(); !slices.Equal(got, []string{"apple", "pear"}) {
				t.Errorf("%s: classes %v", kind, got)
			}
			b, err := ds.Read(limit(t), 3, nil)
			if err != nil || !bytes.Equal(b, files[0].data) {
				t.Errorf("%s: %s reads %d bytes, %v", kind, ds.Name(3), len(b), err)
			}
			for _, split := range []string{"test", "val"} {
				if got := names(open(t, Options{Path: p, Split: split})); !slices.Equal(got, []string{prefix + "val/pear/x.jpg=1"}) {
					t.Errorf("%s: split %s: %v", kind, split, got)
				}
			}
			if n := open(t, Options{Path: p, Split: "all"}).Len(); n != 5 {
				t.Errorf("%s: %d images in all, want 5", kind, n)
			}
		}
	}
}

func TestNoSplitFolders(t *testing.T) {
	for kind, p := range threeWays(t, pictures(t, "pear/b.jpg", "apple/z.jpg", "train/t.jpg")) {
		ds := open(t, Options{Path: p})
		if got := names(ds); !slices.Equal(got, []string{"apple/z.jpg=0", "pear/b.jpg=1", "train/t.jpg=2"}) {
			t.Errorf("%s: %v", kind, got)
		}
		_, err := Open(limit(t), Options{Path: p, Split: "test"})
		if !errors.Is(err, ErrNoSplit) || !strings.Contains(err.Error(), "without train and test") {
			t.Errorf("%s: %v, want ErrNoSplit that says what was found", kind, err)
		}
	}
}

func TestFingerprint(t *testing.T) {
	files := pictures(t, mixed...)
	base := threeWays(t, files)
	swapped := slices.Clone(files)
	slices.Reverse(swapped) // another order on disk is the same data
	changed := slices.Clone(files)
	changed[0].data = append(bytes.Clone(changed[0].data[:len(changed[0].data)-1]), 0) // same size, another byte
	renamed := slices.Clone(files)
	renamed[0].name = "train/pear/c.JPEG"
	for kind := range base {
		get := func(files []file, split string) string {
			return open(t, Options{Path: threeWays(t, files)[kind], Split: split}).Fingerprint()
		}
		want := get(files, "train")
		if len(want) != 64 || want != get(swapped, "train") {
			t.Errorf("%s: the order of the archive changes the fingerprint %q", kind, want)
		}
		if want == get(renamed, "train") || want == get(files, "val") {
			t.Errorf("%s: another name or split has the same fingerprint", kind)
		}
		if kind == "tar.gz" && want == get(changed, "train") {
			t.Errorf("%s: other content has the same fingerprint", kind)
		}
		if get(files, "val") != get(files, "test") {
			t.Errorf("%s: val and test are the same images, with different fingerprints", kind)
		}
	}
}

// wantError opens and checks the sentinel and every part of the message.
func wantError(t *testing.T, o Options, is error, parts ...string) {
	t.Helper()
	ds, err := Open(limit(t), o)
	if err == nil {
		t.Errorf("%+v: opened %d images", o, ds.Len())
		return
	}
	if is != nil && !errors.Is(err, is) {
		t.Errorf("%+v: error %q is not %q", o, err, is)
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("error %q does not say %q", err, p)
		}
	}
}

func TestOpenErrors(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "nowhere.tar")
	wantError(t, Options{Path: missing}, ErrNoData, missing, "ImageFolder", "CIFAR")
	wantError(t, Options{Path: writeFile(t, "a.tar", nil)}, ErrFormat, "empty")
	wantError(t, Options{Path: writeFile(t, "a.tar", bytes.Repeat([]byte("no archive "), 100))}, ErrFormat, "not an archive")
	wantError(t, Options{Path: writeFile(t, "a.tar", []byte("PK\x03\x04 and more"))}, ErrFormat, "zip", "unpack")
	wantError(t, Options{Path: t.TempDir()}, ErrNoImages, ".jpg")
	wantError(t, Options{Path: writeFile(t, "a.tar", tarBytes(t, nil))}, ErrNoImages)
	wantError(t, Options{Path: writeFolder(t, pictures(t, "a.jpg", "b.jpg"))}, ErrNoImages, "class folders among 2 files")
	wantError(t, Options{Path: writeFolder(t, pictures(t, "train/a/x.jpg", "test/b/x.jpg")), Split: "test"}, ErrFormat, `"b"`, "not a class of train")
	wantError(t, Options{Path: writeFile(t, "a.tar", tarBytes(t, pictures(t, "a/x.jpg", "a/x.jpg")))}, ErrFormat, "twice")
	wantError(t, Options{Path: writeFile(t, "a.tar", gzipBytes(t, []byte("text, not a tar")))}, nil, "cut short or damaged")
	gz := writeFile(t, "a.tgz", gzipBytes(t, tarBytes(t, pictures(t, "a/x.jpg", "b/x.jpg"))))
	wantError(t, Options{Path: gz, MaxMemory: 1000}, ErrTooLarge, "unpack", ".tar")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Open(ctx, Options{Path: gz}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// TestCutShort cuts archives at every 64th byte, and at all around the members' edges.
func TestCutShort(t *testing.T) {
	plain := tarBytes(t, pictures(t, "a/x.jpg", "b/y.jpg"))
	for kind, whole := range map[string][]byte{"tar": plain, "tar.gz": gzipBytes(t, plain)} {
		least := 512 // shorter than a header is not recognisable
		end := len(whole)
		if kind == "tar" {
			end -= 1024 // the end mark is two blocks; one is enough
		}
		if kind == "tar.gz" {
			least = 3
		}
		for n := least; n < end; n++ {
			if n%64 > 1 && n%512 < 511 {
				continue
			}
			p := writeFile(t, "cut", whole[:n])
			_, err := Open(limit(t), Options{Path: p})
			var cut *TruncatedError
			if !errors.As(err, &cut) {
				t.Fatalf("%s cut to %d of %d bytes: %v", kind, n, len(whole), err)
			}
			if cut.File != p || cut.Offset > int64(len(plain)) || !strings.Contains(err.Error(), "download it again") {
				t.Fatalf("%s cut to %d bytes: %+v", kind, n, cut)
			}
		}
	}
}

// TestFlippedGzip: the checksum at the end of the stream is read.
func TestFlippedGzip(t *testing.T) {
	b := gzipBytes(t, tarBytes(t, pictures(t, "a/x.jpg", "b/y.jpg")))
	b[len(b)-6] ^= 1
	var cut *TruncatedError
	if _, err := Open(limit(t), Options{Path: writeFile(t, "a.tgz", b)}); !errors.As(err, &cut) {
		t.Errorf("a wrong checksum passed: %v", err)
	}
}

func TestFileShrinksWhileOpen(t *testing.T) {
	b := tarBytes(t, pictures(t, "a/x.jpg", "b/y.jpg"))
	p := writeFile(t, "a.tar", b)
	ds := open(t, Options{Path: p})
	if err := os.Truncate(p, 600); err != nil {
		t.Fatal(err)
	}
	if _, err := ds.Read(limit(t), 0, nil); err == nil || !strings.Contains(err.Error(), "changed since it was opened") {
		t.Errorf("read past the new end: %v", err)
	}
	dir := writeFolder(t, pictures(t, "a/x.jpg", "b/y.jpg"))
	ds = open(t, Options{Path: dir})
	if err := os.Remove(filepath.Join(dir, "a", "x.jpg")); err != nil {
		t.Fatal(err)
	}
	if _, err := ds.Read(limit(t), 0, nil); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "a/x.jpg") {
		t.Errorf("removed file: %v", err)
	}
}

// cifarFiles makes a CIFAR binary set with n records a batch. Pixel k of record r of batch b is byte(b*100 + r*10 + k).
func cifarFiles(dir string, k *cifarKind, n int) []file {
	out := []file{{dir + k.meta, []byte("bird\napple\nzebra\n\n")}}
	for b, name := range slices.Concat(k.train, k.test) {
		var data []byte
		for r := range n {
			data = append(data, bytes.Repeat([]byte{byte((b + r) % 3)}, k.labels)...)
			for p := range cifarPixels {
				data = append(data, byte(b*100+r*10+p))
			}
		}
		out = append(out, file{dir + name, data})
	}
	return out
}

func TestCIFARBinary(t *testing.T) {
	for _, k := range cifarKinds {
		prints := map[string]bool{}
		for kind, p := range threeWays(t, cifarFiles("cifar-batches-bin/", k, 4)) {
			ds := open(t, Options{Path: p})
			if ds.Len() != 4*len(k.train) || !slices.Equal(ds.Classes(), []string{"bird", "apple", "zebra"}) {
				t.Fatalf("%s %s: %d images of %v", k.name, kind, ds.Len(), ds.Classes())
			}
			prints[ds.Fingerprint()] = true
			i := ds.Len() - 1 // record 3 of the last training batch
			b := len(k.train) - 1
			if want := fmt.Sprintf("cifar-batches-bin/%s#00003", k.train[b]); ds.Name(i) != want || ds.Label(i) != (b+3)%3 {
				t.Errorf("%s %s: %s=%d, want %s", k.name, kind, ds.Name(i), ds.Label(i), want)
			}
			var dec Decoder
			var img raster.Image
			if err := ds.Load(limit(t), &dec, &img, i); err != nil {
				t.Fatal(err)
			}
			for c := range 3 {
				if got, want := img.Pix[3*(32*5+7)+c], byte(b*100+30+c*1024+32*5+7); got != want {
					t.Errorf("%s %s: channel %d of (5,7) is %d, want %d", k.name, kind, c, got, want)
				}
			}
			if n := open(t, Options{Path: p, Split: "val"}).Len(); n != 4 {
				t.Errorf("%s %s: %d test images", k.name, kind, n)
			}
		}
		if len(prints) != 1 {
			t.Errorf("%s: folder, tar and tar.gz have %d fingerprints", k.name, len(prints))
		}
	}
}

func TestCIFARErrors(t *testing.T) {
	k := cifarKinds[0]
	edit := func(change func(files []file) []file) string {
		return writeFolder(t, change(cifarFiles("", k, 2)))
	}
	cut := edit(func(f []file) []file { f[2].data = f[2].data[:5000]; return f })
	wantError(t, Options{Path: cut}, nil, "data_batch_2.bin has 5000 bytes", "cut short")
	label := edit(func(f []file) []file { f[1].data[cifarPixels+1] = 3; return f })
	wantError(t, Options{Path: label}, ErrFormat, "record 1 of data_batch_1.bin (byte 3073) has label 3 of 3 classes")
	wantError(t, Options{Path: edit(func(f []file) []file { return f[:3] })}, ErrNoSplit, "data_batch_3.bin")
	wantError(t, Options{Path: edit(func(f []file) []file { f[0].data = nil; return f })}, ErrFormat, "lists 0 classes")
	wantError(t, Options{Path: edit(func(f []file) []file {
		for i := range f[1:] {
			f[1+i].data = nil
		}
		return f
	})}, ErrNoImages)
}

func TestBuiltin(t *testing.T) {
	for split, n := range map[string]int{"train": 5000, "test": 1000, "val": 1000, "all": 6000} {
		ds := open(t, Options{Path: Builtin, Split: split})
		if ds.Len() != n || len(ds.Classes()) != 10 || ds.Classes()[3] != "cat" {
			t.Errorf("%s: %d images of %v", split, ds.Len(), ds.Classes())
		}
		count := make([]int, 10)
		for i := range ds.Len() {
			count[ds.Label(i)]++
		}
		for _, c := range count {
			if c != n/10 {
				t.Errorf("%s: %v images a class", split, count)
				break
			}
		}
	}
}

// TestBuiltinIsFromCIFAR compares every sample with the archive that it was cut from.
func TestBuiltinIsFromCIFAR(t *testing.T) {
	path := sharedFile(t, "data/cifar10.tar.gz")
	for _, split := range []string{"train", "test"} {
		whole, cut := open(t, Options{Path: path, Split: split}), open(t, Options{Path: Builtin, Split: split})
		at := map[string]int{}
		for i := range whole.Len() {
			at[whole.Name(i)] = i
		}
		var buf []byte
		for i := range cut.Len() {
			j, ok := at[cut.Name(i)]
			if !ok || whole.Label(j) != cut.Label(i) {
				t.Fatalf("%s is not in the archive with label %d", cut.Name(i), cut.Label(i))
			}
			want, err := whole.Read(limit(t), j, nil)
			if err != nil {
				t.Fatal(err)
			}
			if buf, err = cut.Read(limit(t), i, buf); err != nil || !bytes.Equal(buf, want) {
				t.Fatalf("%s differs from the archive: %v", cut.Name(i), err)
			}
		}
	}
}

func TestSharedSets(t *testing.T) {
	for _, c := range []struct {
		file, split string
		n, classes  int
	}{{"cifar10.tar.gz", "train", 50000, 10}, {"cifar10.tar.gz", "val", 10000, 10}, {"imagenette.tar", "train", 4000, 10},
		{"imagenette.tar", "test", 1500, 10}, {"imagenet-fullres.tar", "train", 160, 160}} {
		ds := open(t, Options{Path: sharedFile(t, "data/"+c.file), Split: c.split})
		if ds.Len() != c.n || len(ds.Classes()) != c.classes {
			t.Errorf("%s, %s: %d images of %d classes, want %d of %d", c.file, c.split, ds.Len(), len(ds.Classes()), c.n, c.classes)
		}
	}
}

// TestOtherSplitIsNotHeld: of a compressed archive only the wanted split is held in memory, unless names mislead.
func TestOtherSplitIsNotHeld(t *testing.T) {
	var set []file
	for i := range 40 {
		set = append(set, file{fmt.Sprintf("top/train/a/%02d.jpg", i), picture(t, i)})
	}
	set = append(set, file{"top/test/a/x.jpg", picture(t, 1)})
	p := writeFile(t, "a.tgz", gzipBytes(t, tarBytes(t, set)))
	bound := int64(2 * len(set[0].data))
	if n := open(t, Options{Path: p, Split: "test", MaxMemory: bound}).Len(); n != 1 {
		t.Errorf("%d test images", n)
	}
	wantError(t, Options{Path: p, Split: "train", MaxMemory: bound}, ErrTooLarge)
	if open(t, Options{Path: p, Split: "test"}).Fingerprint() == open(t, Options{Path: p, Split: "all"}).Fingerprint() {
		t.Error("test and all have one fingerprint")
	}
	// Here "test" is a folder inside a class.
	p = writeFile(t, "b.tgz", gzipBytes(t, tarBytes(t, pictures(t, "a/test/x.jpg", "b/y.jpg"))))
	ds := open(t, Options{Path: p})
	if got := names(ds); !slices.Equal(got, []string{"a/test/x.jpg=0", "b/y.jpg=1"}) {
		t.Errorf("samples %v", got)
	}
	if b, err := ds.Read(limit(t), 0, nil); err != nil || !bytes.Equal(b, picture(t, 0)) {
		t.Errorf("%d bytes, %v", len(b), err)
	}
}

// FuzzArchive opens foreign bytes as an archive: an error or a data set that can be read, never a panic.
func FuzzArchive(f *testing.F) {
	plain := tarBytes(f, pictures(f, "train/a/x.jpg", "test/a/y.jpg"))
	f.Add(plain)
	f.Add(gzipBytes(f, plain))
	f.Add(tarBytes(f, cifarFiles("c/", cifarKinds[1], 1)))
	f.Add(plain[:700])
	f.Fuzz(func(t *testing.T, b []byte) {
		ds, err := Open(context.Background(), Options{Path: writeFile(t, "f", b), MaxMemory: 1 << 20})
		if err != nil {
			return
		}
		for i := range min(ds.Len(), 10) {
			if got, err := ds.Read(limit(t), i, nil); err == nil && ds.Encoding() == RawPlanar32 && len(got) != cifarPixels {
				t.Fatalf("record of %d bytes", len(got))
			}
			if ds.Label(i) < 0 || ds.Label(i) >= len(ds.Classes()) {
				t.Fatalf("label %d of %d classes", ds.Label(i), len(ds.Classes()))
			}
		}
		if err := ds.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestCloseTwice(t *testing.T) {
	ds := open(t, Options{Path: writeFile(t, "a.tar", tarBytes(t, pictures(t, "a/x.jpg")))})
	if err := errors.Join(ds.Close(), ds.Close()); err != nil {
		t.Error(err)
	}
	if _, err := ds.Read(limit(t), 0, nil); err == nil {
		t.Error("read after Close")
	}
}

func TestBuiltinDamaged(t *testing.T) {
	b := bytes.Clone(builtin.Data())
	b[1000] ^= 4
	if _, err := builtin.Decode(b); !errors.Is(err, builtin.ErrFormat) {
		t.Errorf("a flipped bit passed: %v", err)
	}
}
