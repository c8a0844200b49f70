package main

import (
	"strings"
	"testing"

	"github.com/lockstep-ml/lockstep/internal/netlab"
)

// networkBench is a small `lockstep bench network`.
func networkBench(more ...string) []string {
	return append([]string{"bench", "network", "--json", "--workers", "2", "--elements", "100000", "--rounds", "1", "--compute", "20ms", "--rate", "500M"}, more...)
}

func TestBenchNetwork(t *testing.T) {
	if err := netlab.Missing(); err != nil {
		lockstep(t, 1, networkBench()...).says("no links can be emulated here")
		t.Skip("no emulated links:", err)
	}
	t.Parallel()
	p := lockstep(t, 0, networkBench("--delay", "0s,2ms")...)
	var r networkReport
	p.lastLine(&r)
	if len(r.Cases) != 2 || r.Skipped != 0 {
		t.Fatalf("%+v", r)
	}
	for i, c := range r.Cases {
		a := c.Allreduce
		if a == nil || a.Workers != 2 || a.Elements != 100000 || c.BitsPerSecond != 500e6 || c.DelaySeconds != float64(i)*0.002 {
			t.Fatalf("case %d: %+v, %+v", i, c, a)
		}
		// What a link of that rate and delay makes impossible must not be reported. A burst of 1 ms, at least 128 KiB, is free.
		if most := 1 + 128*1024*8/500e6/a.Seconds; c.LinkShare <= 0 || c.LinkShare > most || a.HopSeconds < c.DelaySeconds {
			t.Errorf("case %d: %.2f of the link, %g s to the neighbour", i, c.LinkShare, a.HopSeconds)
		}
		if a.StepSeconds < 0.02+a.ExposedSeconds || c.ExposedOverStep <= 0 || c.ExposedOverStep >= 1 {
			t.Errorf("case %d: a step %+v", i, c)
		}
		if want := []string{netlab.MethodVeth, c.Method}[i]; c.Method != want || !strings.Contains(p.stdout.String(), "| "+want+" |") {
			t.Errorf("case %d: made by %q, the table says\n%s", i, c.Method, p.stdout.String())
		}
	}
	if m := r.Cases[1].Method; m != netlab.MethodNetem && m != netlab.MethodTUN {
		t.Errorf("a delay of 2 ms made by %q", m)
	}
}

// What is not measured says why, in the table and in the exit code.
func TestBenchNetworkSkips(t *testing.T) {
	t.Parallel()
	lockstep(t, 1, networkBench("--delay", "soon", "--rate", "2T", "--workers", "1")...).says("--delay soon", "--rate 2T", "--workers 1")
	if err := netlab.Missing(); err != nil {
		t.Skip("no emulated links:", err)
	}
	p := lockstep(t, 1, networkBench("--delay", "0s", "--limit", "1ns")...).says("nothing was measured")
	if !strings.Contains(p.stdout.String(), "| 500M | 0s | skipped: --limit 1ns is over |") {
		t.Errorf("the table does not say what was skipped:\n%s", p.stdout.String())
	}
	begin(t, []string{"PATH="}, networkBench()...).wait(1).says("the command ip is not here", "the command tc is not here")
}
