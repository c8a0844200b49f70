package checkpoint

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"

	"github.com/klauspost/compress/zstd"

	"github.com/lockstep-ml/lockstep/internal/snapshot"
)

const (
	// pieceBytes is what is written, read or hashed between two looks at the context.
	pieceBytes = 1 << 20
	// sampleBytes of a section decide whether zstd pays: enough for its window to find what repeats, and 10 ms of work at most.
	sampleBytes = 256 << 10
	// paysPercent: a section is compressed only if it shrinks to this or less. Trained float32 values do not shrink at zstd's fastest
	// level and to 94 % at a slow one, not worth the compressed copy in memory and the decoding at every load; zeros shrink to nothing.
	paysPercent = 80
)

// encoded is a checkpoint laid out for writing.
type encoded struct {
	head     []byte
	sections [][]byte
	size     int64
}

// encode lays a checkpoint out. Raw sections are the tensors' own memory.
func encode(ctx context.Context, c *Checkpoint) (*encoded, *Manifest, error) {
	tensors := c.sorted()
	if err := checkTensors(tensors); err != nil {
		return nil, nil, err
	}
	m := &Manifest{Step: c.Step, Created: c.Created, Version: c.Version, Config: c.Config, Schedule: c.Schedule, Data: c.Data}
	m.Hash = c.StateHash()
	if c.Hash != "" && c.Hash != m.Hash {
		return nil, nil, fmt.Errorf("the tensors hash to %s, the checkpoint says %s: they changed since it was made", m.Hash, c.Hash)
	}
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, nil, fmt.Errorf("set up zstd: %w", err)
	}
	e := &encoded{}
	var offset int64
	for _, t := range tensors {
		if err := ctx.Err(); err != nil {
			return nil, nil, errors.Join(err, enc.Close())
		}
		body, encoding := encodeSection(enc, snapshot.LittleEndian(t.Data))
		m.Tensors = append(m.Tensors, Section{
			Name: t.Name, Role: t.Role, Shape: slices.Clone(t.Shape), Offset: offset, Length: int64(len(body)),
			Encoding: encoding, CRC32C: crc32.Checksum(body, castagnoli),
		})
		e.sections = append(e.sections, body)
		offset += int64(len(body))
	}
	if err := enc.Close(); err != nil {
		return nil, nil, fmt.Errorf("close zstd: %w", err)
	}
	if e.head, err = encodeHead(m); err != nil {
		return nil, nil, err
	}
	e.size = int64(len(e.head)) + offset + trailerBytes
	return e, m, nil
}

// checkTensors refuses what a reader would refuse.
func checkTensors(tensors []Tensor) error {
	var faults []error
	seen := map[tensorKey]bool{}
	for _, t := range tensors {
		key := tensorKey{t.Name, t.Role}
		n, err := elements(t.Shape)
		switch {
		case t.Name == "" || !slices.Contains(roles, t.Role):
			faults = append(faults, fmt.Errorf("tensor %s has no name or an unknown role", key))
		case seen[key]:
			faults = append(faults, fmt.Errorf("tensor %s is there twice", key))
		case err != nil:
			faults = append(faults, fmt.Errorf("tensor %s: %w", key, err))
		case n != len(t.Data):
			faults = append(faults, fmt.Errorf("tensor %s has %d values for shape %v", key, len(t.Data), t.Shape))
		}
		seen[key] = true
	}
	return errors.Join(faults...)
}

// encodeSection compresses what a sample from its middle says is worth it.
func encodeSection(enc *zstd.Encoder, raw []byte) ([]byte, Encoding) {
	sample := raw
	if len(raw) > sampleBytes {
		from := (len(raw) - sampleBytes) / 2
		sample = raw[from : from+sampleBytes]
	}
	pays := func(packed, plain []byte) bool { return len(packed)*100 <= len(plain)*paysPercent }
	packed := enc.EncodeAll(sample, nil)
	if !pays(packed, sample) {
		return raw, EncodingRaw
	}
	if len(sample) < len(raw) {
		packed = enc.EncodeAll(raw, packed[:0])
	}
	if !pays(packed, raw) || len(raw)/maxRatio > len(packed) {
		return raw, EncodingRaw
	}
	return packed, EncodingZstd
}

// writeTo writes the whole file, its SHA-256 last.
func (e *encoded) writeTo(ctx context.Context, w io.Writer) error {
	sum := sha256.New()
	for _, part := range append([][]byte{e.head}, e.sections...) {
		for len(part) > 0 {
			if err := ctx.Err(); err != nil {
				return err
			}
			n := min(len(part), pieceBytes)
			sum.Write(part[:n])
			if _, err := w.Write(part[:n]); err != nil {
				return err
			}
			part = part[n:]
		}
	}
	_, err := w.Write(sum.Sum(nil))
	return err
}
