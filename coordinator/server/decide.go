package server

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/lockstep-ml/lockstep/coordinator"
)

const (
	// journalPatience is how long a decision waits for a disk that is full: long enough for somebody to make room. Nothing is decided
	// meanwhile; workers train on with the plan they have, and other goroutines send them heartbeats.
	journalPatience = time.Minute
	// journalRetry is how soon a disk that was full is looked at again.
	journalRetry = 500 * time.Millisecond
)

// record makes an entry safe, trying again for a while where there is no room. After an error nothing may be done that follows from it.
func (s *Server) record(ctx context.Context, e coordinator.Entry) error {
	if s.cfg.Journal == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, journalPatience)
	defer cancel()
	for told := false; ; told = true {
		err := s.cfg.Journal.Append(e)
		if err == nil {
			return nil
		}
		if !told && errors.Is(err, syscall.ENOSPC) {
			s.warn(fmt.Sprintf("nothing can be decided while the disk is full, make room within %v: %v", journalPatience, err))
		}
		if !errors.Is(err, syscall.ENOSPC) || !pause(ctx, journalRetry) {
			return fmt.Errorf("coordinator server: run %s ends here, and can be gone on with by --resume, for the journal takes no decision: %w", s.cfg.Machine.Run, err)
		}
	}
}

// pause waits, unless ctx ends meanwhile.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// warn shows people what the machine does not know of.
func (s *Server) warn(event string) {
	st := s.standing.Load()
	s.report(coordinator.Report{Progress: coordinator.Progress{Step: st.Step, Total: st.Total, Loss: st.Loss, Warning: true, Event: event}})
}

// load changes the state that training starts from to that of a checkpoint.
func (s *Server) load(ctx context.Context, a coordinator.Load) error {
	if a.Path == "" {
		s.base.Store(s.cfg.Initial)
		return nil
	}
	if s.cfg.Store == nil {
		return fmt.Errorf("coordinator server: there is no store to read %s from", a.Path)
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Machine.StoreTimeout)
	defer cancel()
	state, err := s.cfg.Store.Get(ctx, a.Path)
	if err != nil {
		return fmt.Errorf("coordinator server: the checkpoint to go on from: %w", err)
	}
	if state.Step != a.Step {
		return fmt.Errorf("coordinator server: %s is the state of step %d, not %d", a.Path, state.Step, a.Step)
	}
	s.base.Store(state)
	return nil
}

// drop removes checkpoints with wrong bits in them.
func (s *Server) drop(a coordinator.Drop) error {
	if s.cfg.Store == nil {
		return nil
	}
	if err := s.cfg.Store.Drop(a.Step); err != nil {
		return fmt.Errorf("coordinator server: removing checkpoints after step %d, whose bits are wrong: %w", a.Step, err)
	}
	return nil
}
