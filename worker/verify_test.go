package worker

import (
	"maps"
	"math"
	"slices"
	"testing"

	pb "github.com/lockstep-ml/lockstep/internal/proto/lockstep/v1"
)

// told is what workers say of states and audits until each has ended its window. The hash of the last state may come later.
type told struct {
	hashes map[uint64][]string // by step
	audits map[uint64][]*pb.Audit
	ends   []string
}

func (c *cluster) told(from uint64, names ...string) told {
	c.t.Helper()
	out := told{hashes: map[uint64][]string{}, audits: map[uint64][]*pb.Audit{}}
	for _, name := range names {
		reported := from
		for ended := false; !ended; {
			m := c.seat(name).next()
			if r := m.GetStep(); r != nil {
				reported, ended = r.Step, r.Last
				if ended {
					out.ends = append(out.ends, r.StateHash)
				}
			}
			if h := m.GetStateHash(); h != nil {
				if h.Step > reported {
					c.t.Errorf("%s tells the hash of step %d, having reported step %d", name, h.Step, reported)
				}
				out.hashes[h.Step] = append(out.hashes[h.Step], h.Hash)
			}
			if a := m.GetAudit(); a != nil {
				out.audits[a.Step] = append(out.audits[a.Step], a)
			}
		}
	}
	return out
}

// verified makes a plan with states compared after every other step.
func (c *cluster) verified(generation, sequence, first, until uint64, ring []string, hosts ...uint32) *pb.Plan {
	p := c.plan(generation, sequence, first, until, ring, hosts...)
	p.VerifyEvery = 2
	return p
}

func agree(c *cluster, step uint64, names ...string) {
	c.t.Helper()
	for _, name := range names {
		c.seat(name).send(&pb.CoordinatorMessage{Body: &pb.CoordinatorMessage_Verified{Verified: &pb.Verified{Step: step}}})
	}
}

// Of the step behind each compared state, two workers tell the digest of one replica. Equal bits have equal digests, and no auditor
// changes a bit.
func TestAuditsAgree(t *testing.T) {
	c := newCluster(t)
	c.enter(true, "a", "b", "d")
	c.publish(c.verified(1, 1, 0, 8, []string{"a", "b", "d"}, 0, 2, 2, 0)) // b hosts nothing, so it audits nothing
	got := c.told(0, "a", "b", "d")
	if steps := slices.Sorted(maps.Keys(got.audits)); !slices.Equal(steps, []uint64{0, 2, 4, 6}) {
		t.Errorf("audits of steps %v", steps)
	}
	for step, a := range got.audits {
		want := uint32(step / 2 % testReplicas)
		if len(a) != 2 || a[0].Digest != a[1].Digest || len(a[0].Digest) != 64 || a[0].Replica != want || a[1].Replica != want || a[0].Generation != 1 {
			t.Errorf("step %d: audits %v", step, a)
		}
	}
	if want := undisturbed(t, 8); !slices.Equal(got.ends, []string{want, want, want}) {
		t.Errorf("ended with %v, want %v", got.ends, want)
	}
}

// One bit that flips in a gradient shows in the audit of that replica.
func TestAuditShowsAFlippedBit(t *testing.T) {
	c := newCluster(t)
	c.start("a", nil)
	c.enter(true, "a")
	c.start("b", func(cfg *Config) {
		cfg.Faults = &Faults{Gradient: func(step uint64, replica int, values []float32, offset int) {
			if step == 4 && replica == 2 && offset == 0 {
				values[0] = math.Float32frombits(math.Float32bits(values[0]) ^ 1)
			}
		}}
	})
	c.enter(true, "b")
	c.publish(c.verified(1, 1, 0, 8, []string{"a", "b"}, 0, 0, 1, 1))
	for step, a := range c.told(0, "a", "b").audits {
		if len(a) != 2 || (a[0].Digest == a[1].Digest) != (step != 4) {
			t.Errorf("step %d: audits %v", step, a)
		}
	}
}

// A flipped weight shows in the hashes; all go back to the state that they agreed on and do the steps again.
func TestGoingBack(t *testing.T) {
	c := newCluster(t)
	flipped := false
	c.start("a", func(cfg *Config) { cfg.Tracer = slowTracer{} }) // slow to report a step, so that its hash could come before
	c.enter(true, "a")
	c.start("b", func(cfg *Config) {
		cfg.Faults = &Faults{State: func(step uint64, params []float32) bool {
			if step != 5 || flipped {
				return false
			}
			flipped = true
			params[3] = math.Float32frombits(math.Float32bits(params[3]) ^ 1<<20)
			return true
		}}
	})
	c.enter(true, "b")
	for step := uint64(0); step < 4; step += 2 {
		c.publish(c.verified(1, step, step, step+2, []string{"a", "b"}, 0, 1, 0, 1))
		c.told(step, "a", "b")
		agree(c, step+2, "a", "b")
	}
	c.publish(c.verified(1, 8, 4, 8, []string{"a", "b"}, 0, 1, 0, 1))
	wrong := c.told(4, "a", "b")
	if h := wrong.hashes[6]; len(h) != 2 || h[0] == h[1] {
		t.Fatalf("after a bit flipped the hashes are %v", h)
	}
	c.pause("a", "b")
	for _, name := range []string{"a", "b"} {
		if x := c.aborted(name); !slices.Contains(x.Kept, 4) || x.Step != 8 {
			t.Fatalf("%s says %v, want it to have kept step 4", name, x)
		}
	}
	p := c.verified(2, 9, 4, 8, []string{"a", "b"}, 0, 1, 0, 1)
	p.Restore = true
	c.publish(p)
	right := c.told(4, "a", "b")
	want := undisturbed(t, 8)
	if !slices.Equal(right.ends, []string{want, want}) {
		t.Errorf("done again, the steps end with %v, want %v", right.ends, want)
	}
}

// Of the states that a worker has copied, two are kept: the newest that is agreed on, and one to come.
func TestKeptStates(t *testing.T) {
	network := testNetwork(t)
	var k keptStates
	copied := func(step uint64) bool {
		s := k.room(lengthsOf(network))
		if s == nil {
			return false
		}
		s.Step = step
		k.add(s)
		return true
	}
	have := func(what string, want ...uint64) {
		t.Helper()
		if got := k.steps(); !slices.Equal(got, want) {
			t.Errorf("%s: kept %v, want %v", what, got, want)
		}
	}
	copied(0)
	copied(10)
	if copied(20) {
		t.Error("a third state was kept while the second is not agreed on")
	}
	have("before any word", 0, 10)
	k.agree(5)
	have("agreed on what never was", 0, 10)
	k.agree(10)
	have("agreed on 10", 10)
	copied(20)
	k.agree(30)
	have("agreed on 30, which was not kept", 10)
	copied(40)
	k.agree(40)
	have("agreed on 40", 40)
	copied(50)
	if k.rewind(40).Step != 40 {
		t.Error("going back to 40 gave another state")
	}
	have("went back to 40", 40)
	if k.rewind(30) != nil {
		t.Error("went back to a state that was given up")
	}
}
