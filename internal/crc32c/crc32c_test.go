package crc32c

import (
	"hash/crc32"
	"math/rand/v2"
	"testing"
)

func noise(rng *rand.Rand, n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(rng.Uint32())
	}
	return p
}

// TestUpdate: any length, address and sum so far give what hash/crc32 gives.
func TestUpdate(t *testing.T) {
	if !folds() {
		t.Log("this machine, or LOCKSTEP_SIMD, leaves all of it to hash/crc32")
	}
	rng := rand.New(rand.NewPCG(1, 2))
	p := noise(rng, 1<<20)
	try := func(from, n int) {
		t.Helper()
		crc := rng.Uint32()
		if got, want := Update(crc, p[from:from+n]), crc32.Update(crc, table, p[from:from+n]); got != want {
			t.Fatalf("%d bytes from %d on, after %08x: %08x, want %08x", n, from, crc, got, want)
		}
	}
	for n := range 3000 {
		try(rng.IntN(100), n)
	}
	for range 200 {
		n := rng.IntN(len(p))
		try(rng.IntN(len(p)-n+1), n)
	}
	try(0, len(p))
}

// TestFold puts every block through the kernel, also where Update would not: it is the kernel that is tested.
func TestFold(t *testing.T) {
	if !folds() {
		t.Skip("this machine, or LOCKSTEP_SIMD, has no kernel")
	}
	rng := rand.New(rand.NewPCG(3, 4))
	for blocks := 1; blocks < 40; blocks++ {
		p := noise(rng, (1+blocks)*block)
		sums := [block]byte(p)
		fold(&sums, p[block:])
		if got, want := crc32.Update(^uint32(0), table, sums[:]), crc32.Update(^uint32(0), table, p); got != want {
			t.Fatalf("%d blocks: %08x, want %08x", blocks, got, want)
		}
	}
}

func FuzzUpdate(f *testing.F) {
	f.Add(uint32(0), make([]byte, 5000))
	f.Fuzz(func(t *testing.T, crc uint32, p []byte) {
		if got, want := Update(crc, p), crc32.Update(crc, table, p); got != want {
			t.Fatalf("%08x, want %08x", got, want)
		}
	})
}

func BenchmarkUpdate(b *testing.B) {
	p := noise(rand.New(rand.NewPCG(5, 6)), 256<<10)
	for name, update := range map[string]func(uint32, []byte) uint32{
		"crc32c": Update, "hash/crc32": func(crc uint32, p []byte) uint32 { return crc32.Update(crc, table, p) },
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(p)))
			for b.Loop() {
				update(0, p)
			}
		})
	}
}
