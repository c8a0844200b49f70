package pack

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/lockstep-ml/lockstep/internal/crc32c"
	"github.com/lockstep-ml/lockstep/shard/source"
)

// A ShardWriter writes a shard to a stream, front to end.
type ShardWriter struct {
	w     io.Writer
	at    int64
	index ShardIndex
	sums  []Digest
}

// NewShardWriter begins a shard of a set with this recipe.
func NewShardWriter(w io.Writer, recipe []byte, split string, number int) *ShardWriter {
	return &ShardWriter{w: w, index: ShardIndex{Recipe: sha256.Sum256(recipe), Split: split, Number: number}}
}

// Add writes a sample. Of e it wants Ordinal, Label, W, H, Kind and Name; the rest follows from image and place.
func (s *ShardWriter) Add(e Entry, image []byte) error {
	e.Shard, e.Offset, e.Size, e.CRC = s.index.Number, s.at+blockBytes, int64(len(image)), crc32c.Update(0, image)
	if !e.fits() || e.Offset+blocks(e.Size) > MaxShardBytes-MaxImageBytes {
		return fmt.Errorf("sample %d, %q, of %d bytes, %d x %d pixels and label %d: %w", e.Ordinal, e.Name, e.Size, e.W, e.H, e.Label, ErrTooLarge)
	}
	for _, b := range [][]byte{before(&e), image, after(&e)} {
		if _, err := s.w.Write(b); err != nil {
			return err
		}
		s.at += int64(len(b))
	}
	s.index.table.add(e)
	s.sums = append(s.sums, sha256.Sum256(image))
	return nil
}

// LeaveOut notes that a sample which belongs here is damaged.
func (s *ShardWriter) LeaveOut(ordinal int, name, reason string) {
	s.index.LeftOut = append(s.index.LeftOut, LeftOut{Ordinal: ordinal, Shard: s.index.Number,
		Name: name[:min(len(name), maxName)], Reason: reason[:min(len(reason), maxReason)]})
}

// Finish writes the index and the end mark, and describes the shard.
func (s *ShardWriter) Finish() (*Shard, error) {
	b := s.index.member(s.at)
	if _, err := s.w.Write(b); err != nil {
		return nil, err
	}
	return &Shard{Index: &s.index, Size: s.at + int64(len(b)), Sums: s.sums}, nil
}

// A Shard is a whole shard's index, size in bytes, and the SHA-256 of each image in the order of the file.
type Shard struct {
	Index *ShardIndex
	Size  int64
	Sums  []Digest
}

// ReadShardIndex finds the index at the end of a shard.
func ReadShardIndex(ctx context.Context, f source.File) (*ShardIndex, error) {
	bad := func(err error) error { return fmt.Errorf("%s: the shard's index: %w", f.Name(), err) }
	end := f.Size() - endMark
	if end < 2*blockBytes || end%blockBytes != 0 || f.Size() > MaxShardBytes {
		return nil, bad(fmt.Errorf("%w: a shard has no %d bytes", ErrFormat, f.Size()))
	}
	var foot [footerBytes]byte
	if err := f.ReadAt(ctx, foot[:], end-footerBytes); err != nil {
		return nil, err
	}
	at := binary.LittleEndian.Uint64(foot[:])
	if string(foot[8:]) != footerMagic || at < blockBytes || at%blockBytes != 0 || at >= uint64(end) || uint64(end)-at > maxIndexBytes+blockBytes {
		return nil, bad(fmt.Errorf("%w: bytes %d to %d do not say where it is", ErrFormat, end-footerBytes, end))
	}
	b := make([]byte, uint64(end)-at)
	if err := f.ReadAt(ctx, b, int64(at)); err != nil {
		return nil, err
	}
	x, err := parseShardIndex(b)
	if err != nil {
		return nil, bad(err)
	}
	if want := x.member(int64(at) - blockBytes); !bytes.Equal(want[blockBytes:len(want)-endMark], b) {
		return nil, bad(fmt.Errorf("%w: it is not written as this program writes it", ErrFormat))
	}
	return x, nil
}
