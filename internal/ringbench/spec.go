package ringbench

import (
	"errors"
	"fmt"
	"time"
)

const (
	// MaxElements bounds the values of one member's gradient: 8 GiB, and as much for the result.
	MaxElements = 1 << 31
	// MaxBuckets bounds how finely they are cut: each bucket in flight takes a goroutine and a place in messages of the session.
	MaxBuckets = 1 << 14
	// MaxMembers bounds the ring.
	MaxMembers = 1024
	// maxCompute bounds a stand-in for computing.
	maxCompute = 10 * time.Minute
)

// Bucket is a run [Lo, Hi) of the gradient that is reduced together.
type Bucket struct {
	Lo int `json:"lo"`
	Hi int `json:"hi"`
	// Ready is when a backward pass would announce it, as a share of the step's compute time.
	Ready float64 `json:"ready"`
}

// Spec is what a session's members reduce.
type Spec struct {
	Link
	Elements   int           `json:"elements"` // values of a replica's gradient
	Buckets    []Bucket      `json:"buckets"`  // in order of readiness
	Statistics int           `json:"statistics"`
	Compute    time.Duration `json:"compute"` // of a step with a stand-in for computing
}

// Validate reports every fault at once. A member holds what it is sent against it.
func (s *Spec) Validate() error {
	var faults []error
	bad := func(is bool, format string, args ...any) {
		if is {
			faults = append(faults, fmt.Errorf(format, args...))
		}
	}
	bad(s.Elements < 1 || s.Elements > MaxElements, "%d values, must be 1..%d", s.Elements, MaxElements)
	bad(s.Statistics < 0 || s.Statistics > 1<<24, "%d statistics, must be 0..%d", s.Statistics, 1<<24)
	bad(s.Compute < 0 || s.Compute > maxCompute, "%v of computing, must be 0..%v", s.Compute, maxCompute)
	bad(s.Replicas < 1 || s.Replicas > MaxMembers, "%d replicas, must be 1..%d", s.Replicas, MaxMembers)
	bad(s.Each < 0 || s.Replicas%s.hosts() != 0, "%d replicas on each member, %d in all", s.Each, s.Replicas)
	bad(len(s.Buckets) < 1 || len(s.Buckets) > MaxBuckets, "%d buckets, must be 1..%d", len(s.Buckets), MaxBuckets)
	bad(len(s.Run) < 16 || len(s.Run) > 64, "the session's name has %d bytes, must have 16..64", len(s.Run))
	for i, b := range s.Buckets {
		if b.Lo < 0 || b.Lo >= b.Hi || b.Hi > s.Elements || !(b.Ready >= 0 && b.Ready <= 1) {
			bad(true, "bucket %d is [%d, %d) of %d values, ready at %g", i, b.Lo, b.Hi, s.Elements, b.Ready)
			break
		}
	}
	return errors.Join(faults...)
}

// Memory is what a member takes for its replicas' gradients and the result, in bytes.
func (s *Spec) Memory() int64 {
	return 4 * int64(1+s.hosts()) * (int64(s.Elements) + int64(s.Statistics))
}
