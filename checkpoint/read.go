package checkpoint

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"

	"github.com/klauspost/compress/zstd"

	"github.com/lockstep-ml/lockstep/internal/snapshot"
)

// DefaultMaxBytes bounds the floats a file may hold, decoded: 20 times what resnet152 needs with its momentum.
const DefaultMaxBytes = 10 << 30

// Read reads a checkpoint of size bytes from r and checks all of it: every checksum, every bound, and the state hash. maxBytes bounds
// the memory its tensors may take. The errors of damaged bytes name the place.
func Read(ctx context.Context, r io.ReaderAt, size, maxBytes int64) (*Checkpoint, error) {
	c := new(Checkpoint)
	m, err := scan(ctx, r, size, maxBytes, func(s Section, n int) []float32 {
		data := make([]float32, n)
		c.Tensors = append(c.Tensors, Tensor{s.Name, s.Role, s.Shape, data})
		return data
	})
	if err != nil {
		return nil, err
	}
	c.Step, c.Hash, c.Created, c.Version = m.Step, m.Hash, m.Created, m.Version
	c.Config, c.Schedule, c.Data = m.Config, m.Schedule, m.Data
	return c, nil
}

// check reads a checkpoint as Read does, keeping nothing but its manifest.
func check(ctx context.Context, r io.ReaderAt, size, maxBytes int64) (*Manifest, error) {
	var buf []float32
	return scan(ctx, r, size, maxBytes, func(_ Section, n int) []float32 {
		if cap(buf) < n {
			buf = make([]float32, n)
		}
		return buf[:n]
	})
}

// scan reads a file from front to end; room gives the memory for each tensor's floats.
func scan(ctx context.Context, r io.ReaderAt, size, maxBytes int64, room func(s Section, n int) []float32) (*Manifest, error) {
	m, head, err := readHead(r, size, maxBytes)
	if err != nil {
		return nil, err
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		return nil, fmt.Errorf("set up zstd: %w", err)
	}
	defer dec.Close()
	s := &scanner{ctx: ctx, r: r, dec: dec, file: sha256.New(), state: newStateHash(), piece: make([]byte, pieceBytes)}
	s.file.Write(head)
	for _, section := range m.Tensors {
		n, err := elements(section.Shape)
		if err != nil {
			panic(fmt.Sprintf("checkpoint: a checked manifest holds shape %v: %v", section.Shape, err))
		}
		at := int64(len(head)) + section.Offset
		if err := s.section(section, at, room(section, n)); err != nil {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			return nil, &damage{"tensor " + section.key().String(), at, err}
		}
	}
	trailer := make([]byte, trailerBytes)
	if err := readFull(r, trailer, size-trailerBytes); err != nil {
		return nil, &damage{"checksum of the file", size - trailerBytes, err}
	}
	if got := s.file.Sum(nil); string(got) != string(trailer) {
		return nil, &damage{"checksum of the file", size - trailerBytes, fmt.Errorf("SHA-256 is %s, recorded is %s", hex.EncodeToString(got), hex.EncodeToString(trailer))}
	}
	if got := s.state.sum(m.Step); got != m.Hash {
		return nil, &damage{"state hash", headerBytes, fmt.Errorf("the state hashes to %s, the manifest says %.80q", got, m.Hash)}
	}
	return m, nil
}

// scanner carries what is alive over all sections.
type scanner struct {
	ctx    context.Context
	r      io.ReaderAt
	dec    *zstd.Decoder
	file   hash.Hash
	state  stateHash
	piece  []byte
	packed []byte
}

// section reads one section into dst and checks its CRC.
func (s *scanner) section(sec Section, at int64, dst []float32) error {
	if sec.Encoding == EncodingRaw {
		return s.raw(sec, at, dst)
	}
	if int64(cap(s.packed)) < sec.Length {
		s.packed = make([]byte, sec.Length)
	}
	packed := s.packed[:sec.Length]
	if err := readFull(s.r, packed, at); err != nil {
		return err
	}
	s.file.Write(packed)
	if err := checkCRC(crc32.Checksum(packed, castagnoli), sec.CRC32C); err != nil {
		return err
	}
	plain, err := s.dec.DecodeAll(packed, make([]byte, 0, 4*len(dst)))
	if err != nil {
		return fmt.Errorf("zstd: %w", err)
	}
	if len(plain) != 4*len(dst) {
		return fmt.Errorf("zstd gives %d bytes, shape %v takes %d", len(plain), sec.Shape, 4*len(dst))
	}
	s.state.write(plain)
	snapshot.FromLittleEndian(dst, plain)
	return nil
}

func (s *scanner) raw(sec Section, at int64, dst []float32) error {
	var crc uint32
	for len(dst) > 0 {
		if err := s.ctx.Err(); err != nil {
			return err
		}
		n := min(len(dst), pieceBytes/4)
		piece := s.piece[:4*n]
		if err := readFull(s.r, piece, at); err != nil {
			return err
		}
		s.file.Write(piece)
		s.state.write(piece)
		crc = crc32.Update(crc, castagnoli, piece)
		snapshot.FromLittleEndian(dst[:n], piece)
		dst, at = dst[n:], at+int64(len(piece))
	}
	return checkCRC(crc, sec.CRC32C)
}

var errChecksum = errors.New("CRC-32C differs")

func checkCRC(got, want uint32) error {
	if got != want {
		return fmt.Errorf("%w: it is %08x, recorded is %08x", errChecksum, got, want)
	}
	return nil
}
