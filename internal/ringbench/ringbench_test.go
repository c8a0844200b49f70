package ringbench

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestDrive(t *testing.T) {
	h := newHub(3)
	cfg := config(h, serveMembers(t, h, nil))
	cfg.Spec.Compute = time.Millisecond
	r, err := Drive(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Rounds) != 3 || len(r.Raw) != 3 || len(r.Steps) != 3 || len(r.Exposed) != 3 || r.Buckets != 2 {
		t.Errorf("%+v", r)
	}
	if r.Messages != 2 || r.Bytes != 200 {
		t.Errorf("%d messages of %d bytes, the ring has sent 2 of 200", r.Messages, r.Bytes)
	}
	for i := range r.Rounds {
		if r.Rounds[i] <= 0 || r.Raw[i] <= 0 || r.Exposed[i] <= 0 || r.Steps[i] < r.Exposed[i]+time.Millisecond {
			t.Errorf("round %d: %+v", i, r)
		}
	}
	if r.Hop <= 0 || r.CPU <= 0 {
		t.Errorf("a hop of %v, %v of processor time", r.Hop, r.CPU)
	}
	if _, err := Drive(t.Context(), cfg); err != nil { // members serve again
		t.Error("a second session:", err)
	}
}

func TestDriveAlone(t *testing.T) {
	h := newHub(1)
	r, err := Drive(t.Context(), config(h, serveMembers(t, h, nil)))
	if err != nil || len(r.Rounds) != 3 || len(r.Raw) != 0 {
		t.Errorf("%+v, %v", r, err)
	}
}

// One wrong bit in one value, over the counted ring or over the one to be timed, is found before anything is timed.
func TestWrongBitsAreFound(t *testing.T) {
	for _, counted := range []bool{true, false} {
		h := newHub(2)
		var timed atomic.Bool
		h.spoil = func(replica int, c bool, step uint64, bucket int, dst []float32) {
			if replica == 1 && bucket == 1 && c == counted {
				flip(&dst[len(dst)-1])
			}
			if bucket == 3 { // the barrier's
				timed.Store(true)
			}
		}
		addresses := serveMembers(t, h, nil)
		_, err := Drive(t.Context(), config(h, addresses))
		if err == nil || timed.Load() {
			t.Fatalf("counted %v: error %v, timed %v", counted, err, timed.Load())
		}
		for _, want := range []string{addresses[1], "bucket 1", "[0, 3072)", "bits differ"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("counted %v: %q lacks %q", counted, err, want)
			}
		}
	}
}

// A member that does not take part costs its neighbours' patience, and is named.
func TestStuckMember(t *testing.T) {
	h := newHub(2)
	h.stuck = func(replica int, counted bool, step uint64) bool { return replica == 1 && !counted && step > 3 }
	addresses := serveMembers(t, h, func(i int, m *Member) {
		if i == 0 {
			m.Patience = 100 * time.Millisecond
		}
	})
	_, err := Drive(t.Context(), config(h, addresses))
	if err == nil || !strings.Contains(err.Error(), "member 0 ("+addresses[0]+"): ") || !strings.Contains(err.Error(), context.DeadlineExceeded.Error()) {
		t.Errorf("error %v", err)
	}
}

func TestRefusals(t *testing.T) {
	full, elsewhere := errors.New("no room"), errors.New("not there")
	for _, c := range []struct {
		name   string
		member func(*Member)
		spec   func(*Spec)
		want   string
	}{
		{"memory", func(m *Member) { m.Fits = func(int64) error { return full } }, nil, full.Error()},
		{"address", func(m *Member) { m.Allow = func(string) error { return elsewhere } }, nil, elsewhere.Error()},
		{"ring", func(m *Member) { m.Open = func(Link, string) (Rings, error) { return nil, elsewhere } }, nil, elsewhere.Error()},
		{"bucket", nil, func(s *Spec) { s.Buckets[1].Hi = 5001 }, "bucket 1"},
		{"elements", nil, func(s *Spec) { s.Elements = 0 }, "0 values"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHub(2)
			cfg := config(h, serveMembers(t, h, func(i int, m *Member) {
				if c.member != nil && i == 1 {
					c.member(m)
				}
			}))
			if c.spec != nil {
				c.spec(&cfg.Spec)
			}
			if _, err := Drive(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}

// A member believes nobody: not a length, not an order of requests, not a spec.
func TestMemberIsCareful(t *testing.T) {
	h := newHub(1)
	addr := serveMembers(t, h, nil)[0]
	good := config(h, nil).Spec
	good.Run, good.Replicas = "a session's name", 1
	bad := good
	bad.Elements = 1 << 40
	place := &Place{Generation: 1, Rank: 1, Names: []string{"a"}, Addresses: []string{"b"}, Raw: []string{"c"}}
	for _, c := range []struct {
		ask  []request
		want string
	}{
		{[]request{{Op: opRound}}, "before prepare"},
		{[]request{{Op: opPrepare}}, "with a spec"},
		{[]request{{Op: opPrepare, Spec: &bad}}, "values, must be"},
		{[]request{{Op: opPrepare, Spec: &good}, {Op: opPrepare, Spec: &good}}, "once"},
		{[]request{{Op: opPrepare, Spec: &good}, {Op: opRaw, Bytes: 1}}, "before join"},
		{[]request{{Op: opPrepare, Spec: &good}, {Op: opJoin, Place: place}}, "does not fit"},
		{[]request{{Op: opPrepare, Spec: &good}, {Op: opJoin}}, "does not fit"},
	} {
		nc, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		conn, out := newConn(nc), reply{}
		for _, r := range c.ask {
			out = reply{}
			if err := errors.Join(conn.send(&r, time.Minute), conn.receive(&out, time.Minute)); err != nil {
				t.Fatal(err)
			}
		}
		if !strings.Contains(out.Error, c.want) {
			t.Errorf("after %+v: %q, want %q", c.ask, out.Error, c.want)
		}
		nc.Close()
	}
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if _, err := nc.Write(binary.LittleEndian.AppendUint32(nil, maxMessage+1)); err != nil {
		t.Fatal(err)
	}
	if err := nc.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, nc); n != 0 || err != nil && !strings.Contains(err.Error(), "reset") {
		t.Errorf("a message announced too long: %d bytes came back, %v", n, err)
	}
}

// The plain ring's place on the left is taken by nobody but the neighbour.
func TestPlainRingKnowsItsNeighbour(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, hello := range [][sha256.Size]byte{rawHello("another run", 1), rawHello("this run", 2), rawHello("this run", 1)} {
		c, err := dialRaw(t.Context(), nil, l.Addr().String(), hello)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Write(hello[:1]); err != nil { // tells the three apart below
			t.Fatal(err)
		}
	}
	c, err := acceptRaw(t.Context(), l, rawHello("this run", 1))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var b [1]byte
	if _, err := io.ReadFull(c, b[:]); err != nil || b[0] != rawHello("this run", 1)[0] {
		t.Errorf("took the connection that says %x, %v", b, err)
	}
}

// A gradient is the same however it is cut, differs between replicas, and its digest sees every bit and the order.
func TestGradientsAndDigests(t *testing.T) {
	whole := make([]float32, 3*piece+5)
	fill(whole, 2, 0)
	for _, at := range []int{1, 1023, 1024, piece, 2*piece + 1} {
		part := make([]float32, 1000)
		fill(part, 2, at)
		if !slices.Equal(part, whole[at:at+1000]) {
			t.Errorf("values from %d on differ from the whole's", at)
		}
	}
	other := make([]float32, 1000)
	fill(other, 3, 0)
	same := 0
	for i, v := range other {
		if v == whole[i] {
			same++
		}
	}
	if same > 10 {
		t.Errorf("%d of 1000 values are the same for two replicas", same)
	}
	one, pieces := newDigest(), newDigest()
	one.add(whole)
	for at := 0; at < len(whole); at += 7777 {
		pieces.add(whole[at:min(at+7777, len(whole))])
	}
	if one.sum() != pieces.sum() {
		t.Error("the digest depends on the pieces")
	}
	flip(&whole[len(whole)-1])
	changed := newDigest()
	changed.add(whole)
	if changed.sum() == one.sum() {
		t.Error("the digest does not see the last bit")
	}
}

// Messages are what doc says: a length and JSON.
func TestMessageBytes(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	sent := make(chan error, 1)
	go func() { sent <- newConn(a).send(&request{Op: opHop}, time.Minute) }()
	got := make([]byte, 4+len(`{"op":"hop"}`))
	if _, err := io.ReadFull(b, got); err != nil {
		t.Fatal(err)
	}
	if err := <-sent; err != nil || !bytes.Equal(got, []byte("\x0c\x00\x00\x00{\"op\":\"hop\"}")) {
		t.Errorf("%q, %v", got, err)
	}
}
