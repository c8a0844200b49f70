package builtin

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"reflect"
	"testing"
)

var small = &Container{Header: []byte("header"), Splits: []string{"train", "test"}, Classes: []string{"a", "b", ""},
	Images: []Image{{0, 1, 7, []byte("scan")}, {1, 2, 65535, []byte{}}}}

func TestRoundTrip(t *testing.T) {
	b := Encode(small)
	c, err := Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(c, small) || c.Name(0) != "train/b/0007.jpg" {
		t.Errorf("%+v, name %s", c, c.Name(0))
	}
	for i := range b {
		flipped := bytes.Clone(b)
		flipped[i] ^= 1
		if _, err := Decode(flipped); !errors.Is(err, ErrFormat) {
			t.Errorf("byte %d flipped: %v", i, err)
		}
		if _, err := Decode(b[:i]); !errors.Is(err, ErrFormat) {
			t.Errorf("cut to %d bytes: %v", i, err)
		}
	}
}

// TestSampleIsCanonical: the embedded file is what Encode writes.
func TestSampleIsCanonical(t *testing.T) {
	c, err := Decode(Data())
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Images) != 6000 || !bytes.Equal(Encode(c), Data()) {
		t.Errorf("%d images, or another encoding", len(c.Images))
	}
}

// FuzzDecode puts a right checksum behind foreign bytes, so that the fuzzer reaches what lies behind it.
func FuzzDecode(f *testing.F) {
	b := Encode(small)
	f.Add(b[:len(b)-4])
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, b []byte) {
		b = binary.LittleEndian.AppendUint32(bytes.Clone(b), crc32.Checksum(b, castagnoli))
		c, err := Decode(b)
		if err != nil {
			return
		}
		for i := range c.Images {
			_ = c.Name(i) // must not panic; the name itself does not matter
		}
		if !bytes.Equal(Encode(c), b) {
			t.Fatal("two encodings of one container")
		}
	})
}
