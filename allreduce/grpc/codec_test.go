package ringgrpc

import (
	"bytes"
	"strings"
	"testing"

	"google.golang.org/grpc/mem"

	"github.com/lockstep-ml/lockstep/allreduce"
)

// owner counts how often a payload was freed.
type owner struct{ freed int }

func (o *owner) Free() { o.freed++ }

func TestCodecCarriesMessagesInPieces(t *testing.T) {
	for _, n := range []int{0, 1, 100, 5000, allreduce.MaxPayload} {
		payload := bytes.Repeat([]byte{7, 1, 9}, n)[:n]
		h := allreduce.Header{Key: allreduce.Key{Step: 3, Phase: allreduce.PhaseExponents}, Wire: allreduce.Wire32, Length: uint32(n)}
		o := &owner{}
		out, err := codec{}.Marshal(&frame{message: allreduce.NewMessage(h, payload, o)})
		if err != nil {
			t.Fatal(err)
		}
		sent := out.Materialize()
		out.Free()
		if o.freed != 1 {
			t.Errorf("payload of %d bytes freed %d times", n, o.freed)
		}
		var in mem.BufferSlice
		for rest := sent; len(rest) > 0; {
			k := min(len(rest), 1000)
			in = append(in, mem.SliceBuffer(rest[:k]))
			rest = rest[k:]
		}
		var f frame
		if err := (codec{}).Unmarshal(in, &f); err != nil {
			t.Fatal(err)
		}
		if f.message.Header != h || !bytes.Equal(f.message.Payload, payload) {
			t.Errorf("payload of %d bytes came back changed", n)
		}
		f.message.Free()
	}
}

func TestCodecClipsReasons(t *testing.T) {
	out, err := codec{}.Marshal(&frame{abort: true, reason: strings.Repeat("x", 3*maxReason)})
	if err != nil {
		t.Fatal(err)
	}
	var f frame
	if err := (codec{}).Unmarshal(out, &f); err != nil || !f.abort || len(f.reason) != maxReason {
		t.Errorf("got %d bytes, %v", len(f.reason), err)
	}
}

func TestCodecRefusesOtherTypes(t *testing.T) {
	if _, err := (codec{}).Marshal("text"); err == nil {
		t.Error("marshalled a string")
	}
	if err := (codec{}).Unmarshal(nil, new(int)); err == nil {
		t.Error("unmarshalled into an int")
	}
}

func FuzzUnmarshal(f *testing.F) {
	h := allreduce.Header{Key: allreduce.Key{Phase: allreduce.PhaseExponents}, Wire: allreduce.Wire16, Length: 3}
	b := make([]byte, allreduce.HeaderSize, allreduce.HeaderSize+3)
	h.Encode(b)
	f.Add(append(b, 1, 2, 3))
	f.Add(b)
	f.Add([]byte("LSA1because"))
	f.Add([]byte("LSA"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var got frame
		if err := (codec{}).Unmarshal(mem.BufferSlice{mem.SliceBuffer(b)}, &got); err != nil {
			return
		}
		if got.abort {
			if len(got.reason) > maxReason {
				t.Errorf("took a reason of %d bytes", len(got.reason))
			}
			return
		}
		out, err := codec{}.Marshal(&got)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(out.Materialize(), b) {
			t.Errorf("%x comes back as %x", b, out.Materialize())
		}
	})
}

func FuzzDecodeHello(f *testing.F) {
	h := hello{version: 1, rank: 2, size: 3, generation: 4, digest: 5, run: "six"}
	f.Add(h.encode())
	f.Add([]byte("LSH1"))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := decodeHello(b)
		if err == nil && !bytes.Equal(got.encode(), b) {
			t.Errorf("%x comes back as %x", b, got.encode())
		}
	})
}

func TestConfigReportsEveryFault(t *testing.T) {
	err := Config{InboxBytes: -1}.Validate()
	if err == nil {
		t.Fatal("accepted")
	}
	for _, field := range []string{"Run", "Credentials", "InboxBytes", "QueueLength", "JoinWait", "CloseTimeout"} {
		if !strings.Contains(err.Error(), field) {
			t.Errorf("%q does not mention %s", err, field)
		}
	}
	if _, err := NewNode(Config{}); err == nil {
		t.Error("NewNode accepted an empty Config")
	}
}
