package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/lockstep-ml/lockstep/core"
	"github.com/lockstep-ml/lockstep/core/resnet"
	"github.com/lockstep-ml/lockstep/internal/ringbench"
	"github.com/lockstep-ml/lockstep/worker"
)

// resnet50Elements is how many parameters ResNet-50 has.
const resnet50Elements = 25557032

// allreduceReport is what `lockstep bench allreduce` reports.
type allreduceReport struct {
	Seconds         float64 `json:"seconds"`
	BestSeconds     float64 `json:"best_seconds"`
	BusGBPerS       float64 `json:"bus_gb_per_s"`
	AlgorithmGBPerS float64 `json:"algorithm_gb_per_s"`
	CPUSecondsPerGB float64 `json:"cpu_seconds_per_gb"`
	RawTCPGBPerS    float64 `json:"raw_tcp_gb_per_s"` // 0 for one worker
	ShareOfRawTCP   float64 `json:"share_of_raw_tcp"`
	HopSeconds      float64 `json:"hop_seconds"`
	RingHopSeconds  float64 `json:"ring_hop_seconds"` // these three: 0 for one worker
	RingBytesPerS   float64 `json:"ring_bytes_per_s"`
	Estimated       float64 `json:"estimated_seconds"`
	Workers         int     `json:"workers"`
	Replicas        int     `json:"replicas"`
	Group           int     `json:"group"` // workers in a group of the ring; 1: flat
	Elements        int     `json:"elements"`
	Buckets         int     `json:"buckets"`
	Wire            int     `json:"wire"`
	Transport       string  `json:"transport"` // as asked for
	TLS             bool    `json:"tls"`
	SentBytes       int64   `json:"sent_bytes"`

	Ways   map[string]int `json:"ways,omitempty"` // the links to right neighbours, by how messages travelled; none for one worker
	Coding *codingReport  `json:"coding,omitempty"`

	Messages       int64   `json:"messages"`
	Rounds         int     `json:"rounds"`
	ComputeSeconds float64 `json:"compute_seconds,omitempty"`
	StepSeconds    float64 `json:"step_seconds,omitempty"`
	ExposedSeconds float64 `json:"exposed_seconds,omitempty"`
	Ready          string  `json:"ready,omitempty"` // how the buckets are spread over the backward pass
}

// The ways to spread buckets over a backward pass.
const (
	readyByLayers = "by multiply-adds of ResNet-50's layers"
	readyEvenly   = "evenly"
)

// spec says what is reduced, and how its buckets become ready.
func (o *allreduceOptions) spec() (s ringbench.Spec, spread string, err error) {
	spans := worker.BucketSpans(o.elements)
	if o.bucket > 0 {
		spans = worker.CutSpans(o.elements, min(o.bucket, o.elements))
	}
	if len(spans) > ringbench.MaxBuckets {
		return s, "", fmt.Errorf("--bucket %d makes %d buckets, at most %d are allowed", o.bucket, len(spans), ringbench.MaxBuckets)
	}
	s = ringbench.Spec{Link: ringbench.Link{Wire: o.wire, Transport: o.transport, Coding: o.coding, Each: o.replicas}, Elements: o.elements, Compute: o.compute}
	done, spread := func(lo int) float64 { return 1 - float64(lo)/float64(o.elements) }, readyEvenly
	if o.elements == resnet50Elements {
		net, err := resnet.Build("resnet50", 0)
		if err != nil {
			return s, "", err
		}
		if done, err = backwardDone(net); err != nil {
			return s, "", err
		}
		s.Statistics, spread = worker.StatisticsLen(net.NormLen()), readyByLayers
	}
	for _, b := range spans {
		// A third of a step is the forward pass: the backward pass has two products for each of its one.
		s.Buckets = append(s.Buckets, ringbench.Bucket{Lo: b.Lo, Hi: b.Hi, Ready: min(1, (1+2*done(b.Lo))/3)})
	}
	return s, spread, nil
}

// backwardDone gives the share of the backward pass, by multiply-adds, after which the gradients from a parameter to the vector's end are final.
func backwardDone(net *core.Network) (func(lo int) float64, error) {
	macs, err := net.MultiplyAdds(net.Resolution)
	if err != nil {
		return nil, err
	}
	total := int64(0)
	for _, m := range macs {
		total += m
	}
	return func(lo int) float64 {
		p, _ := net.ParamAt(lo)
		cost := int64(0)
		for node := p.Node; node < len(macs); node++ {
			cost += macs[node]
		}
		return float64(cost) / float64(total)
	}, nil
}

func newAllreduceReport(o *allreduceOptions, workers int, spread string, res *ringbench.Result) *allreduceReport {
	seconds := median(res.Rounds).Seconds()
	gb := 4 * float64(o.elements) / 1e9
	r := &allreduceReport{
		Seconds: seconds, BestSeconds: slices.Min(res.Rounds).Seconds(), AlgorithmGBPerS: gb / seconds,
		CPUSecondsPerGB: res.CPU.Seconds() / (gb * float64(len(res.Rounds))), HopSeconds: res.Hop.Seconds(),
		Workers: workers, Replicas: workers * o.replicas, Elements: o.elements, Wire: o.wire, Transport: o.transport, TLS: o.sec.identity != nil,
		SentBytes: res.Bytes, Messages: res.Messages, Rounds: len(res.Rounds), Buckets: res.Buckets,
	}
	r.Group, r.RingHopSeconds, r.RingBytesPerS = res.Group, res.RingHop.Seconds(), res.RingRate
	if res.RingRate > 0 {
		r.Estimated = o.traffic(res.RingHop, res.RingRate, res.Buckets).Estimate(workers, res.Group).Seconds()
	}
	if workers > 1 {
		r.Ways = map[string]int{}
		for _, w := range res.Ways {
			r.Ways[w]++
		}
	}
	r.BusGBPerS = r.AlgorithmGBPerS * 2 * float64(workers-1) / float64(workers)
	if len(res.Raw) > 0 {
		raw := median(res.Raw).Seconds()
		r.RawTCPGBPerS, r.ShareOfRawTCP = float64(res.Bytes)/1e9/raw, raw/seconds
	}
	if workers > 1 && o.wire == 16 {
		r.Coding = newCodingReport(o.coding, res.Coding)
	}
	if len(res.Steps) > 0 {
		r.ComputeSeconds, r.Ready = o.compute.Seconds(), spread
		r.StepSeconds, r.ExposedSeconds = median(res.Steps).Seconds(), median(res.Exposed).Seconds()
	}
	return r
}

// codingReport is what links make of coding: means over those that know.
type codingReport struct {
	Mode  string  `json:"mode"`
	On    int     `json:"links_on"`
	Links int     `json:"links"`
	Plain float64 `json:"plain_gb_per_s,omitempty"`
	Coded float64 `json:"coded_gb_per_s,omitempty"`
	Coder float64 `json:"coder_gb_per_s,omitempty"`
	Ratio float64 `json:"ratio,omitempty"`
}

func newCodingReport(mode string, links []ringbench.Coding) *codingReport {
	mean := func(of func(c ringbench.Coding) float64) float64 {
		sum, n := 0.0, 0
		for _, c := range links {
			if v := of(c); v > 0 {
				sum, n = sum+v, n+1
			}
		}
		return sum / float64(max(1, n))
	}
	r := &codingReport{Mode: mode, Links: len(links)}
	for _, c := range links {
		if c.On {
			r.On++
		}
	}
	r.Plain = mean(func(c ringbench.Coding) float64 { return c.Plain / 1e9 })
	r.Coded = mean(func(c ringbench.Coding) float64 { return c.Coded / 1e9 })
	r.Coder = mean(func(c ringbench.Coding) float64 { return c.Coder / 1e9 })
	r.Ratio = mean(func(c ringbench.Coding) float64 { return c.Ratio })
	return r
}

// median sorts; of an even number it takes the later one.
func median(d []time.Duration) time.Duration {
	d = slices.Sorted(slices.Values(d))
	return d[len(d)/2]
}

func (r *allreduceReport) write(w io.Writer, asJSON bool) error {
	if asJSON {
		return printJSON(w, r)
	}
	fmt.Fprintf(w, "%d workers, %d values in %d buckets, %d bits on the wire, %s: the bits are those of a ring of one worker\n", r.Workers, r.Elements, r.Buckets, r.Wire, r.Transport)
	fmt.Fprintf(w, "%.4f s, best %.4f s: %.2f GB/s of gradient, %.2f GB/s on the bus, %.2f CPU seconds a GB\n", r.Seconds, r.BestSeconds, r.AlgorithmGBPerS, r.BusGBPerS, r.CPUSecondsPerGB)
	_, err := fmt.Fprintf(w, "a worker sends %s in %d messages a round\n", size(r.SentBytes), r.Messages)
	for _, way := range slices.Sorted(maps.Keys(r.Ways)) {
		fmt.Fprintf(w, "%d links over %s\n", r.Ways[way], way)
	}
	if r.Group > 1 && err == nil {
		_, err = fmt.Fprintf(w, "a ring of two levels, groups of %d\n", r.Group)
	}
	if r.Workers > 1 && err == nil {
		plain := "plain TCP"
		if r.TLS {
			plain = "plain TLS"
		}
		_, err = fmt.Fprintf(w, "%s moves as much at %.2f GB/s: the ring reaches %.0f %% of it; %.0f us to a neighbour\n", plain, r.RawTCPGBPerS, 100*r.ShareOfRawTCP, 1e6*r.HopSeconds)
	}
	if c := r.Coding; c != nil && err == nil {
		_, err = fmt.Fprintf(w, "coding %s: %d of %d links code; without it %.3f GB/s of values, with it %.3f, a core codes %.3f, and %.3f of the bytes are left\n",
			c.Mode, c.On, c.Links, c.Plain, c.Coded, c.Coder, c.Ratio)
	}
	if r.StepSeconds > 0 && err == nil {
		_, err = fmt.Fprintf(w, "a step with %.3f s of computing, buckets ready %s: %.3f s, of which %.4f s (%.1f %%) are after the computing\n",
			r.ComputeSeconds, r.Ready, r.StepSeconds, r.ExposedSeconds, 100*r.ExposedSeconds/r.StepSeconds)
	}
	return err
}
