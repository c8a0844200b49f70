package main

import (
	"math"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// allreduceBench is a small `lockstep bench allreduce` with JSON.
func allreduceBench(more ...string) []string {
	return append([]string{"bench", "allreduce", "--json", "--elements", "300001", "--rounds", "2"}, more...)
}

// sentBytes is what a worker sends at least: 2 (N-1)/N of the values.
func sentBytes(workers, elements, wire int) int64 {
	return int64(2 * (workers - 1) * elements / workers * wire / 8)
}

// Real processes; the command itself compares the bits before it times.
func TestBenchAllreduce(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		workers, wire, buckets int
		more                   []string
	}{
		{2, 32, 5, nil}, {2, 16, 5, nil}, {3, 32, 1, []string{"--bucket", "300001"}}, {2, 32, 293, []string{"--bucket", "1024"}},
		{1, 32, 5, nil}, {4, 32, 5, []string{"--group", "2"}}, {4, 16, 5, []string{"--group", "auto"}}, {2, 32, 5, []string{"--compute", "30ms", "--transport", "grpc"}},
	} {
		args := append([]string{"--workers", count(int64(c.workers)), "--wire", count(int64(c.wire))}, c.more...)
		var r allreduceReport
		lockstep(t, 0, allreduceBench(args...)...).lastLine(&r)
		if r.Workers != c.workers || r.Elements != 300001 || r.Wire != c.wire || r.Buckets != c.buckets || r.Rounds != 2 || r.TLS {
			t.Errorf("%v: %+v", args, r)
		}
		links := 0
		for way, n := range r.Ways {
			if links += n; slices.Contains(c.more, "grpc") && !strings.HasPrefix(way, "gRPC (") {
				t.Errorf("%v: links over %s", args, way)
			}
		}
		// With groups of two, a flat ring otherwise: a link for each level.
		if want := c.workers * groupOf(c.more); c.workers > 1 && links != want || c.workers == 1 && r.Ways != nil {
			t.Errorf("%v: %v, want %d links", args, r.Ways, want)
		}
		if want := groupOf(c.more); r.Group != want || (r.RingHopSeconds > 0 && r.RingBytesPerS > 0 && r.Estimated > 0) != (c.workers > 1) {
			t.Errorf("%v: groups of %d, want %d; %+v", args, r.Group, want, r)
		}
		if r.Seconds < r.BestSeconds || r.BestSeconds <= 0 || r.CPUSecondsPerGB <= 0 {
			t.Errorf("%v: times %+v", args, r)
		}
		algorithm := 4 * 300001 / 1e9 / r.Seconds
		if bus := algorithm * 2 * float64(c.workers-1) / float64(c.workers); !near(r.AlgorithmGBPerS, algorithm) || !near(r.BusGBPerS, bus) {
			t.Errorf("%v: %g and %g GB/s, want %g and %g", args, r.AlgorithmGBPerS, r.BusGBPerS, algorithm, bus)
		}
		if least := sentBytes(c.workers, 300001, c.wire); r.SentBytes < least || r.SentBytes > least+least/4+int64(r.Messages)*72 {
			t.Errorf("%v: %d bytes in %d messages were sent, want some %d", args, r.SentBytes, r.Messages, least)
		}
		if raw := r.RawTCPGBPerS > 0 && r.ShareOfRawTCP > 0 && r.HopSeconds > 0; raw != (c.workers > 1) {
			t.Errorf("%v: beside plain TCP %+v", args, r)
		}
		if step := slices.Contains(c.more, "--compute"); step != (r.StepSeconds > 0) || step && (r.StepSeconds < 0.03+r.ExposedSeconds || r.ExposedSeconds <= 0 || r.Ready != readyEvenly) {
			t.Errorf("%v: a step %+v", args, r)
		}
	}
}

// groupOf is what --group 2, or another or none, leads to with four workers: small rings are flat unless told otherwise.
func groupOf(args []string) int {
	if slices.Equal(args, []string{"--group", "2"}) {
		return 2
	}
	return 1
}

// The bits are compared before anything is timed, with coding as without.
func TestBenchAllreduceCodes(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"on", "off", "auto"} {
		var r allreduceReport
		lockstep(t, 0, allreduceBench("--workers", "2", "--wire", "16", "--replicas", "2", "--transport", "grpc", "--coding", mode)...).lastLine(&r)
		c := r.Coding
		if c == nil || c.Mode != mode || c.Links != 2 || r.Replicas != 4 {
			t.Errorf("%s: %+v, coding %+v", mode, r, c)
			continue
		}
		if mode == "on" && (c.On != 2 || c.Ratio < 0.5 || c.Ratio > 0.9) {
			t.Errorf("%s: %+v", mode, *c)
		}
		if mode == "off" && (c.On != 0 || c.Ratio != 0 || c.Coded != 0) {
			t.Errorf("%s: %+v", mode, *c)
		}
	}
}

func near(a, b float64) bool { return math.Abs(a-b) <= 1e-9*math.Abs(b) }

func TestBenchAllreduceRefuses(t *testing.T) {
	t.Parallel()
	type refusal struct{ args, want []string }
	refusals := []refusal{
		{[]string{"--workers", "0", "--elements", "0", "--rounds", "0", "--wire", "8"}, []string{"--workers 0", "--elements 0", "--rounds 0", "--wire 8"}},
		{[]string{"--workers", "4", "--group", "3"}, []string{"--group", "4 workers do not divide"}},
		{[]string{"--group", "some"}, []string{"neither auto nor a number"}},
		{[]string{"--coding", "zip", "--replicas", "0"}, []string{"--coding zip", "auto, on or off", "--replicas 0"}},
		{[]string{"--transport", "carrier"}, []string{"--transport carrier", "auto, grpc and shm"}},
		{[]string{"--elements", "2000000000", "--bucket", "1024"}, []string{"--bucket 1024", "buckets"}},
		{[]string{"--timeout", "1s", "--compute", "2s"}, []string{"--timeout 1s"}},
		{[]string{"--hosts", "192.0.2.1:7950"}, []string{"lockstep certs", "--tls", "192.0.2.1:7950"}},
		{[]string{"--serve", "--listen", "0.0.0.0:0"}, []string{"lockstep certs", "--tls"}},
		{[]string{"--serve", "--listen", "127.0.0.1:0", "--ring-host", "192.0.2.1"}, []string{"lockstep certs", "192.0.2.1"}},
		{[]string{"--serve", "--listen", "0.0.0.0:0", "--insecure"}, []string{"one of this machine's own"}},
		{[]string{"--hosts", "127.0.0.1:1", "--workers", "2"}, []string{"hosts", "workers"}},
	}
	if runtime.GOOS == "linux" { // elsewhere nobody knows how much memory there is
		refusals = append(refusals, refusal{[]string{"--elements", "2000000000", "--workers", "64"}, []string{"GiB", "fewer --elements"}})
	}
	for _, c := range refusals {
		lockstep(t, 1, append([]string{"bench", "allreduce"}, c.args...)...).says(c.want...)
	}
}

// serveBench starts a member by hand and gives its address.
func serveBench(t *testing.T, more ...string) (p *process, address string) {
	t.Helper()
	p = begin(t, nil, append([]string{"bench", "allreduce", "--serve", "--verbose", "--listen", "127.0.0.1:0"}, more...)...)
	return p, p.line(`^serving at (\S+)$`)[1]
}

// Members started by hand, with mutual TLS: strangers get nothing, and the members stay for the next session.
func TestBenchAllreduceHosts(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	one, two, other := filepath.Join(dir, "one"), filepath.Join(dir, "two"), filepath.Join(dir, "other")
	lockstep(t, 0, "certs", one, "--host", "127.0.0.1")
	lockstep(t, 0, "certs", two, "--from", one, "--host", "127.0.0.1")
	lockstep(t, 0, "certs", other, "--host", "127.0.0.1")
	a, first := serveBench(t, "--tls", one)
	b, second := serveBench(t, "--tls", two)
	hosts := first + "," + second
	lockstep(t, 1, allreduceBench("--hosts", hosts, "--tls", other)...).says("member 0 ("+first+")", "not of this cluster's CA")
	lockstep(t, 1, allreduceBench("--hosts", hosts)...).says("member", "it may want TLS")
	for range 2 {
		var r allreduceReport
		lockstep(t, 0, allreduceBench("--hosts", hosts, "--tls", one)...).lastLine(&r)
		if r.Workers != 2 || !r.TLS || r.SentBytes < sentBytes(2, 300001, 32) || r.ShareOfRawTCP <= 0 {
			t.Errorf("%+v", r)
		}
	}
	for _, p := range []*process{a, b} {
		p.signal(syscall.SIGTERM)
		p.wait(exitInterrupted)
	}
}

// A member that dies is named at once, one that freezes within --timeout.
func TestBenchAllreduceMemberLost(t *testing.T) {
	t.Parallel()
	for _, s := range []syscall.Signal{syscall.SIGKILL, syscall.SIGSTOP} {
		limit := "60s"
		if s == syscall.SIGSTOP {
			limit = "3s"
		}
		_, first := serveBench(t, "--timeout", limit)
		victim, second := serveBench(t, "--timeout", limit)
		p := begin(t, nil, allreduceBench("--hosts", first+","+second, "--rounds", "10000", "--elements", "3000000", "--timeout", limit)...)
		victim.line("a session begins")
		victim.signal(s)
		p.waitFor(1, deathLimit)
		if !strings.Contains(p.stderr(), second) {
			t.Errorf("%v: the error does not name %s: %s", s, second, p.stderr())
		}
	}
}

// A worker process of the bench's own that dies is named with what its end was.
func TestBenchAllreduceProcessLost(t *testing.T) {
	t.Parallel()
	p := begin(t, nil, allreduceBench("--workers", "2", "--rounds", "10000", "--elements", "3000000")...)
	victim := childOf(t, p)
	if err := syscall.Kill(victim, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	p.waitFor(1, deathLimit).says("signal: killed")
}
