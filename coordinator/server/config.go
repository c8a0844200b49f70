package server

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"time"

	"github.com/lockstep-ml/lockstep/coordinator"
	"github.com/lockstep-ml/lockstep/internal/gossip"
	"github.com/lockstep-ml/lockstep/internal/snapshot"
)

// Store keeps checkpoints.
type Store interface {
	// Put writes a state as a checkpoint and returns where it is. It blocks until the checkpoint is safe on disk, and is called by
	// one goroutine at a time, beside training. The snapshot is the store's to read until Put returns. An error leaves the
	// checkpoints before it as they were.
	Put(ctx context.Context, s *snapshot.Snapshot, meta Meta) (path string, err error)
	// Get reads a checkpoint back that Put has written, or an earlier coordinator's, and verifies it.
	Get(ctx context.Context, path string) (*snapshot.Snapshot, error)
	// Drop removes the checkpoints of all steps after that one.
	Drop(after uint64) error
}

// Journal makes decisions safe before they are acted on. It is called by one goroutine.
type Journal interface {
	// Append returns once the entry is on disk.
	Append(e coordinator.Entry) error
}

// Meta is what a checkpoint keeps beside the state, so that a resumed run goes on exactly.
type Meta struct {
	Run      string
	Hash     string          // of the state
	Schedule json.RawMessage // for coordinator.Schedule.Restore
	Data     Position
}

// Position is the place in the stream of samples: the next step's first image. It follows from the step alone and is stored for
// people and for checks.
type Position struct {
	Step  uint64 `json:"step"`  // committed steps
	Epoch uint64 `json:"epoch"` // passes over the data that are complete
	Image uint64 `json:"image"` // images of the current pass that have been used
}

// Config is what a Server needs. DefaultConfig gives the deadlines.
type Config struct {
	// Machine is the run itself. NoStore is set by New when there is no Store; SaveTimeout is lengthened for large states.
	Machine coordinator.Config
	// Listener is where workers attach. Run serves and closes it.
	Listener net.Listener
	// TLS asks for mutual TLS; nil speaks in clear, which is for loopback.
	TLS *tls.Config
	// Initial is the state that training starts from; its Step must be Machine.FirstStep. The server only reads it.
	Initial *snapshot.Snapshot
	// Store keeps checkpoints; nil keeps none.
	Store Store
	// Journal keeps decisions; nil keeps none, and then a coordinator that dies cannot be followed by another.
	Journal Journal
	// History is what earlier coordinators of the run have decided.
	History []coordinator.Entry
	// Offset is what the clock is off by, for tests of a clock that jumps; nil for a clock to be trusted.
	Offset func() time.Duration
	// Gossip brings hints about workers' liveness; may be nil.
	Gossip <-chan gossip.Event
	// Progress is called after every step and when something happens. It, Evaluated, StepReported, Skipped and StepObserver are called by the goroutine
	// that owns the machine: they must return quickly.
	Progress func(coordinator.Progress)
	// Evaluated is called with every complete evaluation.
	Evaluated func(coordinator.Evaluation)
	// StepObserver is called when every worker has committed a step.
	StepObserver func(coordinator.StepDone)
	// StepReported is called with every report of a step, also of a worker's that has been reported before.
	StepReported func(coordinator.StepReport)
	// Skipped is called with the damaged images that a worker's report of a step or an evaluation names, likewise.
	Skipped func([]coordinator.Skipped)
	// Log takes what is for operators; nil discards it.
	Log *slog.Logger

	// HelloTimeout bounds the wait for a new connection's first message.
	HelloTimeout time.Duration
	// ChunkTimeout bounds the wait for the next chunk of a state on its way.
	ChunkTimeout time.Duration
	// StopTimeout bounds the delivery of the last words to workers at the end. It is part of the ten seconds that a failure may take.
	StopTimeout time.Duration
}

// DefaultConfig gives the deadlines and leaves the run to the caller.
func DefaultConfig() Config {
	return Config{
		Machine:      coordinator.DefaultConfig(),
		HelloTimeout: 10 * time.Second,
		ChunkTimeout: 10 * time.Second,
		StopTimeout:  time.Second,
	}
}

// Validate reports every fault at once.
func (c *Config) Validate() error {
	errs := []error{c.Machine.Validate()}
	if c.Listener == nil {
		errs = append(errs, errors.New("there is no listener for workers to attach to"))
	}
	if c.Initial == nil {
		errs = append(errs, errors.New("there is no state to start from"))
	} else if c.Initial.Step != c.Machine.FirstStep {
		errs = append(errs, errors.New("the state to start from is of another step than the run's first"))
	}
	for _, d := range []time.Duration{c.HelloTimeout, c.ChunkTimeout, c.StopTimeout} {
		if d <= 0 {
			errs = append(errs, errors.New("HelloTimeout, ChunkTimeout and StopTimeout must be positive: every wait needs a deadline"))
			break
		}
	}
	return errors.Join(errs...)
}
