package snapshot

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"math"
	"testing"

	"pgregory.net/rapid"
)

// sample is a snapshot with every kind of bit pattern in it.
func sample() *Snapshot {
	s := New(Lengths{Params: 1000, Momentum: 1000, Mean: 17, Var: 17})
	s.Step = 0x0102030405060708
	for n, section := range s.sections() {
		for i := range section {
			section[i] = math.Float32frombits(uint32(i*2654435761 + n*97))
		}
	}
	s.Params[0], s.Params[1] = float32(math.NaN()), float32(math.Copysign(0, -1))
	return s
}

// plainHash is the definition of Hash, written the slow way.
func plainHash(s *Snapshot) string {
	var buf bytes.Buffer
	for _, section := range [][]float32{s.Params, s.Momentum, s.Mean, s.Var} {
		for _, v := range section {
			var b [4]byte
			binary.LittleEndian.PutUint32(b[:], math.Float32bits(v))
			buf.Write(b[:])
		}
	}
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], s.Step)
	buf.Write(b[:])
	sum := sha256.Sum256(buf.Bytes())
	return hex.EncodeToString(sum[:])
}

// bothEndians runs f on this machine's path and on the portable one.
func bothEndians(t *testing.T, f func(t *testing.T)) {
	native := littleEndian
	t.Cleanup(func() { littleEndian = native })
	t.Run("native", f)
	littleEndian = false
	t.Run("portable", f)
}

func TestHashIsTheDefinition(t *testing.T) {
	bothEndians(t, func(t *testing.T) {
		for _, s := range []*Snapshot{sample(), {}, {Step: 1}, New(Lengths{Params: scratchBytes/4 + 1})} {
			if got, want := s.Hash(), plainHash(s); got != want {
				t.Errorf("hash of %s is %s, want %s", s.Lengths(), got, want)
			}
		}
	})
}

func TestHashSeesEveryPart(t *testing.T) {
	base := sample().Hash()
	flip := func(x *float32) { *x = math.Float32frombits(math.Float32bits(*x) ^ 1) }
	changes := map[string]func(*Snapshot){
		"step":     func(s *Snapshot) { s.Step++ },
		"params":   func(s *Snapshot) { flip(&s.Params[999]) },
		"momentum": func(s *Snapshot) { flip(&s.Momentum[0]) },
		"mean":     func(s *Snapshot) { flip(&s.Mean[16]) },
		"var":      func(s *Snapshot) { flip(&s.Var[3]) },
		"sign":     func(s *Snapshot) { s.Params[1] = 0 },
	}
	for name, change := range changes {
		s := sample()
		change(s)
		if s.Hash() == base {
			t.Errorf("a change of %s leaves the hash as it was", name)
		}
	}
}

func TestCopiesShareNothing(t *testing.T) {
	s := sample()
	want := s.Hash()
	c := s.Clone()
	into := New(Lengths{Params: 4000, Mean: 1})
	into.CopyFrom(s)
	if c.Hash() != want || into.Hash() != want || !c.EqualLengths(into) {
		t.Fatal("a copy differs from its source")
	}
	s.Params[5], s.Var[0] = 1, 1
	if c.Hash() != want || into.Hash() != want {
		t.Fatal("a copy changed with its source")
	}
	if New(Lengths{Params: 1}).EqualLengths(New(Lengths{Momentum: 1})) {
		t.Fatal("lengths of other slices compare equal")
	}
	if allocs := testing.AllocsPerRun(10, func() { into.CopyFrom(s) }); allocs != 0 {
		t.Fatalf("CopyFrom into enough room allocates %v times", allocs)
	}
}

// transfer sends s through chunks of the given size and returns what arrives.
func transfer(s *Snapshot, chunkBytes int) (*Snapshot, error) {
	r := NewReader(s)
	b, err := NewBuilder(r.Header(), s.Bytes())
	if err != nil {
		return nil, err
	}
	for {
		c, err := r.Next(chunkBytes)
		if err == io.EOF {
			return b.Finish()
		}
		if err != nil {
			return nil, err
		}
		if len(c.Data) > max(chunkBytes, 4) {
			return nil, errors.New("chunk larger than asked for")
		}
		if err := b.Add(c); err != nil {
			return nil, err
		}
	}
}

func TestTransferGivesTheSameBits(t *testing.T) {
	bothEndians(t, func(t *testing.T) {
		rapid.Check(t, func(t *rapid.T) {
			length := rapid.IntRange(0, 300)
			s := New(Lengths{length.Draw(t, "p"), length.Draw(t, "m"), length.Draw(t, "mean"), length.Draw(t, "var")})
			s.Step = rapid.Uint64().Draw(t, "step")
			for _, section := range s.sections() {
				for i := range section {
					section[i] = math.Float32frombits(rapid.Uint32().Draw(t, "bits"))
				}
			}
			got, err := transfer(s, rapid.IntRange(0, 1500).Draw(t, "chunk"))
			if err != nil {
				t.Fatal(err)
			}
			if got.Hash() != s.Hash() || !got.EqualLengths(s) {
				t.Fatal("the snapshot arrived changed")
			}
		})
	})
}

// chunks cuts s into chunks with memory of their own, so that a test may spoil them.
func chunks(t *testing.T, s *Snapshot, chunkBytes int) []Chunk {
	var out []Chunk
	for r := NewReader(s); ; {
		c, err := r.Next(chunkBytes)
		if err == io.EOF {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		c.Data = bytes.Clone(c.Data)
		out = append(out, c)
	}
}

func TestBuilderRefusesWhatIsWrong(t *testing.T) {
	spoil := map[string]func(c []Chunk) []Chunk{
		"gap":       func(c []Chunk) []Chunk { return append(c[:1:1], c[2:]...) },
		"repeat":    func(c []Chunk) []Chunk { return append(c[:2:2], c[1:]...) },
		"swap":      func(c []Chunk) []Chunk { c[0], c[1] = c[1], c[0]; return c },
		"cut short": func(c []Chunk) []Chunk { return c[:len(c)-1] },
		"too much": func(c []Chunk) []Chunk {
			return append(c, resum(Chunk{Offset: uint64(sample().Bytes()), Data: make([]byte, 4)}))
		},
		"bit flip": func(c []Chunk) []Chunk { c[1].Data[7] ^= 8; return c },
		"flip with a good checksum": func(c []Chunk) []Chunk {
			c[1].Data[7] ^= 8
			c[1] = resum(c[1])
			return c
		},
		"ragged":       func(c []Chunk) []Chunk { c[0].Data = c[0].Data[:5]; c[0] = resum(c[0]); return c },
		"empty":        func(c []Chunk) []Chunk { c[0] = resum(Chunk{}); return c },
		"over the end": func(c []Chunk) []Chunk { c[0].Data = make([]byte, 4004); c[0] = resum(c[0]); return c },
	}
	s := sample()
	for name, f := range spoil {
		b, err := NewBuilder(NewReader(s).Header(), s.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range f(chunks(t, s, 256)) {
			if err = b.Add(c); err != nil {
				break
			}
		}
		late := name == "cut short" || name == "flip with a good checksum"
		if (err == nil) != late {
			t.Errorf("%s: Add says %v; only the end can show what is missing or hashes wrongly", name, err)
		}
		got, finishErr := b.Finish()
		if got != nil || !errors.Is(finishErr, ErrTransfer) {
			t.Errorf("%s: not refused: %v", name, finishErr)
		}
		if err != nil && !errors.Is(finishErr, err) {
			t.Errorf("%s: Finish forgot the failure %v and said %v", name, err, finishErr)
		}
	}
}

func resum(c Chunk) Chunk {
	fresh := New(Lengths{Params: len(c.Data) / 4})
	decode(fresh.Params, c.Data[:len(c.Data)/4*4])
	if len(c.Data)%4 == 0 && len(c.Data) > 0 {
		out, err := NewReader(fresh).Next(len(c.Data))
		if err != nil {
			panic(err)
		}
		c.CRC32C = out.CRC32C
	}
	return c
}

func TestBuilderBoundsItsHeader(t *testing.T) {
	good := NewReader(sample()).Header()
	for name, change := range map[string]func(*Header){
		"negative":  func(h *Header) { h.Lengths.Mean = -1 },
		"huge":      func(h *Header) { h.Lengths.Params = math.MaxInt64 / 8 },
		"overflow":  func(h *Header) { h.Lengths = Lengths{1 << 61, 1 << 61, 1 << 61, 1 << 61} },
		"too large": func(h *Header) { h.Lengths.Var++ },
		"no hash":   func(h *Header) { h.Hash = "" },
	} {
		h := good
		change(&h)
		if _, err := NewBuilder(h, sample().Bytes()); !errors.Is(err, ErrTransfer) {
			t.Errorf("%s: not refused: %v", name, err)
		}
	}
	if _, err := NewBuilder(good, sample().Bytes()); err != nil {
		t.Error(err)
	}
}

func BenchmarkHash(b *testing.B) {
	s := New(Lengths{Params: 8 << 20})
	b.SetBytes(s.Bytes())
	for b.Loop() {
		s.Hash()
	}
}
