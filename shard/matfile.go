package shard

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"strings"

	"github.com/klauspost/compress/zlib"
)

// A little of MATLAB's level 5 files, from MathWorks' "MAT-File Format": enough for the devkit's meta.mat, whose one variable is an
// array of structures with the fields ILSVRC2012_ID, a number, and WNID, text. A file is a header of 128 bytes and elements; an element is a tag
// (type and length, 4 bytes each, or both in 4 where the data fit into the other 4), and data padded to 8 bytes.
const (
	matHeader = 128
	// Types of elements.
	miINT8, miUINT8, miINT16, miUINT16, miINT32, miUINT32, miSINGLE, miDOUBLE = 1, 2, 3, 4, 5, 6, 7, 9
	miMATRIX, miCOMPRESSED, miUTF8                                            = 14, 15, 16
	// Classes of arrays.
	mxSTRUCT, mxCHAR = 2, 4
	// maxMat bounds what a compressed element unpacks to: the real one has 2 MB.
	maxMat = 32 << 20
	// maxMatFields and maxMatName bound a structure's fields: the real one has eight.
	maxMatFields, maxMatName = 64, 64
)

// parseSynsets gives the WNID of each ILSVRC2012_ID.
func parseSynsets(b []byte) (map[int]string, error) {
	if len(b) < matHeader || string(b[126:128]) != "IM" {
		return nil, fmt.Errorf("%w: it is no little-endian MATLAB 5 file", ErrFormat)
	}
	rest := matReader{b: b[matHeader:]}
	for len(rest.b) >= 8 {
		kind, data, err := rest.element()
		if err != nil {
			return nil, err
		}
		if kind == miCOMPRESSED {
			if kind, data, err = inflate(data); err != nil {
				return nil, err
			}
		}
		if kind != miMATRIX {
			continue
		}
		out, err := synsetsIn(data)
		if err != nil || out != nil {
			return out, err
		}
	}
	return nil, fmt.Errorf("%w: no variable of it has the fields ILSVRC2012_ID and WNID", ErrFormat)
}

// inflate unpacks a compressed element.
func inflate(b []byte) (kind int, data []byte, err error) {
	zr, err := zlib.NewReader(bytes.NewReader(b))
	if err != nil {
		return 0, nil, fmt.Errorf("%w: compressed element: %w", ErrFormat, err)
	}
	b, err = io.ReadAll(io.LimitReader(zr, maxMat))
	if err != nil {
		return 0, nil, fmt.Errorf("%w: compressed element: %w", ErrFormat, err)
	}
	r := matReader{b: b}
	return r.element()
}

// A matReader takes elements from the front of b.
type matReader struct{ b []byte }

func (r *matReader) element() (kind int, data []byte, err error) {
	if len(r.b) < 8 {
		return 0, nil, fmt.Errorf("%w: it ends within an element", ErrFormat)
	}
	tag := binary.LittleEndian.Uint32(r.b)
	if n := tag >> 16; n != 0 { // the small form
		if n > 4 {
			return 0, nil, fmt.Errorf("%w: a small element of %d bytes", ErrFormat, n)
		}
		data = r.b[4 : 4+n]
		r.b = r.b[8:]
		return int(tag & 0xffff), data, nil
	}
	n := int64(binary.LittleEndian.Uint32(r.b[4:]))
	if n > int64(len(r.b)-8) {
		return 0, nil, fmt.Errorf("%w: an element of %d bytes where %d are left", ErrFormat, n, len(r.b)-8)
	}
	data = r.b[8 : 8+n]
	if tag != miCOMPRESSED { // which alone is not padded
		n = (n + 7) &^ 7
	}
	r.b = r.b[min(8+n, int64(len(r.b))):]
	return int(tag), data, nil
}

// array reads what all arrays begin with: class and number of elements. What follows is left.
func (r *matReader) array() (class, count int, err error) {
	_, flags, err := r.element()
	if err != nil {
		return 0, 0, err
	}
	_, dims, err := r.element()
	if err != nil {
		return 0, 0, err
	}
	if _, _, err = r.element(); err != nil { // the name
		return 0, 0, err
	}
	if len(flags) < 4 || len(dims)%4 != 0 || len(dims) == 0 {
		return 0, 0, fmt.Errorf("%w: an array without class or dimensions", ErrFormat)
	}
	count = 1
	for ; len(dims) > 0; dims = dims[4:] {
		d := int(binary.LittleEndian.Uint32(dims))
		if d > maxMat || count > maxMat/max(d, 1) {
			return 0, 0, fmt.Errorf("%w: an array of more than %d elements", ErrFormat, maxMat)
		}
		count *= d
	}
	return int(flags[0]), count, nil
}

// synsetsIn reads a variable; nil if it is another one.
func synsetsIn(data []byte) (map[int]string, error) {
	r := matReader{b: data}
	class, count, err := r.array()
	if err != nil || class != mxSTRUCT {
		return nil, err
	}
	fields, err := r.fields()
	if err != nil {
		return nil, err
	}
	id, wnid := -1, -1
	for i, f := range fields {
		switch f {
		case "ILSVRC2012_ID":
			id = i
		case "WNID":
			wnid = i
		}
	}
	if id < 0 || wnid < 0 {
		return nil, nil
	}
	out := map[int]string{}
	for n := range count {
		number, text, err := r.synset(len(fields), id, wnid)
		if err != nil {
			return nil, fmt.Errorf("synset %d of %d: %w", n+1, count, err)
		}
		if _, twice := out[number]; twice || text == "" || strings.ContainsAny(text, "/\\.") {
			return nil, fmt.Errorf("%w: synset %d of %d: number %d occurs twice, or %.32q cannot be a class", ErrFormat, n+1, count, number, text)
		}
		out[number] = text
	}
	return out, nil
}

// synset reads one structure, of whose fields two matter.
func (r *matReader) synset(fields, id, wnid int) (number int, text string, err error) {
	for i := range fields {
		_, cell, err := r.element()
		if err != nil {
			return 0, "", err
		}
		switch i {
		case id:
			number, err = matNumber(cell)
		case wnid:
			text, err = matText(cell)
		}
		if err != nil {
			return 0, "", err
		}
	}
	return number, text, nil
}

// fields reads the names of a structure's fields.
func (r *matReader) fields() ([]string, error) {
	_, length, err := r.element()
	if err != nil {
		return nil, err
	}
	_, names, err := r.element()
	if err != nil {
		return nil, err
	}
	if len(length) != 4 {
		return nil, fmt.Errorf("%w: a structure without the length of its fields' names", ErrFormat)
	}
	n := int(binary.LittleEndian.Uint32(length))
	if n < 1 || n > maxMatName || len(names)%n != 0 || len(names)/n > maxMatFields {
		return nil, fmt.Errorf("%w: a structure whose names take %d bytes, %d each", ErrFormat, len(names), n)
	}
	var out []string
	for ; len(names) > 0; names = names[n:] {
		name, _, _ := strings.Cut(string(names[:n]), "\x00")
		out = append(out, name)
	}
	return out, nil
}

// matNumber reads an array of one whole number.
func matNumber(cell []byte) (int, error) {
	r := matReader{b: cell}
	_, count, err := r.array()
	if err != nil {
		return 0, err
	}
	kind, data, err := r.element()
	if err != nil {
		return 0, err
	}
	v, ok := matValue(kind, data)
	if count != 1 || !ok || v != math.Trunc(v) || math.Abs(v) > maxMat {
		return 0, fmt.Errorf("%w: %d numbers of type %d, want a whole one", ErrFormat, count, kind)
	}
	return int(v), nil
}

func matValue(kind int, b []byte) (float64, bool) {
	size := map[int]int{miINT8: 1, miUINT8: 1, miINT16: 2, miUINT16: 2, miINT32: 4, miUINT32: 4, miSINGLE: 4, miDOUBLE: 8}[kind]
	if size == 0 || len(b) != size {
		return 0, false
	}
	var wide [8]byte
	copy(wide[:], b)
	bits := binary.LittleEndian.Uint64(wide[:])
	switch kind {
	case miINT8:
		return float64(int8(bits)), true
	case miINT16:
		return float64(int16(bits)), true
	case miINT32:
		return float64(int32(bits)), true
	case miSINGLE:
		return float64(math.Float32frombits(uint32(bits))), true
	case miDOUBLE:
		return math.Float64frombits(bits), true
	}
	return float64(bits), true
}

// matText reads an array of characters, which must be ASCII.
func matText(cell []byte) (string, error) {
	r := matReader{b: cell}
	class, _, err := r.array()
	if err != nil {
		return "", err
	}
	kind, data, err := r.element()
	if err != nil {
		return "", err
	}
	step := 1
	if kind == miUINT16 {
		step = 2
	}
	if class != mxCHAR || kind != miUINT16 && kind != miINT8 && kind != miUINT8 && kind != miUTF8 || len(data)%step != 0 || len(data) > 256 {
		return "", fmt.Errorf("%w: class %d, type %d, want text", ErrFormat, class, kind)
	}
	text := make([]byte, 0, len(data)/step)
	for i := 0; i < len(data); i += step {
		if data[i] >= 0x80 || step == 2 && data[i+1] != 0 {
			return "", fmt.Errorf("%w: text that is not ASCII", ErrFormat)
		}
		text = append(text, data[i])
	}
	return string(text), nil
}
