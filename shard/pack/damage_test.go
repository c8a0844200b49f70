package pack

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func verify(t testing.TB, dir string) []Damage {
	t.Helper()
	set := openSet(t, dir)
	found, err := set.Verify(t.Context(), VerifyConfig{Workers: 3})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestEveryByteOfAShard changes each byte of a shard in turn, and expects to be told of that place.
func TestEveryByteOfAShard(t *testing.T) {
	dir := t.TempDir()
	entries, data := images(7)
	s := writeShard(t, dir, "train", 0, entries, data, []int{0, 1, 2, 3, 4, 5, 6})
	path := filepath.Join(dir, "train", "train-000000.tar")
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	regions := map[string]int{}
	ownIndex := s.Size - int64(len(s.Index.member(0)))
	for at := range good {
		bad := append([]byte(nil), good...)
		bad[at] ^= 1 << (at % 8)
		found, _, err := CheckShard(t.Context(), memFile(bad), s.Index)
		if err != nil || len(found) != 1 {
			t.Fatalf("byte %d: %v, %v", at, found, err)
		}
		d := found[0]
		regions[strings.SplitN(d.What, ":", 2)[0]]++
		image := strings.HasPrefix(d.What, "CRC-32C")
		if !image && d.Offset != int64(at) || image && (d.Offset > int64(at) || d.Offset < int64(at)-1024) {
			t.Fatalf("byte %d: %v", at, d)
		}
		if (d.Sample == "") != (int64(at) >= ownIndex) {
			t.Fatalf("byte %d: %v names the wrong sample", at, d)
		}
	}
	if len(regions) < 4 {
		t.Errorf("only these parts were found damaged: %v", regions)
	}
	for n := range good {
		if n%97 != 0 {
			continue
		}
		found, _, err := CheckShard(t.Context(), memFile(good[:n]), s.Index)
		if err != nil || len(found) == 0 {
			t.Fatalf("cut to %d bytes: %v, %v", n, found, err)
		}
	}
	if found, _, err := CheckShard(t.Context(), memFile(append(good, 0)), s.Index); err != nil || len(found) != 1 {
		t.Errorf("with a byte too many: %v, %v", found, err)
	}
}

// TestEveryByteOfTheIndex: no change of a byte goes unnoticed, wherever it is.
func TestEveryByteOfTheIndex(t *testing.T) {
	dir, _, _ := writeSet(t)
	good, err := os.ReadFile(filepath.Join(dir, IndexName))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parseIndex(good); err != nil {
		t.Fatal(err)
	}
	for at := range good {
		good[at] ^= 1 << (at % 8)
		if _, err := parseIndex(good); !errors.Is(err, ErrFormat) && !errors.Is(err, ErrVersion) {
			t.Fatalf("byte %d: %v", at, err)
		}
		good[at] ^= 1 << (at % 8)
	}
	for n := range good {
		if _, err := parseIndex(good[:n]); !errors.Is(err, ErrFormat) {
			t.Fatalf("cut to %d bytes: %v", n, err)
		}
	}
	if _, err := parseIndex(append(good, 0)); !errors.Is(err, ErrFormat) {
		t.Errorf("with a byte too many: %v", err)
	}
}

// TestBodyIsChecked changes bytes of the index's body and mends its checksums: what is left is the parser's own care. It must end in an
// error or in an index that can be used.
func TestBodyIsChecked(t *testing.T) {
	dir, _, _ := writeSet(t)
	good, err := os.ReadFile(filepath.Join(dir, IndexName))
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	refused := 0
	for range 20000 {
		body := append([]byte(nil), good[frameBytes:]...)
		for range 1 + rng.IntN(3) {
			body[rng.IntN(len(body))] = byte(rng.Uint32())
		}
		x, err := parseIndex(frame(kindSet, body))
		if err != nil {
			refused++
			continue
		}
		use(t, x)
	}
	if refused == 0 {
		t.Error("nothing was refused")
	}
}

// use goes through all that an index says.
func use(t testing.TB, x *Index) {
	for i := range x.Splits {
		s := &x.Splits[i]
		for k, e := range s.Entries() {
			if e.Shard >= len(s.Shards) || e.Offset+e.Size > s.Shards[e.Shard] || e.Label >= len(x.Classes) || e.Name == "" || e.Name != s.table.name(k) {
				t.Fatalf("entry %d is %+v", k, e)
			}
		}
	}
}

func TestVersion(t *testing.T) {
	b := frame(kindSet, nil)
	binary.LittleEndian.PutUint32(b[8:], version+1)
	if _, err := parseIndex(b); !errors.Is(err, ErrFormat) {
		t.Errorf("a version changed by accident: %v", err)
	}
	copy(b, reframed(b))
	if _, err := parseIndex(b); !errors.Is(err, ErrVersion) || strings.Contains(err.Error(), "damage") {
		t.Errorf("a later version: %v", err)
	}
}

func TestReadDamaged(t *testing.T) {
	dir, _, _ := writeSet(t)
	set := openSet(t, dir)
	train := set.Split("train")
	e := train.Entry(8)
	path := filepath.Join(dir, filepath.FromSlash(ShardName("train", e.Shard)))
	spoil(t, path, e.Offset+e.Size-1)
	var sum *ChecksumError
	_, err := train.Read(t.Context(), 8, nil)
	if !errors.As(err, &sum) || sum.Shard != path || sum.Offset != e.Offset || sum.Sample != e.Name {
		t.Errorf("a spoiled image: %v", err)
	}
	if _, err := train.Read(t.Context(), 9, nil); err != nil {
		t.Errorf("another image: %v", err)
	}
	found := verify(t, dir)
	if len(found) != 1 || found[0].Shard != path || found[0].Sample != e.Name || found[0].Offset != e.Offset {
		t.Errorf("found: %v", found)
	}
}

func TestShardsGoneOrCut(t *testing.T) {
	dir, _, _ := writeSet(t)
	if found := verify(t, dir); len(found) != 0 {
		t.Fatalf("in a good set: %v", found)
	}
	path := filepath.Join(dir, "train", "train-000001.tar")
	if err := os.Truncate(path, 20000); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "val", "val-000000.tar")); err != nil {
		t.Fatal(err)
	}
	set := openSet(t, dir)
	if _, err := set.Split("train").Read(t.Context(), 1, nil); !errors.Is(err, ErrFormat) {
		t.Errorf("a read from a cut shard: %v", err)
	}
	if _, err := set.Split("val").Read(t.Context(), 1, nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a read from no shard: %v", err)
	}
	found := verify(t, dir)
	lost := 0
	for _, d := range found {
		if d.Shard == path && d.Sample != "" {
			lost++
		}
	}
	// Samples take 2,560 bytes at most, so more than seven are whole; thirty were there.
	if lost < 15 || lost > 23 || !strings.Contains(found[0].What, "20000 bytes") || found[len(found)-1].What != "the shard is not there" {
		t.Errorf("%d lost: %v", lost, found)
	}
}

// TestSetOfOthersShards: a shard that is whole, but of another set, is found by what the set's index says of it.
func TestSetOfOthersShards(t *testing.T) {
	dir, _, _ := writeSet(t)
	entries, data := images(60)
	data[3][0] ^= 1
	writeShard(t, dir, "val", 0, entries, data, []int{3, 4, 5})
	if found := verify(t, dir); len(found) != 2 { // the image, and its checksum in the shard's index
		t.Errorf("found: %v", found)
	}
}

func spoil(t testing.TB, path string, at int64) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[at] ^= 0x10
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
}
