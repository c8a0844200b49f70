package runfolder

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
)

// TableName is the file of the table of metrics in a run's folder.
const TableName = "metrics.csv"

// column is one of the table's; step and epoch have no of.
type column struct {
	name string
	of   func(*Row) **float64
}

var columns = []column{
	{"step", nil}, {"epoch", nil},
	{"lr", func(r *Row) **float64 { return &r.LR }},
	{"train_loss", func(r *Row) **float64 { return &r.TrainLoss }},
	{"train_error", func(r *Row) **float64 { return &r.TrainError }},
	{"test_loss", func(r *Row) **float64 { return &r.TestLoss }},
	{"test_top1", func(r *Row) **float64 { return &r.TestTop1 }},
	{"test_top5", func(r *Row) **float64 { return &r.TestTop5 }},
	{"images_per_second", func(r *Row) **float64 { return &r.ImagesPerSecond }},
}

func heads() []string {
	var out []string
	for _, c := range columns {
		out = append(out, c.name)
	}
	return out
}

func number(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }

// WriteTable writes rows as CSV with a head; what is not known stays empty.
func WriteTable(w io.Writer, rows []Row) error {
	c := csv.NewWriter(w)
	errs := []error{c.Write(heads())}
	for _, r := range rows {
		record := []string{strconv.FormatUint(r.Step, 10), number(r.Epoch)}
		for _, col := range columns[2:] {
			text := ""
			if v := *col.of(&r); v != nil {
				text = number(*v)
			}
			record = append(record, text)
		}
		errs = append(errs, c.Write(record))
	}
	c.Flush()
	return errors.Join(append(errs, c.Error())...)
}

// ReadTable reads what WriteTable wrote.
func ReadTable(r io.Reader) ([]Row, error) {
	c := csv.NewReader(r)
	c.FieldsPerRecord = len(columns)
	all, err := c.ReadAll()
	if err != nil {
		return nil, err
	}
	if len(all) == 0 || !slices.Equal(all[0], heads()) {
		return nil, fmt.Errorf("a table of metrics begins with %v", heads())
	}
	var rows []Row
	for i, record := range all[1:] {
		row, err := parseRecord(record)
		if err != nil {
			return nil, fmt.Errorf("row %d: %w", i+2, err)
		}
		rows = append(rows, row)
	}
	return rows, nil
}

func parseRecord(record []string) (row Row, err error) {
	if row.Step, err = strconv.ParseUint(record[0], 10, 64); err != nil {
		return row, err
	}
	if row.Epoch, err = strconv.ParseFloat(record[1], 64); err != nil {
		return row, err
	}
	for i, c := range columns[2:] {
		if text := record[i+2]; text != "" {
			v, err := strconv.ParseFloat(text, 64)
			if err != nil {
				return row, err
			}
			*c.of(&row) = &v
		}
	}
	return row, nil
}
