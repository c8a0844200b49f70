package checkpoint

import (
	"context"
	"encoding/json"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-ml/lockstep/internal/snapshot"
)

// testTable is a small network's tensors, roles mixed as a network lists them.
var testTable = func() (t Table) {
	t.AddParam("conv1.weight", 8, 3, 3, 3)
	t.AddParam("bn1.weight", 8)
	t.AddParam("bn1.bias", 8)
	t.AddNorm("bn1", 8)
	t.AddParam("fc.weight", 100, 8)
	t.AddParam("fc.bias", 100)
	return t
}()

// testState is a snapshot that fits testTable: params of any bits, momentum zero at step 0.
func testState(step uint64) *snapshot.Snapshot {
	s := snapshot.New(snapshot.Lengths{Params: 216 + 16 + 900, Momentum: 216 + 16 + 900, Mean: 8, Var: 8})
	s.Step = step
	rng := rand.New(rand.NewPCG(step, 1))
	for _, x := range [][]float32{s.Params, s.Mean, s.Var} {
		for i := range x {
			x[i] = float32(rng.NormFloat64())
		}
	}
	if step > 0 {
		for i := range s.Momentum {
			s.Momentum[i] = float32(rng.NormFloat64())
		}
	}
	s.Params[3] = float32(math.NaN())
	return s
}

func testCheckpoint(t testing.TB, step uint64) *Checkpoint {
	t.Helper()
	c, err := FromSnapshot(testState(step), testTable)
	if err != nil {
		t.Fatal(err)
	}
	c.Version = "v0.1.0-test"
	c.Created = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	c.Config = json.RawMessage(`{"arch":"cifar-resnet20"}`)
	c.Schedule = json.RawMessage(`{"lr":0.1}`)
	c.Data = json.RawMessage(`[1,2,3]`)
	return c
}

func openStore(t testing.TB, o Options) *Store {
	t.Helper()
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func save(t testing.TB, s *Store, c *Checkpoint) string {
	t.Helper()
	path, err := s.Save(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func TestSavedStateComesBackBitForBit(t *testing.T) {
	for _, step := range []uint64{0, 1, 1234, 10_000_000_000_000} {
		store := openStore(t, DefaultOptions(t.TempDir()))
		want := testState(step)
		path := save(t, store, testCheckpoint(t, step))
		c, err := store.Load(context.Background(), path)
		if err != nil {
			t.Fatal(err)
		}
		got, err := c.Snapshot(testTable)
		if err != nil {
			t.Fatal(err)
		}
		if got.Hash() != want.Hash() || c.Hash != want.Hash() || c.StateHash() != want.Hash() {
			t.Errorf("step %d: hash %s, recorded %s, want %s", step, got.Hash(), c.Hash, want.Hash())
		}
		if string(c.Config) != `{"arch":"cifar-resnet20"}` || string(c.Schedule) != `{"lr":0.1}` || string(c.Data) != `[1,2,3]` {
			t.Errorf("step %d: config %s, schedule %s, data %s", step, c.Config, c.Schedule, c.Data)
		}
		if c.Step != step || c.Version != "v0.1.0-test" || !c.Created.Equal(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)) {
			t.Errorf("step %d: came back as step %d, version %q, created %s", step, c.Step, c.Version, c.Created)
		}
	}
}

func TestZstdOnlyWhereItPays(t *testing.T) {
	store := openStore(t, DefaultOptions(t.TempDir()))
	for _, step := range []uint64{0, 1} {
		m, err := store.Verify(context.Background(), save(t, store, testCheckpoint(t, step)))
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range m.Tensors {
			if strings.HasPrefix(s.Name, "bn1") {
				continue // 32 bytes: a frame's overhead decides
			}
			want := EncodingRaw
			if s.Role == RoleMomentum && step == 0 {
				want = EncodingZstd
			}
			if s.Encoding != want {
				t.Errorf("step %d: %s is %s, want %s", step, s.key(), s.Encoding, want)
			}
		}
	}
}

func TestSectionsLargerThanASampleRoundTrip(t *testing.T) {
	n := 3*sampleBytes/4 + 5
	table := Table{{"zeros", RoleParam, []int{n}}, {"noise", RoleParam, []int{n}}, {"half", RoleParam, []int{n}}}
	s := snapshot.New(snapshot.Lengths{Params: 3 * n, Momentum: 3 * n})
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range n {
		s.Params[n+i] = math.Float32frombits(rng.Uint32())
		if i > n/2 {
			s.Params[2*n+i] = math.Float32frombits(rng.Uint32())
		}
	}
	c, err := FromSnapshot(s, table)
	if err != nil {
		t.Fatal(err)
	}
	store := openStore(t, DefaultOptions(t.TempDir()))
	path := save(t, store, c)
	m, err := store.Verify(context.Background(), path)
	if err != nil {
		t.Fatal(err)
	}
	if m.Tensors[0].Encoding != EncodingZstd || m.Tensors[1].Encoding != EncodingRaw {
		t.Errorf("zeros are %s, noise is %s", m.Tensors[0].Encoding, m.Tensors[1].Encoding)
	}
	back, err := store.Load(context.Background(), path)
	if err != nil {
		t.Fatal(err)
	}
	if back.StateHash() != s.Hash() {
		t.Error("other bits came back")
	}
}

func TestSnapshotReportsEveryMisfitAtOnce(t *testing.T) {
	c := testCheckpoint(t, 1)
	table := slices.Clone(testTable)
	table[0].Shape = []int{8, 3, 1, 1}
	table[5].Name = "fc2.weight"
	_, err := c.Snapshot(table)
	if err == nil {
		t.Fatal("a table of another network is accepted")
	}
	for _, want := range []string{
		"conv1.weight (param) has shape [8 3 3 3], the network wants [8 3 1 1]", "conv1.weight (momentum)",
		"fc2.weight (param) is missing", "fc2.weight (momentum) is missing", "fc.weight (param) is not in the network",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not say %q:\n%v", want, err)
		}
	}
}

func TestFromSnapshotRefusesATableThatDoesNotFit(t *testing.T) {
	s := testState(1)
	for name, table := range map[string]Table{
		"too few":      testTable[:5],
		"too many":     append(slices.Clone(testTable), Spec{"more", RoleVar, []int{1}}),
		"unknown role": append(slices.Clone(testTable), Spec{"odd", "odd", []int{1}}),
		"bad shape":    append(slices.Clone(testTable), Spec{"odd", RoleParam, []int{0}}),
	} {
		if _, err := FromSnapshot(s, table); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
