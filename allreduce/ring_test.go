package allreduce_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"
	"pgregory.net/rapid"

	"github.com/lockstep-ml/lockstep/allreduce"
	"github.com/lockstep-ml/lockstep/allreduce/memnet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const run = "test-run"

// ringSet is one ring per rank over one network.
type ringSet struct {
	net   *memnet.Network
	rings []*allreduce.Ring
}

func newRings(t failer, size, replicas int, faults memnet.Faults, tweak func(*allreduce.Config)) *ringSet {
	config := func(rank int) allreduce.Config {
		cfg := allreduce.DefaultConfig()
		cfg.Run, cfg.Generation = run, 1
		cfg.Rank, cfg.Size, cfg.Replicas = rank, size, replicas
		if tweak != nil {
			tweak(&cfg)
		}
		return cfg
	}
	s := &ringSet{net: memnet.New(memnet.Config{Run: run, Generation: 1, Size: size, Group: config(0).Group, Faults: faults})}
	for rank := range size {
		r, err := allreduce.New(config(rank), s.net.Endpoint(rank))
		if err != nil {
			t.Fatalf("new: %v", err)
		}
		s.rings = append(s.rings, r)
	}
	return s
}

// close is called where a test, or a draw of a property, ends.
func (s *ringSet) close(t failer) {
	for _, r := range s.rings {
		if err := r.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}
	s.net.Close()
}

type failer interface {
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// call is one bucket's reduction on one rank.
type call func(r *allreduce.Ring, b allreduce.Bucket, local []allreduce.Contribution, dst []float32) error

func mean(r *allreduce.Ring, b allreduce.Bucket, local []allreduce.Contribution, dst []float32) error {
	return r.Reduce(context.Background(), b, local, dst)
}

func sum(r *allreduce.Ring, b allreduce.Bucket, local []allreduce.Contribution, dst []float32) error {
	return r.ReduceSum(context.Background(), b, local, dst)
}

// reduceAll runs one bucket on every rank; hosts[r] is the rank of replica r.
func (s *ringSet) reduceAll(b allreduce.Bucket, f call, all [][]float32, hosts []int) ([][]float32, []error) {
	out := make([][]float32, len(s.rings))
	errs := make([]error, len(s.rings))
	var g errgroup.Group
	for rank, ring := range s.rings {
		var local []allreduce.Contribution
		for replica, host := range hosts {
			if host == rank {
				local = append(local, allreduce.Contribution{Replica: replica, Values: all[replica]})
			}
		}
		out[rank] = make([]float32, len(all[0]))
		g.Go(func() error {
			errs[rank] = f(ring, b, local, out[rank])
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		panic(err) // the goroutines return nil
	}
	return out, errs
}

func sameBits(t failer, what string, got, want []float32) {
	if len(got) != len(want) {
		t.Fatalf("%s: %d values, want %d", what, len(got), len(want))
	}
	for i := range want {
		if math.Float32bits(got[i]) != math.Float32bits(want[i]) {
			t.Fatalf("%s: value %d is %v (%08x), want %v (%08x)", what, i,
				got[i], math.Float32bits(got[i]), want[i], math.Float32bits(want[i]))
		}
	}
}

// drawValue mixes ordinary gradients with the awkward corners of float32.
func drawValue(rng *rand.Rand, spread int) float32 {
	switch rng.IntN(12) {
	case 0:
		return 0
	case 1:
		return math.Float32frombits(rng.Uint32N(1 << 23)) // denormal
	case 2:
		return math.Float32frombits(rng.Uint32() & 0x807fffff) // denormal, either sign
	case 3:
		if spread > 200 {
			return math.MaxFloat32 * float32(1-2*rng.IntN(2))
		}
	case 4: // just below a power of two: what the clamp is for
		return math.Nextafter32(float32(math.Ldexp(1, rng.IntN(spread)-spread/2)), 0)
	}
	return float32(rng.NormFloat64() * math.Ldexp(1, max(-140, min(120, rng.IntN(spread)-spread/2))))
}

// inGroups is a tweak that makes a ring of two levels, after another tweak.
func inGroups(group int, tweak func(*allreduce.Config)) func(*allreduce.Config) {
	return func(c *allreduce.Config) {
		tweak(c)
		c.Group = group
	}
}

// groupsOf lists the groups that size workers divide into.
func groupsOf(size int) (groups []int) {
	for g := range size + 1 {
		if allreduce.CheckGroup(size, g) == nil {
			groups = append(groups, g)
		}
	}
	return groups
}

var sizes = []int{0, 1, 2, 3, 7, 15, 16, 17, 31, 100, 1023, 1024, 1025, 2048, 3000, 5001}

func TestSameBitsForAnyRing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.SampledFrom(sizes).Draw(t, "n")
		replicas := rapid.IntRange(1, 16).Draw(t, "replicas")
		wire := rapid.SampledFrom([]allreduce.Wire{16, 32}).Draw(t, "wire")
		spread := rapid.SampledFrom([]int{1, 4, 20, 270}).Draw(t, "spread")
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		all := make([][]float32, replicas)
		for r := range all {
			all[r] = make([]float32, n)
			for i := range all[r] {
				all[r][i] = drawValue(rng, spread)
			}
		}
		want := referenceMean(all, int(wire), true)
		wantSum := referenceMean(all, 32, false)
		size := rapid.IntRange(1, 9).Draw(t, "size")
		group := rapid.SampledFrom(groupsOf(size)).Draw(t, "group")
		for _, c := range []struct{ size, group int }{{1, 0}, {size, group}} {
			size := c.size
			hosts := make([]int, replicas)
			for r := range hosts {
				hosts[r] = rng.IntN(size)
			}
			segment := 64 << rng.IntN(6)
			window := 1 + rng.IntN(4)
			s := newRings(t, size, replicas, memnet.Faults{}, func(cfg *allreduce.Config) {
				cfg.Wire, cfg.SegmentBytes, cfg.Window, cfg.Group = wire, segment, window, c.group
			})
			out, errs := s.reduceAll(allreduce.Bucket{Step: 1, ID: 0}, mean, all, hosts)
			sums, errsSum := s.reduceAll(allreduce.Bucket{Step: 1, ID: 1}, sum, all, hosts)
			for rank := range size {
				if err := errors.Join(errs[rank], errsSum[rank]); err != nil {
					t.Fatalf("rank %d of %d: %v", rank, size, err)
				}
				sameBits(t, fmt.Sprintf("mean at rank %d of %d", rank, size), out[rank], want)
				sameBits(t, fmt.Sprintf("sum at rank %d of %d", rank, size), sums[rank], wantSum)
			}
			s.close(t)
		}
	})
}

// The topologies that a cluster would have, with every value of both wires the
// same as of a ring of one worker, whoever hosts what.
func TestSameBitsInTwoLevels(t *testing.T) {
	const n, replicas = 20_011, 11
	all := normals(replicas, n, 8)
	rng := rand.New(rand.NewPCG(8, 8))
	for _, wire := range []allreduce.Wire{32, 16} {
		want := referenceMean(all, int(wire), true)
		for _, c := range []struct{ size, group int }{{4, 0}, {4, 2}, {6, 2}, {6, 3}, {8, 0}, {8, 2}, {8, 4}, {9, 3}, {12, 4}} {
			for name, hosts := range map[string][]int{
				"even": spread(replicas, c.size), "one hosts all": make([]int, replicas), "any": anywhere(rng, replicas, c.size),
			} {
				t.Run(fmt.Sprintf("N=%d G=%d w=%d %s", c.size, c.group, wire, name), func(t *testing.T) {
					s := newRings(t, c.size, replicas, memnet.Faults{}, func(cfg *allreduce.Config) {
						cfg.Wire, cfg.Group, cfg.SegmentBytes = wire, c.group, 4096
					})
					defer s.close(t)
					out, errs := s.reduceAll(allreduce.Bucket{Step: 1}, mean, all, hosts)
					if err := errors.Join(errs...); err != nil {
						t.Fatal(err)
					}
					for rank := range out {
						sameBits(t, fmt.Sprintf("rank %d", rank), out[rank], want)
					}
				})
			}
		}
	}
}

// anywhere hosts each replica on a rank drawn at random.
func anywhere(rng *rand.Rand, replicas, size int) []int {
	hosts := make([]int, replicas)
	for r := range hosts {
		hosts[r] = rng.IntN(size)
	}
	return hosts
}
