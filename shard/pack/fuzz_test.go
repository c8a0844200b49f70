package pack

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/lockstep-ml/lockstep/internal/crc32c"
)

// memFile is a file in memory.
type memFile []byte

func (m memFile) Name() string { return "memory" }
func (m memFile) Size() int64  { return int64(len(m)) }
func (m memFile) Close() error { return nil }

func (m memFile) ReadAt(_ context.Context, p []byte, off int64) error {
	if off < 0 || off+int64(len(p)) > int64(len(m)) {
		return fmt.Errorf("bytes %d to %d of %d", off, off+int64(len(p)), len(m))
	}
	copy(p, m[off:])
	return nil
}

// reframed makes a header's checksums right, where there is room for one.
func reframed(b []byte) []byte {
	b = append([]byte(nil), b...)
	if len(b) < frameBytes {
		return b
	}
	le := binary.LittleEndian
	if n := le.Uint64(b[16:]); n <= uint64(len(b)-frameBytes) {
		le.PutUint32(b[24:], crc32c.Update(0, b[frameBytes:frameBytes+n]))
	}
	le.PutUint32(b[28:], crc32c.Update(0, b[:28]))
	return b
}

// FuzzIndex: whatever the bytes are, parsing ends in an error or in an index that can be used. Checksums are mended, or no change
// would get past them; and the hash is not compared, as it could not be guessed.
func FuzzIndex(f *testing.F) {
	entries, data := images(20)
	for i := range entries {
		entries[i].Label = i % 3
	}
	s, err := NewSplitIndex("train", []*Shard{writeShard(f, f.TempDir(), "train", 0, entries, data, []int{7, 2, 19, 4, 5, 6, 1, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17})})
	if err != nil {
		f.Fatal(err)
	}
	f.Add((&Index{Recipe: []byte("{}"), Classes: []string{"a", "b", "c"}, Splits: []SplitIndex{s}}).encode())
	f.Add(frame(kindSet, make([]byte, 36)))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		b = reframed(b)
		if x, err := parseIndex(b); err == nil {
			use(t, x)
		}
		if len(b) <= frameBytes {
			return
		}
		d := &decoder{b: b[frameBytes:]}
		s := d.split(1000)
		for k, e := range s.Entries() {
			if e.Name != s.table.name(k) || e.Offset+e.Size > s.Shards[e.Shard] {
				t.Fatalf("entry %d is %+v", k, e)
			}
		}
	})
}

// FuzzShard: a file that says it is a shard is refused or checked, and never more than read.
func FuzzShard(f *testing.F) {
	dir := f.TempDir()
	entries, data := images(5)
	writeShard(f, dir, "train", 0, entries, data, []int{0, 1, 4})
	good, err := os.ReadFile(filepath.Join(dir, "train", "train-000000.tar"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(make([]byte, 4*blockBytes))
	f.Fuzz(func(t *testing.T, b []byte) {
		if end := len(b) - endMark; end > footerBytes {
			at := binary.LittleEndian.Uint64(b[end-footerBytes:])
			if at < uint64(end) {
				b = append(append([]byte(nil), b[:at]...), reframed(b[at:])...)
			}
		}
		x, err := ReadShardIndex(t.Context(), memFile(b))
		if err != nil {
			return
		}
		if _, _, err := CheckShard(t.Context(), memFile(b), x); err != nil {
			t.Fatal(err)
		}
	})
}
