package simulate

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"time"
)

// What is reduced all at once takes about what the coordinator's estimate says. It leaves the exponents out, which are many in a long
// flat ring, and headers.
func TestReduceIsTheCoordinatorsEstimate(t *testing.T) {
	m := resnet50()
	for _, c := range []struct {
		workers, group int
		most           float64 // that it may be longer
	}{{2, 1, 0.01}, {8, 1, 0.02}, {8, 4, 0.02}, {64, 8, 0.02}, {1024, 32, 0.02}, {256, 1, 0.15}} {
		var l load
		for _, b := range m.Buckets {
			l.add(b.Values, 4, c.workers, c.group)
		}
		got, want := m.reduce(l, c.workers, c.group).Seconds(), m.Traffic().Estimate(c.workers, c.group).Seconds()
		if got < want || got > want*(1+c.most) {
			t.Errorf("%d workers in groups of %d: %v s, the coordinator estimates %v s", c.workers, c.group, got, want)
		}
	}
}

// The bytes are those of docs/design/0002-exact-ring.md, "Two levels".
func TestBytesOfABucket(t *testing.T) {
	var l load
	l.add(1<<20, 4, 8, 4) // chunks of 1 MiB, four segments
	bytes, messages := l.sent(8, 4)
	const hops = 3 + 1
	if want := float64(hops * (1 + 2*4)); messages != want {
		t.Errorf("%v messages, want %v", messages, want)
	}
	if want := 2*7/8.0*4*(1<<20) + hops*1024 + messages*messageBytes; bytes != want {
		t.Errorf("%v bytes, want %v", bytes, want)
	}
}

// Communication hides behind computing as far as the last bucket lets it, and not where the link is slow.
func TestTail(t *testing.T) {
	m := resnet50()
	all := m.Step(8, 1, 0, 0).Tail // nothing to hide behind
	hidden := m.Step(8, 1, 10*time.Second, 10*time.Second).Tail
	var last load
	last.add(m.Statistics, 4, 8, 1)
	last.add(1<<20, 4, 8, 1)
	if want := m.reduce(last, 8, 1); hidden != want {
		t.Errorf("behind ten seconds of computing the tail is %v, want that of the last bucket, %v", hidden, want)
	}
	if hidden > all/5 {
		t.Errorf("tail %v, without computing %v", hidden, all)
	}
	m.BytesPerSecond /= 1000
	if slow := m.Step(8, 1, time.Second, time.Second).Tail; slow < 100*time.Second {
		t.Errorf("tail %v on a link that needs minutes", slow)
	}
	if s := m.Step(1, 1, time.Second, time.Second); s.Tail != 0 || s.Bytes != 0 || s.Took != time.Second+m.Update {
		t.Errorf("a worker alone: %+v", s)
	}
}

func TestCrowdSharesCoresEvenly(t *testing.T) {
	const s = time.Second
	for _, c := range []struct {
		cores, threads int
		alone, want    []time.Duration
		end            float64
	}{
		{0, 1, []time.Duration{3 * s, 3 * s, 2 * s}, []time.Duration{3 * s, 3 * s, 2 * s}, 1},
		{4, 1, []time.Duration{3 * s, 3 * s, 2 * s}, []time.Duration{3 * s, 3 * s, 2 * s}, 1},
		{2, 1, []time.Duration{3 * s, 3 * s, 2 * s}, []time.Duration{4 * s, 4 * s, 3 * s}, 1},
		{2, 1, []time.Duration{2 * s, 2 * s, 2 * s, 2 * s}, []time.Duration{4 * s, 4 * s, 4 * s, 4 * s}, 2},
		{2, 2, []time.Duration{s, 2 * s}, []time.Duration{2 * s, 3 * s}, 1},
		{1, 1, []time.Duration{0, s}, []time.Duration{0, s}, 1},
	} {
		m := resnet50()
		m.Cores, m.Threads = c.cores, c.threads
		if done, end := m.crowd(c.alone); !slices.Equal(done, c.want) || end != c.end {
			t.Errorf("%v on %d cores, %d each: done after %v, %v times as long at the end; want %v, %v", c.alone, c.cores, c.threads, done, end, c.want, c.end)
		}
	}
}

// cifar is what was measured of cifar-resnet20 on a machine of two cores: see docs/design/0010-simulation.md, which has the commands.
func cifar(hop time.Duration, rate, cpu float64) Model {
	m := Model{
		Hop: hop, BytesPerSecond: rate, RingCPU: cpu / 1e9, Message: 20 * time.Microsecond, Compute: 63264 * time.Microsecond,
		Statistics: 1381, Wire: 32, Cores: 2, Threads: 1,
	}
	left := 272474
	for left > 0 {
		b := Bucket{Values: min(left, 64<<10)}
		left -= b.Values
		b.Ready = 1 - 2.0/3*float64(left)/272474
		m.Buckets = append(m.Buckets, b)
	}
	return m
}

// The model's error against runs on one machine, so that whoever changes the model sees what that does to it.
func TestModelAgainstMeasuredRuns(t *testing.T) {
	for _, c := range []struct {
		workers   int
		hop       time.Duration
		rate, cpu float64
		measured  float64 // seconds of a step, the middle of five runs
	}{
		{2, 55709, 1718431940, 1.488, 0.2521},
		{3, 61587, 1330747543, 2.767, 0.2717},
		{4, 64497, 1249365731, 4.313, 0.2622},
	} {
		t.Run(fmt.Sprintf("%d workers", c.workers), func(t *testing.T) {
			m := cifar(c.hop, c.rate, c.cpu)
			s, _ := m.Ideal(c.workers, 8, 1)
			off := s.Took.Seconds()/c.measured - 1
			t.Logf("foretold %.4f s, measured %.4f s: %+.1f %%", s.Took.Seconds(), c.measured, 100*off)
			if math.Abs(off) > 0.08 {
				t.Errorf("foretold %v s, measured %v s", s.Took.Seconds(), c.measured)
			}
		})
	}
}
