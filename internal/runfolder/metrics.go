package runfolder

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"slices"
)

// MetricsName is the file of metrics in a run's folder.
const MetricsName = "metrics.jsonl"

// Row is what is known of a step: of its training, of the evaluation after it, or both. What is not known is nil.
type Row struct {
	Step  uint64  `json:"step"`  // committed steps, this one included
	Epoch float64 `json:"epoch"` // passes over the training images, fractional

	LR              *float64 `json:"lr,omitempty"`
	TrainLoss       *float64 `json:"train_loss,omitempty"`  // mean cross-entropy of the step's images, augmented as they are trained on
	TrainError      *float64 `json:"train_error,omitempty"` // 1 - top-1 of the step's images, 0 to 1
	ImagesPerSecond *float64 `json:"images_per_second,omitempty"`

	TestLoss *float64 `json:"test_loss,omitempty"`
	TestTop1 *float64 `json:"test_top1,omitempty"` // share of the test images, 0 to 1
	TestTop5 *float64 `json:"test_top5,omitempty"`
}

// Known gives v's address, and nil for what is no number: JSON has none for those.
func Known(v float64) *float64 {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return nil
	}
	return &v
}

// Evaluated says whether the row holds an evaluation.
func (r Row) Evaluated() bool { return r.TestTop1 != nil }

// merge gives r what the newer row says.
func (r Row) merge(newer Row) Row {
	take := func(to **float64, from *float64) {
		if from != nil {
			*to = from
		}
	}
	r.Step, r.Epoch = newer.Step, newer.Epoch
	for _, c := range columns {
		if c.of != nil {
			take(c.of(&r), *c.of(&newer))
		}
	}
	return r
}

// maxLine bounds a line of metrics.
const maxLine = 1024

// read gives every line to visit. A last line without an end, as a crash leaves it, is passed over; whole is how many bytes are before it.
func read(r io.Reader, visit func(Row)) (whole int64, err error) {
	b := bufio.NewReaderSize(r, maxLine)
	for n := 1; ; n++ {
		line, err := b.ReadSlice('\n')
		if errors.Is(err, io.EOF) {
			return whole, nil
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			return whole, fmt.Errorf("line %d is longer than %d bytes", n, maxLine)
		}
		if err != nil {
			return whole, err
		}
		row, err := parse(line)
		if err != nil {
			return whole, fmt.Errorf("line %d: %w", n, err)
		}
		whole += int64(len(line))
		visit(row)
	}
}

func parse(line []byte) (row Row, err error) {
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(&row); err != nil || row.Step == 0 {
		return row, errors.Join(fmt.Errorf("%.80q is no line of metrics", line), err)
	}
	return row, nil
}

// ReadMetrics gives a run's rows by step, one for each.
func ReadMetrics(path string) ([]Row, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() // only read from
	byStep := map[uint64]Row{}
	if _, err := read(f, func(r Row) { byStep[r.Step] = byStep[r.Step].merge(r) }); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return slices.SortedFunc(maps.Values(byStep), func(a, b Row) int { return cmp.Compare(a.Step, b.Step) }), nil
}

// Thin takes the mean of every so many steps, in the row of the last of them, and leaves evaluations where they are. The last block
// may be shorter. rows are as ReadMetrics gives them.
func Thin(rows []Row, every uint64) []Row {
	if every < 2 {
		return rows
	}
	var out []Row
	var loss, wrong, pace, n float64
	for i, r := range rows {
		if r.TrainLoss != nil && r.TrainError != nil {
			loss, wrong, n = loss+*r.TrainLoss, wrong+*r.TrainError, n+1
			if r.ImagesPerSecond != nil {
				pace += *r.ImagesPerSecond
			}
		}
		end := i == len(rows)-1 || (rows[i+1].Step-1)/every != (r.Step-1)/every
		if end && n > 0 {
			r.TrainLoss, r.TrainError, r.ImagesPerSecond = Known(loss/n), Known(wrong/n), Known(pace/n)
			loss, wrong, pace, n = 0, 0, 0, 0
		} else {
			r.TrainLoss, r.TrainError, r.ImagesPerSecond = nil, nil, nil
		}
		if end || r.Evaluated() {
			out = append(out, r)
		}
	}
	return out
}

// tableRows is about how many rows a table has: enough for any plot, few enough for any spreadsheet.
const tableRows = 5000

// TableEvery is the block of steps that Thin should take for a run of that many: 1, 2, 5, 10, 20, ...
func TableEvery(steps uint64) uint64 {
	for unit := uint64(1); ; unit *= 10 {
		for _, k := range []uint64{1, 2, 5} {
			if steps/(k*unit) <= tableRows {
				return k * unit
			}
		}
	}
}
