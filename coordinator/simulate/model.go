package simulate

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/lockstep-ml/lockstep/coordinator"
)

// Model says how long things take. It follows docs/design/0002-exact-ring.md, "When it pays".
type Model struct {
	// Hop is what a message without weight takes to a neighbour, the handling at both ends included.
	Hop time.Duration
	// BytesPerSecond is what a worker sends while all send and receive.
	BytesPerSecond float64
	// Message is what a worker's processor spends on one more message.
	Message time.Duration
	// Compute is a replica's forward and backward pass on a worker alone on its cores.
	Compute time.Duration
	// Update is what applying the gradient takes.
	Update time.Duration

	// Buckets are the gradient's, in the order in which the backward pass finishes them; Statistics the values of the bucket behind.
	Buckets    []Bucket
	Statistics int
	Wire       int // bits of a value of the gradient

	// Cores, if not 0, is how many cores all workers share, each of which would use Threads of them; 0: machines of their own.
	Cores, Threads int
	// RingCPU is the processor time in seconds, of all workers together, that the ring takes for a byte of gradient, as float32. It counts
	// only where cores are shared: there it is taken from computing.
	RingCPU float64
}

// Bucket is a run of the gradient that is reduced together.
type Bucket struct {
	Values int
	Ready  float64 // share of a replica's pass after which it is final
}

const (
	// blockValues share one exponent, which is a byte.
	blockValues = 1024
	// messageBytes go before a payload on the wire.
	messageBytes = 128
	// statisticsBytes is the size of a value of the last bucket, whatever the wire.
	statisticsBytes = 4
)

// Validate reports every fault at once.
func (m *Model) Validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf("simulate: "+format, args...))
		}
	}
	check(m.Hop >= 0 && m.Hop < time.Minute && m.Message >= 0 && m.Message < time.Second, "a hop of %v, %v for a message", m.Hop, m.Message)
	check(m.BytesPerSecond > 0, "%v bytes a second, want more than none", m.BytesPerSecond)
	check(m.Compute > 0 && m.Compute < time.Hour && m.Update >= 0 && m.Update < time.Hour, "%v to compute a replica and %v to update", m.Compute, m.Update)
	check(len(m.Buckets) > 0 && m.Statistics >= 0, "%d buckets and %d statistics", len(m.Buckets), m.Statistics)
	check(m.Wire == 16 || m.Wire == 32, "%d bits on the wire, want 16 or 32", m.Wire)
	check(m.Cores >= 0 && m.Threads >= 0 && m.RingCPU >= 0, "%d cores, %d threads, %v for a byte", m.Cores, m.Threads, m.RingCPU)
	last := 0.0
	for i, b := range m.Buckets {
		check(b.Values > 0 && b.Ready >= last && b.Ready <= 1, "bucket %d of %d values is ready at %v of a pass, the one before at %v", i, b.Values, b.Ready, last)
		last = b.Ready
	}
	return errors.Join(errs...)
}

// Values is the length of a gradient.
func (m *Model) Values() int {
	n := 0
	for _, b := range m.Buckets {
		n += b.Values
	}
	return n
}

// stepBytes is a replica's gradient on the wire.
func (m *Model) stepBytes() int { return m.Values() * m.Wire / 8 }

// stateBytes is a training state: weights, momentum and running statistics.
func (m *Model) stateBytes() float64 { return 4 * float64(2*m.Values()+m.Statistics) }

// copying is how long a whole state takes from one worker to another.
func (m *Model) copying() time.Duration { return seconds(m.stateBytes() / m.BytesPerSecond) }

// Traffic is what workers that measure the links tell the coordinator.
func (m *Model) Traffic() coordinator.Traffic {
	return coordinator.Traffic{Hop: max(1, m.Hop), BytesPerSecond: m.BytesPerSecond, StepBytes: uint64(m.stepBytes()), Buckets: len(m.Buckets)}
}

// hops of one pass of a ring of so many workers.
func hops(workers, group int) int {
	if group <= 1 {
		group = workers
	}
	return group - 1 + workers/group - 1
}

// load is what a worker has to send for some buckets.
type load struct {
	buckets  int
	bytes    float64 // of one replica's values on the wire
	values   int
	segments float64 // of a worker's own chunks
}

func (l *load) add(values, bytesEach, workers, group int) {
	if group <= 1 {
		group = workers
	}
	chunk := max(1, values*bytesEach/group)
	l.buckets++
	l.values += values
	l.bytes += float64(values * bytesEach)
	l.segments += float64((chunk + coordinator.RingSegment - 1) / coordinator.RingSegment)
}

// sent is the bytes that a worker sends, and in how many messages.
func (l *load) sent(workers, group int) (bytes, messages float64) {
	n, h := float64(workers), float64(hops(workers, group))
	messages = h * (float64(l.buckets) + 2*l.segments)
	exponents := h * float64((l.values+blockValues-1)/blockValues)
	return 2*(n-1)/n*l.bytes + exponents + messages*messageBytes, messages
}

// reduce is how long it takes to reduce that, all at once.
func (m *Model) reduce(l load, workers, group int) time.Duration {
	h, a := float64(hops(workers, group)), m.Hop.Seconds()
	underway := float64(max(coordinator.RingWindow, l.buckets))
	bytes, messages := l.sent(workers, group)
	laps := 2 * h * a * max(0, l.segments/underway-1)
	return seconds(3*h*a + max(bytes/m.BytesPerSecond, laps) + messages*m.Message.Seconds())
}

// A Step is what a step takes.
type Step struct {
	Took    time.Duration
	Compute time.Duration // of the worker that computes longest
	Tail    time.Duration // of the all-reduce, that no computing hides
	Bytes   float64       // that a worker sends
}

// Step gives a step of a ring of so many workers: compute is what the worker takes that computes longest, pass its last replica's part of it.
//
// Links are busy whenever a bucket is there. So a step ends when the last busy stretch does: for each bucket, if the links were
// idle until it was ready, it and those behind it take as long as if they had all been ready then.
func (m *Model) Step(workers, group int, compute, pass time.Duration) Step {
	s := Step{Compute: compute, Took: compute}
	if workers > 1 {
		start := compute - pass
		var l load
		l.add(max(1, m.Statistics), statisticsBytes, workers, group)
		end := compute + m.reduce(l, workers, group)
		for i := len(m.Buckets) - 1; i >= 0; i-- {
			l.add(m.Buckets[i].Values, m.Wire/8, workers, group)
			ready := start + time.Duration(m.Buckets[i].Ready*float64(pass))
			end = max(end, ready+m.reduce(l, workers, group))
		}
		s.Tail, s.Took = end-compute, end
		s.Bytes, _ = l.sent(workers, group)
	}
	s.Took += m.Update
	return s
}

// of gives a step in which workers take so long for their replicas, each alone on its cores, and the time after which each has computed.
func (m *Model) of(group int, alone []time.Duration, replicas []int) (Step, []time.Duration) {
	done, crowd := m.crowd(alone)
	last := 0
	for i, d := range done {
		if d > done[last] {
			last = i
		}
	}
	pass := min(done[last], time.Duration(crowd*float64(alone[last])/float64(max(1, replicas[last]))))
	s := m.Step(len(alone), group, done[last], pass)
	s.Took = max(s.Took, m.shared(alone))
	return s, done
}

// crowd gives when each of the workers is done that share the cores evenly, and how many times as long the last ones take at the end as
// they would alone. Where cores are not shared all take what they take.
func (m *Model) crowd(alone []time.Duration) (done []time.Duration, atEnd float64) {
	if m.Cores == 0 {
		return alone, 1
	}
	order := make([]int, len(alone))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(alone[a], alone[b]) })
	done = make([]time.Duration, len(alone))
	now, worked, atEnd := time.Duration(0), time.Duration(0), 1.0
	for k, i := range order {
		if alone[i] > worked {
			atEnd = max(1, float64((len(order)-k)*max(1, m.Threads))/float64(m.Cores))
			now += time.Duration(atEnd * float64(alone[i]-worked))
			worked = alone[i]
		}
		done[i] = now
	}
	return done, atEnd
}

// shared is what a step takes at least where cores are shared: all the work there is, on all the cores.
func (m *Model) shared(alone []time.Duration) time.Duration {
	if m.Cores == 0 {
		return 0
	}
	busy := m.Update.Seconds() * float64(len(alone))
	for _, d := range alone {
		busy += d.Seconds() * float64(max(1, m.Threads))
	}
	if len(alone) > 1 {
		busy += m.RingCPU * 4 * float64(m.Values())
	}
	return seconds(busy / float64(m.Cores))
}

// Ideal is a step of a whole cluster: equal workers, none missing, the topology that the coordinator would choose.
func (m *Model) Ideal(workers, replicas, group int) (Step, int) {
	if group == 0 {
		group = coordinator.ChooseGroup(workers, m.Traffic())
	} else if workers%group != 0 {
		group = 1
	}
	alone, hosted := make([]time.Duration, workers), make([]int, workers)
	for i := range alone {
		hosted[i] = (replicas + workers - 1 - i) / workers
		alone[i] = time.Duration(hosted[i]) * m.Compute
	}
	s, _ := m.of(group, alone, hosted)
	return s, group
}

// measuring is how long the links' measurement takes: ten buckets without weight and four of 4 MiB, as allreduce.Ring.Measure does.
func (m *Model) measuring(workers, group int) time.Duration {
	var small, large load
	small.add(workers, 4, workers, group)
	large.add(1<<20, 4, workers, group)
	return 10*m.reduce(small, workers, group) + 4*m.reduce(large, workers, group)
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
