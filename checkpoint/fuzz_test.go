package checkpoint

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"testing"
)

// putChecksums makes the checksums of a changed header and of the whole file right, so that what lies behind them is reached.
func putChecksums(file []byte) {
	if len(file) < headerBytes+trailerBytes {
		return
	}
	if n := int(binary.LittleEndian.Uint32(file[12:])); n <= len(file)-headerBytes {
		binary.LittleEndian.PutUint32(file[16:], crc32.Checksum(file[headerBytes:headerBytes+n], castagnoli))
	}
	binary.LittleEndian.PutUint32(file[20:], crc32.Checksum(file[:20], castagnoli))
	sum := sha256.Sum256(file[:len(file)-trailerBytes])
	copy(file[len(file)-trailerBytes:], sum[:])
}

// encodeFile gives a checkpoint file's bytes.
func encodeFile(t testing.TB, c *Checkpoint) []byte {
	e, _, err := encode(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := e.writeTo(context.Background(), &b); err != nil {
		t.Fatal(err)
	}
	if int64(b.Len()) != e.size {
		t.Fatalf("%d bytes written, %d announced", b.Len(), e.size)
	}
	return b.Bytes()
}

func FuzzRead(f *testing.F) {
	f.Add(encodeFile(f, testCheckpoint(f, 0)), true)
	f.Add(encodeFile(f, testCheckpoint(f, 1)), false)
	f.Add(encodeFile(f, &Checkpoint{}), true)
	// A manifest that lies in each of its fields, with checksums that are right.
	for _, swap := range [][2]string{
		{`"length":`, `"length":9`}, {`"offset":`, `"offset":-`}, {`[8,3,3,3]`, `[8,3,3,9]`}, {`"raw"`, `"zst"`}, {`"param"`, `"parax"`},
		{`[100,8]`, `[1e9,8]`}, {`"step":1`, `"step":2`},
	} {
		file := encodeFile(f, testCheckpoint(f, 1))
		file = bytes.Replace(file, []byte(swap[0]), []byte(swap[1]), 1)
		f.Add(file, true)
	}
	f.Add([]byte(magic), true)
	f.Fuzz(func(t *testing.T, file []byte, mend bool) {
		if mend {
			file = bytes.Clone(file)
			putChecksums(file)
		}
		c, err := Read(context.Background(), bytes.NewReader(file), int64(len(file)), 1<<20)
		if err != nil {
			var d *damage
			if !errors.As(err, &d) {
				t.Fatalf("an error without a place: %v", err)
			}
			return
		}
		// What reads must write, and read again to the same state.
		again, err := Read(context.Background(), bytes.NewReader(encodeFile(t, c)), int64(len(encodeFile(t, c))), 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		if again.StateHash() != c.Hash {
			t.Fatal("the state changed")
		}
	})
}

// TestLyingManifestsAreRefused takes manifests whose checksums are right and whose content is not.
func TestLyingManifestsAreRefused(t *testing.T) {
	good := Section{Name: "a", Role: RoleParam, Shape: []int{2}, Length: 8, Encoding: EncodingRaw}
	next := Section{Name: "b", Role: RoleParam, Shape: []int{2}, Offset: 8, Length: 8, Encoding: EncodingRaw}
	for name, change := range map[string]func(a, b *Section){
		"overlap":      func(a, b *Section) { b.Offset = 4 },
		"gap":          func(a, b *Section) { b.Offset = 12 },
		"length":       func(a, b *Section) { b.Length = 12 },
		"negative":     func(a, b *Section) { a.Length = -8 },
		"overflow":     func(a, b *Section) { b.Length = 1<<63 - 1 },
		"shape":        func(a, b *Section) { a.Shape = []int{3} },
		"zero shape":   func(a, b *Section) { a.Shape = []int{0} },
		"huge shape":   func(a, b *Section) { a.Shape, a.Encoding = []int{1 << 30, 1 << 30}, EncodingZstd },
		"over limit":   func(a, b *Section) { a.Shape, a.Encoding = []int{1 << 19}, EncodingZstd },
		"zstd bomb":    func(a, b *Section) { a.Shape, a.Encoding = []int{100_000}, EncodingZstd },
		"role":         func(a, b *Section) { a.Role = "x" },
		"order":        func(a, b *Section) { a.Role = RoleVar },
		"name":         func(a, b *Section) { b.Name = "a" },
		"no name":      func(a, b *Section) { b.Name = "" },
		"encoding":     func(a, b *Section) { b.Encoding = "gzip" },
		"beyond file":  func(a, b *Section) { b.Shape, b.Length = []int{200}, 800 },
		"short of end": func(a, b *Section) { b.Shape, b.Length = []int{1}, 4 },
	} {
		a, b := good, next
		change(&a, &b)
		m := &Manifest{Tensors: []Section{a, b}}
		var d *damage
		if err := m.check(16, 1<<20); !errors.As(err, &d) {
			t.Errorf("%s: %v", name, err)
		}
	}
	m := &Manifest{Tensors: []Section{good, next}}
	if err := m.check(16, 16); err != nil {
		t.Errorf("an honest one: %v", err)
	}
}

// TestZstdThatGivesAnotherLengthIsDamage: a section may decode, but not to its shape.
func TestZstdThatGivesAnotherLengthIsDamage(t *testing.T) {
	c := &Checkpoint{Tensors: []Tensor{{"z", RoleParam, []int{1024}, make([]float32, 1024)}}}
	file := encodeFile(t, c)
	for _, shape := range []string{"[1023]", "[1025]"} {
		bad := bytes.Replace(bytes.Clone(file), []byte("[1024]"), []byte(shape), 1)
		putChecksums(bad)
		var d *damage
		if _, err := Read(context.Background(), bytes.NewReader(bad), int64(len(bad)), 1<<20); !errors.As(err, &d) || d.place != "tensor z (param)" {
			t.Errorf("shape %s: %v", shape, err)
		}
	}
}

// TestAnotherStepsHashIsDamage: every checksum is right, only the state hash is not that of the state.
func TestAnotherStepsHashIsDamage(t *testing.T) {
	file := bytes.Replace(encodeFile(t, testCheckpoint(t, 1)), []byte(`"step":1`), []byte(`"step":2`), 1)
	putChecksums(file)
	var d *damage
	if _, err := Read(context.Background(), bytes.NewReader(file), int64(len(file)), 1<<20); !errors.As(err, &d) || d.place != "state hash" {
		t.Errorf("error %v, want one about the state hash", err)
	}
}
