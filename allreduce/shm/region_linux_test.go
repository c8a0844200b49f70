package shm

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

var small = Geometry{Slots: 4, SlotBytes: 4096}

func mustCreate(t *testing.T, g Geometry) *Outlet {
	t.Helper()
	out, err := Create(g)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(out.Close)
	return out
}

func mustOpen(t *testing.T, o Offer, wake func()) *Inlet {
	t.Helper()
	in, err := Open(o, wake)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(in.Close)
	return in
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
	out := mustCreate(t, small)
	in := mustOpen(t, out.Offer(), func() {})
	out.Settle()
	rng := rand.New(rand.NewPCG(1, 2))
	for round := range 100 {
		n := rng.IntN(small.SlotBytes + 1)
		s, ok := out.Take(n)
		if !ok {
			t.Fatalf("round %d: no slot, none is in use", round)
		}
		want := make([]byte, n)
		for i := range want {
			want[i] = byte(rng.Uint32())
		}
		copy(s.Bytes(), want)
		s.Lend()
		got, loan, err := in.Payload(uint32(s.Index()), uint32(n))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("round %d: other bytes arrived", round)
		}
		loan.Free()
	}
}

func TestTakeSaysNo(t *testing.T) {
	out := mustCreate(t, small)
	if _, ok := out.Take(small.SlotBytes + 1); ok {
		t.Error("took more than a slot has")
	}
	var taken []*Slot
	for range small.Slots {
		s, ok := out.Take(1)
		if !ok {
			t.Fatal("no slot")
		}
		taken = append(taken, s)
	}
	if _, ok := out.Take(1); ok {
		t.Error("took a slot when all were taken")
	}
	taken[0].Free()
	taken[1].Lend()
	if s, ok := out.Take(1); !ok || s != taken[0] {
		t.Error("the slot that was freed is not the next one")
	}
	if out.Want() {
		t.Error("a slot is said to be free while all are in use")
	}
	out.Close()
	if _, ok := out.Take(1); ok {
		t.Error("took a slot of a closed region")
	}
}

// A sender that found no slot is woken by the free that it could not see.
func TestWantWakes(t *testing.T) {
	out := mustCreate(t, Geometry{Slots: 1, SlotBytes: 64})
	woken := make(chan struct{}, 1)
	in := mustOpen(t, out.Offer(), func() { woken <- struct{}{} })
	for range 1000 {
		s, _ := out.Take(64)
		s.Lend()
		_, loan, err := in.Payload(0, 64)
		if err != nil {
			t.Fatal(err)
		}
		freed := make(chan struct{})
		go func() { loan.Free(); close(freed) }()
		if !out.Want() {
			<-woken
			if !out.Want() {
				t.Fatal("woken for nothing")
			}
		}
		<-freed
		select { // may have been asked for and not needed
		case <-woken:
		default:
		}
	}
}

func TestInletChecksWhatThePeerSays(t *testing.T) {
	out := mustCreate(t, small)
	in := mustOpen(t, out.Offer(), func() {})
	s, _ := out.Take(8)
	s.Lend()
	i := uint32(s.Index())
	if _, _, err := in.Payload(uint32(small.Slots), 8); err == nil {
		t.Error("a slot out of range was read")
	}
	if _, _, err := in.Payload(i, uint32(small.SlotBytes+1)); err == nil {
		t.Error("more than a slot was read")
	}
	if _, _, err := in.Payload(i^1, 8); err == nil {
		t.Error("a slot was read that is not lent")
	}
	_, loan, err := in.Payload(i, 8)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := in.Payload(i, 8); err == nil {
		t.Error("a slot was lent twice")
	}
	loan.Free()
	in.Close()
	if _, _, err := in.Payload(i, 8); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// Whatever a peer writes to the control area, no slot has two holders here and
// none is out of range.
func TestScribbledControl(t *testing.T) {
	out := mustCreate(t, small)
	in := mustOpen(t, out.Offer(), func() {})
	rng := rand.New(rand.NewPCG(3, 4))
	inHand := map[*Slot]bool{}
	for range 2000 {
		for i := range in.mem.control {
			in.mem.control[i] = byte(rng.Uint32())
		}
		if s, ok := out.Take(64); ok {
			if inHand[s] {
				t.Fatalf("slot %d was given out twice", s.Index())
			}
			inHand[s] = true
			clear(s.Bytes())
		}
		for s := range inHand {
			delete(inHand, s)
			if rng.IntN(2) == 0 {
				s.Free()
			} else {
				s.Lend()
			}
			break
		}
		p, loan, err := in.Payload(rng.Uint32N(8), rng.Uint32N(2*4096))
		if err == nil {
			_ = bytes.Count(p, []byte{0})
			loan.Free()
		}
	}
	for s := range inHand {
		s.Free()
	}
}

func TestCloseUnmapsWhenNobodyReads(t *testing.T) {
	before := len(mappings(t))
	out := mustCreate(t, small)
	in := mustOpen(t, out.Offer(), func() {})
	readOnly := 0
	for _, line := range mappings(t) {
		if strings.Contains(line, " r--s ") {
			readOnly++
		}
	}
	if got := len(mappings(t)) - before; got < 2 || readOnly != 1 {
		t.Fatalf("%d mappings, %d of them read-only: want the receiver's slots to be", got, readOnly)
	}
	s, _ := out.Take(100)
	kept, _ := out.Take(100)
	copy(s.Bytes(), "still here")
	s.Lend()
	p, loan, err := in.Payload(uint32(s.Index()), 100)
	if err != nil {
		t.Fatal(err)
	}
	out.Close()
	in.Close()
	copy(kept.Bytes(), "writable until freed")
	if !strings.HasPrefix(string(p), "still here") {
		t.Error("the payload changed")
	}
	kept.Lend()
	loan.Free()
	if got := mappings(t); len(got) != before {
		t.Errorf("still mapped: %q", got)
	}
	if _, err := Open(out.Offer(), func() {}); err == nil {
		t.Error("a closed region can be opened")
	}
}

func TestSizeIsSealed(t *testing.T) {
	out := mustCreate(t, small)
	fd := int(out.Offer().fd)
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
	out := mustCreate(t, small)
	woken := make(chan struct{}, 1)
	in := mustOpen(t, out.Offer(), func() {
		select {
		case woken <- struct{}{}:
		default:
		}
	})
	type sent struct{ slot, value uint32 }
	wire := make(chan sent, small.Slots)
	var readers sync.WaitGroup
	for range 3 {
		readers.Go(func() {
			for m := range wire {
				p, loan, err := in.Payload(m.slot, 64)
				if err != nil {
					t.Error(err)
					continue
				}
				if p[0] != byte(m.value) || p[63] != byte(m.value) {
					t.Errorf("slot %d holds %d, want %d", m.slot, p[0], m.value)
				}
				loan.Free()
			}
		})
	}
	for v := range uint32(5000) {
		s, ok := out.Take(64)
		for !ok {
			if !out.Want() {
				<-woken
			}
			s, ok = out.Take(64)
		}
		for i := range s.Bytes() {
			s.Bytes()[i] = byte(v)
		}
		s.Lend()
		wire <- sent{uint32(s.Index()), v}
	}
	close(wire)
	readers.Wait()
}
