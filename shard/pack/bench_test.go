package pack

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/lockstep-ml/lockstep/internal/vfs"
)

// imageNet makes an index as large as ImageNet's training split's, with names and sizes like its own.
func imageNet(b *testing.B) *Index {
	rng := rand.New(rand.NewPCG(1, 2))
	x := &Index{Recipe: []byte(testRecipe), Splits: []SplitIndex{{Name: "train"}}}
	for c := range 1000 {
		x.Classes = append(x.Classes, fmt.Sprintf("n%08d", 1440764+c*9137))
	}
	s := &x.Splits[0]
	at := int64(0)
	for i := range 1281167 {
		class := i * 1000 / 1281167
		if at > 256<<20 || len(s.Shards) == 0 {
			s.Shards, at = append(s.Shards, 300<<20), 0
		}
		e := Entry{Ordinal: i, Shard: len(s.Shards) - 1, Offset: at + blockBytes, Size: 60000 + rng.Int64N(100000), Label: class, W: 500, H: 375, CRC: rng.Uint32(),
			Name: fmt.Sprintf("train/%s/%s_%d.JPEG", x.Classes[class], x.Classes[class], i*7)}
		s.table.add(e)
		at += SampleBytes(e.Size)
	}
	return x
}

func BenchmarkOpenImageNet(b *testing.B) {
	x := imageNet(b)
	dir := b.TempDir()
	if err := WriteIndex(vfs.OS{}, filepath.Join(dir, IndexName), x); err != nil {
		b.Fatal(err)
	}
	n := float64(x.Splits[0].Len())
	b.ReportAllocs()
	for b.Loop() {
		set, err := Open(b.Context(), dir, open)
		if err != nil {
			b.Fatal(err)
		}
		t := &set.Split("train").Index().table
		b.ReportMetric(float64(cap(t.records)*32+cap(t.names)+4*cap(t.restarts))/n, "B-held/sample")
		if err := set.Close(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(len(x.encode()))/n, "B-stored/sample")
}

func BenchmarkRead(b *testing.B) {
	dir := b.TempDir()
	entries, _ := images(50)
	var data [][]byte
	rng := rand.New(rand.NewPCG(3, 4))
	var all []int
	for i := range entries {
		img := make([]byte, 110_000)
		for k := range img {
			img[k] = byte(rng.Uint32())
		}
		data, all = append(data, img), append(all, i)
	}
	s, err := NewSplitIndex("train", []*Shard{writeShard(b, dir, "train", 0, entries, data, all)})
	if err != nil {
		b.Fatal(err)
	}
	x := &Index{Classes: make([]string, 700), Splits: []SplitIndex{s}}
	if err := WriteIndex(vfs.OS{}, filepath.Join(dir, IndexName), x); err != nil {
		b.Fatal(err)
	}
	train := openSet(b, dir).Split("train")
	var buf []byte
	b.SetBytes(110_000)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if buf, err = train.Read(b.Context(), i%50, buf); err != nil {
			b.Fatal(err)
		}
	}
}
