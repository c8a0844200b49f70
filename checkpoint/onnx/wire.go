package onnx

import (
	"io"
	"math"

	"google.golang.org/protobuf/encoding/protowire"
)

// message is an encoded message in pieces, so that weights in it are not copied.
type message struct {
	pieces [][]byte
	size   int
	open   bool // the last piece is the message's own and may grow
}

// own appends to the message's own bytes.
func (m *message) own(b ...byte) {
	if !m.open {
		m.pieces, m.open = append(m.pieces, nil), true
	}
	last := &m.pieces[len(m.pieces)-1]
	*last = append(*last, b...)
	m.size += len(b)
}

func (m *message) header(field protowire.Number, n int) {
	m.own(protowire.AppendVarint(protowire.AppendTag(nil, field, protowire.BytesType), uint64(n))...)
}

// integer appends a varint field, of an int32, int64 or enumeration.
func (m *message) integer(field protowire.Number, v int64) {
	m.own(protowire.AppendVarint(protowire.AppendTag(nil, field, protowire.VarintType), uint64(v))...)
}

func (m *message) float(field protowire.Number, v float32) {
	m.own(protowire.AppendFixed32(protowire.AppendTag(nil, field, protowire.Fixed32Type), math.Float32bits(v))...)
}

func (m *message) text(field protowire.Number, s string) {
	m.header(field, len(s))
	m.own([]byte(s)...)
}

// memory appends a bytes field that looks at b.
func (m *message) memory(field protowire.Number, b []byte) {
	m.header(field, len(b))
	m.pieces, m.open = append(m.pieces, b), false
	m.size += len(b)
}

// message appends a field that is a message, which must not change afterwards.
func (m *message) message(field protowire.Number, inner *message) {
	m.header(field, inner.size)
	m.join(inner)
}

// join appends the fields of another message.
func (m *message) join(other *message) {
	m.pieces, m.open = append(m.pieces, other.pieces...), false
	m.size += other.size
}

func (m *message) write(w io.Writer) error {
	for _, p := range m.pieces {
		if _, err := w.Write(p); err != nil {
			return err
		}
	}
	return nil
}
