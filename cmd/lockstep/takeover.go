package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/lockstep-ml/lockstep/coordinator"
	"github.com/lockstep-ml/lockstep/coordinator/journal"
	"github.com/lockstep-ml/lockstep/internal/gossip"
	"github.com/lockstep-ml/lockstep/internal/vfs"
)

// lockFolder keeps other coordinators out of a folder, until close.
func (p *prepared) lockFolder(dir string) error {
	l, err := vfs.Lock(filepath.Join(dir, "lock"))
	if err != nil {
		return err
	}
	p.locks = append(p.locks, l)
	return nil
}

// openJournal opens what earlier coordinators of the run have decided; a new run sets the journal of the one before it aside.
func (p *prepared) openJournal(o *runOptions) (err error) {
	dir := o.stateDir
	if dir == "" {
		dir = o.out
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if filepath.Clean(dir) != filepath.Clean(o.out) {
		if err := p.lockFolder(dir); err != nil {
			return fmt.Errorf("a coordinator keeps its decisions in %s: wait for its end, or choose another --state: %w", dir, err)
		}
	}
	path := filepath.Join(dir, journal.Name)
	if !o.resume {
		if err := p.setAside(path); err != nil {
			return err
		}
	}
	if p.journal, p.history, err = journal.Open(vfs.OS{}, path); err != nil {
		return err
	}
	if p.history.Cut > 0 {
		p.note(fmt.Sprintf("%s ended in %d bytes of a record that was never finished; they are cut off", path, p.history.Cut))
	}
	return nil
}

// setAside gives a file of an earlier run another name.
func (p *prepared) setAside(path string) error {
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	aside, err := freeName(path)
	if err != nil {
		return err
	}
	p.note(fmt.Sprintf("what an earlier run wrote to %s is now in %s", path, aside))
	return os.Rename(path, aside)
}

// freeName is the first of path.1, path.2, ... that is not there.
func freeName(path string) (string, error) {
	for k := 1; ; k++ {
		name := fmt.Sprintf("%s.%d", path, k)
		if _, err := os.Stat(name); errors.Is(err, os.ErrNotExist) {
			return name, nil
		} else if err != nil {
			return "", err
		}
	}
}

// forgetCrew notes in the journal that the workers of an earlier start are gone, as those of train are with the process that started them:
// nobody is waited for.
func (p *prepared) forgetCrew() error {
	if p.history.Over || len(p.history.Entries) == 0 {
		return nil
	}
	over := coordinator.Entry{Over: &coordinator.OverEntry{Step: p.initial.Step, Error: "its processes ended before it was complete"}}
	p.history.Entries, p.history.Over = append(p.history.Entries, over), true
	return p.journal.Append(over)
}

// gossipers are where the newest plan's workers gossip.
func (p *prepared) gossipers() []string {
	var at []string
	for _, e := range p.history.Entries {
		if e.Plan == nil {
			continue
		}
		at = nil
		for _, m := range e.Plan.Ring {
			if m.GossipAddress != "" {
				at = append(at, m.GossipAddress)
			}
		}
	}
	if p.history.Over {
		return nil
	}
	return at
}

// The workers of a run that is gone on with are looked for where they gossiped. Those that cannot be reached look for the coordinator
// themselves, where they were told to join.
const (
	seekEvery = time.Second
	seekFor   = time.Minute
)

// seek tells members at these addresses that there is a coordinator again, until one of them has heard it or ctx ends. It goes through
// all of them first: they may not know of one another any more. An address where nobody is takes a few seconds.
func seek(ctx context.Context, node *gossip.Node, at []string) {
	ctx, cancel := context.WithTimeout(ctx, seekFor)
	defer cancel()
	retry := time.NewTicker(seekEvery)
	defer retry.Stop()
	for {
		for _, addr := range at {
			if ctx.Err() == nil {
				node.Reach([]string{addr})
			}
		}
		if len(node.Members()) > 0 {
			return
		}
		select {
		case <-retry.C:
		case <-ctx.Done():
			return
		}
	}
}
