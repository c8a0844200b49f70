package shm

import (
	"fmt"
	"testing"
)

// BenchmarkHandOver times what a payload costs beside writing and reading it:
// with a receiver that is awake, and there and back between two that sleep.
func BenchmarkHandOver(b *testing.B) {
	head := make([]byte, 72)
	b.Run("awake", func(b *testing.B) {
		out, in := benchPair(b)
		for b.Loop() {
			s, ok := out.Take(256 << 10)
			if !ok {
				b.Fatal("no slot")
			}
			s.Lend(head)
			_, loan, err := in.Receive(head)
			if err != nil {
				b.Fatal(err)
			}
			loan.Free()
		}
	})
	b.Run("asleep", func(b *testing.B) {
		there, here := benchPair(b)
		back, away := benchPair(b)
		ended := make(chan error, 1)
		go func() { ended <- echo(here, back) }()
		for b.Loop() {
			s, ok := there.Take(64)
			if !ok {
				b.Fatal("no slot")
			}
			s.Lend(head)
			_, loan, err := away.Receive(head)
			if err != nil {
				b.Fatal(err)
			}
			loan.Free()
		}
		there.Close()
		<-ended
	})
}

// echo answers each payload with one, until there are no more.
func echo(in *Inlet, out *Outlet) error {
	head := make([]byte, 72)
	for {
		_, loan, err := in.Receive(head)
		if err != nil {
			return err
		}
		loan.Free()
		s, ok := out.Take(64)
		if !ok {
			return fmt.Errorf("no slot")
		}
		s.Lend(head)
	}
}

func benchPair(b *testing.B) (*Outlet, *Inlet) {
	b.Helper()
	out, err := Create(Default())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(out.Close)
	in, err := Open(out.Offer())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(in.Close)
	out.Settle()
	return out, in
}
