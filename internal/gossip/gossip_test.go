package gossip

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
	"go.uber.org/goleak"
)

// patience bounds what a test waits for; only a hang takes that long.
const patience = 30 * time.Second

// memberlist waits for no probe in flight when it shuts down; one ends by itself within the TCP timeout.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/hashicorp/memberlist.(*Memberlist).probeNode"),
		goleak.IgnoreAnyFunction("github.com/hashicorp/memberlist.(*Memberlist).sendPingAndWaitForAck"))
}

func coordinatorConfig(name string) Config {
	return Config{Name: name, Role: Coordinator, BindAddr: "127.0.0.1:0", Meta: Meta{RPC: "127.0.0.1:5000", Run: "r1", Version: "v1"}, Label: "test"}
}

func workerConfig(name string, join ...string) Config {
	return Config{Name: name, Role: Worker, BindAddr: "127.0.0.1:0", Join: join, Label: "test"}
}

func mustStart(t *testing.T, cfg Config) *Node {
	t.Helper()
	n, err := Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Errorf("%s: %v", cfg.Name, err)
		}
	})
	return n
}

// next waits for an event of the given kind about the given node.
func next(t *testing.T, n *Node, kind Kind, name string) {
	t.Helper()
	late := time.After(patience)
	for {
		select {
		case ev, ok := <-n.Events():
			if !ok {
				t.Fatalf("events ended before %s %s", name, kind)
			}
			if ev.Kind == kind && ev.Name == name {
				return
			}
		case <-late:
			t.Fatalf("never heard that %s %s", name, kind)
		}
	}
}

// TestFind: workers find the coordinator through any member; it hears of them coming, going in order, and dying.
func TestFind(t *testing.T) {
	for _, key := range [][]byte{nil, bytes.Repeat([]byte{7}, 32)} {
		cfg := coordinatorConfig("coord")
		cfg.Key = key
		c := mustStart(t, cfg)
		w1cfg := workerConfig("w1", c.Addr())
		w1cfg.Key = key
		w1 := mustStart(t, w1cfg)
		w2cfg := workerConfig("w2", "127.0.0.1:1", w1.Addr()) // the first address is dead, the second no coordinator
		w2cfg.Key = key
		w2 := mustStart(t, w2cfg)
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		for _, w := range []*Node{w1, w2} {
			meta, err := w.Coordinator(ctx)
			if err != nil || meta != cfg.Meta {
				t.Fatalf("found %+v, %v", meta, err)
			}
		}
		cancel()
		next(t, c, Joined, "w1")
		next(t, c, Joined, "w2")
		if got := c.Members(); !slices.Equal(got, []string{"w1", "w2"}) {
			t.Errorf("members %v", got)
		}
		if err := w2.Close(); err != nil {
			t.Fatal(err)
		}
		next(t, c, Left, "w2")
		// A dying process says no goodbye.
		die(t, w1)
		next(t, c, Dead, "w1")
	}
}

// die ends a node as a killed process ends: without a goodbye.
func die(t *testing.T, n *Node) {
	n.once.Do(func() {
		if err := n.list.Shutdown(); err != nil {
			t.Error(err)
		}
		close(n.quit)
		n.pump.Wait()
	})
}

func TestNoCoordinator(t *testing.T) {
	a := mustStart(t, workerConfig("w1"))
	b := mustStart(t, workerConfig("w2", a.Addr()))
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("waited long enough")
	cancel(why)
	_, err := b.Coordinator(ctx)
	if !errors.Is(err, ErrNoCoordinator) || !errors.Is(err, why) || !strings.Contains(err.Error(), "w1") || !strings.Contains(err.Error(), a.Addr()) {
		t.Errorf("error %v", err)
	}
}

func TestNobodyAnswers(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Start(workerConfig("w1", addr)); !errors.Is(err, ErrNobody) || !strings.Contains(err.Error(), addr) {
		t.Errorf("error %v", err)
	}
}

// TestStrangers: another key, another cluster's name, and no key at all are kept out, and told so.
func TestStrangers(t *testing.T) {
	cfg := coordinatorConfig("coord")
	cfg.Key = bytes.Repeat([]byte{1}, 32)
	c := mustStart(t, cfg)
	for what, change := range map[string]func(*Config){
		"another key":     func(w *Config) { w.Key = bytes.Repeat([]byte{2}, 32) },
		"no key":          func(w *Config) { w.Key = nil },
		"another cluster": func(w *Config) { w.Label = "other" },
	} {
		w := workerConfig("w1", c.Addr())
		w.Key = cfg.Key
		change(&w)
		if _, err := Start(w); !errors.Is(err, ErrNotAccepted) || !strings.Contains(err.Error(), c.Addr()) {
			t.Errorf("%s: error %v", what, err)
		}
	}
	if got := c.Members(); len(got) != 0 {
		t.Errorf("strangers became members: %v", got)
	}
}

func TestSecondCoordinator(t *testing.T) {
	c := mustStart(t, coordinatorConfig("coord"))
	w := mustStart(t, workerConfig("w1", c.Addr()))
	for _, at := range []*Node{c, w} {
		second := coordinatorConfig("second")
		second.Join = []string{at.Addr()}
		if _, err := Start(second); !errors.Is(err, ErrTwo) || !strings.Contains(err.Error(), "coord") {
			t.Errorf("joining at %s: error %v", at.Addr(), err)
		}
	}
	if got := w.Members(); !slices.Equal(got, []string{"coord"}) {
		t.Errorf("members %v", got)
	}
}

// successor is a coordinator of the same run that counts on.
func successor(epoch uint64) Config {
	cfg := coordinatorConfig(fmt.Sprint("coord-", epoch))
	cfg.Meta.Epoch, cfg.Meta.RPC = epoch, fmt.Sprint("127.0.0.1:", 5000+epoch)
	return cfg
}

// follows waits until a node takes the coordinator of an epoch for the run's.
func follows(t *testing.T, n *Node, epoch uint64) {
	t.Helper()
	late := time.After(patience)
	for {
		n.mu.Lock()
		meta, changed := n.coordinator()
		woken := n.changed
		n.mu.Unlock()
		if changed && meta.Epoch == epoch {
			return
		}
		select {
		case <-woken:
		case <-late:
			t.Fatalf("%s follows %+v, not coordinator %d", n.cfg.Name, meta, epoch)
		}
	}
}

// TestSuccessor: a later coordinator of the run finds the workers by their addresses and is followed at once, whether the earlier one has died
// or not; what is told of an earlier one is not heard any more, and a coordinator of another run is refused as before.
func TestSuccessor(t *testing.T) {
	first := mustStart(t, successor(1))
	w1 := mustStart(t, workerConfig("w1", first.Addr()))
	w2 := mustStart(t, workerConfig("w2", first.Addr()))
	follows(t, w1, 1)
	next(t, w1, Joined, "w2")
	second := mustStart(t, successor(2))
	if n := second.Reach([]string{"127.0.0.1:1", w1.Addr()}); n != 1 {
		t.Fatalf("%d of a dead address and a live one took the successor in", n)
	}
	follows(t, w1, 2)
	follows(t, w2, 2)
	late := mustStart(t, workerConfig("w3", w2.Addr()))
	follows(t, late, 2)

	old := &memberlist.Node{Name: "coord-1", State: memberlist.StateAlive, Meta: []byte(`{"role":"coordinator","run":"r1","epoch":1}`)}
	for _, n := range []*Node{w1, w2, second} {
		if err := (&delegate{node: n}).NotifyAlive(old); !errors.Is(err, ErrTwo) || !strings.Contains(err.Error(), "coord-2") {
			t.Errorf("%s heard of an earlier coordinator: %v", n.cfg.Name, err)
		}
		if err := (&delegate{node: n}).NotifyMerge([]*memberlist.Node{old}); err != nil {
			t.Errorf("%s refuses a cluster that has not noticed yet: %v", n.cfg.Name, err)
		}
	}
	stranger := successor(3)
	stranger.Meta.Run, stranger.Join = "r2", []string{w1.Addr()}
	if _, err := Start(stranger); !errors.Is(err, ErrTwo) || !strings.Contains(err.Error(), "coord-") {
		t.Errorf("a coordinator of another run: %v", err)
	}
	follows(t, w1, 2)
}

func TestPortInUse(t *testing.T) {
	c := mustStart(t, coordinatorConfig("coord"))
	second := coordinatorConfig("second")
	second.BindAddr = c.Addr()
	if _, err := Start(second); err == nil || !strings.Contains(err.Error(), c.Addr()) {
		t.Errorf("error %v", err)
	}
}

// TestSlowReader: nothing is lost while nobody reads, and closing does not wait for a reader.
func TestSlowReader(t *testing.T) {
	c := mustStart(t, coordinatorConfig("coord"))
	names := []string{"a", "b", "c"}
	for range 10 { // more events than the channel holds
		for _, name := range names {
			c.note(Joined, name, peer{Role: Worker})
		}
	}
	for i := range 25 {
		if ev := <-c.Events(); ev.Name != names[i%3] {
			t.Fatalf("event %d is about %s", i, ev.Name)
		}
	}
	for range 2 {
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestConfigFaults(t *testing.T) {
	_, err := Start(Config{Role: Coordinator, BindAddr: "nowhere", Join: []string{"x:y"}, Key: []byte("short"), Label: strings.Repeat("l", 300)})
	for _, want := range []string{"needs a name", "control server", `"nowhere"`, `"x:y"`, "5 bytes", "300 bytes"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("faults: %v; %q is missing", err, want)
		}
	}
	long := coordinatorConfig("coord")
	long.Meta.Run = strings.Repeat("r", 600)
	if _, err := Start(long); err == nil || !strings.Contains(err.Error(), "shorten the run's name") {
		t.Errorf("long metadata: %v", err)
	}
}

// FuzzMeta: metadata comes from other machines.
func FuzzMeta(f *testing.F) {
	f.Add([]byte(`{"role":"coordinator","rpc":"10.0.0.1:7","run":"r","version":"v"}`))
	f.Add([]byte(`{"role":"worker"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := parseMeta(b)
		if err == nil && p.Role != Worker && p.Role != Coordinator {
			t.Fatalf("role %q was taken", p.Role)
		}
	})
}
