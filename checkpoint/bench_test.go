package checkpoint

import (
	"context"
	"math/rand/v2"
	"testing"

	"github.com/lockstep-ml/lockstep/internal/snapshot"
)

// BenchmarkSave and BenchmarkLoad move the state of a network of 11.7 million parameters, resnet18's, and print MB/s of file.
func benchState(b *testing.B) (*Store, *Checkpoint, string) {
	const n = 11_700_000
	s := snapshot.New(snapshot.Lengths{Params: n, Momentum: n})
	s.Step = 1
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range n {
		s.Params[i], s.Momentum[i] = float32(rng.NormFloat64()), float32(rng.NormFloat64())
	}
	c, err := FromSnapshot(s, Table{{"w", RoleParam, []int{n}}})
	if err != nil {
		b.Fatal(err)
	}
	store := openStore(b, DefaultOptions(b.TempDir()))
	path := save(b, store, c)
	back, err := store.Load(context.Background(), path)
	if err != nil || back.StateHash() != s.Hash() {
		b.Fatalf("what was saved did not come back: %v", err)
	}
	b.SetBytes(s.Bytes())
	return store, c, path
}

func BenchmarkSave(b *testing.B) {
	store, c, _ := benchState(b)
	for b.Loop() {
		save(b, store, c)
	}
}

func BenchmarkLoad(b *testing.B) {
	store, _, path := benchState(b)
	for b.Loop() {
		if _, err := store.Load(context.Background(), path); err != nil {
			b.Fatal(err)
		}
	}
}
