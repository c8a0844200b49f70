package main

import (
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"golang.org/x/sys/cpu"
)

// The trained bits are those of one worker, whatever the cluster.
func TestSameBits(t *testing.T) {
	cases := []struct {
		name     string
		settings []string
		args     []string
		steps    int
		like     []string // of the run to compare with
	}{
		{name: "2 workers", args: []string{"--workers", "2"}},
		{name: "3 workers", args: []string{"--workers", "3"}},
		{name: "more workers than replicas", args: []string{"--workers", "5"}},
		{name: "two levels", args: []string{"--workers", "4", "--group", "2"}},
		{name: "two levels, more workers than replicas", args: []string{"--workers", "6", "--group", "3"}},
		{name: "links measured", args: []string{"--workers", "6", "--group", "auto"}},
		{name: "one core", settings: []string{"GOMAXPROCS=1"}, args: []string{"--workers", "2"}},
		{name: "4 threads", args: []string{"--workers", "1", "--threads", "4"}},
		{name: "avx2 kernels", settings: []string{"LOCKSTEP_SIMD=avx2"}, args: []string{"--workers", "2"}},
		{name: "no shared memory", args: []string{"--workers", "3", "--transport", "grpc"}},
		{name: "evaluations between", args: []string{"--workers", "2", "--eval-every", "1"}},
		{name: "16 bits, 3 workers", args: []string{"--workers", "3", "--wire", "16"}, like: []string{"--wire", "16"}},
		{name: "16 bits, two levels", args: []string{"--workers", "6", "--group", "2", "--wire", "16"}, like: []string{"--wire", "16"}},
		{name: "16 bits, two levels, coded", args: []string{"--workers", "4", "--group", "2", "--wire", "16", "--coding", "on", "--transport", "grpc"}, like: []string{"--wire", "16"}},
		{name: "16 bits, coded", args: []string{"--workers", "3", "--wire", "16", "--coding", "on", "--transport", "grpc"}, like: []string{"--wire", "16"}},
		{name: "16 bits, never coded", args: []string{"--workers", "2", "--wire", "16", "--coding", "off", "--transport", "grpc"}, like: []string{"--wire", "16"}},
		{name: "16 bits, 5 workers", args: []string{"--workers", "5", "--wire", "16"}, like: []string{"--wire", "16"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if slices.Contains(c.settings, "LOCKSTEP_SIMD=avx2") && !cpu.X86.HasAVX2 {
				t.Skip("this machine has no AVX2")
			}
			want := uninterrupted(t, 4, c.like...)
			got := begin(t, c.settings, train(4, c.args...)...).wait(0).report()
			if got.Hash != want || got.Step != 4 {
				t.Errorf("step %d, hash %s; want step 4, hash %s", got.Step, got.Hash, want)
			}
		})
	}
	t.Run("the wire's width matters", func(t *testing.T) {
		if uninterrupted(t, 4) == uninterrupted(t, 4, "--wire", "16") {
			t.Error("16 and 32 bits gave the same state: --wire does nothing")
		}
	})
	t.Run("the seed matters", func(t *testing.T) {
		if uninterrupted(t, 4) == uninterrupted(t, 4, "--seed", "2") {
			t.Error("two seeds gave the same state")
		}
	})
}

// beginCoordinator starts a coordinator for the small run on a free port and gives its address.
func beginCoordinator(t *testing.T, steps int, more ...string) (*process, string) {
	t.Helper()
	args := append([]string{"coordinator", "--json", "--listen", "127.0.0.1:0"}, small(steps)...)
	p := begin(t, nil, append(args, more...)...)
	return p, p.line(`workers join with: lockstep worker --join (\S+)`)[1]
}

func beginWorker(t *testing.T, join, name string, more ...string) *process {
	t.Helper()
	return begin(t, nil, append([]string{"worker", "--join", join, "--name", name, "--threads", "1"}, more...)...)
}

// One role per process, as on separate machines.
func TestSeparateProcesses(t *testing.T) {
	t.Parallel()
	c, join := beginCoordinator(t, 4, "--workers", "3")
	var workers []*process
	for i := range 3 {
		workers = append(workers, beginWorker(t, join, "node"+strconv.Itoa(i), "--gossip", "127.0.0.1:0"))
	}
	if got, want := c.wait(0).report().Hash, uninterrupted(t, 4); got != want {
		t.Errorf("hash %s, one process alone %s", got, want)
	}
	for _, w := range workers {
		w.wait(0)
	}
}

// Machines boot in any order: a worker that finds nobody tries again.
func TestWorkerBeforeCoordinator(t *testing.T) {
	t.Parallel()
	addr := freeAddress(t)
	w := beginWorker(t, addr, "early")
	c := begin(t, nil, append([]string{"coordinator", "--json", "--workers", "1", "--listen", addr}, small(4)...)...)
	if got, want := c.wait(0).report().Hash, uninterrupted(t, 4); got != want {
		t.Errorf("hash %s, want %s", got, want)
	}
	w.wait(0)

	lockstep(t, 1, "worker", "--join", freeAddress(t), "--wait", "1s").says("is the coordinator running there", "gave up after 1s")
}

// freeAddress is one that nobody listened on a moment ago.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestMutualTLS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	one, two, other := filepath.Join(dir, "one"), filepath.Join(dir, "two"), filepath.Join(dir, "other")
	lockstep(t, 0, "certs", one, "--host", "127.0.0.1")
	lockstep(t, 0, "certs", two, "--from", one, "--host", "127.0.0.1,localhost")
	lockstep(t, 0, "certs", other, "--host", "127.0.0.1")

	c, join := beginCoordinator(t, 4, "--workers", "2", "--tls", one)
	stranger := beginWorker(t, join, "stranger", "--tls", other, "--wait", "2s")
	plain := beginWorker(t, join, "plain", "--wait", "2s")
	stranger.wait(1).says(join)
	plain.wait(1).says(join)
	a := beginWorker(t, join, "a", "--tls", one)
	b := beginWorker(t, join, "b", "--tls", two)
	if got, want := c.wait(0).report().Hash, uninterrupted(t, 4); got != want {
		t.Errorf("hash %s with TLS, %s without", got, want)
	}
	a.wait(0)
	b.wait(0)

	if got, want := lockstep(t, 0, train(4, "--workers", "2", "--tls", two)...).report().Hash, uninterrupted(t, 4); got != want {
		t.Errorf("train --tls: hash %s, without %s", got, want)
	}
	lockstep(t, 1, train(4, "--tls", filepath.Join(dir, "missing"))...).says(filepath.Join(dir, "missing"))
}
