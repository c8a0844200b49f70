package snapshot

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
)

// Snapshot is the whole training state after Step committed steps. Each slice runs through the network's tensors in their
// canonical order, every tensor flattened row-major; which tensor begins where is known to the network, not to the snapshot.
type Snapshot struct {
	Step     uint64    // committed steps
	Params   []float32 // every trained parameter
	Momentum []float32 // SGD momentum, one value for each parameter
	Mean     []float32 // batch-norm running means, layer by layer
	Var      []float32 // batch-norm running (unbiased) variances, layer by layer
}

// Lengths are the element counts of a Snapshot's slices.
type Lengths struct {
	Params, Momentum, Mean, Var int
}

// Bytes is the size in bytes of a snapshot's floats, 4 for each.
func (l Lengths) Bytes() int64 {
	return 4 * (int64(l.Params) + int64(l.Momentum) + int64(l.Mean) + int64(l.Var))
}

// String lists the counts, for error messages.
func (l Lengths) String() string {
	return fmt.Sprintf("%d parameters, %d momentum values, %d running means, %d running variances", l.Params, l.Momentum, l.Mean, l.Var)
}

// New returns a zero snapshot of the given lengths.
func New(l Lengths) *Snapshot {
	return &Snapshot{
		Params:   make([]float32, l.Params),
		Momentum: make([]float32, l.Momentum),
		Mean:     make([]float32, l.Mean),
		Var:      make([]float32, l.Var),
	}
}

// Lengths gives the element counts of the snapshot's slices.
func (s *Snapshot) Lengths() Lengths {
	return Lengths{len(s.Params), len(s.Momentum), len(s.Mean), len(s.Var)}
}

// Bytes is the size in bytes of the snapshot's floats, which is what a transfer moves.
func (s *Snapshot) Bytes() int64 { return s.Lengths().Bytes() }

// EqualLengths says whether o's slices are as long as s's, that is, whether both can belong to one network.
func (s *Snapshot) EqualLengths(o *Snapshot) bool { return s.Lengths() == o.Lengths() }

// Clone returns a copy that shares no memory with s.
func (s *Snapshot) Clone() *Snapshot {
	c := new(Snapshot)
	c.CopyFrom(s)
	return c
}

// CopyFrom makes s a copy of o. It reuses the memory of s where that is large enough, so copying every step allocates once.
func (s *Snapshot) CopyFrom(o *Snapshot) {
	s.Step = o.Step
	s.Params = append(s.Params[:0], o.Params...)
	s.Momentum = append(s.Momentum[:0], o.Momentum...)
	s.Mean = append(s.Mean[:0], o.Mean...)
	s.Var = append(s.Var[:0], o.Var...)
}

// Hash names the state: the hex SHA-256 over the little-endian bytes of Params, Momentum, Mean and Var, in this order, then of
// Step as a 64-bit little-endian integer. Two states have equal hashes when every bit of them agrees, so -0 and +0 differ.
func (s *Snapshot) Hash() string {
	h := sha256.New()
	for _, section := range s.sections() {
		writeFloats(h, section)
	}
	return finishHash(h, s.Step)
}

// sections lists the slices in the order of the hash and of a transfer.
func (s *Snapshot) sections() [4][]float32 {
	return [4][]float32{s.Params, s.Momentum, s.Mean, s.Var}
}

func finishHash(h hash.Hash, step uint64) string {
	var tail [8]byte
	binary.LittleEndian.PutUint64(tail[:], step)
	h.Write(tail[:])
	return hex.EncodeToString(h.Sum(nil))
}
