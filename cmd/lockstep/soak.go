package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/lockstep-ml/lockstep/internal/chaos"
)

const soakLong = `Trains with processes of their own for a coordinator and up to --workers workers, breaks one thing after the other while they train, and asks in the end for
the hash of the undisturbed run, for every sample used once, and for everybody to end in order. As root on Linux, each process has a network namespace of its
own, with mTLS between them, and links and disk can fail too; elsewhere that is skipped, which the report says.

What is broken, when and for how long is drawn from --seed: when means after how many steps, so that a slow machine breaks the same at the same place. Each round is
a run of its own. Rounds are played until --faults faults were injected in all, and --each of each kind.`

func soakCommand() *cobra.Command {
	cfg := chaos.DefaultConfig()
	var kinds []string
	var asJSON, quiet bool
	values := map[string]*string{}
	cmd := &cobra.Command{
		Use:   "soak",
		Short: "Break training runs on purpose, and compare the bits",
		Long:  soakLong,
		Example: `  sudo lockstep soak --faults 40
  lockstep soak --loopback --kinds kill,leave,join,coordinator-kill --faults 10
  sudo lockstep soak --seed 7 --round 3 --keep logs        again, what failed`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if cfg.Kinds, err = chaos.ParseKinds(kinds); err != nil {
				return fmt.Errorf("--kinds: %w", err)
			}
			for i, s := range cfg.Run {
				cfg.Run[i][1] = *values[s[0]]
			}
			if !quiet {
				cfg.Log = cmd.ErrOrStderr()
			}
			return runSoak(cmd, cfg, asJSON)
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.Uint64Var(&cfg.Seed, "seed", cfg.Seed, "seed of the faults")
	f.IntVar(&cfg.Faults, "faults", cfg.Faults, "faults to inject, over all rounds")
	f.IntVar(&cfg.Each, "each", cfg.Each, "faults of each kind at least")
	f.IntVar(&cfg.PerRound, "per-round", cfg.PerRound, "faults that a round is planned with")
	f.IntVar(&cfg.Round, "round", cfg.Round, "play this round only; -1: as many as it takes")
	f.IntVar(&cfg.Workers, "workers", cfg.Workers, "workers at most; there is always one")
	f.StringSliceVar(&kinds, "kinds", nil, fmt.Sprintf("kinds of faults; empty: all that can be, of %v", chaos.Kinds()))
	f.BoolVar(&cfg.Loopback, "loopback", false, "no network namespaces, even where they can be had")
	f.StringVar(&cfg.Dir, "keep", "", "folder to keep the logs of all processes in; empty: keep them if something was wrong")
	f.DurationVar(&cfg.Patience, "patience", cfg.Patience, "time without a step that counts as a hang")
	f.DurationVar(&cfg.Limit, "limit", cfg.Limit, "time for a round")
	f.Uint64Var(&cfg.Steps, "steps", cfg.Steps, "length of each run in steps")
	for _, s := range cfg.Run {
		values[s[0]] = f.String(s[0], s[1], "of the runs; see lockstep train --help")
	}
	f.BoolVarP(&quiet, "quiet", "q", false, "say nothing until the end")
	f.BoolVar(&asJSON, "json", false, "print one JSON object as the last line")
	return cmd
}

// errSoak ends a soak that found something.
var errSoak = errors.New("something was wrong: see PROBLEM above, and the logs")

func runSoak(cmd *cobra.Command, cfg chaos.Config, asJSON bool) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding this program to start processes with: %w", err)
	}
	cfg.Program = self
	begun := time.Now()
	report, err := chaos.Soak(cmd.Context(), cfg)
	if report == nil {
		return err
	}
	w := cmd.OutOrStdout()
	err = errors.Join(err, report.Write(w))
	if _, e := fmt.Fprintf(w, "%d faults in %v\n", report.Injected, time.Since(begun).Round(time.Second)); e != nil {
		err = errors.Join(err, e)
	}
	if asJSON {
		err = errors.Join(err, printJSON(w, report))
	}
	if err == nil && !report.Good() {
		err = errSoak
	}
	return err
}

// clockOffset reads what the coordinator's clock is off by, each time anew, from a file that a soak names in the environment; nil without.
func clockOffset(path string) func() time.Duration {
	if path == "" {
		return nil
	}
	return func() time.Duration {
		text, err := os.ReadFile(path)
		if err != nil {
			return 0 // it has not jumped yet
		}
		d, err := time.ParseDuration(string(text))
		if err != nil {
			return 0
		}
		return d
	}
}
