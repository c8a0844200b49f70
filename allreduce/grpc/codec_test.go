package ringgrpc

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/mem"

	"github.com/lockstep-ml/lockstep/allreduce"
)

// sample is a message of n bytes as a ring would send it.
func sample(n int) (allreduce.Header, allreduce.Message, []byte) {
	payload := bytes.Repeat([]byte{7, 1, 9}, n)[:n]
	m := allreduce.NewBuffer(n).Message()
	copy(m.Payload[0], payload)
	m.Header = allreduce.Header{Key: allreduce.Key{Step: 3, Phase: allreduce.PhaseExponents}, Wire: allreduce.Wire32, Length: uint32(n)}
	return m.Header, m, payload
}

// counted is a pool that counts what it takes back.
type counted struct{ back int }

func (c *counted) Get(n int) *[]byte { b := make([]byte, n); return &b }
func (c *counted) Put(*[]byte)       { c.back++ }

// cut makes of b what gRPC hands over: pieces of n bytes, which come back to pool.
func cut(b []byte, n int, pool mem.BufferPool) mem.BufferSlice {
	var out mem.BufferSlice
	for part := range slices.Chunk(b, n) {
		piece := append(make([]byte, 0, max(n, 2048)), part...)
		out = append(out, mem.NewBuffer(&piece, pool))
	}
	return out
}

// unmarshal is gRPC's use of the codec: it keeps no reference.
func unmarshal(data mem.BufferSlice) (frame, error) {
	var f frame
	err := codec{}.Unmarshal(data, &f)
	data.Free()
	return f, err
}

func TestCodecCarriesMessagesInPieces(t *testing.T) {
	for _, n := range []int{0, 1, 100, 5000, allreduce.MaxPayload} {
		for _, piece := range []int{1, 50, 1000, 16384} {
			if n/piece > 10_000 {
				continue
			}
			h, m, payload := sample(n)
			out, err := codec{}.Marshal(&frame{message: m})
			if err != nil {
				t.Fatal(err)
			}
			sent := out.Materialize()
			out.Free()
			pool := &counted{}
			in := cut(sent, piece, pool)
			f, err := unmarshal(in)
			if err != nil {
				t.Fatal(err)
			}
			if f.message.Header != h || !bytes.Equal(slices.Concat(f.message.Payload...), payload) {
				t.Errorf("payload of %d bytes came back changed", n)
			}
			if len(f.message.Payload) > maxPieces {
				t.Errorf("payload of %d bytes kept in %d pieces", n, len(f.message.Payload))
			}
			f.message.Free()
			if pool.back != len(in) {
				t.Errorf("payload of %d bytes in %d pieces: %d came back to their pool", n, len(in), pool.back)
			}
		}
	}
}

// What was received is sent on without a copy, and its memory comes back only
// when that is done.
func TestCodecSendsOnWhatItReceived(t *testing.T) {
	for _, n := range []int{1, 5000, 200_000} {
		for _, piece := range []int{50, 3000, 16384} {
			_, m, payload := sample(n)
			out, err := codec{}.Marshal(&frame{message: m})
			if err != nil {
				t.Fatal(err)
			}
			pool := &counted{}
			in := cut(out.Materialize(), piece, pool)
			out.Free()
			f, err := unmarshal(in)
			if err != nil {
				t.Fatal(err)
			}
			f.message.Header.Hop = 9
			on, err := codec{}.Marshal(&f)
			if err != nil {
				t.Fatal(err)
			}
			got, err := unmarshal(cut(on.Materialize(), 16384, &counted{}))
			if err != nil || got.message.Header.Hop != 9 || !bytes.Equal(slices.Concat(got.message.Payload...), payload) {
				t.Errorf("payload of %d bytes changed on the way: %v", n, err)
			}
			last := len(on) - 1
			on[:last].Free()
			if copied := len(in) > maxPieces; !copied && pool.back != 0 {
				t.Errorf("payload of %d bytes in %d pieces: %d came back while it was being sent", n, len(in), pool.back)
			}
			on[last].Free()
			if pool.back != len(in) {
				t.Errorf("payload of %d bytes in %d pieces: %d came back to their pool", n, len(in), pool.back)
			}
		}
	}
}

func TestCodecRefusesForeignMemory(t *testing.T) {
	if _, err := (codec{}).Marshal(&frame{message: allreduce.NewMessage(allreduce.Header{}, []byte{1}, nil)}); err == nil {
		t.Error("sent memory that is not the transport's")
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
	b := make([]byte, headSize, headSize+3)
	h.Encode(b)
	f.Add(append(b, 1, 2, 3))
	f.Add(b)
	f.Add(b[:allreduce.HeaderSize])
	f.Add(codedFrame(f, 64))
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
	h := hello{version: helloVersion, rank: 2, size: 3, generation: 4, digest: 5, lane: 1, lanes: 2, run: "six"}
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
	for _, field := range []string{"Run", "Credentials", "InboxBytes", "Lanes", "QueueLength", "JoinWait", "JoinTimeout", "CloseTimeout"} {
		if !strings.Contains(err.Error(), field) {
			t.Errorf("%q does not mention %s", err, field)
		}
	}
	if _, err := NewNode(Config{}); err == nil {
		t.Error("NewNode accepted an empty Config")
	}
}
