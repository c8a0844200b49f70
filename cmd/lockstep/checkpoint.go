package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/lockstep-ml/lockstep/checkpoint"
)

func checkpointCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "checkpoint", Aliases: []string{"ckpt"}, Short: "List, verify, hash, export and import checkpoints",
		Example: `  lockstep checkpoint ls runs/mine
  lockstep checkpoint verify runs/mine/checkpoints/step-000000000500.ckpt
  lockstep checkpoint hash runs/mine
  lockstep checkpoint export runs/mine weights.safetensors
  lockstep checkpoint export runs/mine model.onnx --fold-bn
  lockstep checkpoint import resnet50.pth runs/start --arch resnet50-v1.5`}
	cmd.AddCommand(checkpointLs(), checkpointVerify(), checkpointHash(), checkpointExport(), checkpointImport())
	return cmd
}

// checkpointDir is where a run's folder keeps its checkpoints.
func checkpointDir(out string) string { return filepath.Join(out, "checkpoints") }

// openStore finds the store that an argument means: a run's folder, or the folder of checkpoints itself.
func openStore(dir string) (*checkpoint.Store, []checkpoint.Entry, error) {
	if _, err := os.Stat(dir); err != nil {
		return nil, nil, fmt.Errorf("a checkpoint or a run's folder was expected: %w", err)
	}
	for _, d := range []string{checkpointDir(dir), dir} {
		store, err := checkpoint.Open(readOnly(d))
		if err != nil {
			return nil, nil, err
		}
		entries, err := store.List()
		if err != nil {
			return nil, nil, err
		}
		if len(entries) > 0 {
			return store, entries, nil
		}
	}
	return nil, nil, fmt.Errorf("no checkpoints in %s or %s", checkpointDir(dir), dir)
}

// loadNewest loads the checkpoint that an argument means: a file, or a run's newest that verifies.
func loadNewest(cmd *cobra.Command, arg string) (*checkpoint.Checkpoint, error) {
	if isFile(arg) {
		return loadCheckpoint(cmd.Context(), arg)
	}
	store, _, err := openStore(arg)
	if err != nil {
		return nil, err
	}
	c, damage, err := store.Latest(cmd.Context())
	for i := range damage {
		fmt.Fprintln(cmd.ErrOrStderr(), "warning: passed over:", &damage[i])
	}
	return c, err
}

type checkpointRow struct {
	Path    string    `json:"path"`
	Step    uint64    `json:"step"`
	Bytes   int64     `json:"bytes"`
	Hash    string    `json:"hash"`
	Created time.Time `json:"created"`
	Error   string    `json:"error,omitempty"`
}

func checkpointLs() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{Use: "ls DIR", Short: "List a run's checkpoints, newest first", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			store, entries, err := openStore(args[0])
			if err != nil {
				return err
			}
			var rows []checkpointRow
			for _, e := range entries {
				row := checkpointRow{Path: e.Path, Step: e.Step, Bytes: e.Bytes}
				if m, err := store.Manifest(e.Path); err != nil {
					row.Error = err.Error()
				} else {
					row.Hash, row.Created = m.Hash, m.Created
				}
				rows = append(rows, row)
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), rows)
			}
			tw := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(tw, "step\tMB\tcreated\thash\tfile")
			for _, r := range rows {
				if r.Error != "" {
					r.Hash = r.Error
				}
				fmt.Fprintf(tw, "%d\t%.1f\t%s\t%.16s\t%s\n", r.Step, float64(r.Bytes)/1e6, r.Created.Local().Format(time.DateTime), r.Hash, r.Path)
			}
			return tw.Flush()
		}}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON array")
	return cmd
}

func checkpointVerify() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{Use: "verify FILE|DIR", Short: "Read checkpoints whole and check every byte", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			paths := []string{args[0]}
			store, err := checkpoint.Open(readOnly("."))
			if !isFile(args[0]) {
				var entries []checkpoint.Entry
				store, entries, err = openStore(args[0])
				paths = nil
				for _, e := range entries {
					paths = append(paths, e.Path)
				}
			}
			if err != nil {
				return err
			}
			var errs []error
			good := []string{}
			for _, p := range paths {
				m, err := store.Verify(cmd.Context(), p)
				if err != nil {
					errs = append(errs, err)
					continue
				}
				good = append(good, p)
				if !asJSON {
					fmt.Fprintf(cmd.OutOrStdout(), "%s: good, step %d, hash %s\n", p, m.Step, m.Hash)
				}
			}
			if asJSON {
				if err := printJSON(cmd.OutOrStdout(), map[string]any{"good": good, "damaged": len(errs)}); err != nil {
					return err
				}
			}
			return errors.Join(errs...)
		}}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

func checkpointHash() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{Use: "hash FILE|DIR", Short: "Print the SHA-256 of weights, momentum, BN statistics and step", Args: cobra.ExactArgs(1),
		Long: "Prints the hex SHA-256 over the little-endian bytes of all parameters, momenta, running means and running variances\nin the network's order, and the step. Two runs agree if and only if their hashes do.",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := loadNewest(cmd, args[0])
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), map[string]any{"step": c.Step, "hash": c.Hash})
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), c.Hash)
			return err
		}}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

func checkpointImport() *cobra.Command {
	own := newSettings()
	cmd := &cobra.Command{Use: "import WEIGHTS DIR", Short: "Make a folder with a checkpoint of step 0 from weights: safetensors, or PyTorch's .pth", Args: cobra.ExactArgs(2),
		Example: "  lockstep checkpoint import resnet50-11ad3fa6.pth runs/start --arch resnet50-v1.5",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := loadSettings(cmd.Flags()); err != nil {
				return err
			}
			t, err := openTrained(cmd, args[0], own)
			if err != nil {
				return err
			}
			t.state.Step = 0
			path, err := t.save(cmd.Context(), args[1])
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %s, %d parameters, hash %s\n", path, t.settings.arch, t.net.ParamLen(), t.state.Hash())
			return err
		}}
	for _, name := range append([]string{"classes"}, metaSettings...) {
		cmd.Flags().AddFlag(own.flags.Lookup(name))
	}
	return cmd
}

// save makes a folder with the state as its only checkpoint.
func (t *trained) save(ctx context.Context, dir string) (string, error) {
	s := newSettings()
	s.arch, s.classes = t.net.Name, t.net.Classes
	s.mean, s.std, s.resolution, s.augment = t.settings.mean, t.settings.std, t.settings.resolution, t.settings.augment
	c, err := checkpoint.FromSnapshot(t.state, tableFor(t.net))
	if err != nil {
		return "", err
	}
	c.Version = buildVersion()
	names := t.classes
	if len(names) != t.net.Classes {
		names = make([]string, t.net.Classes)
	}
	if c.Config, err = json.Marshal(runRecord{Settings: s.values(), Classes: names}); err != nil {
		return "", err
	}
	store, err := checkpoint.Open(checkpoint.DefaultOptions(checkpointDir(dir)))
	if err != nil {
		return "", err
	}
	if entries, err := store.List(); err != nil || len(entries) > 0 {
		return "", errors.Join(err, fmt.Errorf("%s already holds %d checkpoints; choose another folder", checkpointDir(dir), len(entries)))
	}
	return store.Save(ctx, c)
}
