package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"github.com/lockstep-ml/lockstep/coordinator"
	"github.com/lockstep-ml/lockstep/internal/vfs"
)

// The best checkpoint of a run by top-1, what is known of it, and the newest one.
const (
	bestName       = "best.ckpt"
	bestRecordName = "best.json"
	lastName       = "last.ckpt"
)

// bestRecord is what best.json holds.
type bestRecord struct {
	Step     uint64  `json:"step"`
	Top1     float64 `json:"top1"` // shares of the test images, 0 to 1
	Top5     float64 `json:"top5"`
	TestLoss float64 `json:"test_loss"`
}

// bestKept keeps the checkpoint of the best evaluation under a name of its own. Of a step the checkpoint may be stored before its
// evaluation is known, or after. It may be used by several goroutines.
type bestKept struct {
	mu     sync.Mutex
	dir    string
	best   *bestRecord
	judged map[uint64]bestRecord // better than best, and not stored yet
	stored map[uint64]string     // not evaluated yet
	failed error
}

func openBest(dir string) (*bestKept, error) {
	b := &bestKept{dir: dir, judged: map[uint64]bestRecord{}, stored: map[uint64]string{}}
	path := filepath.Join(dir, bestRecordName)
	var r bestRecord
	err := readJSON(path, &r)
	if errors.Is(err, os.ErrNotExist) {
		return b, nil
	}
	if err != nil {
		return nil, err
	}
	b.best = &r
	return b, nil
}

// evaluated takes an evaluation.
func (b *bestKept) evaluated(e coordinator.Evaluation) {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := bestRecord{Step: e.Step, Top1: e.Top1(), Top5: float64(e.Correct5) / float64(max(e.Images, 1)), TestLoss: e.Loss}
	if b.best == nil || r.Top1 > b.best.Top1 {
		b.judged[e.Step] = r
	}
	b.settle(e.Step)
}

// keep takes a checkpoint that was stored.
func (b *bestKept) keep(step uint64, path string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stored[step] = path
	b.settle(step)
}

// settle makes a step the best one, if it is and both are known. What came before it is of no use any more: a checkpoint that nobody
// evaluates, and an evaluation whose checkpoint was never stored.
func (b *bestKept) settle(step uint64) {
	r, judged := b.judged[step]
	path, stored := b.stored[step]
	for s := range b.stored {
		if s+bestPatience < step { // an evaluation is counted in the order of steps, soon after its step
			delete(b.stored, s)
			delete(b.judged, s)
		}
	}
	if !judged || !stored {
		return
	}
	delete(b.stored, step)
	delete(b.judged, step)
	if b.best != nil && r.Top1 <= b.best.Top1 {
		return
	}
	err := linkOver(path, filepath.Join(b.dir, bestName))
	if err == nil {
		err = writeJSON(filepath.Join(b.dir, bestRecordName), r)
	}
	if b.failed = err; err == nil {
		b.best = &r
	}
}

// bestPatience is how many steps a checkpoint may wait for its evaluation. Far more than the workers run ahead of one.
const bestPatience = 10_000

// drop forgets what comes after a step: its bits were wrong.
func (b *bestKept) drop(after uint64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for s := range b.stored {
		if s > after {
			delete(b.stored, s)
		}
	}
	for s := range b.judged {
		if s > after {
			delete(b.judged, s)
		}
	}
	if b.best == nil || b.best.Step <= after {
		return nil
	}
	b.best = nil
	return errors.Join(removeIfThere(filepath.Join(b.dir, bestRecordName)), removeIfThere(filepath.Join(b.dir, bestName)))
}

// err is why the newest best checkpoint could not be kept.
func (b *bestKept) err() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.failed != nil {
		return fmt.Errorf("keeping the best checkpoint: %w", b.failed)
	}
	return nil
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func writeJSON(path string, v any) error {
	return vfs.WriteAtomic(vfs.OS{}, path, 0o644, func(w io.Writer) error { return json.NewEncoder(w).Encode(v) })
}

// linkOver gives a file, which will not change, a second name, in place of what bears it. Where the file system has no links it is copied.
func linkOver(path, name string) error {
	temp := name + ".link"
	if err := removeIfThere(temp); err != nil {
		return err
	}
	if err := os.Link(path, temp); err != nil {
		return copyOver(path, name)
	}
	if err := os.Rename(temp, name); err != nil {
		return errors.Join(err, removeIfThere(temp))
	}
	if err := removeIfThere(temp); err != nil { // renaming one name of a file to another leaves both
		return err
	}
	return vfs.OS{}.SyncDir(filepath.Dir(name))
}

func copyOver(path, name string) error {
	from, err := os.Open(path)
	if err != nil {
		return err
	}
	defer from.Close() // only read from
	return vfs.WriteAtomic(vfs.OS{}, name, 0o644, func(w io.Writer) error {
		_, err := io.Copy(w, from)
		return err
	})
}
