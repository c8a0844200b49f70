package shard

import (
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/lockstep-ml/lockstep/shard/source"
)

// DefaultDecoders leaves half of the processors to the engine.
func DefaultDecoders() int { return max(1, runtime.GOMAXPROCS(0)/2) }

const (
	// DefaultDepth is how many batches are decoded ahead: one hides an even supply, a second hides a slow image. More only costs memory
	// (a batch of 256 at 224x224 is 147 MiB).
	DefaultDepth = 2
	// fetchAhead is how many batches beyond those the files' bytes are fetched for: they are a fifth of the decoded ones or less, and a
	// source that is far away answers late but to many at once.
	fetchAhead = 8
	// DefaultMemory holds three batches of 256 images of ImageNet decoded, one in use, and the bytes of several more.
	DefaultMemory = 1 << 30
	// DefaultStall is beyond what a source's own retries take, and short of the coordinator's patience with a run that stands still.
	DefaultStall = 3 * time.Minute
	// Files of this machine come from its page cache or a disk with a short queue; a server wants to be asked for many things at once,
	// with 100 ms to an answer 32 requests fetch 300 images a second.
	localFetchers, remoteFetchers = 4, 32
	// closePatience is how long the end waits for a read that the system does not let go of.
	closePatience = 5 * time.Second
)

// Supply says how batches are made ahead of their use. The zero value is the default. None of it changes what a batch holds.
type Supply struct {
	Decoders int           // goroutines that decode and augment; 0 means DefaultDecoders()
	Fetchers int           // reads under way at once; 0 means 4 for files of this machine, 32 for others
	Depth    int           // batches decoded ahead of the one in use, beyond the one asked for; 0 means DefaultDepth
	Memory   int64         // bytes that batches and the files they are made of may take; one batch is made whatever it takes. 0 means DefaultMemory
	Stall    time.Duration // how long one read may take before its sample's batch fails; 0 means DefaultStall
}

// Validate reports every fault at once.
func (s Supply) Validate() error {
	var errs []error
	for _, f := range []struct {
		name string
		v    int
	}{{"decoders", s.Decoders}, {"fetchers", s.Fetchers}, {"batches ahead", s.Depth}} {
		if f.v < 0 || f.v > 1024 {
			errs = append(errs, fmt.Errorf("loader: %d %s, want 0 (default) to 1024", f.v, f.name))
		}
	}
	if s.Memory < 0 || s.Stall < 0 {
		errs = append(errs, fmt.Errorf("loader: memory of %d bytes, patience of %v: neither can be negative", s.Memory, s.Stall))
	}
	return errors.Join(errs...)
}

// fill puts the defaults in.
func (s *Supply) fill(path string) {
	if s.Decoders == 0 {
		s.Decoders = DefaultDecoders()
	}
	if s.Fetchers == 0 {
		s.Fetchers = localFetchers
		if source.Remote(path) {
			s.Fetchers = remoteFetchers
		}
	}
	if s.Depth == 0 {
		s.Depth = DefaultDepth
	}
	if s.Memory == 0 {
		s.Memory = DefaultMemory
	}
	if s.Stall == 0 {
		s.Stall = DefaultStall
	}
}
