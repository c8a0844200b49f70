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
	"github.com/lockstep-ml/lockstep/core"
	"github.com/lockstep-ml/lockstep/core/resnet"
	"github.com/lockstep-ml/lockstep/internal/snapshot"
	"github.com/lockstep-ml/lockstep/internal/vfs"
)

func checkpointCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "checkpoint", Aliases: []string{"ckpt"}, Short: "List, verify, hash, export and import checkpoints",
		Example: `  lockstep checkpoint ls runs/mine
  lockstep checkpoint verify runs/mine/checkpoints/step-000000000500.ckpt
  lockstep checkpoint hash runs/mine
  lockstep checkpoint export runs/mine weights.safetensors
  lockstep checkpoint import weights.safetensors runs/start --arch resnet50`}
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

func checkpointExport() *cobra.Command {
	return &cobra.Command{Use: "export FILE|DIR OUT.safetensors", Short: "Write weights and BN statistics under torchvision's names", Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := loadNewest(cmd, args[0])
			if err != nil {
				return err
			}
			r, s, err := recordOf(c.Config)
			if err != nil {
				return err
			}
			net, err := s.network(len(r.Classes))
			if err != nil {
				return err
			}
			state, err := c.Snapshot(tableFor(net))
			if err != nil {
				return err
			}
			arrays, err := checkpoint.ExportWeights(state, tableFor(net))
			if err != nil {
				return err
			}
			meta := map[string]string{"format": "pt", "lockstep.arch": s.arch, "lockstep.hash": c.Hash, "lockstep.step": fmt.Sprint(c.Step)}
			if err := checkpoint.SaveSafetensors(vfs.OS{}, args[1], arrays, meta); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %s after %d steps, %d parameters\n", args[1], s.arch, c.Step, net.ParamLen())
			return err
		}}
}

func checkpointImport() *cobra.Command {
	var arch string
	var classes int
	cmd := &cobra.Command{Use: "import WEIGHTS.safetensors DIR --arch NAME", Short: "Make a folder with a checkpoint of step 0 from weights", Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			net, err := resnet.Build(arch, classes)
			if err != nil {
				return err
			}
			state, err := loadWeights(cmd.Context(), args[0], net)
			if err != nil {
				return err
			}
			state.Step = 0
			path, err := saveImported(cmd.Context(), net, state, args[1])
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %s, %d parameters, hash %s\n", path, arch, net.ParamLen(), state.Hash())
			return err
		}}
	cmd.Flags().StringVar(&arch, "arch", "", "network: "+resnet.Grammar)
	cmd.Flags().IntVar(&classes, "classes", 0, "classes; 0: those the name implies")
	if err := cmd.MarkFlagRequired("arch"); err != nil {
		panic(err) // the flag is defined above
	}
	return cmd
}

func saveImported(ctx context.Context, net *core.Network, state *snapshot.Snapshot, dir string) (string, error) {
	s := newSettings()
	s.arch, s.classes = net.Name, net.Classes
	c, err := checkpoint.FromSnapshot(state, tableFor(net))
	if err != nil {
		return "", err
	}
	c.Version = buildVersion()
	if c.Config, err = json.Marshal(runRecord{Settings: s.values(), Classes: make([]string, net.Classes)}); err != nil {
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
