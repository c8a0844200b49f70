package checkpoint

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lockstep-ml/lockstep/internal/snapshot"
	"github.com/lockstep-ml/lockstep/internal/vfs"
)

// shared gives a path in the folder of large files that lies beside the repository, and skips the test where it is absent.
func shared(t *testing.T, name string) string {
	t.Helper()
	dir := os.Getenv("LOCKSTEP_SHARED")
	if dir == "" {
		root, err := os.Getwd()
		if err != nil {
			t.Fatal(err)
		}
		for {
			if _, err := os.Stat(filepath.Join(root, "go.mod")); err == nil {
				break
			}
			if root == filepath.Dir(root) {
				t.Fatal("no go.mod above the test")
			}
			root = filepath.Dir(root)
		}
		dir = filepath.Join(root, "..", "shared")
	}
	path := filepath.Join(dir, name)
	if _, err := os.Stat(path); err != nil {
		t.Skipf("%s is not there (LOCKSTEP_SHARED names another folder): %v", name, err)
	}
	return path
}

// cifarTable lists a CIFAR ResNet's tensors, with n blocks a stage and option A's parameterless shortcuts.
func cifarTable(n int) (t Table) {
	norm := func(name string, c int) {
		t.AddParam(name+".weight", c)
		t.AddParam(name+".bias", c)
		t.AddNorm(name, c)
	}
	t.AddParam("conv1.weight", 16, 3, 3, 3)
	norm("bn1", 16)
	in := 16
	for stage, out := range []int{16, 32, 64} {
		for b := range n {
			block := fmt.Sprintf("layer%d.%d.", stage+1, b)
			t.AddParam(block+"conv1.weight", out, in, 3, 3)
			norm(block+"bn1", out)
			t.AddParam(block+"conv2.weight", out, out, 3, 3)
			norm(block+"bn2", out)
			in = out
		}
	}
	t.AddParam("fc.weight", 10, 64)
	t.AddParam("fc.bias", 10)
	return t
}

// zeroFor is a snapshot that fits a table.
func zeroFor(t *testing.T, table Table) *snapshot.Snapshot {
	t.Helper()
	var l snapshot.Lengths
	for _, s := range table.full() {
		n, err := elements(s.Shape)
		if err != nil {
			t.Fatal(err)
		}
		switch s.Role {
		case RoleParam:
			l.Params += n
		case RoleMomentum:
			l.Momentum += n
		case RoleMean:
			l.Mean += n
		case RoleVar:
			l.Var += n
		}
	}
	return snapshot.New(l)
}

func TestPublishedWeightsImport(t *testing.T) {
	for name, n := range map[string]int{"cifar-resnet20": 3, "cifar-resnet56": 9} {
		t.Run(name, func(t *testing.T) {
			path := shared(t, "weights/"+name+".safetensors")
			arrays, _, err := LoadSafetensors(vfs.OS{}, path, DefaultMaxBytes)
			if err != nil {
				t.Fatal(err)
			}
			table := cifarTable(n)
			s := zeroFor(t, table)
			if err := ImportWeights(arrays, table, s, ImportOptions{}); err != nil {
				t.Fatal(err)
			}
			// Out and in again under PyTorch's other names must give the same state.
			out, err := ExportWeights(s, table)
			if err != nil {
				t.Fatal(err)
			}
			for i := range out {
				out[i].Name = "module." + strings.Replace(out[i].Name, "fc.", "linear.", 1)
			}
			file := filepath.Join(t.TempDir(), "w.safetensors")
			if err := SaveSafetensors(vfs.OS{}, file, out, nil); err != nil {
				t.Fatal(err)
			}
			again, _, err := LoadSafetensors(vfs.OS{}, file, DefaultMaxBytes)
			if err != nil {
				t.Fatal(err)
			}
			s2 := zeroFor(t, table)
			if err := ImportWeights(again, table, s2, ImportOptions{}); err != nil {
				t.Fatal(err)
			}
			if s.Hash() != s2.Hash() || s.Hash() == zeroFor(t, table).Hash() {
				t.Error("export and import changed the weights")
			}
		})
	}
}

func TestExportNamesWhatTorchWants(t *testing.T) {
	arrays, err := ExportWeights(testState(7), testTable)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]DType{
		"conv1.weight": F32, "bn1.weight": F32, "bn1.bias": F32, "bn1.running_mean": F32, "bn1.running_var": F32,
		"bn1.num_batches_tracked": I64, "fc.weight": F32, "fc.bias": F32,
	}
	for _, a := range arrays {
		if want[a.Name] != a.DType {
			t.Errorf("%s of type %s was not to be exported", a.Name, a.DType)
		}
		delete(want, a.Name)
		if a.DType == I64 && (len(a.Shape) != 0 || a.Ints[0] != 7) {
			t.Errorf("%s is %v of shape %v, want the scalar 7", a.Name, a.Ints, a.Shape)
		}
	}
	if len(want) > 0 {
		t.Errorf("not exported: %v", want)
	}
}

func TestImportReportsEveryMisfitAndChangesNothing(t *testing.T) {
	s := testState(1)
	before := s.Hash()
	arrays, err := ExportWeights(testState(2), testTable)
	if err != nil {
		t.Fatal(err)
	}
	arrays[0].Shape = []int{8, 27}                         // conv1.weight
	arrays[1].Name = "bn9.weight"                          // bn1.weight
	arrays[2] = Array{Name: "bn1.bias", DType: I64}        // type
	arrays = append(arrays, Array{Name: "linear.weight"})  // twice
	arrays = append(arrays, Array{Name: "module.extra.x"}) // unexpected
	err = ImportWeights(arrays, testTable, s, ImportOptions{})
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{
		"conv1.weight has shape [8 27], the network wants [8 3 3 3]", "bn1.weight is missing", "bn9.weight is not in the network",
		"bn1.bias", "fc.weight and linear.weight both mean fc.weight", "module.extra.x is not in the network",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not say %q:\n%v", want, err)
		}
	}
	if s.Hash() != before {
		t.Error("a failed import changed the state")
	}
}

func TestLenientImport(t *testing.T) {
	s, other := testState(1), testState(2)
	arrays, err := ExportWeights(other, testTable)
	if err != nil {
		t.Fatal(err)
	}
	arrays[0].Name = "elsewhere"
	if err := ImportWeights(arrays, testTable, s, ImportOptions{AllowMissing: true, AllowUnexpected: true}); err != nil {
		t.Fatal(err)
	}
	kept := testState(1)
	if s.Params[0] != kept.Params[0] || s.Params[216] != other.Params[216] || s.Momentum[5] != kept.Momentum[5] || s.Step != 1 {
		t.Error("missing tensors, momentum and step were to stay, the others to come")
	}
}

func TestSafetensorsWidensEveryFloatType(t *testing.T) {
	var data []byte
	head := map[string]arrayHeader{}
	add := func(name string, d DType, n int, b []byte) {
		head[name] = arrayHeader{d, []int{n}, [2]int64{int64(len(data)), int64(len(data) + len(b))}}
		data = append(data, b...)
	}
	le := binary.LittleEndian
	add("f64", F64, 2, le.AppendUint64(le.AppendUint64(nil, math.Float64bits(0.1)), math.Float64bits(math.Inf(-1))))
	add("f32", F32, 1, le.AppendUint32(nil, math.Float32bits(-2.5)))
	var halfs []byte
	for _, h := range []uint16{0x3c00, 0xc000, 0x7bff, 0x0001, 0x03ff, 0x0400, 0x8000, 0x7c00, 0x3555} {
		halfs = le.AppendUint16(halfs, h)
	}
	add("f16", F16, 9, halfs)
	add("bf16", BF16, 2, le.AppendUint16(le.AppendUint16(nil, 0x3f80), 0xc049))
	add("i64", I64, 1, le.AppendUint64(nil, math.MaxUint64))
	add("u8", "U8", 3, []byte{1, 2, 3})
	add("empty", F32, 0, nil)
	arrays, meta, err := ReadSafetensors(bytes.NewReader(rawSafetensors(t, head, data)), int64(len(rawSafetensors(t, head, data))), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]Array{}
	for _, a := range arrays {
		got[a.Name] = a
	}
	want := map[string][]float32{
		"f64": {0.1, float32(math.Inf(-1))}, "f32": {-2.5}, "bf16": {1, -3.140625}, "empty": {}, "u8": {}, "i64": {},
		"f16": {1, -2, 65504, 0x1p-24, 1023 * 0x1p-24, 0x1p-14, float32(math.Copysign(0, -1)), float32(math.Inf(1)), 0x1.554p-2},
	}
	for name, w := range want {
		if fmt.Sprint(got[name].Data) != fmt.Sprint(w) {
			t.Errorf("%s is %v, want %v", name, got[name].Data, w)
		}
	}
	if got["i64"].Ints[0] != -1 || meta != nil {
		t.Errorf("i64 is %v, metadata %v", got["i64"].Ints, meta)
	}
	if nan := halfToFloat(0x7e01); nan == nan {
		t.Errorf("half NaN gives %v", nan)
	}
}

// rawSafetensors lays out a file from a header of any content.
func rawSafetensors(t testing.TB, head any, data []byte) []byte {
	text, ok := head.(string)
	if !ok {
		b, err := json.Marshal(head)
		if err != nil {
			t.Fatal(err)
		}
		text = string(b)
	}
	out := binary.LittleEndian.AppendUint64(nil, uint64(len(text)))
	return append(append(out, text...), data...)
}

// badSafetensors are files to refuse: what is wrong, header, bytes of data, and what the error must say.
var badSafetensors = []struct{ name, head, want string }{
	{"overlap", `{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[2,6]}}`, "overlap"},
	{"gap", `{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F16","shape":[1],"data_offsets":[6,8]}}`, "gap"},
	{"outside", `{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}`, "of 8"},
	{"backwards", `{"a":{"dtype":"F32","shape":[1],"data_offsets":[8,4]}}`, "lies at bytes 8 to 4"},
	{"negative", `{"a":{"dtype":"F32","shape":[1],"data_offsets":[-4,0]}}`, "lies at bytes -4"},
	{"shape", `{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}`, "takes 12"},
	{"negative shape", `{"a":{"dtype":"F32","shape":[-1,-2],"data_offsets":[0,8]}}`, "not a shape"},
	{"huge shape", `{"a":{"dtype":"F32","shape":[4294967296,4294967296,4294967296],"data_offsets":[0,8]}}`, "not a shape"},
	{"rank", `{"a":{"dtype":"F64","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,8]}}`, "dimensions"},
	{"unused", `{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}`, "the tensors take 4"},
	{"dtype", `{"a":{"dtype":"F31","shape":[2],"data_offsets":[0,8]}}`, "unknown type"},
	{"twice", `{"a":{"dtype":"F64","shape":[1],"data_offsets":[0,8]},"a":{"dtype":"F64","shape":[1],"data_offsets":[0,8]}}`, "twice"},
	{"no object", `[1]`, "no JSON object"},
	{"tail", `{"a":{"dtype":"F64","shape":[1],"data_offsets":[0,8]}} x`, "follow"},
	{"not JSON", `{"a":`, "EOF"},
	{"metadata", `{"__metadata__":{"a":1},"a":{"dtype":"F64","shape":[1],"data_offsets":[0,8]}}`, "__metadata__"},
}

func TestSafetensorsRefusesUnsoundFiles(t *testing.T) {
	for _, c := range badSafetensors {
		file := rawSafetensors(t, c.head, make([]byte, 8))
		_, _, err := ReadSafetensors(bytes.NewReader(file), int64(len(file)), 1<<20)
		if !errors.Is(err, ErrSafetensors) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one that says %q", c.name, err, c.want)
		}
	}
	for name, file := range map[string][]byte{
		"empty": nil, "short": {1, 2, 3}, "long header": {255, 255, 255, 255, 0, 0, 0, 0}, "longest header": bytes.Repeat([]byte{255}, 16),
		"float64 over float32": rawSafetensors(t, `{"a":{"dtype":"F64","shape":[1],"data_offsets":[0,8]}}`, binary.LittleEndian.AppendUint64(nil, math.Float64bits(1e300))),
	} {
		if _, _, err := ReadSafetensors(bytes.NewReader(file), int64(len(file)), 1<<20); !errors.Is(err, ErrSafetensors) {
			t.Errorf("%s: not refused: %v", name, err)
		}
	}
	good := rawSafetensors(t, `{"a":{"dtype":"F16","shape":[4],"data_offsets":[0,8]}}`, make([]byte, 8))
	if _, _, err := ReadSafetensors(bytes.NewReader(good), int64(len(good)), 15); !errors.Is(err, ErrSafetensors) {
		t.Errorf("the memory bound does not hold: %v", err)
	}
}

func TestSafetensorsWritesAlignedAndDeterministic(t *testing.T) {
	arrays, err := ExportWeights(testState(3), testTable)
	if err != nil {
		t.Fatal(err)
	}
	meta := map[string]string{"format": "pt", "lockstep": "v0.1.0", "quote": `"<&>`}
	var a, b bytes.Buffer
	if err := errors.Join(WriteSafetensors(&a, arrays, meta), WriteSafetensors(&b, arrays, meta)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a.Bytes(), b.Bytes()) {
		t.Error("the same arrays gave other bytes")
	}
	if n := binary.LittleEndian.Uint64(a.Bytes()); n%8 != 0 {
		t.Errorf("the data begins at byte %d, not aligned", n+8)
	}
	back, gotMeta, err := ReadSafetensors(bytes.NewReader(a.Bytes()), int64(a.Len()), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	if len(back) != len(arrays) || fmt.Sprint(gotMeta) != fmt.Sprint(meta) {
		t.Errorf("%d arrays and metadata %v came back", len(back), gotMeta)
	}
	for name, bad := range map[string][]Array{
		"twice": {{Name: "x", DType: F32, Data: []float32{1}}, {Name: "x", DType: F32, Data: []float32{1}}},
		"type":  {{Name: "x", DType: F16, Data: []float32{1}}},
		"shape": {{Name: "x", DType: F32, Shape: []int{2}, Data: []float32{1}}},
		"name":  {{Name: "__metadata__", DType: F32, Data: []float32{1}}},
	} {
		if err := WriteSafetensors(&a, bad, nil); err == nil {
			t.Errorf("%s: written", name)
		}
	}
}

func FuzzReadSafetensors(f *testing.F) {
	arrays, err := ExportWeights(testState(3), testTable)
	if err != nil {
		f.Fatal(err)
	}
	var good bytes.Buffer
	if err := WriteSafetensors(&good, arrays, map[string]string{"format": "pt"}); err != nil {
		f.Fatal(err)
	}
	f.Add(good.Bytes())
	for _, c := range badSafetensors {
		f.Add(rawSafetensors(f, c.head, make([]byte, 8)))
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		arrays, meta, err := ReadSafetensors(bytes.NewReader(file), int64(len(file)), 1<<20)
		if err != nil {
			if !errors.Is(err, ErrSafetensors) {
				t.Fatalf("an error of no kind: %v", err)
			}
			return
		}
		for i := range arrays { // what was read can be written, unless its type is not one we write
			if arrays[i].DType != F32 && arrays[i].DType != I64 || len(arrays[i].Data)+len(arrays[i].Ints) == 0 {
				return
			}
		}
		var out bytes.Buffer
		if err := WriteSafetensors(&out, arrays, meta); err != nil {
			t.Fatal(err)
		}
		if _, _, err := ReadSafetensors(bytes.NewReader(out.Bytes()), int64(out.Len()), 1<<20); err != nil {
			t.Fatal(err)
		}
	})
}
