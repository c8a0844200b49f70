package allreduce

import (
	"hash/crc32"
	"testing"
)

func sampleHeader() Header {
	return Header{
		Key: Key{Step: 1 << 40, Bucket: 7, Phase: PhaseAllGather, Hop: 3, Segment: 9},
		Run: 0x0123456789abcdef, Generation: 5, Wire: Wire16, Replicas: 8, From: 2, Size: 4,
		BucketLen: 1000, Offset: 250, Length: 500, CRC: 0xdeadbeef,
	}
}

func TestHeaderBytes(t *testing.T) {
	h := sampleHeader()
	var b [HeaderSize]byte
	h.Encode(b[:])
	want := "LSR1\x03\x10\x03\x00\xef\xcd\xab\x89\x67\x45\x23\x01" + "\x05\x00\x00\x00\x00\x00\x00\x00" + "\x00\x00\x00\x00\x00\x01\x00\x00" +
		"\x07\x00\x00\x00\x09\x00\x00\x00\x08\x00\x00\x00\x02\x00\x04\x00" + "\xe8\x03\x00\x00\x00\x00\x00\x00" +
		"\xfa\x00\x00\x00\x00\x00\x00\x00" + "\xf4\x01\x00\x00\xef\xbe\xad\xde"
	if string(b[:]) != want {
		t.Errorf("got  %x\nwant %x", b, want)
	}
	got, err := DecodeHeader(b[:])
	if err != nil || got != h {
		t.Errorf("came back as %+v, %v", got, err)
	}
}

func TestChecksumCoversEveryByte(t *testing.T) {
	h := sampleHeader()
	h.CRC = 0
	payload := []byte{1, 2, 3, 4, 5}
	sum := func(h Header, payload []byte) uint32 {
		return new(checksum).of(&h, crc32.Update(0, castagnoli, payload))
	}
	want := sum(h, payload)
	var b [HeaderSize]byte
	h.Encode(b[:])
	for bit := range 8 * (HeaderSize - 4 + len(payload)) {
		damaged, p := b, append([]byte(nil), payload...)
		if i := bit / 8; i < HeaderSize-4 {
			damaged[i] ^= 1 << (bit % 8)
		} else {
			p[i-(HeaderSize-4)] ^= 1 << (bit % 8)
		}
		got, err := DecodeHeader(damaged[:])
		if err == nil && sum(got, p) == want {
			t.Errorf("flipping bit %d goes unnoticed", bit)
		}
	}
}

func TestDiffersNamesEachField(t *testing.T) {
	want := sampleHeader()
	changes := []func(*Header){
		func(h *Header) { h.Run++ }, func(h *Header) { h.Generation++ }, func(h *Header) { h.Step++ },
		func(h *Header) { h.Bucket++ }, func(h *Header) { h.Phase = PhaseExponents }, func(h *Header) { h.Hop++ },
		func(h *Header) { h.Segment++ }, func(h *Header) { h.Replicas++ }, func(h *Header) { h.Size++ },
		func(h *Header) { h.From++ }, func(h *Header) { h.BucketLen++ }, func(h *Header) { h.Wire = Wire32 },
		func(h *Header) { h.Offset++ }, func(h *Header) { h.Length++ },
	}
	seen := map[string]bool{}
	for i, change := range changes {
		got := want
		change(&got)
		err := want.differs(&got)
		if err == nil || seen[err.Field] || err.Here == err.There {
			t.Errorf("change %d gives %v", i, err)
			continue
		}
		seen[err.Field] = true
	}
	if err := want.differs(&want); err != nil {
		t.Errorf("a header differs from itself: %v", err)
	}
}

func FuzzDecodeHeader(f *testing.F) {
	h := sampleHeader()
	b := make([]byte, HeaderSize)
	h.Encode(b)
	f.Add(b)
	f.Add(b[:HeaderSize-1])
	f.Add([]byte("LSR1"))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := DecodeHeader(b)
		if err != nil {
			return
		}
		if h.Length > MaxPayload || !h.Wire.Valid() {
			t.Errorf("accepted %+v", h)
		}
		again := make([]byte, HeaderSize)
		h.Encode(again)
		if string(again) != string(b[:HeaderSize]) {
			t.Errorf("%x comes back as %x", b[:HeaderSize], again)
		}
	})
}
