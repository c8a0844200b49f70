package worker

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel/trace/noop"

	"github.com/lockstep-ml/lockstep/allreduce"
	"github.com/lockstep-ml/lockstep/allreduce/memnet"
	"github.com/lockstep-ml/lockstep/core"
	"github.com/lockstep-ml/lockstep/core/reference"
)

const (
	testReplicas = 4
	testBatch    = 3
	testSide     = 7
	testClasses  = 5
)

// testNetwork is small, but has every kind of parameter and more than one block of values.
func testNetwork(t testing.TB) *core.Network {
	t.Helper()
	n, err := core.NewNetwork("test", testSide, testClasses, []core.Node{
		{Op: core.OpInput, Channels: 3},
		{Op: core.OpConv, Name: "conv1", Inputs: []int{0}, Channels: 16, Kernel: 3, Stride: 1, Pad: 1},
		{Op: core.OpBatchNorm, Name: "bn1", Inputs: []int{1}, Channels: 16},
		{Op: core.OpReLU, Inputs: []int{2}, Channels: 16},
		{Op: core.OpConv, Name: "conv2", Inputs: []int{3}, Channels: 16, Kernel: 3, Stride: 1, Pad: 1},
		{Op: core.OpBatchNorm, Name: "bn2", Inputs: []int{4}, Channels: 16},
		{Op: core.OpAdd, Inputs: []int{5, 3}, Channels: 16},
		{Op: core.OpGlobalAvgPool, Inputs: []int{6}, Channels: 16},
		{Op: core.OpLinear, Name: "fc", Inputs: []int{7}, Channels: testClasses},
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// testData draws a replica's batch from (step, replica) alone. poison makes one replica's images NaN at one step.
type testData struct {
	poisonStep    uint64
	poisonReplica int // -1: none
}

func (d testData) batch(step uint64, replica int) core.Batch {
	rng := rand.New(rand.NewPCG(step, uint64(replica)))
	b := core.Batch{Images: make([]float32, testBatch*3*testSide*testSide), Labels: make([]int32, testBatch)}
	for i := range b.Images {
		b.Images[i] = float32(rng.NormFloat64())
	}
	for i := range b.Labels {
		b.Labels[i] = int32(rng.IntN(testClasses))
	}
	if step == d.poisonStep && replica == d.poisonReplica {
		b.Images[5] = float32(math.NaN())
	}
	return b
}

func (d testData) Next(_ context.Context, step uint64, replicas []int) (Batches, error) {
	out := Batches{Release: func() {}}
	for _, r := range replicas {
		out.Replica = append(out.Replica, d.batch(step, r))
	}
	return out, nil
}

func (d testData) Evaluate(_ context.Context, k, n int, visit func(core.Batch) error) ([]Skipped, error) {
	for b := k; b < 6; b += n {
		if err := visit(d.batch(1<<40, b)); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// exactRing adapts the exact ring as the command line does.
type exactRing struct{ *allreduce.Ring }

func (r exactRing) Measure(context.Context) (time.Duration, float64, error) {
	return 0, 0, errors.New("this ring is not measured")
}

func (r exactRing) Mean(ctx context.Context, step uint64, bucket int, exact bool, local []Contribution, dst []float32) error {
	parts := make([]allreduce.Contribution, len(local))
	for i, c := range local {
		parts[i] = allreduce.Contribution(c)
	}
	b := allreduce.Bucket{Step: step, ID: bucket}
	if exact {
		b.Wire = allreduce.Wire32
	}
	err := r.Reduce(ctx, b, parts, dst)
	var nf *allreduce.NonFiniteError
	if errors.As(err, &nf) {
		return nonFiniteErr{nf}
	}
	return err
}

type nonFiniteErr struct{ *allreduce.NonFiniteError }

func (e nonFiniteErr) NonFinite() (int, int, bool) { return e.Replica, e.Index, e.Local }

// member is one worker of a test cluster.
type member struct {
	*trainer
	ring     Ring
	replicas []int
}

func newMember(t *testing.T, data Data) *member {
	t.Helper()
	net := testNetwork(t)
	e, err := reference.New[float32](net, core.CompileConfig{Batch: testBatch, Resolution: testSide, Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	s := core.NewState[float32](net)
	core.InitHe(net, 7, s)
	if err := e.SetState(s); err != nil {
		t.Fatal(err)
	}
	job := &Job{Network: net, Engine: e, Data: data, Replicas: testReplicas, ReplicaBatch: testBatch,
		SGD: core.SGD{Momentum: 0.9, WeightDecay: 1e-4}}
	return &member{trainer: newTrainer(job, noop.NewTracerProvider().Tracer(""))}
}

// step does a step and commits it.
func (m *member) step(ctx context.Context, ring Ring, step uint64, replicas []int, lr float64) (stepResult, error) {
	res, err := m.trainer.step(ctx, ring, task{step: step, replicas: replicas, lr: lr, audit: -1})
	if err != nil {
		return res, err
	}
	return res, m.update(ctx, m.reduced, step, lr)
}

func (m *member) hash(t *testing.T, step uint64) string {
	t.Helper()
	s := newSnapshot(m.job.Network)
	if err := m.job.Engine.GetState(stateOf(s)); err != nil {
		t.Fatal(err)
	}
	s.Step = step
	return s.Hash()
}

// testCluster joins one member for each entry of assignment, which lists the replicas that it hosts.
func testCluster(t *testing.T, wire allreduce.Wire, data Data, assignment [][]int) ([]*member, *memnet.Network) {
	t.Helper()
	net := memnet.New(memnet.Config{Run: "test", Generation: 1, Size: len(assignment)})
	t.Cleanup(func() { net.Close() })
	var out []*member
	for rank, replicas := range assignment {
		cfg := allreduce.DefaultConfig()
		cfg.Run, cfg.Generation, cfg.Rank, cfg.Size, cfg.Replicas, cfg.Wire = "test", 1, rank, len(assignment), testReplicas, wire
		r, err := allreduce.New(cfg, net.Endpoint(rank))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { r.Close() })
		m := newMember(t, data)
		m.ring, m.replicas = exactRing{r}, replicas
		out = append(out, m)
	}
	return out, net
}

// stepAll runs one step on every member at once.
func stepAll(members []*member, step uint64) ([]stepResult, []error) {
	results, errs := make([]stepResult, len(members)), make([]error, len(members))
	var wg sync.WaitGroup
	for i, m := range members {
		wg.Go(func() { results[i], errs[i] = m.step(context.Background(), m.ring, step, m.replicas, 0.05) })
	}
	wg.Wait()
	return results, errs
}

var assignments = [][][]int{
	{{0, 1, 2, 3}},
	{{0, 1}, {2, 3}},
	{{3, 0, 2}, {1}},
	{{2}, {0, 3}, {1}},
	{{}, {1, 0, 2, 3}},
	{{0}, {1}, {2}, {3}, {}},
}

// TestSameBits is the first promise: whoever hosts which replica, the state after each step is the same to the bit.
func TestSameBits(t *testing.T) {
	for _, wire := range []allreduce.Wire{allreduce.Wire32, allreduce.Wire16} {
		var want string
		var wantLoss float64
		for _, a := range assignments {
			members, _ := testCluster(t, wire, testData{poisonReplica: -1}, a)
			for step := range uint64(3) {
				res, errs := stepAll(members, step)
				for i, err := range errs {
					if err != nil {
						t.Fatalf("%v, member %d: %v", a, i, err)
					}
					if res[i].metrics != res[0].metrics || res[i].metrics.Images != testReplicas*testBatch {
						t.Fatalf("%v: members report %+v and %+v", a, res[0].metrics, res[i].metrics)
					}
				}
				wantLoss = res[0].metrics.LossSum
			}
			if math.IsNaN(wantLoss) || wantLoss == 0 {
				t.Fatalf("loss %v", wantLoss)
			}
			for i, m := range members {
				h := m.hash(t, 3)
				if want == "" {
					want = h
				}
				if h != want {
					t.Errorf("wire %d, assignment %v: member %d has hash %.12s, one worker alone %.12s", wire, a, i, h, want)
				}
			}
		}
	}
}

// TestBrokenRingLeavesState kills a worker in a step: the others' state is that of the last committed step.
func TestBrokenRingLeavesState(t *testing.T) {
	members, net := testCluster(t, allreduce.Wire32, testData{poisonReplica: -1}, [][]int{{0, 1}, {2}, {3}})
	if _, errs := stepAll(members, 0); errors.Join(errs...) != nil {
		t.Fatal(errs)
	}
	before := members[0].hash(t, 1)
	net.Kill(2)
	_, errs := stepAll(members[:2], 1)
	for i, err := range errs {
		var hop *allreduce.HopError
		if !errors.As(err, &hop) {
			t.Errorf("member %d: %v, want an error of a hop", i, err)
		}
		if h := members[i].hash(t, 1); h != before {
			t.Errorf("member %d: the aborted step changed the state", i)
		}
	}
}

// TestNonFinite poisons one replica: its host names it, whoever gives the ring up first; the other worker learns of it, or that the ring is
// over; and no state changes.
func TestNonFinite(t *testing.T) {
	members, _ := testCluster(t, allreduce.Wire16, testData{poisonStep: 0, poisonReplica: 2}, [][]int{{0, 1}, {2, 3}})
	before := members[0].hash(t, 0)
	_, errs := stepAll(members, 0)
	for i, err := range errs {
		var nf *NonFiniteError
		var hop *allreduce.HopError
		if !errors.As(err, &nf) && (i == 1 || !errors.As(err, &hop)) {
			t.Fatalf("member %d: %v, want a NonFiniteError", i, err)
		}
		if i == 1 && (nf.Replica != 2 || nf.Where == "") {
			t.Errorf("the host says %v, which does not name replica 2 and a place", nf)
		}
		if h := members[i].hash(t, 0); h != before {
			t.Errorf("member %d: the refused step changed the state", i)
		}
	}
	if !strings.Contains(errs[1].Error(), "replica 2") {
		t.Errorf("the message %q does not name the replica", errs[1])
	}
}

// failingData fails at one step.
type failingData struct{ testData }

func (failingData) Next(context.Context, uint64, []int) (Batches, error) {
	return Batches{}, fmt.Errorf("disk gone")
}

func TestDataErrorNamesStep(t *testing.T) {
	m := newMember(t, failingData{})
	_, err := m.step(context.Background(), nil, 12, []int{0}, 0.1)
	if err == nil || !strings.Contains(err.Error(), "step 12") || !strings.Contains(err.Error(), "disk gone") {
		t.Errorf("got %v", err)
	}
}
