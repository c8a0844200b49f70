package ringbench

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
)

// piece is how much of a bucket is looked at a time, in values: whole blocks, whose bits do not depend on what is beside them.
const piece = 64 << 10

// digest gives the first 8 bytes of the SHA-256 over the bits of values that come piece by piece.
type digest struct {
	bytes []byte
	state interface {
		Write([]byte) (int, error)
		Sum([]byte) []byte
	}
}

func newDigest() *digest { return &digest{state: sha256.New()} }

func (d *digest) add(values []float32) {
	for len(values) > 0 {
		n := min(len(values), piece)
		d.bytes = d.bytes[:0]
		for _, v := range values[:n] {
			d.bytes = binary.LittleEndian.AppendUint32(d.bytes, math.Float32bits(v))
		}
		d.state.Write(d.bytes) // a hash never fails to write
		values = values[n:]
	}
}

func (d *digest) sum() uint64 { return binary.LittleEndian.Uint64(d.state.Sum(nil)) }

// digests gives one digest a bucket.
func digests(values []float32, buckets []Bucket) []uint64 {
	out := make([]uint64, len(buckets))
	for i, b := range buckets {
		d := newDigest()
		d.add(values[b.Lo:b.Hi])
		out[i] = d.sum()
	}
	return out
}

// reference gives the digests that a ring of one worker, which hosts all replicas, makes of the same gradients. It takes little memory: the
// buckets go through it in pieces.
func reference(ctx context.Context, ring Ring, spec *Spec) ([]uint64, error) {
	hosted := make([]Hosted, spec.Replicas)
	for r := range hosted {
		hosted[r] = Hosted{Replica: r, Values: make([]float32, piece)}
	}
	mean, out := make([]float32, piece), make([]uint64, len(spec.Buckets))
	count := 0
	for i, b := range spec.Buckets {
		d := newDigest()
		for at := b.Lo; at < b.Hi; at += piece {
			n := min(piece, b.Hi-at)
			part := make([]Hosted, len(hosted))
			for r, h := range hosted {
				part[r] = Hosted{Replica: r, Values: h.Values[:n]}
				fill(part[r].Values, r, at)
			}
			if err := ring.Mean(ctx, 0, count, false, part, mean[:n]); err != nil {
				return nil, fmt.Errorf("a ring of one worker, values [%d, %d): %w", at, at+n, err)
			}
			count++
			d.add(mean[:n])
		}
		out[i] = d.sum()
	}
	return out, nil
}
