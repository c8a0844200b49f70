package pack

import (
	"encoding/binary"
	"math"
)

// record is an entry without its name. A million of them are 32 MB.
type record struct {
	ordinal, shard, block, size, crc, w, h uint32
	label                                  uint16
	kind                                   ImageKind
}

// A table holds entries compactly. Names are coded against the one before: length shared, length of the rest, the rest, with a whole
// one every restartEvery. Strings would cost more than all else together.
type table struct {
	records  []record
	names    []byte
	restarts []uint32 // where in names the whole ones begin
	last     []byte   // the newest name
	scratch  []byte   // of add, and of the decoder's names
}

// blockBytes is tar's unit.
const blockBytes = 512

// blocks is how many bytes n bytes take in a tar.
func blocks(n int64) int64 { return (n + blockBytes - 1) / blockBytes * blockBytes }

func (t *table) len() int { return len(t.records) }

// add appends an entry whose fields are within the format's bounds.
func (t *table) add(e Entry) {
	t.scratch = append(t.scratch[:0], e.Name...)
	t.addNamed(e, t.scratch)
}

// addNamed appends an entry whose name stands apart.
func (t *table) addNamed(e Entry, name []byte) {
	shared := 0
	if len(t.records)%restartEvery == 0 {
		t.restarts = append(t.restarts, uint32(len(t.names)))
	} else {
		for shared < min(len(t.last), len(name)) && t.last[shared] == name[shared] {
			shared++
		}
	}
	t.names = binary.AppendUvarint(t.names, uint64(shared))
	t.names = binary.AppendUvarint(t.names, uint64(len(name)-shared))
	t.names = append(t.names, name[shared:]...)
	t.last = append(t.last[:shared], name[shared:]...)
	t.records = append(t.records, record{ordinal: uint32(e.Ordinal), shard: uint32(e.Shard), block: uint32(e.Offset / blockBytes), size: uint32(e.Size),
		crc: e.CRC, w: uint32(e.W), h: uint32(e.H), label: uint16(e.Label), kind: e.Kind})
}

// name gives the name of entry i.
func (t *table) name(i int) string {
	b := t.names[t.restarts[i/restartEvery]:]
	var name []byte
	for range i%restartEvery + 1 {
		shared, rest, n := nameAt(b)
		name = append(name[:shared], b[n:n+rest]...)
		b = b[n+rest:]
	}
	return string(name)
}

// nameAt reads the two lengths at the start of a coded name and says how long they are.
func nameAt(b []byte) (shared, rest, n int) {
	s, k := binary.Uvarint(b)
	r, l := binary.Uvarint(b[k:])
	return int(s), int(r), k + l
}

// bare gives entry i without its name.
func (t *table) bare(i int) Entry {
	r := &t.records[i]
	return Entry{Ordinal: int(r.ordinal), Shard: int(r.shard), Offset: int64(r.block) * blockBytes, Size: int64(r.size), Label: int(r.label),
		W: int(r.w), H: int(r.h), CRC: r.crc, Kind: r.kind}
}

// entry gives entry i whole.
func (t *table) entry(i int) Entry {
	e := t.bare(i)
	e.Name = t.name(i)
	return e
}

// fits says whether an entry's numbers fit the table at all; what is of the caller's making must.
func (e *Entry) fits() bool {
	in := func(v, limit int64) bool { return v >= 0 && v <= limit }
	return in(int64(e.Ordinal), math.MaxUint32) && in(int64(e.Shard), maxShards-1) && in(e.Offset, MaxShardBytes) && e.Offset%blockBytes == 0 &&
		e.Size > 0 && e.Size <= MaxImageBytes && in(int64(e.Label), MaxClasses-1) && e.W > 0 && e.H > 0 && in(int64(e.W), math.MaxUint32) &&
		in(int64(e.H), math.MaxUint32) && e.Kind < imageKinds && len(e.Name) > 0 && len(e.Name) <= maxName
}
