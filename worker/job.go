package worker

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/lockstep-ml/lockstep/core"
	pb "github.com/lockstep-ml/lockstep/internal/proto/lockstep/v1"
)

// Job is what a worker works on, built from a run's settings.
type Job struct {
	Network *core.Network
	Engine  core.Engine[float32]
	Data    Data
	Rings   Rings

	WireBits     int      // of a gradient value on the ring
	Replicas     int      // R, replicas of the whole run
	ReplicaBatch int      // images of one replica
	SGD          core.SGD // LR is the plan's business

	States *StateServer // registered with the server at RingAddress; nil for a worker that will never have company
	Peers  Peers        // the other workers' States; nil likewise

	Fingerprint   string // of the data, compared across the cluster
	Summary       string // of the data, for people
	RingAddress   string // where the left neighbour dials
	GossipAddress string // where a coordinator that was started again finds this worker

	// Close frees all of the above, engine and data included.
	Close func() error
}

// Validate reports a job that cannot run.
func (j *Job) Validate() error {
	if j.Network == nil || j.Engine == nil || j.Data == nil || j.Rings == nil {
		return fmt.Errorf("worker: a job needs a network, an engine, data and rings")
	}
	if j.Replicas < 1 || j.ReplicaBatch < 1 {
		return fmt.Errorf("worker: %d replicas of %d images", j.Replicas, j.ReplicaBatch)
	}
	return nil
}

// Data gives a worker its share of the samples. Its methods are called by one goroutine at a time.
type Data interface {
	// Next blocks until the step's batches of these replicas are ready, in the order asked, or ctx ends. It may
	// prepare the same replicas' batches of following steps meanwhile. The batches are the caller's until Release.
	Next(ctx context.Context, step uint64, replicas []int) (Batches, error)
	// Evaluate gives share k of n of the evaluation images to visit, batch by batch, each of at most the
	// replica batch's size. A batch is valid until visit returns. It gives the damaged images that it has left out.
	Evaluate(ctx context.Context, k, n int, visit func(core.Batch) error) ([]Skipped, error)
}

// Peers reaches the state servers of other workers.
type Peers interface {
	// Dial connects to the worker with that ring address. The connection is the caller's to close.
	Dial(ctx context.Context, address string) (pb.PeerClient, io.Closer, error)
}

// Batches are the hosted replicas' batches of one step.
type Batches struct {
	Replica []core.Batch  // one for each replica asked for, in that order
	Samples [][4]uint32   // one for each replica: sums of four 14-bit hashes of each sample's index; nil for none
	Skipped []Skipped     // damaged images of these replicas for which others stand in
	Waited  time.Duration // how long Next blocked
	Release func()        // gives the memory back; not nil
}

// Skipped is a damaged image that was passed over.
type Skipped struct {
	Sample int    // its index in its split
	By     int    // the index of the one that stands in for it, -1 for none
	Name   string // its path in the data set
}

func skippedMessages(list []Skipped) (out []*pb.Skipped) {
	for _, s := range list {
		out = append(out, &pb.Skipped{Sample: uint64(s.Sample), By: int64(s.By), Name: s.Name})
	}
	return out
}

// samples are the sums for batch number i.
func (b Batches) samples(i int) [sampleSums]uint32 {
	if i >= len(b.Samples) {
		return [sampleSums]uint32{}
	}
	return b.Samples[i]
}

// Rings makes the ring of a generation.
type Rings interface {
	// Join connects this worker's place in the ring. It blocks until the neighbours are reached or ctx ends.
	Join(ctx context.Context, m Membership) (Ring, error)
}

// Membership is a generation as its ring needs it.
type Membership struct {
	Run        string
	Generation uint64
	Rank       int
	Names      []string // workers by rank
	Addresses  []string // ring addresses by rank
	Replicas   int
	Group      int // workers in a group, which are runs of ranks; 0 or 1 for a flat ring
}

// Contribution is one hosted replica's part of a bucket.
type Contribution struct {
	Replica int
	Values  []float32
}

// Ring reduces buckets in one generation. A ring that failed is closed and never used again.
type Ring interface {
	// Mean writes the mean over all R replicas of a bucket to dst. Every member calls it for the same buckets; calls for
	// different buckets may run concurrently. It blocks until the bucket is complete and verified, a deadline
	// passes or ctx ends. Gradients go in the run's wire format; exact asks for the 32-bit one whatever that is.
	Mean(ctx context.Context, step uint64, bucket int, exact bool, local []Contribution, dst []float32) error
	// Measure finds how long a hop takes and how many bytes a second a member sends. Every member calls it before
	// the first Mean, all at once. It blocks as Mean does.
	Measure(ctx context.Context) (hop time.Duration, bytesPerSecond float64, err error)
	// Close breaks whatever still waits and frees the ring; it may be called twice.
	Close() error
}

// NonFinite is implemented by a ring's error when some replica's values were not finite numbers.
type NonFinite interface {
	error
	// NonFinite names replica and index within the bucket when this worker hosts the culprit (local).
	NonFinite() (replica, index int, local bool)
}

// DamagedSample is implemented by an error of Data's when an image cannot be decoded.
type DamagedSample interface {
	error
	// DamagedSample is the image's path in the data set.
	DamagedSample() string
}

// PeerError is implemented by a ring's error that was seen on one neighbour.
type PeerError interface {
	error
	// Peer is the neighbour's name.
	Peer() string
}
