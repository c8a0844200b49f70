package pack

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"github.com/lockstep-ml/lockstep/internal/crc32c"
)

// unframe checks an index's header and gives its body. b may go on behind it.
func unframe(b []byte, kind uint32) ([]byte, error) {
	length, err := bodyLength(b, kind)
	if err != nil {
		return nil, err
	}
	if uint64(len(b)-frameBytes) < length {
		return nil, fmt.Errorf("%w: it ends at byte %d of %d: it is cut short", ErrFormat, len(b), frameBytes+length)
	}
	body := b[frameBytes : frameBytes+length]
	if got, want := crc32c.Update(0, body), binary.LittleEndian.Uint32(b[24:]); got != want {
		return nil, fmt.Errorf("%w: CRC-32C of bytes %d to %d is %08x, want %08x", ErrFormat, frameBytes, frameBytes+length, got, want)
	}
	return body, nil
}

// bodyLength checks the header at the start of b and gives the length of the body that follows.
func bodyLength(b []byte, kind uint32) (uint64, error) {
	le := binary.LittleEndian
	switch {
	case len(b) < frameBytes:
		return 0, fmt.Errorf("%w: %d bytes, a header has %d", ErrFormat, len(b), frameBytes)
	case string(b[:len(magic)]) != magic:
		return 0, fmt.Errorf("%w: it begins with % x", ErrFormat, b[:len(magic)])
	case crc32c.Update(0, b[:frameBytes-4]) != le.Uint32(b[frameBytes-4:]):
		return 0, fmt.Errorf("%w: its header's checksum is wrong", ErrFormat)
	case le.Uint32(b[8:]) != version:
		return 0, fmt.Errorf("%w: %d, this program reads %d", ErrVersion, le.Uint32(b[8:]), version)
	case le.Uint32(b[12:]) != kind:
		return 0, fmt.Errorf("%w: it is of kind %d, want %d", ErrFormat, le.Uint32(b[12:]), kind)
	case le.Uint64(b[16:]) > maxIndexBytes:
		return 0, fmt.Errorf("%w: a body of %d bytes: %w, the bound is %d", ErrFormat, le.Uint64(b[16:]), ErrTooLarge, maxIndexBytes)
	}
	return le.Uint64(b[16:]), nil
}

// A decoder reads an index's body. After the first error it gives zeros and keeps the error.
type decoder struct {
	b   []byte
	at  int
	err error
}

func (d *decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: byte %d: %s", ErrFormat, frameBytes+d.at, fmt.Sprintf(format, args...))
	}
}

// uint reads a number that is at most limit. A limit below 0 allows none.
func (d *decoder) uint(what string, limit int) int {
	if d.err != nil {
		return 0
	}
	v, n := binary.Uvarint(d.b[d.at:])
	if n <= 0 {
		d.fail("%s is cut short or no number", what)
		return 0
	}
	if limit < 0 || v > uint64(limit) {
		d.fail("%s is %d, the bound is %d", what, v, limit)
		return 0
	}
	d.at += n
	return int(v)
}

// raw reads n bytes, which stay part of the body.
func (d *decoder) raw(what string, n int) []byte {
	if d.err == nil && len(d.b)-d.at < n {
		d.fail("%s of %d bytes is cut short", what, n)
	}
	if d.err != nil {
		return nil
	}
	d.at += n
	return d.b[d.at-n : d.at]
}

func (d *decoder) digest(what string) (sum Digest) {
	copy(sum[:], d.raw(what, len(sum)))
	return sum
}

func (d *decoder) string(what string, limit int) string {
	return string(d.raw(what, d.uint(what+"'s length", limit)))
}

// count reads how many things of at least so many bytes follow: never more than there can be.
func (d *decoder) count(what string, limit, least int) int {
	return d.uint("number of "+what, min(limit, (len(d.b)-d.at)/least))
}

// end gives the error, or complains of what is left over.
func (d *decoder) end() error {
	if d.err == nil && d.at != len(d.b) {
		d.fail("%d bytes too many", len(d.b)-d.at)
	}
	return d.err
}

func (d *decoder) leftOut(shards int) []LeftOut {
	n := d.count("samples left out", math.MaxUint32, 4)
	var out []LeftOut
	for i := 0; i < n && d.err == nil; i++ {
		l := LeftOut{Ordinal: d.uint("ordinal", math.MaxUint32), Shard: d.uint("shard", shards-1)}
		l.Name, l.Reason = d.string("name", maxName), d.string("reason", maxReason)
		out = append(out, l)
	}
	return out
}

// table reads entries into shards of these sizes.
func (d *decoder) table(t *table, classes int, size func(shard int) int64, shards int) {
	n := d.count("samples", math.MaxUint32, minSampleBytes)
	if d.err != nil {
		return
	}
	t.records = make([]record, 0, n)
	for i := 0; i < n && d.err == nil; i++ {
		e := Entry{Ordinal: d.uint("ordinal", math.MaxUint32), Shard: d.uint("shard", shards-1), Offset: blockBytes * int64(d.uint("offset", MaxShardBytes/blockBytes)),
			Size: int64(d.uint("size", MaxImageBytes)), Label: d.uint("label", classes-1), W: d.uint("width", math.MaxUint32), H: d.uint("height", math.MaxUint32),
			Kind: ImageKind(d.uint("kind of image", int(imageKinds)-1))}
		if crc := d.raw("checksum", 4); crc != nil {
			e.CRC = binary.LittleEndian.Uint32(crc)
		}
		name := d.name(t, i)
		switch {
		case d.err != nil:
		case e.Size == 0 || e.W == 0 || e.H == 0:
			d.fail("sample %d, %q, is of %d bytes and %d x %d pixels", i, name, e.Size, e.W, e.H)
		case e.Offset+e.Size > size(e.Shard):
			d.fail("sample %d, %q, ends at byte %d of shard %d, which has %d", i, name, e.Offset+e.Size, e.Shard, size(e.Shard))
		default:
			t.addNamed(e, name)
		}
	}
	t.names, t.restarts, t.last, t.scratch = slices.Clip(t.names), slices.Clip(t.restarts), nil, nil
}

// name reads a name that is coded against the last one of the table. It is good until the next.
func (d *decoder) name(t *table, i int) []byte {
	shared := d.uint("name's shared part", maxName)
	if shared > len(t.last) || i%restartEvery == 0 && shared != 0 {
		d.fail("a name shares %d bytes with one of %d", shared, len(t.last))
	}
	rest := d.raw("name", d.uint("name's length", maxName-min(shared, maxName)))
	if d.err == nil && shared+len(rest) == 0 {
		d.fail("a name is empty")
	}
	if d.err != nil {
		return nil
	}
	t.scratch = append(append(t.scratch[:0], t.last[:shared]...), rest...)
	return t.scratch
}

// parseIndex reads the bytes of a set's index. It keeps none of them.
func parseIndex(b []byte) (*Index, error) {
	body, err := unframe(b, kindSet)
	if err != nil {
		return nil, err
	}
	if len(b) != frameBytes+len(body) {
		return nil, fmt.Errorf("%w: %d bytes too many behind it", ErrFormat, len(b)-frameBytes-len(body))
	}
	d := &decoder{b: body}
	x := &Index{Recipe: []byte(d.string("recipe", maxRecipe))}
	hash := d.digest("hash")
	for range d.count("classes", MaxClasses, 1) {
		x.Classes = append(x.Classes, d.string("class", maxClassName))
	}
	for range d.count("splits", 2, 1+len(Digest{})) {
		x.Splits = append(x.Splits, d.split(len(x.Classes)))
	}
	if err := d.end(); err != nil {
		return nil, err
	}
	if err := x.validate(); err != nil {
		return nil, err
	}
	if x.Hash() != hash {
		return nil, fmt.Errorf("%w: its hash is not that of its classes and splits", ErrFormat)
	}
	return x, nil
}

func (d *decoder) split(classes int) SplitIndex {
	s := SplitIndex{Name: d.string("split's name", maxName), Hash: d.digest("split's hash")}
	for range d.count("shards", maxShards, 1) {
		s.Shards = append(s.Shards, int64(d.uint("shard's size", MaxShardBytes)))
	}
	s.LeftOut = d.leftOut(len(s.Shards))
	d.table(&s.table, classes, func(n int) int64 { return s.Shards[n] }, len(s.Shards))
	return s
}

// splitNames are the splits that a set may have, in their order. They are folders.
var splitNames = []string{"train", "val"}

// validate checks what no single field shows.
func (x *Index) validate() error {
	for i := range x.Splits {
		s := &x.Splits[i]
		if !slices.Contains(splitNames, s.Name) || i > 0 && s.Name <= x.Splits[i-1].Name {
			return fmt.Errorf("%w: split %d is called %q: want train, val or both", ErrFormat, i, s.Name)
		}
		for k := 1; k < s.Len(); k++ {
			if a, b := s.table.records[k-1].ordinal, s.table.records[k].ordinal; b <= a {
				return fmt.Errorf("%w: split %s: sample %d has ordinal %d behind %d", ErrFormat, s.Name, k, b, a)
			}
		}
	}
	return nil
}

// parseShardIndex reads a shard's index, with what follows it in the shard. Labels are not compared with classes, which it does not know.
func parseShardIndex(b []byte) (*ShardIndex, error) {
	body, err := unframe(b, kindShard)
	if err != nil {
		return nil, err
	}
	d := &decoder{b: body}
	x := &ShardIndex{Recipe: d.digest("recipe's hash"), Split: d.string("split's name", maxName), Number: d.uint("shard's number", maxShards-1)}
	x.LeftOut = d.leftOut(x.Number + 1)
	d.table(&x.table, MaxClasses, func(int) int64 { return MaxShardBytes }, x.Number+1)
	if err := d.end(); err != nil {
		return nil, err
	}
	return x, nil
}
