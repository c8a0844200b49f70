// Package runfolder holds the files by which a run's folder explains itself: run.json, with all settings and where it was trained;
// metrics.jsonl, a line for every step and every evaluation, written as they come; metrics.csv, the same as a table, written at the end.
//
// A step that is done again, after a crash or because hardware had got bits wrong, has another line further down, which counts: Read
// gives each step once.
//
//	w, err := runfolder.OpenMetrics(dir)
//	w.Trained(generation, row)     // of every step, by whichever worker reports it
//	w.Evaluated(row)
//	err = w.Sync()                 // with every checkpoint
//	err = w.Close()
//	rows, err := runfolder.ReadMetrics(filepath.Join(dir, runfolder.MetricsName))
package runfolder
