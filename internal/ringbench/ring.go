package ringbench

import (
	"context"
	"time"
)

// Rings is one process's part in the rings of a session.
type Rings interface {
	// Address is where the left neighbour dials.
	Address() string
	// Join connects a place in the ring of a generation. It blocks until the neighbours are reached or ctx ends. A counted ring counts what
	// it sends, at some cost; it is never timed.
	Join(ctx context.Context, p Place, counted bool) (Ring, error)
	// Close frees what neighbours dial; rings are closed before.
	Close() error
}

// Place is a process's place in a ring.
type Place struct {
	Generation uint64   `json:"generation"`
	Rank       int      `json:"rank"`
	Group      int      `json:"group"`     // members in a group of the ring; 0 or 1 for a flat one
	Names      []string `json:"names"`     // for errors
	Addresses  []string `json:"addresses"` // Rings.Address of each rank
	Raw        []string `json:"raw"`       // where each rank's plain TCP ring is dialled
}

func (p *Place) right() int { return (p.Rank + 1) % len(p.Names) }

// Ring averages buckets over the replicas, one a place.
type Ring interface {
	// Mean writes the mean over all replicas to dst; hosted maps this process's replicas to their values. Calls for different buckets may run
	// concurrently; a pair (step, bucket) comes once. exact asks for 32-bit blocks whatever the wire is.
	Mean(ctx context.Context, step uint64, bucket int, exact bool, hosted []Hosted, dst []float32) error
	// Measure finds what a hop takes and how many bytes a second a member sends. All members call it at once.
	Measure(ctx context.Context) (hop time.Duration, bytesPerSecond float64, err error)
	// Sent is what a counted ring has sent so far.
	Sent() (messages, bytes int64)
	// Coding is what the links to the right neighbours make of coding, by level.
	Coding() []Coding
	// Ways says how messages reach the right neighbours, by level: through shared memory, or why not.
	Ways() []string
	Close() error
}

// Coding is what is known of coding on a link: bytes of values a second, 0 where that is not known.
type Coding struct {
	On    bool    `json:"on"`
	Plain float64 `json:"plain,omitempty"` // what the link carries without
	Coded float64 `json:"coded,omitempty"` // what it carries with it
	Coder float64 `json:"coder,omitempty"` // what one core codes, or decodes
	Ratio float64 `json:"ratio,omitempty"` // bytes sent for one of values
}

// Hosted is a replica's part of a bucket.
type Hosted struct {
	Replica int
	Values  []float32
}

// Link says which ring a session wants.
type Link struct {
	Run       string `json:"run"` // drawn at random: it also keeps strangers out of the plain ring
	Wire      int    `json:"wire"`
	Transport string `json:"transport"`
	Coding    string `json:"coding"`
	Replicas  int    `json:"replicas"` // of all members
	Each      int    `json:"each"`     // of them, on each member; 0 stands for 1
}

// hosts is how many replicas a member hosts.
func (l *Link) hosts() int { return max(1, l.Each) }
