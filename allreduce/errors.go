package allreduce

import (
	"errors"
	"fmt"

	"github.com/lockstep-ml/lockstep/allreduce/fixed"
)

// ErrClosed is returned by what was still in progress, or was begun, after Close.
var ErrClosed = errors.New("allreduce: ring is closed")

// ErrPeerClosed says that a neighbour closed the generation in good order while
// something was still expected of it.
var ErrPeerClosed = errors.New("neighbour has closed this generation")

// HopError says which wait of which bucket failed, and who was waited for.
type HopError struct {
	Run        string
	Generation uint64
	Step       uint64
	Bucket     int
	Phase      Phase
	Hop        int
	// Peer is the rank at fault as far as is known: the neighbour waited for,
	// or the one whose connection broke. PeerName is what it is called, or "".
	Peer     int
	PeerName string
	// Op is "send" or "receive".
	Op  string
	Err error
}

// Error names run, generation, step, bucket, phase, hop and peer.
func (e *HopError) Error() string {
	name := ""
	if e.PeerName != "" {
		name = " (" + e.PeerName + ")"
	}
	return fmt.Sprintf("allreduce: run %q generation %d step %d bucket %d: %v hop %d: %s, rank %d%s: %v",
		e.Run, e.Generation, e.Step, e.Bucket, e.Phase, e.Hop, e.Op, e.Peer, name, e.Err)
}

// Unwrap returns the cause; errors.Is(err, context.DeadlineExceeded) tells a
// missed deadline.
func (e *HopError) Unwrap() error { return e.Err }

// NonFiniteError says that a replica contributed a NaN or an infinity. Every
// worker of the ring gets it for that bucket; only the one that hosts such a
// replica can name replica and index. The ring stays usable.
type NonFiniteError struct {
	Step   uint64
	Bucket int
	// Block is the block of fixed.BlockSize values that holds the value.
	Block int
	// Local says that this worker hosts the replica; Replica and Index are
	// meaningful only then. Index counts values from the bucket's start.
	Local   bool
	Replica int
	Index   int
	// Value is "NaN", "+Inf" or "-Inf" when Local.
	Value string
}

// Error names step, bucket and, where it is known, replica and index.
func (e *NonFiniteError) Error() string {
	if !e.Local {
		return fmt.Sprintf("allreduce: step %d bucket %d: another worker's replica has a NaN or infinity in block %d (values %d..%d)",
			e.Step, e.Bucket, e.Block, e.Block*fixed.BlockSize, (e.Block+1)*fixed.BlockSize-1)
	}
	return fmt.Sprintf("allreduce: step %d bucket %d: replica %d has %s at index %d (block %d)",
		e.Step, e.Bucket, e.Replica, e.Value, e.Index, e.Block)
}

// PeerError says that the link to a neighbour is broken. Transports return it
// so that the error of a wait names the peer whose link broke, which need not
// be the peer that the wait was for.
type PeerError struct {
	Peer int    // rank
	Addr string // "" when unknown
	Err  error
}

// Error names the peer.
func (e *PeerError) Error() string {
	if e.Addr == "" {
		return fmt.Sprintf("link to rank %d is broken: %v", e.Peer, e.Err)
	}
	return fmt.Sprintf("link to rank %d (%s) is broken: %v", e.Peer, e.Addr, e.Err)
}

// Unwrap returns the cause.
func (e *PeerError) Unwrap() error { return e.Err }

// PeerAbortedError says that a neighbour is alive and gave up the generation
// itself; Reason is its own error's text. It tells a coordinator to look for
// the culprit elsewhere.
type PeerAbortedError struct{ Reason string }

// Error gives the neighbour's reason.
func (e *PeerAbortedError) Error() string { return "neighbour gave up the generation: " + e.Reason }

// ChecksumError says that a message arrived damaged.
type ChecksumError struct{ Want, Got uint32 }

// Error gives both sums.
func (e *ChecksumError) Error() string {
	return fmt.Sprintf("message is damaged: its CRC32C says %08x, its bytes give %08x", e.Want, e.Got)
}

// MismatchError says that two workers disagree about a bucket: they were
// configured or compiled differently.
type MismatchError struct {
	Field       string
	Here, There uint64
}

// Error names the field and both values.
func (e *MismatchError) Error() string {
	return fmt.Sprintf("workers disagree: %s is %d here and %d there; all workers need the same config", e.Field, e.Here, e.There)
}

// RefusedError says that a message or a neighbour does not belong to this
// generation of this run.
type RefusedError struct{ Reason string }

// Error gives the reason.
func (e *RefusedError) Error() string { return "refused: " + e.Reason }
