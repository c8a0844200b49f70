package shard

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zlib"

	"github.com/lockstep-ml/lockstep/shard/source"
)

// The made-up ImageNet has these classes; their numbers are not in the order of their names.
var synsets = map[int]string{1: "n03000000", 2: "n01000000", 3: "n02000000", 4: "n00000009"}

// truth are the classes of the val images.
var truth = []int{2, 3, 1, 2, 2}

type ilsvrcOptions struct {
	noTrain, noVal, noDevkit bool
	files                    map[string][]byte // besides, or instead
}

// makeILSVRC writes a small ImageNet as its site gives it: three classes with images, of four that have numbers.
func makeILSVRC(t testing.TB, dir string, o ilsvrcOptions) {
	t.Helper()
	files := map[string][]byte{}
	if !o.noTrain {
		files[ilsvrcTrain] = ilsvrcTrainTar(t)
	}
	if !o.noVal {
		var val []file
		for i := range truth {
			val = append(val, file{fmt.Sprintf("ILSVRC2012_val_%08d.JPEG", i+1), picture(t, 50+i)})
		}
		slices.Reverse(val)
		files[ilsvrcVal] = tarBytes(t, val)
	}
	if !o.noDevkit {
		files[ilsvrcDevkit] = devkit(t, metaMat(t, true), groundTruth())
	}
	for name, b := range o.files {
		files[name] = b
	}
	for name, b := range files {
		if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, name), b, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
}

func ilsvrcTrainTar(t testing.TB) []byte {
	var classes []file
	for c, name := range []string{"n02000000", "n01000000", "n03000000"} {
		var images []file
		for i := range 3 {
			images = append(images, file{fmt.Sprintf("%s_%d.JPEG", name, 9-i), picture(t, 10*c+i)})
		}
		classes = append(classes, file{name + ".tar", tarBytes(t, images)})
	}
	return tarBytes(t, classes)
}

func groundTruth() []byte {
	var b bytes.Buffer
	for _, n := range truth {
		fmt.Fprintln(&b, n)
	}
	return b.Bytes()
}

func devkit(t testing.TB, meta, truth []byte) []byte {
	return gzipBytes(t, tarBytes(t, []file{{"ILSVRC2012_devkit_t12/readme.txt", []byte("hello")}, {"ILSVRC2012_devkit_t12/data/meta.mat", meta},
		{"ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt", truth}}))
}

// matElement writes an element of a MATLAB file, in the small form where it fits.
func matElement(kind int, data []byte) []byte {
	if n := len(data); n > 0 && n <= 4 {
		b := binary.LittleEndian.AppendUint32(nil, uint32(n<<16|kind))
		return append(append(b, data...), make([]byte, 4-n)...)
	}
	b := binary.LittleEndian.AppendUint32(nil, uint32(kind))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(data)))
	b = append(b, data...)
	if kind == miCOMPRESSED {
		return b
	}
	return append(b, make([]byte, -len(data)&7)...)
}

func u32s(v ...uint32) (b []byte) {
	for _, x := range v {
		b = binary.LittleEndian.AppendUint32(b, x)
	}
	return b
}

// matArray writes an array of one row.
func matArray(class int, n uint32, name string, parts ...[]byte) []byte {
	b := slices.Concat(matElement(miUINT32, u32s(uint32(class), 0)), matElement(miINT32, u32s(1, n)), matElement(miINT8, []byte(name)))
	return matElement(miMATRIX, append(b, slices.Concat(parts...)...))
}

// metaMat writes the synsets as MATLAB does, after another variable.
func metaMat(t testing.TB, packed bool) []byte {
	fields := []string{"ILSVRC2012_ID", "WNID", "words", "num_children"}
	var names []byte
	for _, f := range fields {
		names = append(names, append([]byte(f), make([]byte, 16-len(f))...)...)
	}
	var cells [][]byte
	for id := 1; id <= len(synsets); id++ {
		wide := []byte{}
		for _, c := range synsets[id] {
			wide = binary.LittleEndian.AppendUint16(wide, uint16(c))
		}
		text := matElement(miUINT16, wide)
		if id == 2 {
			text = matElement(miUTF8, []byte(synsets[id]))
		}
		number := matElement(miUINT8, []byte{byte(id)})
		if id == 3 {
			number = matElement(miDOUBLE, []byte{0, 0, 0, 0, 0, 0, 8, 64})
		}
		cells = append(cells, matArray(6, 1, "", number), matArray(mxCHAR, 9, "", text), matArray(mxCHAR, 0, "", matElement(miUTF8, nil)), matArray(6, 1, "", matElement(miUINT8, []byte{0})))
	}
	body := matArray(mxSTRUCT, uint32(len(synsets)), "synsets", append([][]byte{matElement(miINT32, u32s(16)), matElement(miINT8, names)}, cells...)...)
	if packed {
		var z bytes.Buffer
		w := zlib.NewWriter(&z)
		if _, err := w.Write(body); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		body = matElement(miCOMPRESSED, z.Bytes())
	}
	head := append([]byte("MATLAB 5.0 MAT-file"), bytes.Repeat([]byte(" "), 107)...)
	head = append(head[:124], 0, 1, 'I', 'M')
	return slices.Concat(head, matArray(6, 1, "other", matElement(miUINT8, []byte{7})), body)
}

var (
	ilsvrcTrainNames = []string{"train/n01000000/n01000000_7.JPEG=0", "train/n01000000/n01000000_8.JPEG=0", "train/n01000000/n01000000_9.JPEG=0",
		"train/n02000000/n02000000_7.JPEG=1", "train/n02000000/n02000000_8.JPEG=1", "train/n02000000/n02000000_9.JPEG=1",
		"train/n03000000/n03000000_7.JPEG=2", "train/n03000000/n03000000_8.JPEG=2", "train/n03000000/n03000000_9.JPEG=2"}
	ilsvrcValNames = []string{"val/n01000000/ILSVRC2012_val_00000001.JPEG=0", "val/n01000000/ILSVRC2012_val_00000004.JPEG=0", "val/n01000000/ILSVRC2012_val_00000005.JPEG=0",
		"val/n02000000/ILSVRC2012_val_00000002.JPEG=1", "val/n03000000/ILSVRC2012_val_00000003.JPEG=2"}
)

func TestILSVRC(t *testing.T) {
	table := "ImageId,PredictionString\n"
	plain := "filename,synset\n"
	for i, n := range truth {
		table += fmt.Sprintf("ILSVRC2012_val_%08d,%s 1 2 3 4 %s 5 6 7 8 \r\n", i+1, synsets[n], synsets[n])
		plain += fmt.Sprintf("val/ILSVRC2012_val_%08d.JPEG,%s\n\n", i+1, synsets[n])
	}
	for kind, o := range map[string]ilsvrcOptions{
		"devkit": {},
		"plain":  {files: map[string][]byte{ilsvrcDevkit: devkit(t, metaMat(t, false), groundTruth())}},
		"kaggle": {noDevkit: true, files: map[string][]byte{"LOC_val_solution.csv": []byte("\ufeff" + table)}},
		"csv":    {noDevkit: true, files: map[string][]byte{"val_labels.csv": []byte(plain)}},
	} {
		dir := t.TempDir()
		makeILSVRC(t, filepath.Join(dir, "sub"), o)
		ds := open(t, Options{Path: dir})
		if got := names(ds); !slices.Equal(got, ilsvrcTrainNames) {
			t.Errorf("%s: train %v", kind, got)
		}
		if got := ds.Classes(); !slices.Equal(got, []string{"n01000000", "n02000000", "n03000000"}) {
			t.Errorf("%s: classes %v", kind, got)
		}
		if b, err := ds.Read(limit(t), 3, nil); err != nil || !bytes.Equal(b, picture(t, 2)) {
			t.Errorf("%s: %s: %d bytes, %v", kind, ds.Name(3), len(b), err)
		}
		for _, split := range []string{"val", "test"} {
			val := open(t, Options{Path: dir, Split: split})
			if got := names(val); !slices.Equal(got, ilsvrcValNames) {
				t.Errorf("%s: val %v", kind, got)
			}
			if b, err := val.Read(limit(t), 3, nil); err != nil || !bytes.Equal(b, picture(t, 51)) {
				t.Errorf("%s: %s: %d bytes, %v", kind, val.Name(3), len(b), err)
			}
		}
		if n := open(t, Options{Path: dir, Split: "all"}).Len(); n != 14 {
			t.Errorf("%s: %d in all", kind, n)
		}
	}
}

// TestILSVRCUnpacked: the archives are the data set that unpacking them gives, and the second start looks through none of them.
func TestILSVRCUnpacked(t *testing.T) {
	dir, folder := t.TempDir(), t.TempDir()
	makeILSVRC(t, dir, ilsvrcOptions{})
	cache := source.Options{Cache: t.TempDir()}
	ds := open(t, Options{Path: dir, Split: "all", Source: cache})
	for i := range ds.Len() {
		b, err := ds.Read(limit(t), i, nil)
		p := filepath.Join(folder, ds.Name(i))
		if err := errors.Join(err, os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, b, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	for _, split := range []string{"train", "val", "all"} {
		if open(t, Options{Path: dir, Split: split}).Fingerprint() != open(t, Options{Path: folder, Split: split}).Fingerprint() {
			t.Errorf("%s: unpacked, it is another data set", split)
		}
		sameSet(t, ds, open(t, Options{Path: dir, Split: "all", Source: cache}), "kept index")
	}
}

func TestILSVRCParts(t *testing.T) {
	dir := t.TempDir()
	makeILSVRC(t, dir, ilsvrcOptions{noTrain: true})
	want := slices.Clone(ilsvrcValNames)
	if got := names(open(t, Options{Path: dir, Split: "val"})); !slices.Equal(got, want) {
		t.Errorf("val alone: %v", got)
	}
	wantError(t, Options{Path: dir}, ErrNoSplit, "found val")
	dir = t.TempDir()
	makeILSVRC(t, dir, ilsvrcOptions{noVal: true, noDevkit: true})
	if n := open(t, Options{Path: dir}).Len(); n != 9 {
		t.Errorf("train alone: %d", n)
	}
	wantError(t, Options{Path: dir, Split: "val"}, ErrNoSplit, "found train")
}

func TestILSVRCErrors(t *testing.T) {
	broken := func(split string, o ilsvrcOptions) Options {
		dir := t.TempDir()
		makeILSVRC(t, dir, o)
		return Options{Path: dir, Split: split}
	}
	with := func(name string, b []byte) ilsvrcOptions { return ilsvrcOptions{files: map[string][]byte{name: b}} }
	kit := func(meta, truth []byte) ilsvrcOptions { return with(ilsvrcDevkit, devkit(t, meta, truth)) }
	wantError(t, broken("val", ilsvrcOptions{noDevkit: true}), ErrFormat, ilsvrcDevkit, "LOC_val_solution.csv")
	wantError(t, broken("val", kit(metaMat(t, true), []byte("1\n2\n"))), ErrFormat, "gives no class for ILSVRC2012_val_0000000")
	wantError(t, broken("val", kit(metaMat(t, true), []byte("1\nseven\n"))), ErrFormat, "line 2", "seven")
	wantError(t, broken("val", kit([]byte("MATLAB"), groundTruth())), ErrFormat, "meta.mat", "MATLAB 5")
	wantError(t, broken("val", kit(metaMat(t, false)[:400], groundTruth())), ErrFormat, "meta.mat")
	wantError(t, broken("val", with(ilsvrcDevkit, gzipBytes(t, tarBytes(t, nil)))), ErrFormat, "data/meta.mat", "download it again")
	wantError(t, broken("val", with(ilsvrcDevkit, devkit(t, metaMat(t, true), groundTruth())[:300])), nil, "cut short", ilsvrcDevkit)
	wantError(t, broken("val", with(ilsvrcDevkit, []byte("x"))), nil, "cut short", ilsvrcDevkit)
	for text, part := range map[string]string{"": "lists no images", "a,b\na,b\n": "twice", "x\n": "line 1", "a,../b\n": "line 1", "a,\n": "line 1"} {
		wantError(t, broken("val", with("val.csv", []byte(text))), ErrFormat, "val.csv", part)
	}
	class := tarBytes(t, []file{{"n01000000_1.JPEG", picture(t, 1)}})
	wantError(t, broken("train", with(ilsvrcTrain, tarBytes(t, []file{{"n01000000.tar", class}, {"n01000000.tar", class}}))), ErrFormat, "n01000000.tar occurs twice")
	wantError(t, broken("train", with(ilsvrcTrain, tarBytes(t, nil))), ErrFormat, "no archives of classes")
	wantError(t, broken("train", with(ilsvrcTrain, tarBytes(t, []file{{"n01000000.tar", class[:700]}}))), nil, "n01000000.tar", "cut short", "byte 1212")
	wantError(t, broken("train", with(ilsvrcTrain, tarBytes(t, []file{{"n01000000.tar", []byte("no tar")}}))), nil, "n01000000.tar", "cut short")
	whole := ilsvrcTrainTar(t)
	for n := 600; n < len(whole)-1024; n += 700 {
		o := broken("train", with(ilsvrcTrain, whole[:n]))
		_, err := Open(limit(t), o)
		var cut *TruncatedError
		if !errors.As(err, &cut) || !strings.Contains(err.Error(), ilsvrcTrain) {
			t.Fatalf("cut to %d of %d bytes: %v", n, len(whole), err)
		}
	}
}

func FuzzSynsets(f *testing.F) {
	f.Add(metaMat(f, false))
	f.Add(metaMat(f, true))
	f.Fuzz(func(t *testing.T, b []byte) {
		out, err := parseSynsets(b)
		for _, s := range out {
			if err == nil && (s == "" || strings.ContainsAny(s, "/\\.")) {
				t.Fatalf("class %q", s)
			}
		}
	})
}

func FuzzTable(f *testing.F) {
	f.Add([]byte("ImageId,PredictionString\nILSVRC2012_val_00000001,n01000000 1 2 3 4\n"))
	f.Add([]byte("filename,synset\na/b.JPEG,n1\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		out, err := parseTable(b)
		for _, s := range out {
			if err == nil && (s == "" || strings.ContainsAny(s, "/\\")) {
				t.Fatalf("class %q", s)
			}
		}
	})
}

func FuzzTruth(f *testing.F) {
	f.Add(groundTruth())
	f.Fuzz(func(t *testing.T, b []byte) {
		out, err := parseTruth(b, synsets)
		if err == nil && len(out) > len(b) {
			t.Fatalf("%d classes of %d bytes", len(out), len(b))
		}
	})
}

// FuzzLabel: a label is a number in its bounds, or an error.
func FuzzLabel(f *testing.F) {
	f.Add("x.cls", []byte("12\n"))
	f.Add("x.json", []byte(`{"label": 3}`))
	f.Add("x.json", []byte(`{"cls": 1e3}`))
	f.Fuzz(func(t *testing.T, name string, b []byte) {
		if v, err := labelIn(name, b); err == nil && (v < 0 || v >= maxLabel) {
			t.Fatalf("label %d", v)
		}
	})
}

// FuzzMembers: a kept index gives members that lie in their archive, and what is kept is given back.
func FuzzMembers(f *testing.F) {
	f.Add([]byte(membersMagic+"\x02\x00\x05a/x.j\x00\x10\x00\x02\x02yz\x01\x20\x05"), int64(1000))
	f.Fuzz(func(t *testing.T, b []byte, size int64) {
		members, err := parseMembers(b, size, 3)
		if err != nil {
			return
		}
		for _, m := range members {
			if m.offset < 0 || m.size < 0 || m.offset+m.size > size || m.file != 3 || m.label < noLabel || m.label > maxLabel {
				t.Fatalf("%+v in %d bytes", m, size)
			}
		}
	})
}

// FuzzCIFARClasses opens a CIFAR set with a foreign list of classes.
func FuzzCIFARClasses(f *testing.F) {
	f.Add([]byte("bird\napple\nzebra\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		files := cifarFiles("", cifarKinds[0], 1)
		files[0].data = b
		ds, err := Open(limit(t), Options{Path: writeFile(t, "c.tar", tarBytes(t, files))})
		if err != nil {
			return
		}
		for i := range ds.Len() {
			if ds.Label(i) >= len(ds.Classes()) {
				t.Fatalf("label %d of %d classes", ds.Label(i), len(ds.Classes()))
			}
		}
		if err := ds.Close(); err != nil {
			t.Fatal(err)
		}
	})
}
