package chaos

import (
	"reflect"
	"slices"
	"strings"
	"testing"
)

// A plan is a function of its arguments; another seed or round gives another one.
func TestDrawDependsOnSeedAlone(t *testing.T) {
	draw := func(seed uint64, round int) Plan { return Draw(seed, round, 30, 4, 3000, Kinds()) }
	a := draw(7, 2)
	if !reflect.DeepEqual(a, draw(7, 2)) {
		t.Error("the same seed and round gave two plans")
	}
	for _, b := range []Plan{draw(8, 2), draw(7, 3)} {
		if reflect.DeepEqual(a, b) {
			t.Error("another seed or round gave the same plan")
		}
	}
}

// Whatever is drawn can be done: its worker is there, a newcomer's place is free, and somebody untouched is left.
func TestDrawCanBeDone(t *testing.T) {
	overlaps, single := 0, 0
	for seed := range uint64(300) {
		places := 2 + int(seed%4)
		p := Draw(seed, 0, 40, places, 4000, Kinds())
		if p.Crew < 1 || p.Crew > places {
			t.Fatalf("a crew of %d in %d places", p.Crew, places)
		}
		alive, hit := make([]bool, places), make([]bool, places)
		for i := range p.Crew {
			alive[i] = true
		}
		last := uint64(0)
		for i, f := range p.Faults {
			if f.Step < last || f.Step > 4000*9/10 {
				t.Fatalf("seed %d, fault %d at step %d, after %d", seed, i, f.Step, last)
			}
			last = f.Step
			if f.Soon == 0 {
				clear(hit)
			} else {
				overlaps++
			}
			if f.Kind == Join != (f.Place >= 0 && !alive[f.Place]) {
				t.Fatalf("seed %d, fault %d: %+v with %v alive", seed, i, f, alive)
			}
			if f.Kind.is(hitsWorker) != (f.Place >= 0 && f.Kind != Join) || f.Place >= 0 && hit[f.Place] {
				t.Fatalf("seed %d, fault %d: %+v, hit %v", seed, i, f, hit)
			}
			if f.Place >= 0 {
				hit[f.Place] = true
				alive[f.Place] = !f.Kind.is(losesWorker) || f.Return > 0
			}
			if f.Kind.is(takesWorker) && !slices.ContainsFunc(indices(places), func(i int) bool { return alive[i] && !hit[i] }) {
				t.Fatalf("seed %d, fault %d: %+v leaves nobody, alive %v, hit %v", seed, i, f, alive, hit)
			}
			if n := len(slices.DeleteFunc(indices(places), func(i int) bool { return !alive[i] })); n == 1 {
				single++
			}
		}
	}
	if overlaps < 100 || single < 100 {
		t.Errorf("%d faults fell into others, %d left one worker alone: too few to have tried anything", overlaps, single)
	}
}

func indices(n int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = i
	}
	return out
}

// In every run of as many faults as there are kinds, each kind comes once, beside what had to be put in between.
func TestDealIsEven(t *testing.T) {
	p := Draw(1, 0, 10*len(Kinds()), 4, 3000, Kinds())
	count := map[Kind]int{}
	for _, f := range p.Faults {
		count[f.Kind]++
	}
	for _, k := range Kinds() {
		if count[k] < 10 || count[k] > 10 && k != Join && k != Leave {
			t.Errorf("%s %d times, want 10", k, count[k])
		}
	}
}

func TestParseKinds(t *testing.T) {
	if got, err := ParseKinds([]string{"kill", " slow", "kill"}); err != nil || !reflect.DeepEqual(got, []Kind{Kill, Slow}) {
		t.Error(got, err)
	}
	if _, err := ParseKinds([]string{"fire"}); err == nil || !strings.Contains(err.Error(), `"fire"`) {
		t.Error(err)
	}
	if got, err := ParseKinds(nil); err != nil || len(got) != len(Kinds()) {
		t.Error(got, err)
	}
}
