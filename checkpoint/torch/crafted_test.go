package torch

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// entryOf is an entry of an archive made up for a test.
type entryOf struct {
	name, data string
	method     uint16
	claim      uint64 // uncompressed size to claim; 0: the data's
}

func archiveOf(t testing.TB, entries ...entryOf) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, e := range entries {
		h := &zip.FileHeader{Name: e.name, Method: e.method}
		if e.method == zip.Store {
			h.CRC32, h.CompressedSize64, h.UncompressedSize64 = crc32.ChecksumIEEE([]byte(e.data)), uint64(len(e.data)), uint64(len(e.data))
			if e.claim > 0 {
				h.CompressedSize64, h.UncompressedSize64 = e.claim, e.claim
			}
			f, err := w.CreateRaw(h)
			if err != nil {
				t.Fatal(err)
			}
			f.Write([]byte(e.data)) // into memory
			continue
		}
		f, err := w.CreateHeader(h)
		if err != nil {
			t.Fatal(err)
		}
		f.Write([]byte(e.data))
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// text is BINUNICODE with its string.
func text(s string) string {
	return "X" + string(binary.LittleEndian.AppendUint32(nil, uint32(len(s)))) + s
}

// integer is LONG1 of eight bytes.
func integer(v int64) string {
	return "\x8a\x08" + string(binary.LittleEndian.AppendUint64(nil, uint64(v)))
}

func ints(v ...int64) string {
	s := "("
	for _, x := range v {
		s += integer(x)
	}
	return s + "t"
}

// tensorOf is the program for a tensor of a float storage with the key and count.
func tensorOf(key string, count, offset int64, shape, stride string) string {
	return "ctorch._utils\n_rebuild_tensor_v2\n((" + text("storage") + "ctorch\nFloatStorage\n" + text(key) + text("cpu") + integer(count) + "tQ" +
		integer(offset) + shape + stride + "\x89}tR"
}

// dictOf is a whole pickle of a dict with entries of text keys.
func dictOf(keysAndValues ...string) string {
	s := "\x80\x02}("
	for i := 0; i < len(keysAndValues); i += 2 {
		s += text(keysAndValues[i]) + keysAndValues[i+1]
	}
	return s + "u."
}

var good = tensorOf("0", 4, 0, ints(2, 2), ints(2, 1))

// badPickles are programs to refuse, in an archive with a storage "0" of four floats, and what the error must say.
var badPickles = []struct{ name, program, want string }{
	{"os.system", "\x80\x02cos\nsystem\n" + text("touch executed") + "\x85R.", `"os.system"`},
	{"builtins.eval", "\x80\x02c__builtin__\neval\n" + text("1") + "\x85R.", `"__builtin__.eval"`},
	{"by STACK_GLOBAL", "\x80\x04" + text("os") + text("system") + "\x93.", `"os.system"`},
	{"class of a storage called", "\x80\x02ctorch\nFloatStorage\n)R.", "only names a type"},
	{"EXT1", "\x80\x02\x82\x01.", "instruction 0x82"},
	{"INST", "(ios\nsystem\n.", "instruction 0x69"},
	{"OBJ", "(cos\nsystem\no.", `"os.system"`},
	{"PERSID", "P0\n.", "instruction 0x50"},
	{"protocol 9", "\x80\x09.", "protocol 9"},
	{"no end", "\x80\x02}", "unexpected EOF"},
	{"tail", dictOf("a", good) + "x", "1 bytes follow"},
	{"empty stack", "\x80\x02a.", "empty stack"},
	{"mark as a value", "\x80\x02(.", "empty stack"},
	{"no mark", "\x80\x02}u.", "no mark"},
	{"no memo", "\x80\x02h\x05.", "no entry 5"},
	{"two results", "\x80\x02}}.", "1 values too many"},
	{"odd items", "\x80\x02}(Nu.", "without a value"},
	{"append to a dict", "\x80\x02}Na.", "a dict is appended to"},
	{"items of a tuple", "\x80\x02)NNs.", "set of a tuple"},
	{"attributes of a string", "\x80\x02" + text("a") + "}b.", "attributes are set of a string"},
	{"deep", "\x80\x02" + strings.Repeat("(", maxMarks+1), "nested deeper"},
	{"long string", "\x80\x02X\xff\xff\xff\xff", "bounds"},
	{"long name", "\x80\x02c" + strings.Repeat("a", maxName+2), "name of more than"},
	{"not UTF-8", "\x80\x02U\x01\xff.", "UTF-8"},
	{"other reference", "\x80\x02)Q.", "outside the pickle"},
	{"module", "\x80\x02(" + text("module") + "NNNtQ.", "whole module"},
	{"storage of a str", "\x80\x02(" + text("storage") + text("a") + text("0") + text("cpu") + integer(1) + "tQ.", "described by a string"},
	{"negative storage", dictOf("a", tensorOf("0", -1, 0, ints(1), ints(1))), "of -1 values"},
	{"huge storage", dictOf("a", tensorOf("0", 1<<62, 0, ints(1), ints(1))), "values, want 0 to"},
	{"storage of two sizes", dictOf("a", good, "b", tensorOf("0", 5, 4, ints(1), ints(1))), "and then 5"},
	{"storage that is not there", dictOf("a", tensorOf("1", 4, 0, ints(4), ints(1))), `"1" is not in the archive`},
	{"storage outside the folder", dictOf("a", tensorOf("../data.pkl", 4, 0, ints(4), ints(1))), "is not in the archive"},
	{"storage of another size", dictOf("a", tensorOf("0", 5, 0, ints(4), ints(1))), "has 16 bytes, 5 values"},
	{"outside by offset", dictOf("a", tensorOf("0", 4, 1, ints(4), ints(1))), "outside its storage"},
	{"offset outside", dictOf("a", tensorOf("0", 4, 4, ints(1), ints(1))), "begins at value 4"},
	{"negative offset", dictOf("a", tensorOf("0", 4, -1, ints(1), ints(1))), "begins at value -1"},
	{"outside by stride", dictOf("a", tensorOf("0", 4, 0, ints(2, 2), ints(3, 1))), "outside its storage"},
	{"stride that overflows", dictOf("a", tensorOf("0", 4, 0, ints(3, 2), ints(1<<62, 1))), "outside its storage"},
	{"negative stride", dictOf("a", tensorOf("0", 4, 3, ints(4), ints(-1))), "share values"},
	{"zero stride", dictOf("a", tensorOf("0", 4, 0, ints(1<<20), ints(0))), "share values"},
	{"places that meet", dictOf("a", tensorOf("0", 4, 0, ints(2, 2), ints(1, 1))), "share values"},
	{"negative shape", dictOf("a", tensorOf("0", 4, 0, ints(-1, -4), ints(1, 1))), "is not one of"},
	{"product that overflows", dictOf("a", tensorOf("0", 4, 0, ints(1<<32, 1<<32), ints(1<<32, 1))), "is not one of"},
	{"ranks differ", dictOf("a", tensorOf("0", 4, 0, ints(4), ints(4, 1))), "different length"},
	{"rank", dictOf("a", tensorOf("0", 4, 0, ints(1, 1, 1, 1, 1, 1, 1, 1, 1), ints(1, 1, 1, 1, 1, 1, 1, 1, 1))), "at most 8"},
	{"overlap of two", dictOf("a", good, "b", tensorOf("0", 4, 3, ints(1), ints(1))), `"a" and "b" overlap`},
	{"name twice", dictOf("a", tensorOf("0", 4, 0, ints(1), ints(1)), "a", tensorOf("0", 4, 1, ints(1), ints(1))), "twice"},
	{"other values between", dictOf("a", good, "n", "K\x01"), `an integer under "n"`},
	{"a list", "\x80\x02].", "it holds a list"},
	{"a dict in itself", "\x80\x02}q\x00" + text("state_dict") + "h\x00s.", "no dict of tensors"},
	{"few arguments", "\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.", "0 arguments"},
	{"no storage", "\x80\x02ctorch._utils\n_rebuild_tensor\n(NNNNtR.", "want a storage"},
	{"parameter of nothing", "\x80\x02ctorch.nn.parameter\nParameter\n)\x81.", "want a tensor"},
	{"dict of no pairs", "\x80\x02ccollections\nOrderedDict\n](Ne\x85R.", "pair"},
	{"dict of a string", "\x80\x02ccollections\nOrderedDict\n" + text("a") + "\x85R.", "want none, or a list"},
	{"size of nothing", "\x80\x02ctorch\nSize\n)R.", "one tuple"},
}

var fourFloats = "\x00\x00\x80?\x00\x00\x00@\x00\x00@@\x00\x00\x80@" // 1 2 3 4

func TestRefusedPickles(t *testing.T) {
	for _, c := range badPickles {
		file := archiveOf(t, entryOf{name: "a/data.pkl", data: c.program}, entryOf{name: "a/data/0", data: fourFloats})
		_, err := Read(bytes.NewReader(file), int64(len(file)), 1<<20)
		if !errors.Is(err, ErrTorch) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one that says %q", c.name, err, c.want)
		}
	}
	if _, err := os.Stat("executed"); err == nil {
		t.Error("a file's program was run")
	}
}

// A value that refers to itself a hundred times over is as long to write down as 2^100 values.
func TestErrorsOfDeepValuesAreShort(t *testing.T) {
	program := "\x80\x02}(Nq\x00" + strings.Repeat("0h\x00h\x00\x86q\x00", 100) + "Nu."
	file := archiveOf(t, entryOf{name: "a/data.pkl", data: program})
	if _, err := Read(bytes.NewReader(file), int64(len(file)), 1<<20); err == nil || len(err.Error()) > 2000 || !strings.Contains(err.Error(), "None under a tuple") {
		t.Errorf("error %v", err)
	}
}

func TestPickleIsBounded(t *testing.T) {
	for name, program := range map[string]string{
		"instructions": "\x80\x02" + strings.Repeat("N0", maxInstructions/2+1),
		"stack":        "\x80\x02" + strings.Repeat("N", maxStack+1),
		"bytes":        "\x80\x02" + strings.Repeat("X\x00\x00\x10\x00"+strings.Repeat("a", maxText)+"0", maxPickleBytes/maxText+1),
	} {
		file := archiveOf(t, entryOf{name: "a/data.pkl", data: program})
		if _, err := Read(bytes.NewReader(file), int64(len(file)), 1<<20); !errors.Is(err, ErrTorch) {
			t.Errorf("%s: %v", name, err)
		} else if !strings.Contains(err.Error(), "more than") && !strings.Contains(err.Error(), "bounds") {
			t.Errorf("%s: refused for another reason: %v", name, err)
		}
	}
}

// Python 2 writes strings as bytes, and an OrderedDict as a list of pairs; PyTorch 0.1 wrote Parameter objects with their attributes.
func TestOldPickles(t *testing.T) {
	old := "ctorch.nn.parameter\nParameter\nctorch._utils\n_rebuild_tensor\n((U\x07storageq\x01ctorch\nFloatStorage\nU\x010U\x03cpu" + integer(4) +
		"NtQ" + integer(0) + ints(2, 2) + ints(1, 2) + "tR\x85R(\x88\x89}tb"
	file := archiveOf(t, entryOf{name: "a/data.pkl", data: "\x80\x02ccollections\nOrderedDict\n](](U\x01w" + old + "ee\x85R."}, entryOf{name: "a/data/0", data: fourFloats})
	got, err := Read(bytes.NewReader(file), int64(len(file)), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 1 || got[0].Name != "w" || got[0].Data[1] != 3 || got[0].Data[2] != 2 {
		t.Errorf("%+v, want w = 1 3 2 4", got)
	}
}

func TestRefusedArchives(t *testing.T) {
	pickle := entryOf{name: "a/data.pkl", data: dictOf("w", good)}
	values := entryOf{name: "a/data/0", data: fourFloats}
	bomb := entryOf{name: "a/data/0", data: strings.Repeat("\x00", 8<<20), method: zip.Deflate}
	for _, c := range []struct {
		name    string
		entries []entryOf
		want    string
	}{
		{"bomb", []entryOf{pickle, bomb}, "compressed"},
		{"compressed pickle", []entryOf{{name: "a/data.pkl", data: pickle.data, method: zip.Deflate}, values}, "compressed"},
		{"claims more than there is", []entryOf{pickle, {name: "a/data/0", data: fourFloats, claim: 1 << 50}}, "cut short"},
		{"claims its neighbour", []entryOf{{name: "a/data/0", data: fourFloats, claim: 120}, pickle}, "overlap"},
		{"twice", []entryOf{pickle, values, values}, "twice"},
		{"no pickle", []entryOf{values}, "no data.pkl"},
		{"empty", nil, "neither as a zip"},
		{"TorchScript", []entryOf{pickle, values, {name: "a/constants.pkl", data: "N."}}, "TorchScript"},
		{"big-endian", []entryOf{pickle, values, {name: "a/byteorder", data: "big"}}, "byteorder"},
		{"newer", []entryOf{pickle, values, {name: "a/version", data: "99\n"}}, "version"},
		{"no number", []entryOf{pickle, values, {name: "a/version", data: "x"}}, "version"},
	} {
		file := archiveOf(t, c.entries...)
		_, err := Read(bytes.NewReader(file), int64(len(file)), 1<<20)
		if !errors.Is(err, ErrTorch) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one that says %q", c.name, err, c.want)
		}
	}
	file := archiveOf(t, pickle, values)
	if got, err := Read(bytes.NewReader(file), int64(len(file)), 1<<20); err != nil || len(got) != 1 || got[0].Data[3] != 4 {
		t.Errorf("what all of these are made from gives %v, %v", got, err)
	}
}

func TestDirectoryIsBounded(t *testing.T) {
	var many []entryOf
	for i := range maxDirectory/(46+1000) + 100 {
		many = append(many, entryOf{name: strings.Repeat("x", 990) + string(rune('a'+i%26)) + string(binary.LittleEndian.AppendUint32(nil, uint32(i)))})
	}
	file := archiveOf(t, many...)
	if _, err := Read(bytes.NewReader(file), int64(len(file)), 1<<20); !errors.Is(err, errDirectory) {
		t.Errorf("a directory of %d entries: %v", len(many), err)
	}
}

// streamOf is a file in the older layout.
func streamOf(machine, object, keys, storages string) []byte {
	return []byte(legacyHead + ".\x80\x02M\xe9\x03." + machine + object + keys + storages)
}

func TestRefusedStreams(t *testing.T) {
	machine := "\x80\x02}" + text("little_endian") + "\x88s."
	keys := "\x80\x02](" + text("0") + "e."
	values := string(binary.LittleEndian.AppendUint64(nil, 4)) + fourFloats
	object := dictOf("w", good)
	for _, c := range []struct{ name, machine, object, keys, storages, want string }{
		{"tail", machine, object, keys, values + "x", "1 bytes follow"},
		{"big-endian", "\x80\x02}" + text("little_endian") + "\x89s.", object, keys, values, "big-endian"},
		{"no keys", machine, object, "\x80\x02].", "", `"0" is not in the file`},
		{"keys of None", machine, object, "\x80\x02N.", "", "want a list"},
		{"key twice", machine, object, "\x80\x02](" + text("0") + text("0") + "e.", values + values, "twice"},
		{"key of a number", machine, object, "\x80\x02](K\x01e.", values, "no string"},
		{"key of nothing", machine, object, "\x80\x02](" + text("0") + text("1") + "e.", values + values, "no tensor"},
		{"other count", machine, object, keys, string(binary.LittleEndian.AppendUint64(nil, 3)) + fourFloats, "has 3 values"},
		{"cut", machine, object, keys, values[:20], "cut short"},
		{"cut before", machine, object, keys, values[:4], "cut short"},
		{"os.system", machine, "\x80\x02cos\nsystem\n.", keys, values, `"os.system"`},
		{"view outside", machine, dictOf("w", strings.Replace(good, integer(4)+"tQ", integer(4)+"("+text("v")+integer(3)+integer(2)+"ttQ", 1)), keys, values, "a view of 2"},
	} {
		file := streamOf(c.machine, c.object, c.keys, c.storages)
		_, err := Read(bytes.NewReader(file), int64(len(file)), 1<<20)
		if !errors.Is(err, ErrTorch) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one that says %q", c.name, err, c.want)
		}
	}
	view := dictOf("w", strings.Replace(tensorOf("0", 4, 1, ints(2), ints(1)), integer(4)+"tQ", integer(4)+"("+text("v")+integer(1)+integer(3)+"ttQ", 1))
	file := streamOf(machine, view, keys, values)
	if got, err := Read(bytes.NewReader(file), int64(len(file)), 1<<20); err != nil || got[0].Data[0] != 3 || got[0].Data[1] != 4 {
		t.Errorf("two values from the second on of a view from the second on: %v, %v", got, err)
	}
}

func FuzzRead(f *testing.F) {
	files, err := filepath.Glob("testdata/*.pth")
	if err != nil || len(files) == 0 {
		f.Fatalf("no files to begin with: %v", err)
	}
	for _, name := range files {
		file, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(file, false)
	}
	for _, c := range badPickles {
		if len(c.program) < 1<<12 {
			f.Add([]byte(c.program), true)
		}
	}
	f.Fuzz(func(t *testing.T, file []byte, wrap bool) {
		if wrap { // a pickle, which would not survive in an archive: a checksum protects it
			file = archiveOf(t, entryOf{name: "a/data.pkl", data: string(file)}, entryOf{name: "a/data/0", data: fourFloats})
		}
		arrays, err := Read(bytes.NewReader(file), int64(len(file)), 1<<20)
		if err != nil {
			if !errors.Is(err, ErrTorch) {
				t.Fatalf("an error of no kind: %v", err)
			}
			return
		}
		for _, a := range arrays {
			n := 1
			for _, d := range a.Shape {
				n *= d
			}
			if a.Data != nil && len(a.Data) != n || a.Ints != nil && len(a.Ints) != n {
				t.Fatalf("%s of shape %v has %d and %d values", a.Name, a.Shape, len(a.Data), len(a.Ints))
			}
		}
	})
}
