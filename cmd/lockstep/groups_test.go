package main

import (
	"testing"

	"github.com/lockstep-ml/lockstep/allreduce"
	"github.com/lockstep-ml/lockstep/coordinator"
)

// The coordinator chooses by the ring's own sizes, which it cannot import.
func TestChoiceKnowsTheRing(t *testing.T) {
	c := allreduce.DefaultConfig()
	if coordinator.RingSegment != c.SegmentBytes || coordinator.RingWindow != c.Window {
		t.Errorf("the choice goes by segments of %d and a window of %d, the ring has %d and %d", coordinator.RingSegment, coordinator.RingWindow, c.SegmentBytes, c.Window)
	}
}

// A choice that the workers do not allow is refused before anything begins.
func TestGroupsAreChecked(t *testing.T) {
	t.Parallel()
	lockstep(t, 1, "train", "--workers", "6", "--group", "4").says("--group", "6 workers do not divide")
	lockstep(t, 1, "train", "--group", "0").says("neither auto nor a number")
}
