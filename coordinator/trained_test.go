package coordinator

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// TestWarmUpUntilError is the paper's start for 110 layers: 0.01 until the training error is below 80 %.
func TestWarmUpUntilError(t *testing.T) {
	s := mustParse(t, "steps:32000,48000", "error:80%@0.01,every=2", cifar)
	right := []uint64{10, 20, 30, 20, 26, 26, 90, 90} // of 128: blocks of 15, 25, 26 of 128, ...: 20 % are 25.6
	for i, correct := range right {
		step := uint64(i + 1)
		if got := s.ObserveTraining(step, 128, correct); got != (step == 6) {
			t.Errorf("step %d ends the warm-up: %v", step, got)
		}
		if s.ObserveTraining(step, 128, 128) {
			t.Errorf("step %d counted twice", step)
		}
	}
	for step, want := range map[uint64]float64{0: 0.01, 5: 0.01, 6: 0.1, 31999: 0.1, 32000: 0.01, 48000: 0.001} {
		if got := s.LR(step); got != want {
			t.Errorf("rate of step %d is %v, want %v", step, got, want)
		}
	}
	want := []LRSpan{{0, 0.01}, {6, 0.1}, {32000, 0.01}}
	if got := s.Spans(0, 48000); !slices.Equal(got, want) {
		t.Errorf("spans are %v, want %v", got, want)
	}
}

// A block of which a step's counts are unknown decides nothing; the next one does.
func TestWarmUpWithAGap(t *testing.T) {
	s := mustParse(t, "constant", "error:80%@0.01,every=2", cifar)
	for _, step := range []uint64{1, 2, 4, 5} {
		right := uint64(0)
		if step > 2 {
			right = 128
		}
		if s.ObserveTraining(step, 128, right) {
			t.Errorf("step %d ended the warm-up", step)
		}
	}
	if !s.ObserveTraining(6, 128, 128) {
		t.Error("a whole block did not end it")
	}
}

// TestRestoredWarmUpGoesOn: a warm-up that is restored after any step ends where an undisturbed one does.
func TestRestoredWarmUpGoesOn(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		parse := func() *Schedule {
			s, err := ParseSchedule("constant", "error:70%@0.01,every=4", 0.1, cifar)
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		whole, other := parse(), parse()
		for step := uint64(1); step <= 40; step++ {
			right := rapid.Uint64Range(0, 60).Draw(t, "right")
			whole.ObserveTraining(step, 128, right)
			if rapid.Bool().Draw(t, "restart") {
				fresh := parse()
				if err := fresh.Restore(other.MarshalState()); err != nil {
					t.Fatal(err)
				}
				other = fresh
			}
			other.ObserveTraining(step, 128, right)
			if whole.NeedsTraining() != other.NeedsTraining() || whole.LR(step) != other.LR(step) {
				t.Fatalf("after step %d the rate is %v, undisturbed %v", step, other.LR(step), whole.LR(step))
			}
		}
	})
}

func TestWarmUpErrorsNameThePlace(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"error:", "no training error"},
		{"error:80@0.01", "no training error"},
		{"error:100%@0.01", "no training error"},
		{"error:80%", "the rate to begin with"},
		{"error:80%@-1", "the rate to begin with"},
		{"error:80%@0.01,hold", "at character 16"},
		{"error:80%@0.01,every=0", "every=STEPS"},
	} {
		if _, err := ParseSchedule("constant", c.text, 0.1, cifar); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v, want %q", c.text, err, c.want)
		}
	}
	s := mustParse(t, "constant", "error:80%@0.01", cifar)
	for _, state := range []string{`{"kind":"constant","tally":{"step":1,"images":1,"correct":2}}`, `{"kind":"constant","warmed":20,"tally":{"step":1}}`} {
		if err := s.Restore([]byte(state)); err == nil {
			t.Errorf("state %s was taken", state)
		}
	}
	if err := mustParse(t, "constant", "", cifar).Restore([]byte(`{"kind":"constant","warmed":20}`)); err == nil {
		t.Error("the state of a warm-up was taken where there is none")
	}
}
