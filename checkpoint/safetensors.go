package checkpoint

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"

	"github.com/lockstep-ml/lockstep/internal/snapshot"
	"github.com/lockstep-ml/lockstep/internal/vfs"
)

// ErrSafetensors is wrapped by every error about bytes that are not a sound safetensors file.
var ErrSafetensors = errors.New("bad safetensors file")

// DType is a safetensors element type.
type DType string

// The element types whose values are read. F32 and I64 are written.
const (
	F64  DType = "F64"
	F32  DType = "F32"
	F16  DType = "F16"
	BF16 DType = "BF16"
	I64  DType = "I64"
)

// dtypeBytes are the sizes of all types of the format with whole bytes; those not named above are measured and passed over.
var dtypeBytes = map[DType]int{
	F64: 8, I64: 8, "U64": 8, "C64": 8, F32: 4, "I32": 4, "U32": 4, F16: 2, BF16: 2, "I16": 2, "U16": 2,
	"I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
}

// Bytes is the size of a value, 0 for a type that the format does not have.
func (t DType) Bytes() int { return dtypeBytes[t] }

// Array is one tensor of a file of weights.
type Array struct {
	Name  string
	DType DType // in the file; floats of any type are held as float32
	Shape []int
	Data  []float32 // for F64, F32, F16, BF16
	Ints  []int64   // for I64
}

// maxSafetensorsHeader is 200 bytes for each of 80,000 tensors.
const maxSafetensorsHeader = 16 << 20

// arrayHeader is an array as the header describes it.
type arrayHeader struct {
	DType   DType    `json:"dtype"`
	Shape   []int    `json:"shape"`
	Offsets [2]int64 `json:"data_offsets"`
}

// metadataKey is the one header entry that is not a tensor.
const metadataKey = "__metadata__"

// ReadSafetensors reads a file of size bytes: its arrays in the order of their data, and its metadata, if any. Arrays of types other
// than those named above come with neither Data nor Ints. It refuses headers over 16 MiB, data that overlaps, leaves gaps or reaches
// outside the file, sizes that do not fit the shape, names that are there twice, and float64 values too large for a float32.
// maxBytes bounds the memory taken.
func ReadSafetensors(r io.ReaderAt, size, maxBytes int64) ([]Array, map[string]string, error) {
	heads, names, metadata, err := readSafetensorsHeader(r, size)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrSafetensors, err)
	}
	base := size
	for _, h := range heads {
		base -= h.Offsets[1] - h.Offsets[0]
	}
	var arrays []Array
	for i, h := range heads {
		a := Array{Name: names[i], DType: h.DType, Shape: h.Shape}
		n := (h.Offsets[1] - h.Offsets[0]) / int64(dtypeBytes[h.DType])
		if maxBytes -= memoryBytes(h.DType) * n; maxBytes < 0 {
			return nil, nil, fmt.Errorf("%w: tensor %q: the values take more memory than allowed", ErrSafetensors, a.Name)
		}
		if err := a.ReadValues(r, base+h.Offsets[0], int(n)); err != nil {
			return nil, nil, fmt.Errorf("%w: tensor %q at byte %d: %w", ErrSafetensors, a.Name, base+h.Offsets[0], err)
		}
		arrays = append(arrays, a)
	}
	return arrays, metadata, nil
}

// memoryBytes is what a value of a type takes once read.
func memoryBytes(t DType) int64 {
	switch t {
	case F64, F32, F16, BF16:
		return 4
	case I64:
		return 8
	default:
		return 0
	}
}

// readSafetensorsHeader gives the checked headers and names, in the order of the data.
func readSafetensorsHeader(r io.ReaderAt, size int64) ([]arrayHeader, []string, map[string]string, error) {
	var prefix [8]byte
	if size < int64(len(prefix)) {
		return nil, nil, nil, fmt.Errorf("the file has %d bytes, too few for a header", size)
	}
	if err := readFull(r, prefix[:], 0); err != nil {
		return nil, nil, nil, fmt.Errorf("read header length: %w", err)
	}
	n := binary.LittleEndian.Uint64(prefix[:])
	if n > maxSafetensorsHeader || int64(n) > size-8 {
		return nil, nil, nil, fmt.Errorf("header of %d bytes in a file of %d, bound %d", n, size, maxSafetensorsHeader)
	}
	text := make([]byte, n)
	if err := readFull(r, text, 8); err != nil {
		return nil, nil, nil, fmt.Errorf("read header: %w", err)
	}
	heads, metadata, err := parseSafetensorsHeader(text)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("header: %w", err)
	}
	names := make([]string, 0, len(heads))
	for name := range heads {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int {
		x, y := heads[a].Offsets, heads[b].Offsets
		for i := range x { // empty arrays share their offset with the next one
			if x[i] != y[i] {
				return int(max(-1, min(1, x[i]-y[i])))
			}
		}
		return strings.Compare(a, b)
	})
	sorted := make([]arrayHeader, len(names))
	for i, name := range names {
		sorted[i] = heads[name]
	}
	return sorted, names, metadata, checkLayout(sorted, names, size-8-int64(n))
}

// parseSafetensorsHeader reads the JSON key by key: a map alone would not show that a name is there twice.
func parseSafetensorsHeader(text []byte) (map[string]arrayHeader, map[string]string, error) {
	dec := json.NewDecoder(bytes.NewReader(text))
	if tok, err := dec.Token(); err != nil || tok != json.Delim('{') {
		return nil, nil, errors.Join(errors.New("it is no JSON object"), err)
	}
	heads := map[string]arrayHeader{}
	var metadata map[string]string
	for dec.More() {
		tok, err := dec.Token()
		if err != nil {
			return nil, nil, err
		}
		name, ok := tok.(string)
		if !ok {
			return nil, nil, fmt.Errorf("%v stands where a name should", tok)
		}
		if _, twice := heads[name]; twice || name == metadataKey && metadata != nil {
			return nil, nil, fmt.Errorf("%q is there twice", name)
		}
		if name == metadataKey {
			metadata = map[string]string{}
			err = dec.Decode(&metadata)
		} else {
			var h arrayHeader
			err = dec.Decode(&h)
			heads[name] = h
		}
		if err != nil {
			return nil, nil, fmt.Errorf("%q: %w", name, err)
		}
	}
	if _, err := dec.Token(); err != nil {
		return nil, nil, err
	}
	if rest := bytes.TrimRight(text[dec.InputOffset():], " \n\t\r"); len(rest) > 0 {
		return nil, nil, fmt.Errorf("%d bytes follow the JSON object", len(rest))
	}
	return heads, metadata, nil
}

// checkLayout holds the arrays against each other and the data's size.
func checkLayout(heads []arrayHeader, names []string, area int64) error {
	var end int64
	for i, h := range heads {
		width, known := dtypeBytes[h.DType]
		if !known {
			return fmt.Errorf("tensor %q has unknown type %q", names[i], h.DType)
		}
		n := 0
		if !slices.Contains(h.Shape, 0) {
			var err error
			if n, err = elements(h.Shape); err != nil {
				return fmt.Errorf("tensor %q: %w", names[i], err)
			}
		}
		begin, stop := h.Offsets[0], h.Offsets[1]
		if begin < 0 || stop < begin || stop > area {
			return fmt.Errorf("tensor %q lies at bytes %d to %d of %d", names[i], begin, stop, area)
		}
		if begin != end {
			return fmt.Errorf("tensor %q begins at byte %d, the one before ends at %d: an overlap or a gap", names[i], begin, end)
		}
		if stop-begin != int64(n)*int64(width) {
			return fmt.Errorf("tensor %q has %d bytes, shape %v of %s takes %d", names[i], stop-begin, h.Shape, h.DType, int64(n)*int64(width))
		}
		end = stop
	}
	if end != area {
		return fmt.Errorf("%d bytes of data, the tensors take %d", area, end)
	}
	return nil
}

// ReadValues fills the array with n little-endian values of its type that begin at byte at. Of types whose values are not held it reads
// nothing. An error is one of reading, or a float64 too large for a float32.
func (a *Array) ReadValues(r io.ReaderAt, at int64, n int) error {
	width := dtypeBytes[a.DType]
	switch a.DType {
	case F64, F32, F16, BF16:
		a.Data = make([]float32, n)
	case I64:
		a.Ints = make([]int64, n)
	default:
		return nil
	}
	piece := make([]byte, min(pieceBytes, n*width))
	for done := 0; done < n; {
		k := min(n-done, pieceBytes/width)
		if err := readFull(r, piece[:k*width], at+int64(done*width)); err != nil {
			return err
		}
		if err := a.decode(piece[:k*width], done, k); err != nil {
			return err
		}
		done += k
	}
	return nil
}

// decode turns the bytes of values from..from+k into numbers.
func (a *Array) decode(b []byte, from, k int) error {
	le := binary.LittleEndian
	for i := range k {
		switch a.DType {
		case F32:
			a.Data[from+i] = math.Float32frombits(le.Uint32(b[4*i:]))
		case BF16:
			a.Data[from+i] = math.Float32frombits(uint32(le.Uint16(b[2*i:])) << 16)
		case F16:
			a.Data[from+i] = halfToFloat(le.Uint16(b[2*i:]))
		case F64:
			v := math.Float64frombits(le.Uint64(b[8*i:]))
			a.Data[from+i] = float32(v)
			if math.IsInf(float64(a.Data[from+i]), 0) && !math.IsInf(v, 0) {
				return fmt.Errorf("value %d is %g, too large for a float32", from+i, v)
			}
		case I64:
			a.Ints[from+i] = int64(le.Uint64(b[8*i:]))
		}
	}
	return nil
}

// halfToFloat widens an IEEE 754 binary16; every one is a float32 exactly.
func halfToFloat(h uint16) float32 {
	sign, exp, frac := uint32(h>>15)<<31, uint32(h>>10)&31, uint32(h)&1023
	switch exp {
	case 0: // zero or subnormal: frac * 2^-24
		v := float32(frac) * 0x1p-24
		return math.Float32frombits(sign | math.Float32bits(v))
	case 31: // infinity or NaN, its payload kept
		return math.Float32frombits(sign | 255<<23 | frac<<13)
	default:
		return math.Float32frombits(sign | (exp+127-15)<<23 | frac<<13)
	}
}

// WriteSafetensors writes F32 and I64 arrays, I64 first so that all data is aligned, else in the order given, and the metadata unless
// it is empty. The same arguments give the same bytes.
func WriteSafetensors(w io.Writer, arrays []Array, metadata map[string]string) error {
	arrays = slices.Clone(arrays)
	slices.SortStableFunc(arrays, func(a, b Array) int { return dtypeBytes[b.DType] - dtypeBytes[a.DType] })
	head, err := encodeSafetensorsHeader(arrays, metadata)
	if err != nil {
		return fmt.Errorf("write safetensors: %w", err)
	}
	if _, err := w.Write(head); err != nil {
		return fmt.Errorf("write safetensors: %w", err)
	}
	for _, a := range arrays {
		b := snapshot.LittleEndian(a.Data)
		for _, v := range a.Ints {
			b = binary.LittleEndian.AppendUint64(b[:len(b):len(b)], uint64(v))
		}
		if _, err := w.Write(b); err != nil {
			return fmt.Errorf("write safetensors: tensor %q: %w", a.Name, err)
		}
	}
	return nil
}

// encodeSafetensorsHeader lays out the length, the JSON and the spaces that align the data to 8 bytes.
func encodeSafetensorsHeader(arrays []Array, metadata map[string]string) ([]byte, error) {
	b := append(make([]byte, 8), '{')
	entry := func(name string, value any) error {
		key, keyErr := json.Marshal(name)
		text, err := json.Marshal(value)
		if len(b) > 9 {
			b = append(b, ',')
		}
		b = append(append(append(b, key...), ':'), text...)
		return errors.Join(keyErr, err)
	}
	if len(metadata) > 0 {
		if err := entry(metadataKey, metadata); err != nil {
			return nil, err
		}
	}
	var end int64
	taken := map[string]bool{metadataKey: true}
	for _, a := range arrays {
		n, err := elements(a.Shape)
		if err != nil {
			return nil, fmt.Errorf("tensor %q: %w", a.Name, err)
		}
		if a.DType == F32 && len(a.Data) != n || a.DType == I64 && len(a.Ints) != n || a.DType != F32 && a.DType != I64 {
			return nil, fmt.Errorf("tensor %q: no %d values of type %q, want F32 or I64", a.Name, n, a.DType)
		}
		if taken[a.Name] {
			return nil, fmt.Errorf("tensor %q: the name is taken", a.Name)
		}
		taken[a.Name] = true
		begin := end
		end += int64(n) * int64(dtypeBytes[a.DType])
		shape := append([]int{}, a.Shape...) // a scalar's shape is [], never null
		if err := entry(a.Name, arrayHeader{a.DType, shape, [2]int64{begin, end}}); err != nil {
			return nil, err
		}
	}
	b = append(b, '}')
	for len(b)%8 != 0 {
		b = append(b, ' ')
	}
	if len(b)-8 > maxSafetensorsHeader {
		return nil, fmt.Errorf("header of %d bytes is over the bound of %d", len(b)-8, maxSafetensorsHeader)
	}
	binary.LittleEndian.PutUint64(b, uint64(len(b)-8))
	return b, nil
}

// LoadSafetensors reads a file as ReadSafetensors does, and names it in errors.
func LoadSafetensors(fsys vfs.FS, path string, maxBytes int64) (arrays []Array, metadata map[string]string, err error) {
	arrays, err = visit(fsys, path, func(f vfs.File, size int64) (a []Array, err error) {
		a, metadata, err = ReadSafetensors(f, size, maxBytes)
		return a, err
	})
	return arrays, metadata, err
}

// SaveSafetensors writes a file as WriteSafetensors does, whole or not at all.
func SaveSafetensors(fsys vfs.FS, path string, arrays []Array, metadata map[string]string) error {
	return vfs.WriteAtomic(fsys, path, 0o644, func(w io.Writer) error { return WriteSafetensors(w, arrays, metadata) })
}
