package main

import (
	"net"
	"path/filepath"
	"strings"
	"testing"
)

func TestOnlyAddress(t *testing.T) {
	for _, c := range []struct{ have, want string }{
		{"127.0.0.1/8 172.18.0.3/16 ::1/128 fe80::42/64", "172.18.0.3"},
		{"172.18.0.3/16 fd00::3/64", "172.18.0.3"},
		{"172.18.0.3/16 fd00::3/64 fd00::4/64", "172.18.0.3"},
		{"127.0.0.1/8 fd00::3/64", "fd00::3"},
		{"172.18.0.3/16 10.0.0.3/8", ""},
		{"172.18.0.3/16 10.0.0.3/8 fd00::3/64", ""},
		{"127.0.0.1/8 ::1/128 fe80::42/64", ""},
	} {
		var addrs []net.Addr
		for _, text := range strings.Fields(c.have) {
			ip, n, err := net.ParseCIDR(text)
			if err != nil {
				t.Fatal(err)
			}
			addrs = append(addrs, &net.IPNet{IP: ip, Mask: n.Mask})
		}
		if got, all := onlyAddress(addrs); got != c.want {
			t.Errorf("of %s: %q of %v, want %q", c.have, got, all, c.want)
		}
	}
}

func TestReachable(t *testing.T) {
	for listen, advertise := range map[string]string{"10.0.0.1:7946": "", "0.0.0.0:7946": "node1", "[::]:7946": "node1", "nonsense": ""} {
		if got, err := reachable(listen, advertise); err != nil || got != advertise {
			t.Errorf("reachable(%q, %q) = %q, %v", listen, advertise, got, err)
		}
	}
}

// A name that all certificates carry stands for addresses that none of them can know.
func TestNameInsteadOfAddress(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "certs")
	lockstep(t, 0, "certs", dir, "--host", "cluster.example")
	c, join := beginCoordinator(t, 4, "--workers", "1", "--tls", dir, "--tls-name", "cluster.example")
	beginWorker(t, join, "stray", "--tls", dir, "--tls-name", "other.example", "--wait", "2s").wait(1).says("cluster.example, not other.example")
	w := beginWorker(t, join, "a", "--tls", dir, "--tls-name", "cluster.example")
	if got, want := c.wait(0).report().Hash, uninterrupted(t, 4); got != want {
		t.Errorf("hash %s, want %s", got, want)
	}
	w.wait(0)
}

// What starts a process again cannot know whether there is something to go on with.
func TestContinue(t *testing.T) {
	t.Parallel()
	out := filepath.Join(t.TempDir(), "run")
	for _, steps := range []int{2, 4, 4} { // begun, gone on with, and found to be done
		r := lockstep(t, 0, append(train(steps), "--out", out, "--continue")...).report()
		if want := uninterrupted(t, steps); r.Hash != want || r.Step != uint64(steps) {
			t.Errorf("step %d, hash %s; want %d, %s", r.Step, r.Hash, steps, want)
		}
	}
	lockstep(t, 1, append(train(2), "--continue", "--out", "")...).says("--continue", "--out")
}
