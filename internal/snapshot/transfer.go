package snapshot

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"math"
)

// ChunkBytes is a good size for one chunk: smaller pays a message's overhead too often, larger keeps a stream's buffers too full
// and leaves less under one checksum.
const ChunkBytes = 1 << 20

// ErrTransfer is wrapped by every error of a Builder. A transfer that has failed is begun again; one that merely broke off can be
// gone on with where it was, from any Reader of the same snapshot.
var ErrTransfer = errors.New("snapshot transfer")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Header announces a snapshot: what a receiver must know before the first chunk.
type Header struct {
	Step    uint64
	Lengths Lengths
	Hash    string // of the whole snapshot, as Snapshot.Hash gives it
}

// Chunk is a run of the snapshot's little-endian bytes. Offset counts from the first byte of Params; offsets and lengths are
// multiples of 4, and no chunk crosses from one slice into the next.
type Chunk struct {
	Offset uint64
	Data   []byte
	CRC32C uint32 // Castagnoli, over Data
}

// Reader yields the bytes of a snapshot in order. It copies nothing on a little-endian machine: a chunk's Data is the snapshot's
// own memory and must be sent, or copied, before the snapshot changes.
type Reader struct {
	snap    *Snapshot
	header  Header
	section int // index into snap.sections
	element int // next element within it
	offset  uint64
}

// NewReader returns a Reader at the snapshot's first byte. It hashes the snapshot, which takes about a second for 1.5 GB.
func NewReader(s *Snapshot) *Reader { return NewReaderOf(s, s.Hash()) }

// NewReaderOf is NewReader for one who has the snapshot's hash already.
func NewReaderOf(s *Snapshot, hash string) *Reader {
	return &Reader{snap: s, header: Header{Step: s.Step, Lengths: s.Lengths(), Hash: hash}}
}

// Skip moves a new Reader to a byte that a chunk of another Reader of the same snapshot began or ended at, so that a transfer that
// broke off can be gone on with.
func (r *Reader) Skip(offset uint64) error {
	if offset%4 != 0 || offset > uint64(r.header.Lengths.Bytes()) {
		return fmt.Errorf("%w of step %d: no float begins at byte %d of %d", ErrTransfer, r.header.Step, offset, r.header.Lengths.Bytes())
	}
	r.section, r.element, r.offset = 0, 0, offset
	left := int(offset / 4)
	for _, s := range r.snap.sections() {
		if left <= len(s) {
			break
		}
		left -= len(s)
		r.section++
	}
	r.element = left
	return nil
}

// Header describes the snapshot being read.
func (r *Reader) Header() Header { return r.header }

// Next returns the next chunk, of at most maxBytes (at least 4; rounded down to whole floats), or io.EOF after the last.
func (r *Reader) Next(maxBytes int) (Chunk, error) {
	sections := r.snap.sections()
	for r.section < len(sections) && r.element == len(sections[r.section]) {
		r.section, r.element = r.section+1, 0
	}
	if r.section == len(sections) {
		return Chunk{}, io.EOF
	}
	rest := sections[r.section][r.element:]
	part := rest[:min(len(rest), max(maxBytes/4, 1))]
	data := LittleEndian(part)
	c := Chunk{Offset: r.offset, Data: data, CRC32C: crc32.Checksum(data, castagnoli)}
	r.element += len(part)
	r.offset += uint64(len(data))
	return c, nil
}

// Builder puts a snapshot together from chunks in order. It is used by one goroutine.
type Builder struct {
	header  Header
	snap    *Snapshot
	sha     hash.Hash
	section int
	element int
	offset  uint64
	err     error // the first failure; everything after it is refused with it
}

// NewBuilder prepares to receive what h announces. It refuses a header whose floats take more than limitBytes, before taking any
// memory for them; a caller that knows its network compares h.Lengths with its own first and passes h.Lengths.Bytes().
func NewBuilder(h Header, limitBytes int64) (*Builder, error) {
	l := h.Lengths
	for _, n := range []int{l.Params, l.Momentum, l.Mean, l.Var} {
		if n < 0 || int64(n) > math.MaxInt64/16 {
			return nil, fmt.Errorf("%w: header of step %d announces %s: no such snapshot", ErrTransfer, h.Step, l)
		}
	}
	if l.Bytes() > limitBytes {
		return nil, fmt.Errorf("%w: header of step %d announces %d bytes (%s), more than the %d allowed", ErrTransfer, h.Step, l.Bytes(), l, limitBytes)
	}
	if len(h.Hash) != 2*sha256.Size {
		return nil, fmt.Errorf("%w: header of step %d has hash %.80q, want %d hex digits", ErrTransfer, h.Step, h.Hash, 2*sha256.Size)
	}
	s := New(l)
	s.Step = h.Step
	return &Builder{header: h, snap: s, sha: sha256.New()}, nil
}

// Add takes the next chunk. Its Data is copied, the caller may reuse it. After an error every further call returns that error.
func (b *Builder) Add(c Chunk) error {
	if b.err == nil {
		b.err = b.add(c)
	}
	return b.err
}

func (b *Builder) add(c Chunk) error {
	if c.Offset != b.offset {
		return b.fail("chunk at byte %d, expected byte %d next", c.Offset, b.offset)
	}
	if len(c.Data) == 0 || len(c.Data)%4 != 0 {
		return b.fail("chunk at byte %d has %d bytes, want a positive multiple of 4", c.Offset, len(c.Data))
	}
	if got := crc32.Checksum(c.Data, castagnoli); got != c.CRC32C {
		return b.fail("chunk at byte %d has CRC-32C %08x, expected %08x: it was damaged on the way", c.Offset, got, c.CRC32C)
	}
	rest := b.rest()
	n := len(c.Data) / 4
	if n > len(rest) {
		return b.fail("chunk at byte %d has %d bytes, only %d are left in its slice", c.Offset, len(c.Data), 4*len(rest))
	}
	decode(rest[:n], c.Data)
	b.sha.Write(c.Data)
	b.element += n
	b.offset += uint64(len(c.Data))
	return nil
}

// rest is what is still empty of the slice being filled: nil when all are full.
func (b *Builder) rest() []float32 {
	for sections := b.snap.sections(); b.section < len(sections); b.section, b.element = b.section+1, 0 {
		if rest := sections[b.section][b.element:]; len(rest) > 0 {
			return rest
		}
	}
	return nil
}

// Received is how many bytes have been taken so far, of Header.Lengths.Bytes().
func (b *Builder) Received() int64 { return int64(b.offset) }

// Finish checks that every byte came and that the hash is the announced one, and hands over the snapshot.
func (b *Builder) Finish() (*Snapshot, error) {
	if b.err != nil {
		return nil, b.err
	}
	if want := uint64(b.header.Lengths.Bytes()); b.offset != want {
		b.err = b.fail("ended after %d of %d bytes", b.offset, want)
		return nil, b.err
	}
	if b.rest() != nil {
		panic("snapshot: every byte counted but a slice is not full")
	}
	if got := finishHash(b.sha, b.header.Step); got != b.header.Hash {
		b.err = b.fail("hash is %s, the sender announced %s: copy it again, from another peer if it repeats", got, b.header.Hash)
		return nil, b.err
	}
	b.err = b.fail("already finished")
	return b.snap, nil
}

func (b *Builder) fail(format string, args ...any) error {
	return fmt.Errorf("%w of step %d: %s", ErrTransfer, b.header.Step, fmt.Sprintf(format, args...))
}
