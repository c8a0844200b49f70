package pack

import (
	"encoding/binary"

	"github.com/lockstep-ml/lockstep/internal/crc32c"
)

// frame puts an index's body behind its header.
func frame(kind uint32, body []byte) []byte {
	le := binary.LittleEndian
	b := make([]byte, 0, frameBytes+len(body))
	b = append(b, magic...)
	b = le.AppendUint32(b, version)
	b = le.AppendUint32(b, kind)
	b = le.AppendUint64(b, uint64(len(body)))
	b = le.AppendUint32(b, crc32c.Update(0, body))
	b = le.AppendUint32(b, crc32c.Update(0, b))
	return append(b, body...)
}

// An encoder gathers the body of an index.
type encoder struct{ b []byte }

func (e *encoder) uint(v int)      { e.b = binary.AppendUvarint(e.b, uint64(v)) }
func (e *encoder) string(s string) { e.uint(len(s)); e.b = append(e.b, s...) }

func (e *encoder) leftOut(l []LeftOut) {
	e.uint(len(l))
	for _, x := range l {
		e.uint(x.Ordinal)
		e.uint(x.Shard)
		e.string(x.Name)
		e.string(x.Reason)
	}
}

// table writes entries. Their names are in the table already as the file wants them.
func (e *encoder) table(t *table) {
	e.uint(t.len())
	names := t.names
	for i := range t.records {
		r := &t.records[i]
		for _, v := range [...]uint32{r.ordinal, r.shard, r.block, r.size, uint32(r.label), r.w, r.h, uint32(r.kind)} {
			e.uint(int(v))
		}
		e.b = binary.LittleEndian.AppendUint32(e.b, r.crc)
		_, rest, n := nameAt(names)
		e.b = append(e.b, names[:n+rest]...)
		names = names[n+rest:]
	}
}

// encode gives the bytes of the set's index.
func (x *Index) encode() []byte {
	var e encoder
	e.string(string(x.Recipe))
	hash := x.Hash()
	e.b = append(e.b, hash[:]...)
	e.uint(len(x.Classes))
	for _, c := range x.Classes {
		e.string(c)
	}
	e.uint(len(x.Splits))
	for i := range x.Splits {
		s := &x.Splits[i]
		e.string(s.Name)
		e.b = append(e.b, s.Hash[:]...)
		e.uint(len(s.Shards))
		for _, size := range s.Shards {
			e.uint(int(size))
		}
		e.leftOut(s.LeftOut)
		e.table(&s.table)
	}
	return frame(kindSet, e.b)
}

// member gives the shard's index as it stands in the shard from offset on: its header, its content up to a whole block with the
// footer at the end, and the tar's end mark.
func (x *ShardIndex) member(offset int64) []byte {
	var e encoder
	e.b = append(e.b, x.Recipe[:]...)
	e.string(x.Split)
	e.uint(x.Number)
	e.leftOut(x.LeftOut)
	e.table(&x.table)
	content := frame(kindShard, e.b)
	size := blocks(int64(len(content)) + footerBytes)
	b := appendHeader(make([]byte, 0, blockBytes+size+endMark), shardIndexName, size)
	b = append(b, content...)
	b = append(b, make([]byte, size-footerBytes-int64(len(content)))...)
	b = binary.LittleEndian.AppendUint64(b, uint64(offset+blockBytes))
	b = append(b, footerMagic...)
	return append(b, make([]byte, endMark)...)
}
