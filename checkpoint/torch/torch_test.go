package torch

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lockstep-ml/lockstep/checkpoint"
	"github.com/lockstep-ml/lockstep/internal/vfs"
)

// tiny is what testdata/make.py calls so: eighths that count up, in the order of the state dict.
func tiny(prefix, head string) []checkpoint.Array {
	var out []checkpoint.Array
	next := 0
	for _, e := range []struct {
		name  string
		shape []int
	}{
		{"conv1.weight", []int{2, 3, 3, 3}}, {"bn1.weight", []int{2}}, {"bn1.bias", []int{2}}, {"bn1.running_mean", []int{2}}, {"bn1.running_var", []int{2}},
		{"bn1.num_batches_tracked", nil}, {head + ".weight", []int{4, 2}}, {head + ".bias", []int{4}},
	} {
		a := checkpoint.Array{Name: prefix + e.name, Shape: e.shape}
		if e.shape == nil {
			a.Ints = []int64{7}
		} else {
			n := 1
			for _, d := range e.shape {
				n *= d
			}
			for range n {
				a.Data = append(a.Data, float32(next)/8)
				next++
			}
		}
		out = append(out, a)
	}
	return out
}

func same(got, want []checkpoint.Array) error {
	if len(got) != len(want) {
		return fmt.Errorf("%d arrays, want %d", len(got), len(want))
	}
	for i, g := range got {
		w := want[i]
		if g.Name != w.Name || !slices.Equal(g.Shape, w.Shape) || !slices.Equal(g.Data, w.Data) || !slices.Equal(g.Ints, w.Ints) {
			return fmt.Errorf("%+v, want %+v", g, w)
		}
	}
	return nil
}

func load(name string) ([]checkpoint.Array, error) {
	return Load(vfs.OS{}, filepath.Join("testdata", name), 1<<20)
}

func TestFilesOfTorchSave(t *testing.T) {
	for name, c := range map[string]struct {
		prefix, head string
		dtype        checkpoint.DType
	}{
		"tiny.pth": {"", "fc", "F32"}, "tiny-legacy.pth": {"", "fc", "F32"}, "tiny-protocol4.pth": {"", "fc", "F32"},
		"tiny-nested.pth": {"module.", "linear", "F32"}, "tiny-nested-legacy.pth": {"", "fc", "F32"}, "tiny-parameters.pth": {"", "fc", "F32"},
		"tiny-half.pth": {"", "fc", "F16"}, "tiny-bfloat16.pth": {"", "fc", "BF16"}, "tiny-double-legacy.pth": {"", "fc", "F64"},
		"tiny-views.pth": {"", "fc", "F32"}, "tiny-channels-last-legacy.pth": {"", "fc", "F32"},
	} {
		got, err := load(name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if err := same(got, tiny(c.prefix, c.head)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got[0].DType != c.dtype || got[5].DType != checkpoint.I64 {
			t.Errorf("%s: types %s and %s", name, got[0].DType, got[5].DType)
		}
	}
}

func TestRefusedFiles(t *testing.T) {
	for name, want := range map[string]string{
		"evil.pth": "system", "evil-legacy.pth": "system", "module.pth": "torch.nn.modules.linear.Linear", "numpy.pth": "numpy",
		"tied.pth": "overlap", "expanded.pth": "share values", "nothing.pth": "no dict of tensors", "make.py": "neither as a zip",
	} {
		_, err := load(name)
		if !errors.Is(err, ErrTorch) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "testdata") {
			t.Errorf("%s: error %v, want one that says %q and names the file", name, err, want)
		}
	}
	if _, err := os.Stat("executed"); err == nil {
		t.Error("a file's program was run")
	}
	var forbidden *ForbiddenError
	if _, err := load("evil.pth"); !errors.As(err, &forbidden) || forbidden.Global != "posix.system" || !strings.Contains(err.Error(), "torch.save(model.state_dict()") {
		t.Errorf("the error does not say what was asked for, and what to do: %v", err)
	}
	if _, err := load("none.pth"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
	if _, err := Load(vfs.OS{}, filepath.Join("testdata", "tiny.pth"), 500); err == nil || !strings.Contains(err.Error(), "memory") {
		t.Errorf("the bound on memory does not hold: %v", err)
	}
}

// Every file that is cut short is refused, and no file with a changed byte does more than fail.
func TestSpoiledFiles(t *testing.T) {
	for _, name := range []string{"tiny-nested.pth", "tiny-nested-legacy.pth"} {
		file, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		for n := range file {
			if _, err := Read(bytes.NewReader(file[:n]), int64(n), 1<<20); !errors.Is(err, ErrTorch) {
				t.Errorf("%s, cut to %d bytes: %v", name, n, err)
			}
			for _, flip := range []byte{1, 0x80, 0xff} {
				spoiled := bytes.Clone(file)
				spoiled[n] ^= flip
				if _, err := Read(bytes.NewReader(spoiled), int64(len(file)), 1<<20); err != nil && !errors.Is(err, ErrTorch) {
					t.Errorf("%s, byte %d: %v", name, n, err)
				}
			}
		}
	}
}

// A value of an archive that changed on its way is found by its checksum.
func TestDamagedStorage(t *testing.T) {
	file, err := os.ReadFile("testdata/tiny.pth")
	if err != nil {
		t.Fatal(err)
	}
	value := binary.LittleEndian.AppendUint32(nil, 0x3f900000) // 9/8, in conv1.weight
	i := bytes.Index(file, value)
	if i < 0 {
		t.Fatal("the file does not hold 9/8")
	}
	file[i]++
	if _, err := Read(bytes.NewReader(file), int64(len(file)), 1<<20); !errors.Is(err, zip.ErrChecksum) || !strings.Contains(err.Error(), "conv1.weight") {
		t.Errorf("error %v, want one about the checksum of conv1.weight", err)
	}
}
