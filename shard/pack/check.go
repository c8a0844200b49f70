package pack

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"slices"

	"github.com/lockstep-ml/lockstep/internal/crc32c"
	"github.com/lockstep-ml/lockstep/shard/source"
)

// A Damage is a place where a shard is not what its index says.
type Damage struct {
	Shard  string `json:"shard"`            // its location
	Sample string `json:"sample,omitempty"` // whose bytes they are; empty for those of the shard itself
	Offset int64  `json:"offset"`           // of the first wrong byte; of an image, its first byte
	What   string `json:"what"`
}

func (d Damage) Error() string {
	if d.Sample == "" {
		return fmt.Sprintf("%s: byte %d: %s", d.Shard, d.Offset, d.What)
	}
	return fmt.Sprintf("%s: byte %d, %s: %s", d.Shard, d.Offset, d.Sample, d.What)
}

// scanBytes is how much of a shard is read at a time: enough that a far store's latency does not count.
const scanBytes = 4 << 20

// A scanner reads a file from front to end in large pieces.
type scanner struct {
	ctx  context.Context
	f    source.File
	buf  []byte
	from int64 // where in the file buf begins
	at   int64 // where in the file next begins
}

// next gives the next n bytes, which are good until the call after, or less at the file's end.
func (s *scanner) next(n int64) ([]byte, error) {
	n = min(n, s.f.Size()-s.at)
	if s.at+n > s.from+int64(len(s.buf)) {
		size := min(max(n, scanBytes), s.f.Size()-s.at)
		s.buf = slices.Grow(s.buf[:0], int(size))[:size]
		s.from = s.at
		if err := s.f.ReadAt(s.ctx, s.buf, s.at); err != nil {
			s.buf = s.buf[:0]
			return nil, err
		}
	}
	b := s.buf[s.at-s.from:][:n]
	s.at += n
	return b, nil
}

// A checker compares a shard with its index.
type checker struct {
	scanner
	x      *ShardIndex
	found  []Damage
	sample string
}

// CheckShard reads a whole shard and compares every byte with what its index says: an image by its checksum, all else by what must
// stand there. x may be the shard's own index, or the set's view of it. It gives all damage, and the SHA-256 of each image. The error
// is one of reading.
func CheckShard(ctx context.Context, f source.File, x *ShardIndex) (found []Damage, sums []Digest, err error) {
	c := &checker{scanner: scanner{ctx: ctx, f: f}, x: x}
	for _, e := range x.Entries() {
		sum, err := c.entry(&e)
		if err != nil {
			return nil, nil, err
		}
		sums = append(sums, sum)
	}
	c.sample = ""
	if err := c.same("the shard's index or end mark", x.member(c.at)); err != nil {
		return nil, nil, err
	}
	if c.at < f.Size() {
		c.add(c.at, fmt.Sprintf("%d bytes too many", f.Size()-c.at))
	}
	return c.found, sums, nil
}

func (c *checker) add(at int64, what string) {
	c.found = append(c.found, Damage{Shard: c.f.Name(), Sample: c.sample, Offset: at, What: what})
}

func (c *checker) entry(e *Entry) (sum Digest, err error) {
	c.sample = e.Name
	if c.at >= c.f.Size() {
		c.add(e.Offset, "the image lies beyond the shard's end")
		return sum, nil
	}
	if want := c.at + blockBytes; e.Offset != want {
		c.add(e.Offset, fmt.Sprintf("the index says the image begins here, but it can only begin at %d", want))
		return sum, nil
	}
	if err := c.same("the image's tar header", before(e)); err != nil {
		return sum, err
	}
	at := c.at
	b, err := c.next(e.Size)
	if err != nil {
		return sum, err
	}
	switch got := crc32c.Update(0, b); {
	case int64(len(b)) < e.Size:
		c.add(at+int64(len(b)), fmt.Sprintf("the shard ends here, in an image of %d bytes", e.Size))
	case got != e.CRC:
		c.add(at, fmt.Sprintf("CRC-32C of the image's %d bytes is %08x, want %08x", e.Size, got, e.CRC))
	}
	sum = sha256.Sum256(b)
	return sum, c.same("padding, or the member with the label", after(e))
}

// same compares the next bytes with those that must stand there.
func (c *checker) same(what string, want []byte) error {
	at := c.at
	got, err := c.next(int64(len(want)))
	if err != nil || bytes.Equal(got, want) {
		return err
	}
	i := 0
	for i < len(got) && got[i] == want[i] {
		i++
	}
	if i == len(got) {
		c.add(at+int64(i), "the shard ends here, in "+what)
		return nil
	}
	c.add(at+int64(i), fmt.Sprintf("%s: the byte is %#02x, want %#02x", what, got[i], want[i]))
	return nil
}

// shardView gives the index that shard n of the split must have, from the set's own.
func (s *Split) shardView(n int) *ShardIndex {
	x := &ShardIndex{Recipe: s.set.recipeHash(), Split: s.index.Name, Number: n}
	for _, l := range s.index.LeftOut {
		if l.Shard == n {
			x.LeftOut = append(x.LeftOut, l)
		}
	}
	for _, i := range s.inShard(n) {
		x.table.add(s.Entry(i))
	}
	return x
}

// inShard lists the split's samples of a shard in the order of the file.
func (s *Split) inShard(n int) []int {
	var out []int
	records := s.index.table.records
	for i := range records {
		if int(records[i].shard) == n {
			out = append(out, i)
		}
	}
	slices.SortStableFunc(out, func(a, b int) int { return int(records[a].block) - int(records[b].block) })
	return out
}
