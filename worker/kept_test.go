package worker

import (
	"slices"
	"testing"

	"github.com/lockstep-ml/lockstep/internal/snapshot"
)

// A state that the others never agree on, since somebody died who had not told of its own, must not take the room of those after it.
func TestRoomForStatesToGoBackTo(t *testing.T) {
	var k keptStates
	keep := func(step uint64) {
		if s := k.room(snapshot.Lengths{Params: 1, Momentum: 1}); s != nil {
			s.Step = step
			k.add(s)
		}
	}
	keep(10)
	k.agree(10)
	keep(20) // never agreed on
	keep(30)
	k.agree(30)
	if got := k.steps(); !slices.Equal(got, []uint64{10}) {
		t.Fatalf("kept are %v, want what was agreed on last of those that are here", got)
	}
	keep(40)
	k.agree(40)
	if got := k.steps(); !slices.Equal(got, []uint64{40}) {
		t.Fatalf("kept are %v, want the newest one", got)
	}
}
