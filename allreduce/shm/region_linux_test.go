package shm

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var small = Geometry{Slots: 4, SlotBytes: 4096}

// pair makes a region with both sides in this process.
func pair(t *testing.T, g Geometry) (*Outlet, *Inlet) {
	t.Helper()
	out := mustCreate(t, g)
	in := mustOpen(t, out.Offer())
	out.Settle()
	return out, in
}

func mustCreate(t *testing.T, g Geometry) *Outlet {
	t.Helper()
	out, err := Create(g)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(out.Close)
	return out
}

func mustOpen(t *testing.T, o Offer) *Inlet {
	t.Helper()
	in, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(in.Close)
	return in
}

func mustTake(t *testing.T, out *Outlet, n int) *Slot {
	t.Helper()
	s, ok := out.Take(n)
	if !ok {
		t.Fatalf("no slot for %d bytes", n)
	}
	return s
}

// mappings lists the regions that this process has mapped.
func mappings(t *testing.T) []string {
	t.Helper()
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for line := range strings.Lines(string(maps)) {
		if strings.Contains(line, fileName) {
			out = append(out, line)
		}
	}
	return out
}

func TestPayloadsArriveAndSlotsComeBack(t *testing.T) {
	out, in := pair(t, small)
	rng := rand.New(rand.NewPCG(1, 2))
	for round := range 100 {
		want := make([]byte, rng.IntN(small.SlotBytes+1))
		for i := range want {
			want[i] = byte(rng.Uint32())
		}
		s := mustTake(t, out, len(want))
		copy(s.Bytes(), want)
		s.Lend([]byte{byte(round), 7})
		head := make([]byte, 2)
		got, loan, err := in.Receive(head)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) || head[0] != byte(round) || head[1] != 7 {
			t.Fatalf("round %d: other bytes arrived", round)
		}
		loan.Free()
	}
}

func TestTakeSaysNo(t *testing.T) {
	out, _ := pair(t, small)
	if _, ok := out.Take(small.SlotBytes + 1); ok {
		t.Error("took more than a slot has")
	}
	var taken []*Slot
	for range small.Slots {
		taken = append(taken, mustTake(t, out, 1))
	}
	if _, ok := out.Take(1); ok {
		t.Error("took a slot when all were taken")
	}
	taken[0].Free()
	taken[1].Lend(nil)
	if s := mustTake(t, out, 1); s != taken[0] {
		t.Error("the slot that was freed is not the next one")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := out.Await(ctx, 1); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("waited for a slot while all are in use: %v", err)
	}
	out.Close()
	if _, err := out.Await(t.Context(), 1); !errors.Is(err, ErrClosed) {
		t.Errorf("closed, yet %v", err)
	}
}

// A sender that found no slot is woken by the free that it could not see, and a
// receiver that sleeps by the payload that it could not see.
func TestBellsWake(t *testing.T) {
	out, in := pair(t, Geometry{Slots: 1, SlotBytes: 64})
	var all sync.WaitGroup
	all.Go(out.Watch)
	const rounds = 3000
	all.Go(func() {
		for i := range rounds {
			p, loan, err := in.Receive(nil)
			if err != nil {
				t.Error(err)
				return
			}
			if p[0] != byte(i) {
				t.Errorf("payload %d is %d", i, p[0])
			}
			loan.Free()
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for i := range rounds {
		s, err := out.Await(ctx, 1)
		if err != nil {
			t.Fatal(err)
		}
		s.Bytes()[0] = byte(i)
		s.Lend(nil)
	}
	if s, err := out.Await(ctx, 1); err != nil {
		t.Fatal(err)
	} else {
		s.Free()
	}
	out.Close()
	all.Wait()
}

// Geometry may be asked while the region is being closed; the race detector judges.
func TestGeometryWhileClosing(t *testing.T) {
	out, in := pair(t, small)
	var all sync.WaitGroup
	all.Go(out.Close)
	all.Go(in.Close)
	if out.Geometry() != small || in.Geometry() != small {
		t.Error("another geometry")
	}
	all.Wait()
}

func TestCloseEndsWaits(t *testing.T) {
	out, in := pair(t, Geometry{Slots: 1, SlotBytes: 64})
	mustTake(t, out, 1).Lend([]byte("last"))
	ended := make(chan error, 2)
	go func() { _, err := out.Await(t.Context(), 1); ended <- err }()
	out.Close()
	if err := <-ended; !errors.Is(err, ErrClosed) {
		t.Errorf("Await: %v", err)
	}
	head := make([]byte, 4)
	_, loan, err := in.Receive(head)
	if err != nil || string(head) != "last" {
		t.Fatalf("what was lent before Close did not come: %v", err)
	}
	loan.Free()
	if _, _, err := in.Receive(head); !errors.Is(err, io.EOF) {
		t.Errorf("after the sender's Close: %v", err)
	}
	_, in = pair(t, small)
	go func() { _, _, err := in.Receive(nil); ended <- err }()
	in.Close()
	if err := <-ended; !errors.Is(err, ErrClosed) {
		t.Errorf("after the receiver's Close: %v", err)
	}
}

// Whatever one side says, the other neither reads out of range nor holds a slot twice.
func TestReceiveChecksWhatThePeerSays(t *testing.T) {
	for what, c := range map[string]struct {
		lie  func(out *Outlet)
		want string
	}{
		"a slot out of range": {func(out *Outlet) { slot, _ := out.mem.entry(1); slot.Store(4) }, "names slot 4 of 4"},
		"too many bytes":      {func(out *Outlet) { _, n := out.mem.entry(1); n.Store(4097) }, "4097 bytes"},
		"a slot twice":        {func(out *Outlet) { slot, _ := out.mem.entry(1); slot.Store(0) }, "twice"},
		"too many payloads":   {func(out *Outlet) { out.mem.lent().Store(1 << 31) }, "has lent"},
	} {
		out, in := pair(t, small)
		mustTake(t, out, 8).Lend(nil)
		mustTake(t, out, 8).Lend(nil)
		_, loan, err := in.Receive(nil)
		if err != nil {
			t.Fatal(err)
		}
		c.lie(out)
		if _, _, err := in.Receive(nil); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want an error with %q", what, err, c.want)
		}
		loan.Free()
	}
}

func TestScribbledControl(t *testing.T) {
	out, in := pair(t, small)
	rng := rand.New(rand.NewPCG(3, 4))
	inHand := map[*Slot]bool{}
	received := 0
	for range 5000 {
		for i := range in.mem.control[statesAt:] {
			in.mem.control[statesAt+i] = byte(rng.Uint32N(5))
		}
		out.mem.lent().Store(in.count + rng.Uint32N(6))
		if s, ok := out.Take(64); ok {
			if inHand[s] {
				t.Fatalf("slot %d was given out twice", s.index)
			}
			inHand[s] = true
			clear(s.Bytes())
		}
		for s := range inHand {
			delete(inHand, s)
			s.Lend(nil)
			break
		}
		p, loan, err := in.next(nil)
		if err == nil && loan != nil {
			_ = bytes.Count(p, []byte{0})
			received++
			loan.Free()
		}
	}
	if received == 0 {
		t.Error("no lie was ever believed: nothing was tried")
	}
	for s := range inHand {
		s.Free()
	}
}

func TestCloseUnmapsWhenNobodyReads(t *testing.T) {
	before := len(mappings(t))
	out := mustCreate(t, small)
	offer := out.Offer()
	in := mustOpen(t, offer)
	readOnly := 0
	for _, line := range mappings(t) {
		if strings.Contains(line, " r--s ") {
			readOnly++
		}
	}
	if got := len(mappings(t)) - before; got < 2 || readOnly != 1 {
		t.Fatalf("%d mappings, %d of them read-only: want the receiver's slots to be", got, readOnly)
	}
	s, kept := mustTake(t, out, 100), mustTake(t, out, 100)
	copy(s.Bytes(), "still here")
	s.Lend(nil)
	p, loan, err := in.Receive(nil)
	if err != nil {
		t.Fatal(err)
	}
	out.Close()
	in.Close()
	copy(kept.Bytes(), "writable until freed")
	if !strings.HasPrefix(string(p), "still here") {
		t.Error("the payload changed")
	}
	kept.Lend(nil)
	loan.Free()
	if got := mappings(t); len(got) != before {
		t.Errorf("still mapped: %q", got)
	}
	if _, err := Open(offer); err == nil {
		t.Error("a closed region can be opened")
	}
}

func TestSizeIsSealed(t *testing.T) {
	out := mustCreate(t, small)
	fd := int(out.Offer().file)
	for _, size := range []int64{0, int64(small.size()) + 4096} {
		if err := unix.Ftruncate(fd, size); !errors.Is(err, unix.EPERM) {
			t.Errorf("resized to %d: %v", size, err)
		}
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_WRITE); !errors.Is(err, unix.EPERM) {
		t.Errorf("another seal was added: %v", err)
	}
}

func TestManyHands(t *testing.T) {
	out, in := pair(t, small)
	var all sync.WaitGroup
	all.Go(out.Watch)
	const senders, each = 3, 2000
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var sending sync.WaitGroup
	for v := range senders {
		sending.Go(func() {
			for i := range each {
				s, err := out.Await(ctx, 64)
				if err != nil {
					t.Error(err)
					return
				}
				for j := range s.Bytes() {
					s.Bytes()[j] = byte(v + i)
				}
				s.Lend([]byte{byte(v + i)})
			}
		})
	}
	all.Go(func() {
		var freeing sync.WaitGroup
		defer freeing.Wait()
		for {
			head := make([]byte, 1)
			p, loan, err := in.Receive(head)
			if err != nil {
				if !errors.Is(err, io.EOF) {
					t.Error(err)
				}
				return
			}
			freeing.Go(func() {
				if p[0] != head[0] || p[63] != head[0] {
					t.Errorf("slot holds %d and %d, want %d", p[0], p[63], head[0])
				}
				loan.Free()
			})
		}
	})
	sending.Wait()
	out.Close()
	all.Wait()
}
