package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/lockstep-ml/lockstep/internal/ledger"
	"github.com/lockstep-ml/lockstep/shard"
	"github.com/lockstep-ml/lockstep/shard/raster"
	"github.com/lockstep-ml/lockstep/shard/source"
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
checks that each epoch has every image once. The stream of images is continuous: nothing is padded or dropped at an epoch's end, where
a step has images of both. A damaged image that --skip-damaged has let pass counts as the one that was used in its place; that it is
damaged is checked.`,
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
			damaged := ""
			if r.Damaged > 0 {
				damaged = fmt.Sprintf("; in place of %d damaged ones the next good ones (%s)", r.Damaged, filepath.Join(args[0], ledger.SkipsName))
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: steps %d to %d of %d images, %.2f epochs of %d: every sample exactly once an epoch%s\n", args[0], r.First, r.Last, r.Batch, r.Epochs, r.Images, damaged)
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

// ledgerReport is what the ledger command found.
type ledgerReport struct {
	First   uint64  `json:"first_step"` // 1, unless the run went on from another folder's checkpoint
	Last    uint64  `json:"last_step"`
	Batch   int     `json:"batch"`
	Images  int     `json:"images"` // of the training split
	Epochs  float64 `json:"epochs"`
	Damaged int     `json:"damaged"` // images in whose place the next good one was used
}

// proveSamples verifies the ledger of a run's folder.
func proveSamples(cmd *cobra.Command, dir string) (ledgerReport, error) {
	plan, s, saved, err := planOfRun(cmd, dir)
	if err != nil {
		return ledgerReport{}, err
	}
	path := filepath.Join(dir, ledger.Name)
	f, err := os.Open(path)
	if err != nil {
		return ledgerReport{}, err
	}
	defer f.Close() // only read from
	instead, err := standIns(cmd.Context(), dir, s)
	if err != nil {
		return ledgerReport{}, err
	}
	first, last, err := ledger.Verify(f, func(step uint64) (uint64, [4]uint32) { return uint64(plan.GlobalBatch), plan.StepSums(step, instead) })
	if err == nil && last < saved {
		err = fmt.Errorf("it ends at step %d, but there is a checkpoint of step %d", last, saved)
	}
	if err == nil {
		err = onceAnEpoch(plan, last)
	}
	if err != nil {
		return ledgerReport{}, fmt.Errorf("%s: %w", path, err)
	}
	return ledgerReport{First: first, Last: last, Batch: plan.GlobalBatch, Images: plan.Images, Epochs: float64(last) * float64(plan.GlobalBatch) / float64(plan.Images), Damaged: len(instead)}, nil
}

// standIns gives, by the list of damaged images in a run's folder, what was used instead of each. That a listed image is damaged, and that the
// next good one stands in for it, is found out anew.
func standIns(ctx context.Context, dir string, s *settings) (map[int]int, error) {
	path := filepath.Join(dir, ledger.SkipsName)
	list, err := ledger.ReadSkips(path)
	if err != nil || len(list) == 0 {
		return nil, err
	}
	d, err := openSplits(ctx, s.dataOptions(source.Options{}))
	if err != nil {
		return nil, err
	}
	defer d.close() // only read from
	var dec shard.Decoder
	var img raster.Image
	instead := map[int]int{}
	for _, s := range list {
		if s.By < 0 { // of an evaluation
			continue
		}
		if s.Sample >= d.train.Len() || s.By >= d.train.Len() || d.train.Name(s.Sample) != s.Name {
			return nil, fmt.Errorf("%s: image %d is not %s", path, s.Sample, s.Name)
		}
		for i := s.Sample; ; i = (i + 1) % d.train.Len() {
			err := d.train.Load(ctx, &dec, &img, i)
			if damaged := errors.As(err, new(*shard.DamagedError)); damaged == (i == s.By) || err != nil && !damaged {
				return nil, fmt.Errorf("%s: image %d is said to stand in for %s, but %s says otherwise: %w", path, s.By, s.Name, d.train.Name(i), cmp.Or(err, errGood))
			}
			if i == s.By {
				break
			}
		}
		instead[s.Sample] = s.By
	}
	return instead, nil
}

// errGood is what an image that was passed over is, where it should be damaged.
var errGood = errors.New("it can be decoded")

// planOfRun makes the plan of samples that the newest checkpoint's settings give, and gives those and of which step that is.
func planOfRun(cmd *cobra.Command, dir string) (plan shard.Plan, s *settings, saved uint64, err error) {
	c, err := loadNewest(cmd, dir)
	if err != nil {
		return plan, nil, 0, err
	}
	r, s, err := recordOf(c.Config)
	if err != nil {
		return plan, nil, 0, err
	}
	d, err := openSplits(cmd.Context(), s.dataOptions(source.Options{}))
	if err != nil {
		return plan, nil, 0, err
	}
	plan = shard.Plan{Seed: s.seed, Images: d.train.Len(), GlobalBatch: s.batch, Replicas: s.replicas()}
	fingerprint := d.fingerprint()
	if err := d.close(); err != nil {
		return plan, nil, 0, err
	}
	if fingerprint != r.Data {
		return plan, nil, 0, fmt.Errorf("%s is not the data that the run was started with", source.Clean(s.data))
	}
	return plan, s, c.Step, nil
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
