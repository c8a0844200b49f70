// Package ledger keeps what each committed step was made of, so that it can be proved afterwards that a run has used every sample as
// often as its plan says, whatever failed. A ledger is a CSV file of one row a step; a step that was done again, because hardware had
// got bits wrong, has another row further down, which counts.
package ledger

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
)

// Name is a ledger's file name in the folder of its run.
const Name = "ledger.csv"

const head = "step,generation,images,s0,s1,s2,s3\n"

// Row is one step.
type Row struct {
	Step       uint64 // committed steps, this one included
	Generation uint64
	Images     uint64
	Sums       [4]uint32 // of hashes of the samples' indices
}

func (r Row) String() string {
	return fmt.Sprintf("%d,%d,%d,%d,%d,%d,%d\n", r.Step, r.Generation, r.Images, r.Sums[0], r.Sums[1], r.Sums[2], r.Sums[3])
}

// parse reads a row; the line must be exactly what String makes.
func parse(line string) (r Row, err error) {
	_, err = fmt.Sscanf(line, "%d,%d,%d,%d,%d,%d,%d\n", &r.Step, &r.Generation, &r.Images, &r.Sums[0], &r.Sums[1], &r.Sums[2], &r.Sums[3])
	if err != nil || r.String() != line || r.Step == 0 {
		return r, fmt.Errorf("%.80q is no row of a ledger", line)
	}
	return r, nil
}

// maxLine bounds a row.
const maxLine = 256

// Read gives every row to visit, in order. A last line without an end, as a crash leaves it, is passed over; whole is how many bytes
// are before it.
func Read(r io.Reader, visit func(line int, row Row) error) (whole int64, err error) {
	b := bufio.NewReaderSize(r, maxLine)
	for n := 1; ; n++ {
		slice, err := b.ReadSlice('\n')
		if errors.Is(err, io.EOF) {
			return whole, nil
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			return whole, fmt.Errorf("line %d is longer than %d bytes", n, maxLine)
		}
		if err != nil {
			return whole, err
		}
		line := string(slice)
		whole += int64(len(line))
		if n == 1 {
			if line != head {
				return whole, fmt.Errorf("line 1 is not %q", strings.TrimSpace(head))
			}
			continue
		}
		row, err := parse(line)
		if err == nil {
			err = visit(n, row)
		}
		if err != nil {
			return whole, fmt.Errorf("line %d: %w", n, err)
		}
	}
}

// Verify proves that the ledger has every step from its first to its last one, each made of exactly the expected samples. A run's
// first is 1, unless it went on from a checkpoint of another folder; without rows both are 0.
func Verify(r io.Reader, expected func(step uint64) (images uint64, sums [4]uint32)) (first, last uint64, err error) {
	newest := map[uint64]Row{}
	if _, err := Read(r, func(_ int, row Row) error {
		if first == 0 || row.Step < first {
			first = row.Step
		}
		newest[row.Step] = row
		last = max(last, row.Step)
		return nil
	}); err != nil || last == 0 {
		return 0, 0, err
	}
	for step := first; step <= last; step++ {
		row, there := newest[step]
		if !there {
			return first, last, fmt.Errorf("step %d of %d is missing", step, last)
		}
		images, sums := expected(step - 1)
		if row.Images != images {
			return first, last, fmt.Errorf("step %d was made of %d images, not %d", step, row.Images, images)
		}
		if row.Sums != sums {
			return first, last, fmt.Errorf("step %d was made of other samples than the plan's: their hashes add up to %v, not %v", step, row.Sums, sums)
		}
	}
	return first, last, nil
}

// Writer appends rows. It may be used by several goroutines. Rows that cannot be written, on a disk that is full, wait in memory until they
// can be.
type Writer struct {
	mu      sync.Mutex
	file    file
	whole   int64 // bytes of the file that are rows; behind them may be a piece of what is pending
	pending []byte
	last    Row
}

// file is what a Writer needs of one.
type file interface {
	io.WriterAt
	Sync() error
	Close() error
}

// maxPending bounds what waits: half a million rows.
const maxPending = 32 << 20

// Open goes on with the ledger at path, or begins one.
func Open(path string) (*Writer, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	w := &Writer{file: f}
	w.whole, err = Read(f, func(int, Row) error { return nil })
	if err == nil {
		err = f.Truncate(w.whole)
	}
	if err == nil && w.whole == 0 {
		w.pending = []byte(head)
		err = w.write()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), f.Close())
	}
	return w, nil
}

// write writes what is pending. Of what fails, nothing counts: it is written again, over the piece that may be there.
func (w *Writer) write() error {
	if len(w.pending) == 0 {
		return nil
	}
	if _, err := w.file.WriteAt(w.pending, w.whole); err != nil {
		return err
	}
	w.whole, w.pending = w.whole+int64(len(w.pending)), w.pending[:0]
	return nil
}

// Add writes a step's row, unless this writer has: workers report each step alike, and again after a broken connection. What an earlier
// writer has written may come twice, for a row that is there already says nothing of which generations are to come. An error shows in Sync and
// Close, if it lasts until then. A row too many to wait is lost, which Verify finds.
func (w *Writer) Add(r Row) {
	w.mu.Lock()
	defer w.mu.Unlock()
	known := r.Generation < w.last.Generation || r.Generation == w.last.Generation && r.Step <= w.last.Step
	if known || len(w.pending) >= maxPending {
		return
	}
	w.last = r
	w.pending = append(w.pending, r.String()...)
	_ = w.write() // what is still pending then is tried again
}

// Sync blocks until all rows are on disk.
func (w *Writer) Sync() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.write(); err != nil {
		return err
	}
	return w.file.Sync()
}

// Close syncs and closes.
func (w *Writer) Close() error {
	err := w.Sync()
	return errors.Join(err, w.file.Close())
}
