package main

import (
	"net"
	"path/filepath"
	"testing"
)

// A worker that would not do the same is turned away with the difference, and the run waits for one that would.
func TestWorkersRefused(t *testing.T) {
	t.Parallel()
	other := filepath.Join(t.TempDir(), "other.tar")
	archive(t, other, func(name string, data []byte) []byte {
		if name == "train/rings/003.jpg" {
			return nil
		}
		return data
	})
	c, join := beginCoordinator(t, 4, "--workers", "2")
	good := beginWorker(t, join, "good")
	c.line("worker good is ready")

	for _, r := range []struct {
		name string
		env  []string
		args []string
		says []string
	}{
		{"seed", nil, []string{"--name", "seed", "--seed", "2", "--lr", "0.2"}, []string{"--seed is 2 here and 1 in the run", "--lr is 0.2 here and 0.1 in the run"}},
		{"environment", []string{"LOCKSTEP_ARCH=resnet18"}, []string{"--name", "environment"}, []string{"--arch is resnet18 here and cifar-resnet8 in the run"}},
		{"version", []string{asVersion + "=v9.8.7"}, []string{"--name", "version"}, []string{"version v9.8.7", "version dev"}},
		{"data", nil, []string{"--name", "data", "--data", other}, []string{"59 training images", "60 training images", "fingerprint"}},
		{"name", nil, []string{"--name", "good"}, []string{"good"}},
	} {
		args := append([]string{"worker", "--join", join, "--wait", "2s"}, r.args...)
		begin(t, r.env, args...).wait(1).says(r.says...)
	}

	// The same data somewhere else is the same data.
	copied := filepath.Join(t.TempDir(), "copy.tar")
	archive(t, copied, func(_ string, data []byte) []byte { return data })
	second := beginWorker(t, join, "second", "--data", copied, "--seed", "1", "--batch", "32")
	c.line("worker second is ready")
	third := begin(t, nil, "worker", "--join", join, "--name", "third", "--wait", "2s")
	if got, want := c.wait(0).report().Hash, uninterrupted(t, 4); got != want {
		t.Errorf("hash %s, want %s", got, want)
	}
	good.wait(0)
	second.wait(0)
	<-third.ended // a spare, or too late, whichever it met
}

// Off this machine nothing is spoken in clear.
func TestOffLoopback(t *testing.T) {
	t.Parallel()
	advice := []string{"lockstep certs", "--tls", "--insecure"}
	lockstep(t, 1, append([]string{"coordinator", "--listen", "0.0.0.0:0"}, small(4)...)...).says(append(advice, "0.0.0.0:0")...)
	lockstep(t, 1, append([]string{"coordinator", "--listen", "127.0.0.1:0", "--control", ":0"}, small(4)...)...).says(advice...)
	lockstep(t, 1, "worker", "--join", "192.0.2.1:7946").says(append(advice, "192.0.2.1:7946")...)
	lockstep(t, 1, "worker", "--join", "127.0.0.1:7946", "--listen", "0.0.0.0").says(append(advice, "0.0.0.0")...)
	lockstep(t, 1, "worker", "--join", "127.0.0.1:7946", "--gossip", "0.0.0.0:7947").says(append(advice, "0.0.0.0:7947")...)
	lockstep(t, 1, train(4, "--otlp", "192.0.2.1:4317")...).says(append(advice, "192.0.2.1:4317")...)

	c := begin(t, nil, append([]string{"coordinator", "--json", "--listen", "0.0.0.0:0", "--insecure", "--advertise", "127.0.0.1", "--workers", "1"}, small(4)...)...)
	join := c.line(`lockstep worker --join (\S+)`)[1]
	w := begin(t, nil, "worker", "--join", join, "--listen", "0.0.0.0", "--advertise", "127.0.0.1", "--insecure")
	if got, want := c.wait(0).report().Hash, uninterrupted(t, 4); got != want {
		t.Errorf("hash %s, want %s", got, want)
	}
	w.wait(0)
}

func TestPortInUse(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	addr := l.Addr().String()
	for _, flag := range []string{"--listen", "--control"} {
		args := append([]string{"coordinator", "--listen", "127.0.0.1:0"}, small(4)...)
		lockstep(t, 1, append(args, flag, addr)...).says(addr+" is in use", "choose another address")
	}
	c, join := beginCoordinator(t, 4, "--workers", "1")
	lockstep(t, 1, "worker", "--join", join, "--listen", addr, "--name", "taken").says(addr, "in use")
	w := beginWorker(t, join, "free")
	c.wait(0)
	w.wait(0)
}
