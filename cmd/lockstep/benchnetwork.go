package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/lockstep-ml/lockstep/internal/netlab"
)

// networkOptions is what is measured over emulated links.
type networkOptions struct {
	allreduceOptions
	rates, delays []string
	limit         time.Duration
}

const networkLong = `Runs bench allreduce on --workers network namespaces of this machine, joined by links of every --rate and --delay in turn, and prints a table: what
share of the link the ring fills, what share plain TCP fills in the same sitting, and how much of a step with --compute of computing is communication that nothing hides.

Needs Linux, root and the commands ip and tc. Each worker sends through a token bucket of the rate, so that the link has it in each direction; the delay is one
way. Where the kernel has no netem, this process carries the packets and delays them, which takes processor time that a fast link shows; the table says so.
What could not be measured is in the table too, with the reason.

  link share   bytes that a worker sends, headers included, * 8 / rate / seconds
  exposed      of a step, after the computing: step time beside compute alone`

func benchNetwork() *cobra.Command {
	o := networkOptions{allreduceOptions: allreduceOptions{transport: transportGRPC}}
	cmd := &cobra.Command{
		Use:     "network",
		Short:   "Time the exact ring over emulated links of given rates and delays (Linux, root)",
		Long:    networkLong,
		Example: "  lockstep bench network\n  lockstep bench network --rate 1G --delay 1ms,20ms --wire 16 --workers 8",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return o.run(cmd) },
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.IntVar(&o.workers, "workers", 4, "namespaces, with a worker each")
	f.StringSliceVar(&o.rates, "rate", []string{"1G", "10G"}, "rates of the links in bit/s, with M or G behind")
	f.StringSliceVar(&o.delays, "delay", []string{"0s", "100us", "1ms", "20ms"}, "delays, one way; 0s adds none")
	f.IntVar(&o.elements, "elements", resnet50Elements, "values of the gradient; the default is ResNet-50's")
	f.IntVar(&o.bucket, "bucket", 0, "values of a bucket; 0: as the trainer cuts")
	f.IntVar(&o.replicas, "replicas", 1, replicasHelp)
	o.group = 1
	f.Var(&o.group, "group", groupHelp)
	f.IntVar(&o.wire, "wire", 32, "bits of a gradient value on the ring: 32 or 16")
	f.StringVar(&o.coding, "coding", codingAuto, codingHelp)
	f.IntVar(&o.rounds, "rounds", 3, "rounds to time, after one to warm up")
	f.DurationVar(&o.compute, "compute", 2*time.Second, "stand-in for a step's computing; 0: time no steps")
	f.DurationVar(&o.timeout, "timeout", time.Minute, "how long any worker may take for an answer")
	f.DurationVar(&o.limit, "limit", 10*time.Minute, "what has not begun after so long is skipped")
	f.BoolVar(&o.asJSON, "json", false, "print a JSON object for each link, and one with all as the last line")
	return cmd
}

// networkCase is one link's figures, or why there are none.
type networkCase struct {
	Rate            string           `json:"rate"`
	BitsPerSecond   int64            `json:"bits_per_second"`
	DelaySeconds    float64          `json:"delay_seconds"` // one way
	Method          string           `json:"method,omitempty"`
	Skipped         string           `json:"skipped,omitempty"`
	LinkShare       float64          `json:"link_share"`
	RawLinkShare    float64          `json:"raw_link_share"`
	ExposedOverStep float64          `json:"exposed_over_step"`
	Allreduce       *allreduceReport `json:"allreduce,omitempty"`
}

// networkReport is the last line of --json.
type networkReport struct {
	Cases   []networkCase `json:"cases"`
	Skipped int           `json:"skipped"`
}

func (o *networkOptions) run(cmd *cobra.Command) error {
	cases, err := o.cases()
	if err != nil {
		return err
	}
	if err := netlab.Missing(); err != nil {
		return fmt.Errorf("no links can be emulated here: %w", err)
	}
	w, report := cmd.OutOrStdout(), networkReport{Cases: cases}
	if _, err := fmt.Fprintf(w, "%s\n%s\n", networkHead, networkRule); err != nil {
		return err
	}
	begun := time.Now()
	for i := range cases {
		c := &cases[i]
		if time.Since(begun) > o.limit {
			c.Skipped = fmt.Sprintf("--limit %v is over", o.limit)
		} else if err := o.measure(cmd.Context(), c); err != nil {
			c.Skipped = err.Error()
		}
		if cmd.Context().Err() != nil {
			return errInterrupted
		}
		if c.Skipped != "" {
			report.Skipped++
		}
		if err := c.row(w); err != nil {
			return err
		}
	}
	if err := report.end(w, o.asJSON); err != nil {
		return err
	}
	if report.Skipped == len(cases) {
		return errors.New("nothing was measured: the table says why")
	}
	return nil
}

// cases is every rate with every delay.
func (o *networkOptions) cases() (out []networkCase, err error) {
	faults := []error{o.validate()}
	if o.workers < 2 {
		faults = append(faults, fmt.Errorf("--workers %d: a link needs two", o.workers))
	}
	for _, r := range o.rates {
		bits, err := parseRate(r)
		faults = append(faults, err)
		for _, d := range o.delays {
			delay, err := time.ParseDuration(d)
			if err == nil {
				err = netlab.Config{Nodes: max(o.workers, 2), BitsPerSecond: max(bits, 1e6), Delay: delay}.Validate()
			}
			if err != nil {
				faults = append(faults, fmt.Errorf("--delay %s: %w", d, err))
			}
			out = append(out, networkCase{Rate: r, BitsPerSecond: bits, DelaySeconds: delay.Seconds()})
		}
	}
	return out, errors.Join(faults...)
}

// parseRate reads 1G, 2.5G, 100M.
func parseRate(text string) (int64, error) {
	var value float64
	var unit string
	n, err := fmt.Sscanf(text, "%g%s", &value, &unit)
	factor := map[string]float64{"M": 1e6, "G": 1e9}[unit]
	if err != nil || n != 2 || factor == 0 || !(value*factor >= 1e6 && value*factor <= 1e11) {
		return 0, fmt.Errorf("--rate %s: want 1M to 100G, in bit/s", text)
	}
	return int64(value * factor), nil
}

// fill works the link's shares out.
func (c *networkCase) fill(r *allreduceReport) {
	c.Allreduce = r
	bits := 8 * float64(r.SentBytes)
	c.LinkShare = bits / float64(c.BitsPerSecond) / r.Seconds
	c.RawLinkShare = 8e9 * r.RawTCPGBPerS / float64(c.BitsPerSecond)
	if r.StepSeconds > 0 {
		c.ExposedOverStep = r.ExposedSeconds / r.StepSeconds
	}
}

const (
	networkHead = "| link | delay, one way | a byte to the neighbour | ring, s | of the link | plain TCP, of the link | step, s | exposed, s | of the step | made by |"
	networkRule = "|---|---|---|---|---|---|---|---|---|---|"
)

// row writes a line of the table.
func (c *networkCase) row(w io.Writer) error {
	delay := time.Duration(c.DelaySeconds * 1e9)
	if c.Skipped != "" {
		_, err := fmt.Fprintf(w, "| %s | %v | skipped: %s | | | | | | | %s |\n", c.Rate, delay, oneLine(c.Skipped), c.Method)
		return err
	}
	r, step := c.Allreduce, "| | |"
	if r.StepSeconds > 0 {
		step = fmt.Sprintf("| %.3f | %.3f | %.1f %% |", r.StepSeconds, r.ExposedSeconds, 100*c.ExposedOverStep)
	}
	_, err := fmt.Fprintf(w, "| %s | %v | %.2f ms | %.3f | %.0f %% | %.0f %% %s %s |\n",
		c.Rate, delay, 1e3*r.HopSeconds, r.Seconds, 100*c.LinkShare, 100*c.RawLinkShare, step, c.Method)
	return err
}

// end writes what the table stands for, and the figures.
func (r *networkReport) end(w io.Writer, asJSON bool) error {
	for _, c := range r.Cases {
		if a := c.Allreduce; a != nil {
			_, err := fmt.Fprintf(w, "\n%d workers, %d values in %d buckets, %d bits on the wire, %d rounds: medians; buckets ready %s\n", a.Workers, a.Elements, a.Buckets, a.Wire, a.Rounds, a.Ready)
			if err != nil {
				return err
			}
			break
		}
	}
	if !asJSON {
		return nil
	}
	for _, c := range r.Cases {
		if err := printJSON(w, c); err != nil {
			return err
		}
	}
	return printJSON(w, r)
}

// oneLine keeps an error from breaking the table.
func oneLine(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err) // texts always can
	}
	return string(b[1 : len(b)-1])
}

// measure makes one link and runs the benchmark over it.
func (o *networkOptions) measure(ctx context.Context, c *networkCase) (err error) {
	lab, err := netlab.New(ctx, netlab.Config{Nodes: o.workers, BitsPerSecond: c.BitsPerSecond, Delay: time.Duration(c.DelaySeconds * 1e9)})
	if err != nil {
		return err
	}
	c.Method = lab.Method()
	report, err := o.overLab(ctx, lab)
	if err = errors.Join(err, lab.Close()); err != nil {
		return err
	}
	c.fill(report)
	return nil
}
