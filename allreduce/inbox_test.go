package allreduce

import (
	"context"
	"errors"
	"testing"
)

// note counts how often a payload was freed.
type note struct{ freed int }

func (n *note) Free() { n.freed++ }

func inboxMessage(bucket, segment uint32, payload int, owner Owner) Message {
	return NewMessage(Header{Key: Key{Bucket: bucket, Segment: segment}}, make([]byte, payload), owner)
}

func TestInboxGivesEachMessageOnce(t *testing.T) {
	b := NewInbox(0, 0, 0)
	first, again, late := &note{}, &note{}, &note{}
	for _, n := range []*note{first, again} {
		if err := b.Deliver(t.Context(), inboxMessage(1, 1, 10, n)); err != nil {
			t.Fatal(err)
		}
	}
	m, err := b.Recv(t.Context(), Key{Bucket: 1, Segment: 1})
	if err != nil || first.freed != 0 || again.freed != 1 {
		t.Fatalf("freed %d and %d times, %v", first.freed, again.freed, err)
	}
	m.Free()
	b.Forget(0, 1)
	if err := b.Deliver(t.Context(), inboxMessage(1, 1, 10, late)); err != nil || late.freed != 1 {
		t.Errorf("a late copy was freed %d times, %v", late.freed, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.Recv(ctx, Key{Bucket: 1, Segment: 1}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v from a forgotten bucket", err)
	}
}

func TestInboxPushesBackWhenFull(t *testing.T) {
	b := NewInbox(0, 0, 100)
	if err := b.Deliver(t.Context(), inboxMessage(1, 0, 80, nil)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	n := &note{}
	if err := b.Deliver(ctx, inboxMessage(2, 0, 80, n)); !errors.Is(err, context.Canceled) || n.freed != 1 {
		t.Fatalf("a full inbox took a message: %v", err)
	}
	delivered := make(chan error, 2)
	go func() { delivered <- b.Deliver(t.Context(), inboxMessage(2, 0, 80, nil)) }()
	// The wait for the message that stands outside lets it in past the limit.
	if _, err := b.Recv(t.Context(), Key{Bucket: 2}); err != nil {
		t.Fatal(err)
	}
	go func() { delivered <- b.Deliver(t.Context(), inboxMessage(3, 0, 80, nil)) }()
	if _, err := b.Recv(t.Context(), Key{Bucket: 1}); err != nil { // makes room
		t.Fatal(err)
	}
	for range 2 {
		if err := <-delivered; err != nil {
			t.Error(err)
		}
	}
}

func TestInboxEndKeepsWhatIsThere(t *testing.T) {
	b := NewInbox(0, 0, 0)
	if err := b.Deliver(t.Context(), inboxMessage(1, 0, 8, nil)); err != nil {
		t.Fatal(err)
	}
	waited := make(chan error, 1)
	go func() {
		_, err := b.Recv(t.Context(), Key{Bucket: 2})
		waited <- err
	}()
	b.End(Inner, ErrPeerClosed)
	if err := <-waited; !errors.Is(err, ErrPeerClosed) {
		t.Errorf("a wait ended with %v", err)
	}
	if _, err := b.Recv(t.Context(), Key{Bucket: 1}); err != nil {
		t.Errorf("what was there is gone: %v", err)
	}
}

// The end of the outer level breaks waits for what it owes, and no others.
func TestInboxEndOfOneLevel(t *testing.T) {
	b := NewInbox(0, 0, 0)
	b.End(Outer, ErrPeerClosed)
	for _, p := range []Phase{PhaseOuterExponents, PhaseBothData} {
		if _, err := b.Recv(t.Context(), Key{Bucket: 1, Phase: p}); !errors.Is(err, ErrPeerClosed) {
			t.Errorf("a wait for phase %d ended with %v", p, err)
		}
	}
	got := make(chan error, 1)
	go func() {
		_, err := b.Recv(t.Context(), Key{Bucket: 1, Phase: PhaseData})
		got <- err
	}()
	m := inboxMessage(1, 0, 8, nil)
	m.Header.Phase = PhaseAllGather
	if err := errors.Join(b.Deliver(t.Context(), m), <-got); err != nil {
		t.Errorf("the inner level came to an end too: %v", err)
	}
}

func TestInboxFailBreaksAndFrees(t *testing.T) {
	b := NewInbox(0, 0, 10)
	n, outside := &note{}, &note{}
	if err := b.Deliver(t.Context(), inboxMessage(1, 0, 8, n)); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 2)
	go func() { ended <- b.Deliver(t.Context(), inboxMessage(2, 0, 8, outside)) }()
	go func() {
		_, err := b.Recv(t.Context(), Key{Bucket: 3})
		ended <- err
	}()
	why := errors.New("broken")
	b.Fail(why)
	b.Fail(errors.New("second"))
	for range 2 {
		if err := <-ended; !errors.Is(err, why) {
			t.Errorf("a wait ended with %v", err)
		}
	}
	if n.freed != 1 || outside.freed != 1 {
		t.Errorf("freed %d and %d times, want once each", n.freed, outside.freed)
	}
}

func TestRecentSetForgetsTheOldest(t *testing.T) {
	var s recentSet
	for i := range uint64(recentBuckets + 10) {
		s.add(bucketKey{step: i})
		s.add(bucketKey{step: i})
	}
	if s.has(bucketKey{step: 9}) || !s.has(bucketKey{step: 10}) || len(s.in) != recentBuckets {
		t.Errorf("holds %d", len(s.in))
	}
}
