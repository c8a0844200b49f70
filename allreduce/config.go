package allreduce

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/lockstep-ml/lockstep/allreduce/fixed"
)

// Wire is the width in bits of an integer on the wire.
type Wire = fixed.Wire

const (
	// Wire32 sends 4 bytes a value: more accurate than a float32 ring.
	Wire32 = fixed.Wire32
	// Wire16 sends 2 bytes a value: half the bytes, relative error of the mean
	// gradient around 5e-4 with 8 replicas.
	Wire16 = fixed.Wire16
)

const (
	// MaxSize bounds the workers of a ring. A ring's latency grows with its
	// size, so a larger one is of no use; hops must fit 16 bits.
	MaxSize = 4096
	// MaxReplicas bounds the replicas of a run.
	MaxReplicas = fixed.MaxReplicas
	// MaxBucket bounds the values of one bucket, so that its exponent codes fit
	// one message of MaxPayload bytes.
	MaxBucket = MaxPayload * fixed.BlockSize
	// MaxPayload bounds the payload of one message in bytes. Larger messages
	// gain nothing and make the memory a peer can ask for larger.
	MaxPayload = 1 << 20
)

// Config says which ring this is and how long it waits.
type Config struct {
	// Run names the training job. Every worker must use the same name.
	Run string
	// Generation is the number of the membership, made by the coordinator.
	Generation uint64
	// Rank is this worker's place in the ring, 0..Size-1. It sends to Rank+1.
	Rank int
	// Size is the number of workers in the ring.
	Size int
	// Group, above 1 and below Size, makes a ring of two levels with so many workers
	// in each group, which must divide Size; else the ring is flat. The same on all
	// workers. It changes the way of the bits, not the bits.
	Group int
	// Replicas is the number of replicas of the run, over all workers.
	Replicas int
	// Wire is the width of the integers on the wire; a Bucket may override it.
	Wire Wire
	// BeginTimeout bounds each wait of a bucket's exponent pass. A neighbour
	// takes part only once its backward pass has reached the bucket, so this
	// must exceed the difference between the slowest and the fastest worker.
	BeginTimeout time.Duration
	// HopTimeout bounds each wait of the data pass, where every worker is known
	// to be ready: only the link and the adding take time.
	HopTimeout time.Duration
	// SegmentBytes is the payload of one data message. Smaller ones overlap
	// better, larger ones cost fewer messages. Must be the same on all workers.
	SegmentBytes int
	// Window is how many segments of its own a worker has on their way round the
	// ring, over all buckets; each bucket may always have one. It hides the delay
	// of the link, and bounds what is stored in a neighbour to about Size*Window
	// segments and one for each bucket. Less keeps more in the cache. Workers may
	// differ in it.
	Window int
	// Names says, for errors only, what each rank is called (an address, a
	// worker's name). Nil, or Size long.
	Names []string
}

// DefaultConfig returns a configuration for a ring of one worker and one
// replica; the caller sets Run, Generation, Rank, Size and Replicas.
func DefaultConfig() Config {
	return Config{
		Size: 1, Replicas: 1, Wire: Wire32,
		BeginTimeout: 60 * time.Second,
		HopTimeout:   8 * time.Second,
		SegmentBytes: 256 << 10,
		Window:       16,
	}
}

// Validate reports every fault at once, and changes nothing.
func (c Config) Validate() error {
	var faults []error
	bad := func(cond bool, format string, args ...any) {
		if cond {
			faults = append(faults, fmt.Errorf(format, args...))
		}
	}
	bad(c.Run == "", "Run is empty: name the training job")
	bad(c.Size < 1 || c.Size > MaxSize, "Size is %d, must be 1..%d", c.Size, MaxSize)
	bad(c.Rank < 0 || c.Rank >= c.Size, "Rank is %d, must be 0..Size-1 (Size is %d)", c.Rank, c.Size)
	if err := CheckGroup(c.Size, c.Group); err != nil && c.Size >= 1 {
		faults = append(faults, fmt.Errorf("config.Group: %w", err))
	}
	bad(c.Replicas < 1 || c.Replicas > MaxReplicas, "Replicas is %d, must be 1..%d", c.Replicas, MaxReplicas)
	bad(!c.Wire.Valid(), "Wire is %d, must be 32 or 16", uint8(c.Wire))
	bad(c.BeginTimeout <= 0, "BeginTimeout is %v, must be above zero", c.BeginTimeout)
	bad(c.HopTimeout <= 0, "HopTimeout is %v, must be above zero", c.HopTimeout)
	bad(c.SegmentBytes < 64 || c.SegmentBytes > MaxPayload || c.SegmentBytes%64 != 0,
		"SegmentBytes is %d, must be a multiple of 64 in 64..%d", c.SegmentBytes, MaxPayload)
	bad(c.Window < 1 || c.Window > 1024, "Window is %d, must be 1..1024", c.Window)
	bad(c.Names != nil && len(c.Names) != c.Size, "Names has %d entries, must have Size=%d or none", len(c.Names), c.Size)
	if len(faults) == 0 {
		return nil
	}
	return fmt.Errorf("allreduce: bad config: %w", errors.Join(faults...))
}

// name returns what rank is called in errors, "" when nothing is known.
func (c *Config) name(rank int) string {
	if rank < 0 || rank >= len(c.Names) {
		return ""
	}
	return c.Names[rank]
}

// RunDigest is what a message carries of a run's name: the first 8 bytes of its
// SHA-256, read as a little-endian integer.
func RunDigest(run string) uint64 {
	sum := sha256.Sum256([]byte(run))
	return binary.LittleEndian.Uint64(sum[:])
}
