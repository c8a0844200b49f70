package cpu

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/lockstep-ml/lockstep/core"
)

// TestPlanIsWhatNewTakes: planning gives the sizes of what an engine then allocates.
func TestPlanIsWhatNewTakes(t *testing.T) {
	for _, evalOnly := range []bool{false, true} {
		for _, net := range []*core.Network{build(t, "cifar-resnet8", 10), build(t, "resnet50-v1.5", 7), odd(t)} {
			cfg := core.CompileConfig{Batch: 3, Resolution: net.Resolution, Threads: 2, EvalOnly: evalOnly}
			m, err := Plan(net, cfg)
			if err != nil {
				t.Fatal(err)
			}
			e, err := New(net, cfg)
			if err != nil {
				t.Fatal(err)
			}
			if got := e.Info().ArenaBytes; got != m.Arena {
				t.Errorf("%s: an arena of %d bytes, planned %d", net.Name, got, m.Arena)
			}
			laid, stats := 0, 4*(len(e.state.Mean)+len(e.state.Var)+len(e.trainLogits)+len(e.dLogits))
			for _, u := range e.convs {
				laid += 4 * (len(u.wFwd) + len(u.wBwd))
			}
			for i := range e.scratch {
				stats += 4 * len(e.scratch[i].room)
			}
			for _, u := range e.norms {
				stats += 4*(len(u.coefs)+len(u.partial)+len(u.gamma)+len(u.beta)) + 8*(len(u.mean)+len(u.rstd))
			}
			if int64(laid) != m.LaidOut || int64(stats) != m.Statistics {
				t.Errorf("%s: %d bytes of weights laid out and %d of statistics, planned %d and %d", net.Name, laid, stats, m.LaidOut, m.Statistics)
			}
			g := e.NewGradients()
			grads := int64(4 * (len(g.Values) + len(g.Mean) + len(g.Var)))
			if evalOnly {
				grads = 0
			}
			if m.Weights != int64(4*len(e.state.Params)) || m.Momentum != int64(4*len(e.state.Momentum)) || m.Gradients != grads {
				t.Errorf("%s: planned %+v for %d parameters, gradients take %d", net.Name, m, len(e.state.Params), grads)
			}
			if err := e.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

// TestPlanOfLargeNetworks: the deepest networks of either family train on a machine of 24 GB at the paper's replica of 32 images.
func TestPlanOfLargeNetworks(t *testing.T) {
	for _, name := range []string{"resnet152", "cifar-resnet1202"} {
		net := build(t, name, 0)
		m, err := Plan(net, core.CompileConfig{Batch: 32, Resolution: net.Resolution})
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %v", name, m)
		if m.Total() < 1<<30 || m.Total() > 20<<30 {
			t.Errorf("%s at batch 32 takes %v", name, m)
		}
		eval, err := Plan(net, core.CompileConfig{Batch: 32, Resolution: net.Resolution, EvalOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		if 5*eval.Arena > m.Arena || eval.Gradients != 0 || eval.LaidOut >= m.LaidOut {
			t.Errorf("%s takes %v to evaluate, %v to train", name, eval, m)
		}
	}
}

// TestRefusal: an engine that does not fit is refused with the figures, and the batch that it names fits while the next does not.
func TestRefusal(t *testing.T) {
	net := build(t, "cifar-resnet20", 10)
	kern, err := choose() // as Plan does
	if err != nil {
		t.Fatal(err)
	}
	cfg := core.CompileConfig{Batch: 512, Resolution: 32, Threads: 2}
	for _, mib := range []int64{64, 300, 700} {
		have := mib << 20
		_, err := newEngineWithin(net, cfg, kern, nil, func() (int64, bool) { return have, true })
		if !errors.Is(err, ErrMemory) {
			t.Fatalf("with %d MiB: %v", mib, err)
		}
		found := regexp.MustCompile(`^cpu: not enough memory: cifar-resnet20 at batch 512 needs 0\.\d GiB \(activations 0\.\d, .*\), ` +
			`this machine has (\d\.\d) GiB available; take a smaller batch \(about (\d+) fit\)$`).FindStringSubmatch(err.Error())
		if found == nil || found[1] != fmt.Sprintf("%.1f", float64(have)/(1<<30)) {
			t.Fatalf("with %d MiB: %v", mib, err)
		}
		n, err := strconv.Atoi(found[2])
		if err != nil {
			t.Fatal(err)
		}
		for _, batch := range []int{n, n + 1} {
			small := cfg
			small.Batch = batch
			m, err := Plan(net, small)
			if err != nil {
				t.Fatal(err)
			}
			if fits := m.Total() <= have; fits != (batch == n) {
				t.Errorf("%d MiB, about %d fit: batch %d takes %v", mib, n, batch, m)
			}
		}
	}
}

func TestRefusalOfEverything(t *testing.T) {
	net, kern := build(t, "cifar-resnet20", 10), families()[0]
	cfg := core.CompileConfig{Batch: 4, Resolution: 32}
	_, err := newEngineWithin(net, cfg, kern, nil, func() (int64, bool) { return 1 << 10, true })
	if !errors.Is(err, ErrMemory) || !strings.Contains(err.Error(), "no batch is small enough") {
		t.Errorf("with 1 KiB: %v", err)
	}
	e, err := newEngineWithin(net, cfg, kern, nil, func() (int64, bool) { return 0, false })
	if err != nil {
		t.Fatalf("where nobody knows what there is: %v", err)
	}
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	for _, batch := range []int{1 << 30, math.MaxInt} { // neither planning nor counting overflows
		cfg.Batch = batch
		if _, err := New(net, cfg); !errors.Is(err, ErrMemory) {
			t.Errorf("batch %d: %v", batch, err)
		}
		if _, err := Plan(net, cfg); !errors.Is(err, ErrMemory) {
			t.Errorf("batch %d: %v", batch, err)
		}
	}
}

func TestMemoryOf(t *testing.T) {
	const meminfo = "MemTotal:       2000 kB\nMemFree:         100 kB\nMemAvailable:   1000 kB\n"
	files := func(pairs ...string) fstest.MapFS {
		fs := fstest.MapFS{"proc/meminfo": {Data: []byte(meminfo)}}
		for i := 0; i < len(pairs); i += 2 {
			fs[pairs[i]] = &fstest.MapFile{Data: []byte(pairs[i+1])}
		}
		return fs
	}
	const v2, v1 = "sys/fs/cgroup/", "sys/fs/cgroup/memory/"
	for _, c := range []struct {
		name string
		fs   fstest.MapFS
		want int64
	}{
		{"no groups", files(), 1000 << 10},
		{"version 2", files("proc/self/cgroup", "0::/a/b\n", v2+"a/b/memory.max", "500000\n", v2+"a/b/memory.current", "300000\n",
			v2+"a/b/memory.stat", "anon 100000\ninactive_file 50000\nactive_file 25000\n"), 275000},
		{"version 2 without limit", files("proc/self/cgroup", "0::/a\n", v2+"a/memory.max", "max\n", v2+"a/memory.current", "5\n"), 1000 << 10},
		{"a limit further out", files("proc/self/cgroup", "0::/a/b\n", v2+"a/b/memory.max", "500000\n", v2+"a/b/memory.current", "0\n",
			v2+"a/memory.max", "400000\n", v2+"a/memory.current", "100000\n"), 300000},
		{"only the container's root", files("proc/self/cgroup", "0::/\n", v2+"memory.max", "700000\n", v2+"memory.current", "1\n"), 699999},
		{"more than the machine has", files("proc/self/cgroup", "0::/\n", v2+"memory.max", "70000000\n", v2+"memory.current", "1\n"), 1000 << 10},
		{"full", files("proc/self/cgroup", "0::/\n", v2+"memory.max", "70000\n", v2+"memory.current", "80000\n"), 0},
		{"version 1", files("proc/self/cgroup", "5:cpu,cpuacct:/x\n4:memory:/job/7\n0::/\n", v1+"job/7/memory.limit_in_bytes", "600000\n",
			v1+"job/7/memory.usage_in_bytes", "200000\n", v1+"job/7/memory.stat", "inactive_file 1\ntotal_inactive_file 90000\ntotal_active_file 10000\n"), 500000},
		{"version 1 without limit", files("proc/self/cgroup", "4:memory:/\n", v1+"memory.limit_in_bytes", "9223372036854771712\n",
			v1+"memory.usage_in_bytes", "200000\n"), 1000 << 10},
		{"damaged", files("proc/self/cgroup", "nonsense\n:\n0\n"), 1000 << 10},
	} {
		if got, known := memoryOf(c.fs); !known || got != c.want {
			t.Errorf("%s: %d bytes (known: %v), want %d", c.name, got, known, c.want)
		}
	}
	if got, known := memoryOf(fstest.MapFS{}); known {
		t.Errorf("%d bytes out of nothing", got)
	}
}
