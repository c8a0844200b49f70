package snapshot

import (
	"io"
	"testing"
)

// A transfer that breaks off after any chunk is gone on with by another reader, with chunks of another size.
func TestSkipGoesOnWithATransfer(t *testing.T) {
	s := sample()
	all := chunks(t, s, 400)
	for k := range len(all) + 1 {
		first := NewReader(s)
		b, err := NewBuilder(first.Header(), s.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		for range k {
			c, err := first.Next(400)
			if err != nil {
				t.Fatal(err)
			}
			if err := b.Add(c); err != nil {
				t.Fatal(err)
			}
		}
		second := NewReader(s)
		if err := second.Skip(uint64(b.Received())); err != nil {
			t.Fatal(err)
		}
		for {
			c, err := second.Next(1000)
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := b.Add(c); err != nil {
				t.Fatal(err)
			}
		}
		got, err := b.Finish()
		if err != nil || got.Hash() != s.Hash() {
			t.Fatalf("broken off after %d chunks: %v", k, err)
		}
	}
	for _, bad := range []uint64{2, uint64(s.Bytes()) + 4} {
		if err := NewReader(s).Skip(bad); err == nil {
			t.Errorf("byte %d of %d was skipped to", bad, s.Bytes())
		}
	}
}
