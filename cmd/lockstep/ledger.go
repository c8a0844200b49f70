package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/lockstep-ml/lockstep/internal/ledger"
	"github.com/lockstep-ml/lockstep/shard"
)

// openLedger opens the ledger of the run in the output folder; a new run sets that of the one before it aside.
func (p *prepared) openLedger(o *runOptions) (*ledger.Writer, error) {
	path := filepath.Join(o.out, ledger.Name)
	if !o.resume {
		if err := p.setAside(path); err != nil {
			return nil, err
		}
	}
	return ledger.Open(path)
}

func ledgerCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "ledger DIR",
		Short: "Prove that a run has used every sample as often as its plan says",
		Long: `Compares the ledger in a run's folder, which has a row for each committed step, with the plan of samples that follows from the run's
settings and data: no step may be missing, and each must be made of exactly the plan's images. It also goes through the plan itself and
checks that each epoch has every image once.`,
		Example: "  lockstep data ledger runs/r56\n  lockstep data ledger runs/r56 --json",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := proveSamples(cmd, args[0])
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), r)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: steps %d to %d of %d images, %.2f epochs of %d: every sample exactly once an epoch\n", args[0], r.First, r.Last, r.Batch, r.Epochs, r.Images)
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

// ledgerReport is what the ledger command found.
type ledgerReport struct {
	First  uint64  `json:"first_step"` // 1, unless the run went on from another folder's checkpoint
	Last   uint64  `json:"last_step"`
	Batch  int     `json:"batch"`
	Images int     `json:"images"` // of the training split
	Epochs float64 `json:"epochs"`
}

// proveSamples verifies the ledger of a run's folder.
func proveSamples(cmd *cobra.Command, dir string) (ledgerReport, error) {
	plan, saved, err := planOfRun(cmd, dir)
	if err != nil {
		return ledgerReport{}, err
	}
	path := filepath.Join(dir, ledger.Name)
	f, err := os.Open(path)
	if err != nil {
		return ledgerReport{}, err
	}
	defer f.Close() // only read from
	first, last, err := ledger.Verify(f, func(step uint64) (uint64, [4]uint32) { return uint64(plan.GlobalBatch), plan.StepSums(step) })
	if err == nil && last < saved {
		err = fmt.Errorf("it ends at step %d, but there is a checkpoint of step %d", last, saved)
	}
	if err == nil {
		err = onceAnEpoch(plan, last)
	}
	if err != nil {
		return ledgerReport{}, fmt.Errorf("%s: %w", path, err)
	}
	return ledgerReport{First: first, Last: last, Batch: plan.GlobalBatch, Images: plan.Images, Epochs: float64(last) * float64(plan.GlobalBatch) / float64(plan.Images)}, nil
}

// planOfRun makes the plan of samples that the newest checkpoint's settings give, and says of which step that is.
func planOfRun(cmd *cobra.Command, dir string) (plan shard.Plan, saved uint64, err error) {
	c, err := loadNewest(cmd, dir)
	if err != nil {
		return plan, 0, err
	}
	r, s, err := recordOf(c.Config)
	if err != nil {
		return plan, 0, err
	}
	d, err := openData(cmd.Context(), s.data, s.skipDamaged)
	if err != nil {
		return plan, 0, err
	}
	plan = shard.Plan{Seed: s.seed, Images: d.train.Len(), GlobalBatch: s.batch, Replicas: s.replicas()}
	fingerprint := d.fingerprint()
	if err := d.close(); err != nil {
		return plan, 0, err
	}
	if fingerprint != r.Data {
		return plan, 0, fmt.Errorf("%s is not the data that the run was started with", s.data)
	}
	return plan, c.Step, nil
}

// onceAnEpoch goes through the plan of so many steps: within an epoch no image may come twice, and when the next one begins none may
// have been left out.
func onceAnEpoch(plan shard.Plan, steps uint64) error {
	used := make([]bool, plan.Images)
	count, current := 0, uint64(0)
	for step := range steps {
		for r := range plan.Replicas {
			for i := range plan.ReplicaBatch() {
				epoch, index := plan.Sample(step, r, i)
				if epoch != current {
					if epoch != current+1 || count != plan.Images {
						return fmt.Errorf("epoch %d had %d of %d images when epoch %d began", current, count, plan.Images, epoch)
					}
					clear(used)
					count, current = 0, epoch
				}
				if used[index] {
					return errors.New("the plan has an image twice in an epoch")
				}
				used[index] = true
				count++
			}
		}
	}
	return nil
}
