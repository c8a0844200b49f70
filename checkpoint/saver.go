package checkpoint

import (
	"context"
	"sync"
)

// Saved tells how a Save beside training went: what Store.Save returned, and for which checkpoint.
type Saved struct {
	Checkpoint *Checkpoint
	Path       string // not empty: the checkpoint is safe
	Err        error
}

// Saver writes checkpoints beside training, one at a time. The trainer hands over a checkpoint whose memory is its own (a Clone of
// the state) and goes on; a failed save is reported and training is not stopped by it.
//
// A queue of checkpoints was rejected: it would hold the state in memory once more for every one waiting, and on a disk that is too
// slow for the interval asked for it would only grow. Submit waits instead.
type Saver struct {
	store  *Store
	report func(Saved)
	next   chan *Checkpoint

	mu   sync.Mutex
	busy bool
	idle chan struct{} // closed while no save is in hand
}

// NewSaver returns a Saver that does nothing until Run. report is called from Run's goroutine after each save, before the next begins.
func NewSaver(store *Store, report func(Saved)) *Saver {
	idle := make(chan struct{})
	close(idle)
	return &Saver{store: store, report: report, next: make(chan *Checkpoint), idle: idle}
}

// Run saves what is submitted, until ctx is done. A save in hand then is finished first, so that ending a run does not lose its last
// checkpoint; bound that, where it must be bounded, with a deadline around the process. It returns nil.
func (s *Saver) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case c := <-s.next:
			path, err := s.store.Save(context.WithoutCancel(ctx), c)
			s.report(Saved{c, path, err})
			s.setIdle()
		}
	}
}

// Submit hands c over once the save before it has finished. It returns ctx's error if that, or a Run to take it, does not come in
// time. From here until its report the checkpoint and its tensors belong to the Saver.
func (s *Saver) Submit(ctx context.Context, c *Checkpoint) error {
	if err := s.claim(ctx); err != nil {
		return err
	}
	select {
	case s.next <- c:
		return nil
	case <-ctx.Done():
		s.setIdle()
		return ctx.Err()
	}
}

// Busy says whether a save is in hand, for a trainer that would rather skip a checkpoint than wait.
func (s *Saver) Busy() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.busy
}

// Flush waits until no save is in hand, or for ctx.
func (s *Saver) Flush(ctx context.Context) error {
	s.mu.Lock()
	idle := s.idle
	s.mu.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// claim waits for idleness and ends it.
func (s *Saver) claim(ctx context.Context) error {
	for {
		s.mu.Lock()
		if !s.busy {
			s.busy, s.idle = true, make(chan struct{})
			s.mu.Unlock()
			return nil
		}
		s.mu.Unlock()
		if err := s.Flush(ctx); err != nil {
			return err
		}
	}
}

func (s *Saver) setIdle() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy = false
	close(s.idle)
}
