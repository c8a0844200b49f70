package runfolder

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"sync"

	"github.com/lockstep-ml/lockstep/internal/vfs"
)

// MetricsWriter appends lines to a run's metrics. It may be used by several goroutines and never waits for anybody. Lines that cannot be
// written, on a disk that is full, wait in memory until they can be.
type MetricsWriter struct {
	mu      sync.Mutex
	fsys    vfs.FS
	dir     string
	file    vfs.EditFile
	whole   int64 // bytes of the file that are lines; behind them may be a piece of what is pending
	pending []byte
	closed  bool

	generation, step uint64 // of the newest step that was taken
}

// maxPending bounds what waits: some hundred thousand lines.
const maxPending = 32 << 20

// OpenMetrics goes on with the metrics of the run in dir, or begins them. A line that a crash has left unfinished is removed.
func OpenMetrics(fsys vfs.FS, dir string) (*MetricsWriter, error) {
	path := filepath.Join(dir, MetricsName)
	f, err := fsys.Edit(path, 0o644)
	if err != nil {
		return nil, err
	}
	w := &MetricsWriter{fsys: fsys, dir: dir, file: f}
	w.whole, err = read(f, func(Row) {})
	if err == nil {
		err = f.Truncate(w.whole)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), f.Close())
	}
	return w, nil
}

// Trained takes a step's row, unless it was taken: all workers report each step alike, and again after a broken connection. generation is
// that of the plan under which the step was done; a step that is done again has a later one. An error shows in Sync and Close, if
// it lasts until then.
func (w *MetricsWriter) Trained(generation uint64, r Row) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if generation < w.generation || generation == w.generation && r.Step <= w.step {
		return
	}
	w.generation, w.step = generation, r.Step
	w.add(r)
}

// Evaluated takes an evaluation's row.
func (w *MetricsWriter) Evaluated(r Row) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.add(r)
}

// add appends a line. One too many to wait is lost.
func (w *MetricsWriter) add(r Row) {
	line, err := json.Marshal(r)
	if err != nil {
		panic(fmt.Sprintf("runfolder: a row of numbers does not marshal: %v", err))
	}
	if w.closed || len(w.pending) >= maxPending {
		return
	}
	w.pending = append(append(w.pending, line...), '\n')
	_ = w.write() // what is still pending then is tried again
}

// write writes what is pending. Of what fails, nothing counts: it is written again, over the piece that may be there.
func (w *MetricsWriter) write() error {
	if len(w.pending) == 0 {
		return nil
	}
	if _, err := w.file.WriteAt(w.pending, w.whole); err != nil {
		return err
	}
	w.whole, w.pending = w.whole+int64(len(w.pending)), w.pending[:0]
	return nil
}

// Sync blocks until all lines are on disk.
func (w *MetricsWriter) Sync() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.sync()
}

func (w *MetricsWriter) sync() error {
	if w.closed {
		return nil
	}
	if err := w.write(); err != nil {
		return err
	}
	return w.file.Sync()
}

// Close syncs and closes; it may be called twice.
func (w *MetricsWriter) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return nil
	}
	err := w.sync()
	w.closed = true
	return errors.Join(err, w.file.Close())
}

// Finish closes the metrics and writes them anew, each step once and none after last, with the table beside them. It gives the rows.
func (w *MetricsWriter) Finish(last uint64) ([]Row, error) {
	if err := w.Close(); err != nil {
		return nil, err
	}
	path := filepath.Join(w.dir, MetricsName)
	rows, err := ReadMetrics(path)
	if err != nil {
		return nil, err
	}
	for len(rows) > 0 && rows[len(rows)-1].Step > last {
		rows = rows[:len(rows)-1]
	}
	err = vfs.WriteAtomic(w.fsys, path, 0o644, func(to io.Writer) error {
		e := json.NewEncoder(to)
		for _, r := range rows {
			if err := e.Encode(r); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return rows, vfs.WriteAtomic(w.fsys, filepath.Join(w.dir, TableName), 0o644, func(to io.Writer) error {
		return WriteTable(to, Thin(rows, TableEvery(last)))
	})
}
