package coordinator

import (
	"encoding/json"
	"math"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

var cifar = Scale{StepsPerEpoch: 50000.0 / 256, TotalSteps: 64000}

func mustParse(t testing.TB, schedule, warm string, scale Scale) *Schedule {
	t.Helper()
	s, err := ParseSchedule(schedule, warm, 0.1, scale)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestLearningRates holds the paper's schedules and the grammar's corners. Divisions must give the decimals that people write.
func TestLearningRates(t *testing.T) {
	tests := []struct {
		schedule, warm string
		at             map[uint64]float64
	}{
		{"constant", "", map[uint64]float64{0: 0.1, 63999: 0.1}},
		{"steps:32000,48000", "", map[uint64]float64{0: 0.1, 31999: 0.1, 32000: 0.01, 47999: 0.01, 48000: 0.001}},
		{"steps:50%,75%", "", map[uint64]float64{31999: 0.1, 32000: 0.01, 48000: 0.001}},
		{"steps:10e,factor=5", "", map[uint64]float64{1953: 0.1, 1954: 0.02}}, // 1953.125 steps round up
		{"steps:32000", "400@0.01,hold", map[uint64]float64{0: 0.01, 399: 0.01, 400: 0.1, 32000: 0.01}},
		{"constant", "100", map[uint64]float64{0: 0.01, 50: 0.055, 100: 0.1}},
		{"constant", "1%@0.02", map[uint64]float64{0: 0.02, 320: 0.06, 640: 0.1}},
		{"plateau", "", map[uint64]float64{0: 0.1, 63999: 0.1}},
	}
	for _, tt := range tests {
		s := mustParse(t, tt.schedule, tt.warm, cifar)
		for step, want := range tt.at {
			if got := s.LR(step); math.Abs(got-want) > 1e-15 {
				t.Errorf("%s, warm-up %q: rate of step %d is %v, want %v", tt.schedule, tt.warm, step, got, want)
			}
		}
	}
}

func TestScheduleErrorsNameThePlace(t *testing.T) {
	for _, tt := range []struct{ schedule, warm, want string }{
		{"step:5", "", `unknown kind "step" at character 1`},
		{"steps", "", "no point is given"},
		{"steps:", "", `at character 7: "" is no span`},
		{"steps:10,x5", "", `at character 10: "x5" is no span`},
		{"steps:10,5", "", "5 does not come after 10"},
		{"steps:0", "", "before the first step"},
		{"steps:1.5", "", "steps are whole numbers"},
		{"steps:101%", "", "beyond the end"},
		{"steps:10,factor=1", "", `at character 10: "factor=1": want a number above 1`},
		{"constant:10", "", "constant takes no points"},
		{"plateau:patience=0", "", "1 or more"},
		{"plateau:min-lr=0.2", "", "from 0 to the learning rate"},
		{"plateau:factor=NaN", "", "want a number above 1"},
		{"constant:factor=2", "", `constant knows no setting "factor"`},
		{"constant", "5x", `warm-up "5x": "5x" is no span`},
		{"constant", "5@0", "above 0"},
		{"constant", "5@0.1,jump", `at character 7: "jump"`},
		{"constant", "5,hold", "only SPAN@RATE,hold"},
		{"constant", "-5", "is no span"},
	} {
		_, err := ParseSchedule(tt.schedule, tt.warm, 0.1, cifar)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q, %q: error %v, want %q in it", tt.schedule, tt.warm, err, tt.want)
		}
	}
	_, err := ParseSchedule("nothing", "never", -1, Scale{})
	for _, want := range []string{"learning rate -1", "steps per epoch", "nothing", "never"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("faults reported: %v; %q is missing", err, want)
		}
	}
}

// TestPlateau is the paper's rule on a made-up curve of errors.
func TestPlateau(t *testing.T) {
	s := mustParse(t, "plateau:patience=2,threshold=0.01,min-lr=0.001", "", cifar)
	curve := []struct {
		err  float64
		drop bool
	}{
		{0.50, false}, {0.40, false}, {0.395, false}, {0.391, true}, // better by less than the threshold is no better
		{0.30, false}, {0.30, false}, {0.29001, true}, {0.2, false}, {0.2, false}, {0.2, false}, {0.2, false}, // 0.001 is the floor
	}
	for i, c := range curve {
		step := uint64(i+1) * 100
		if got := s.Observe(step, c.err); got != c.drop {
			t.Errorf("evaluation %d (%v): dropped %v, want %v", i, c.err, got, c.drop)
		}
		if s.Observe(step, 0.99) {
			t.Errorf("evaluation %d counted twice", i)
		}
	}
	for step, want := range map[uint64]float64{399: 0.1, 400: 0.01, 699: 0.01, 700: 0.001, 5000: 0.001} {
		if got := s.LR(step); got != want {
			t.Errorf("rate of step %d is %v, want %v", step, got, want)
		}
	}
}

// TestRestoredScheduleGoesOn: a schedule restored anywhere goes on like one that was never interrupted.
func TestRestoredScheduleGoesOn(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.SampledFrom([]string{"constant", "steps:30%,60%", "plateau:patience=2"}).Draw(t, "schedule")
		scale := Scale{StepsPerEpoch: 7.5, TotalSteps: 200}
		whole := drawSchedule(t, text, scale)
		other := drawSchedule(t, text, scale)
		for i := range rapid.IntRange(0, 25).Draw(t, "evaluations") {
			step := uint64(i+1) * 8
			e := rapid.Float64Range(0, 1).Draw(t, "error")
			whole.Observe(step, e)
			other.Observe(step, e)
			if rapid.Bool().Draw(t, "restart") {
				fresh := drawSchedule(t, text, scale)
				if err := fresh.Restore(other.MarshalState()); err != nil {
					t.Fatal(err)
				}
				other = fresh
			}
		}
		for step := uint64(0); step < 200; step++ {
			if whole.LR(step) != other.LR(step) {
				t.Fatalf("rate of step %d is %v after restarts, %v without", step, other.LR(step), whole.LR(step))
			}
		}
	})
}

func drawSchedule(t *rapid.T, text string, scale Scale) *Schedule {
	s, err := ParseSchedule(text, "", 0.1, scale)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestRestoreRefusesNonsense(t *testing.T) {
	for _, state := range []string{`{`, `{"kind":"steps"}`, `{"kind":"plateau","best":7}`, `{"kind":"plateau","bad":-1}`, `{"kind":"plateau","drops":[9,3]}`} {
		if err := mustParse(t, "plateau", "", cifar).Restore(json.RawMessage(state)); err == nil {
			t.Errorf("state %s was taken", state)
		}
	}
	for _, state := range []string{"", "null", `{"kind":"plateau"}`} {
		if err := mustParse(t, "plateau", "", cifar).Restore(json.RawMessage(state)); err != nil {
			t.Errorf("state %q: %v", state, err)
		}
	}
}

// TestSpansAreTheRates: the spans of a window say the same as LR, and no more than needed.
func TestSpansAreTheRates(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		scale := Scale{StepsPerEpoch: rapid.Float64Range(0.3, 40).Draw(t, "steps per epoch"), TotalSteps: 200}
		s, err := ParseSchedule(rapid.SampledFrom([]string{"constant", "steps:1,3%,70,80%", "plateau:patience=1"}).Draw(t, "schedule"),
			rapid.SampledFrom([]string{"", "1", "30", "10%@0.03", "50@0.1,hold", "90@0.3"}).Draw(t, "warm-up"), 0.1, scale)
		if err != nil {
			t.Skip(err) // points may coincide
		}
		for i := range rapid.IntRange(0, 4).Draw(t, "evaluations") {
			s.Observe(uint64(20*(i+1)), 0.5)
		}
		first := uint64(rapid.IntRange(0, 199).Draw(t, "first"))
		until := uint64(rapid.IntRange(int(first), 200).Draw(t, "until"))
		spans := s.Spans(first, until)
		for i := 1; i < len(spans); i++ {
			if spans[i].FirstStep <= spans[i-1].FirstStep || spans[i].Value == spans[i-1].Value {
				t.Fatalf("spans %v repeat themselves", spans)
			}
		}
		at := -1
		for step := first; step < until; step++ {
			if at+1 < len(spans) && spans[at+1].FirstStep == step {
				at++
			}
			if at < 0 || spans[at].Value != s.LR(step) {
				t.Fatalf("step %d has rate %v, spans say %v", step, s.LR(step), spans)
			}
		}
		if at != len(spans)-1 {
			t.Fatalf("spans %v beyond [%d,%d)", spans, first, until)
		}
	})
}

// TestNextIsTheNextMultiple: next skips no multiple of a span and repeats none.
func TestNextIsTheNextMultiple(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		scale := Scale{StepsPerEpoch: rapid.Float64Range(0.2, 3000).Draw(t, "steps per epoch"), TotalSteps: 100000}
		unit := Unit(rapid.IntRange(0, 2).Draw(t, "unit"))
		value := float64(rapid.IntRange(1, 400).Draw(t, "value"))
		if unit != Steps {
			value = rapid.SampledFrom([]float64{0.1, 0.25, 1, 3, 33.3}).Draw(t, "fraction")
		}
		span := Span{value, unit}
		after := uint64(rapid.IntRange(0, 50000).Draw(t, "after"))
		got := span.next(after, scale)
		k := uint64(1)
		for span.multiple(k, scale) <= after {
			k++
		}
		if want := span.multiple(k, scale); got != want {
			t.Fatalf("the first multiple of %v after %d is %d, want %d", span, after, got, want)
		}
	})
}

// FuzzParse: no text makes the parsers fail in another way than by an error, and what a schedule prints of itself means the same.
func FuzzParse(f *testing.F) {
	for _, seed := range [][2]string{{"constant", ""}, {"steps:32000,48000,factor=5", "400@0.01,hold"}, {"plateau:patience=3,threshold=0.001,min-lr=1e-5", "5e"}, {"steps:60%,90%", "5e@0.01"}} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, schedule, warm string) {
		s, err := ParseSchedule(schedule, warm, 0.1, cifar)
		if err != nil {
			return
		}
		again, err := ParseSchedule(s.String(), warm, 0.1, cifar)
		if err != nil {
			t.Fatalf("%q prints itself as %q, which is refused: %v", schedule, s, err)
		}
		for _, step := range []uint64{0, 1, 400, 32000, 63999} {
			if a, b := s.LR(step), again.LR(step); a != b || !(a >= 0) {
				t.Fatalf("%q: rate of step %d is %v, of what it prints %v", schedule, step, a, b)
			}
		}
	})
}

// FuzzRestore: a checkpoint's bytes may be anything.
func FuzzRestore(f *testing.F) {
	f.Add([]byte(`{"kind":"plateau","evaluated":10,"best":0.3,"bad":1,"drops":[5,9]}`))
	f.Add([]byte(`{"kind":"constant"}`))
	f.Fuzz(func(t *testing.T, state []byte) {
		s := mustParse(t, "plateau", "", cifar)
		if s.Restore(state) != nil {
			return
		}
		if lr := s.LR(100); !(lr >= 0 && lr <= 0.1) {
			t.Fatalf("state %s gives rate %v", state, lr)
		}
		s.Observe(1000, 0.5)
	})
}
