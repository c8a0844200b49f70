package chaos

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// Fault is one thing that goes wrong.
type Fault struct {
	Kind   Kind          `json:"kind"`
	Step   uint64        `json:"step"`             // not before so many steps are committed
	Soon   time.Duration `json:"soon,omitempty"`   // if not 0: so long after the fault before, whatever that one still does
	Place  int           `json:"place"`            // of the worker that it happens to, -1 for none
	For    time.Duration `json:"for,omitempty"`    // how long it lasts
	Return time.Duration `json:"return,omitempty"` // until a lost worker's place is filled again; 0: it is not
	Same   bool          `json:"same,omitempty"`   // by a worker of the same name
	Amount float64       `json:"amount,omitempty"` // share lost, bit/s, or seconds that a clock jumps
}

// Plan is what is drawn for one round.
type Plan struct {
	Crew   int // workers that the run begins with, in places 0..Crew-1
	Faults []Fault
}

// lot draws a plan, keeping count of who would live if all went by it.
type lot struct {
	rng    *rand.Rand
	places int
	alive  []bool
	hit    []bool // by faults since the last one that waited
	plan   Plan
}

// Draw makes the plan of a round. It depends on its arguments alone: places for workers, at least 2; steps of the run; kinds to draw from,
// each as often as any other.
func Draw(seed uint64, round, faults, places int, steps uint64, kinds []Kind) Plan {
	l := &lot{rng: rand.New(rand.NewPCG(seed, uint64(round))), places: places, alive: make([]bool, places), hit: make([]bool, places)}
	l.plan.Crew = places - 1
	for i := range l.plan.Crew {
		l.alive[i] = true
	}
	for _, k := range l.deal(kinds, faults) {
		l.add(k)
	}
	l.spread(steps)
	return l.plan
}

// deal gives so many kinds in random order. Packs of all kinds are shuffled one behind the other, so none is rare.
func (l *lot) deal(kinds []Kind, n int) []Kind {
	var out []Kind
	for len(out) < n {
		pack := slices.Clone(kinds)
		l.rng.Shuffle(len(pack), func(i, j int) { pack[i], pack[j] = pack[j], pack[i] })
		out = append(out, pack...)
	}
	return out[:n]
}

// add appends a fault, and before it what makes it possible.
func (l *lot) add(k Kind) {
	f := Fault{Kind: k, Place: -1, Soon: l.soon(k)}
	if f.Soon == 0 {
		clear(l.hit)
	}
	switch {
	case k == Join && l.count() == l.places:
		l.append(l.aim(Fault{Kind: Leave, Place: -1}))
		f.Soon = 0
		clear(l.hit)
	case k.is(takesWorker) && l.count() < 2:
		l.append(l.fill(Fault{Kind: Join, Place: -1}))
		f.Soon = 0
		clear(l.hit)
	}
	if k == Join {
		f = l.fill(f)
	} else if k.is(hitsWorker) {
		f = l.aim(f)
		f.Return = l.comesBack(f)
	}
	l.append(l.measure(f))
}

// soon decides whether a fault falls into the one before.
func (l *lot) soon(k Kind) time.Duration {
	d, n := l.between(0, 2*time.Second), len(l.plan.Faults)
	if l.rng.IntN(6) > 0 || n == 0 || k.is(takesControl) || l.plan.Faults[n-1].Kind.is(takesControl) {
		return 0
	}
	spare, free := 0, 0 // who would be left untouched, and places that nobody has just lost
	for i, a := range l.alive {
		if a && !l.hit[i] {
			spare++
		} else if !a && !l.hit[i] {
			free++
		}
	}
	if spare < 2 || k == Join && free == 0 {
		return 0
	}
	return d + 1
}

func (l *lot) count() (n int) {
	for _, a := range l.alive {
		if a {
			n++
		}
	}
	return n
}

// pick draws a place for which ok holds; there must be one.
func (l *lot) pick(ok func(i int) bool) int {
	var can []int
	for i := range l.places {
		if ok(i) {
			can = append(can, i)
		}
	}
	if len(can) == 0 {
		panic(fmt.Sprintf("chaos: nobody to pick, alive %v, hit %v", l.alive, l.hit))
	}
	return can[l.rng.IntN(len(can))]
}

// aim draws the worker that a fault happens to.
func (l *lot) aim(f Fault) Fault {
	f.Place = l.pick(func(i int) bool { return l.alive[i] && !l.hit[i] })
	return f
}

// fill draws a free place for a newcomer.
func (l *lot) fill(f Fault) Fault {
	f.Place = l.pick(func(i int) bool { return !l.alive[i] && !l.hit[i] })
	return f
}

// comesBack draws when a lost worker's place is filled again. With every place taken it never is, so that there is room to join.
func (l *lot) comesBack(f Fault) time.Duration {
	d, stays := l.between(200*time.Millisecond, 6*time.Second), l.rng.IntN(4) == 0
	if !f.Kind.is(losesWorker) || l.count() == l.places || stays {
		return 0
	}
	return d
}

func (l *lot) append(f Fault) {
	if f.Place >= 0 {
		l.hit[f.Place] = true
		l.alive[f.Place] = !f.Kind.is(losesWorker) || f.Return > 0
	}
	l.plan.Faults = append(l.plan.Faults, f)
}

// between draws a time.
func (l *lot) between(least, most time.Duration) time.Duration {
	return least + time.Duration(l.rng.Int64N(int64(most-least))).Round(10*time.Millisecond)
}

// measure draws how long and how bad.
func (l *lot) measure(f Fault) Fault {
	f.Same = l.rng.IntN(2) == 0
	switch f.Kind {
	case Pause:
		f.For = l.between(time.Second, 10*time.Second)
	case Freeze, HalfOpen:
		f.For = l.between(8*time.Second, 15*time.Second)
	case Partition, OneWay:
		f.For = l.between(2*time.Second, 12*time.Second)
	case Delay:
		f.For, f.Amount = l.between(3*time.Second, 8*time.Second), l.between(20*time.Millisecond, 150*time.Millisecond).Seconds()
	case Loss:
		f.For, f.Amount = l.between(3*time.Second, 8*time.Second), 0.01+0.1*l.rng.Float64()
	case Slow:
		f.For, f.Amount = l.between(3*time.Second, 8*time.Second), 2e6+18e6*l.rng.Float64()
	case DiskFull:
		f.For = l.between(2*time.Second, 8*time.Second)
	case CoordinatorKill, CoordinatorMove, CoordinatorBoth:
		u := l.rng.Float64() // mostly short, up to half a minute
		f.For = time.Duration(30 * u * u * u * float64(time.Second)).Round(10 * time.Millisecond)
	case NoWorkers, AllDead:
		f.For = l.between(0, 3*time.Second)
	case ClockJump:
		f.Amount = l.between(time.Second, 24*time.Hour).Seconds()
		if l.rng.IntN(2) == 0 {
			f.Amount = -f.Amount
		}
	}
	return f
}

// spread gives each fault its step: evenly over the run but its beginning and its end, with some chance.
func (l *lot) spread(steps uint64) {
	n := uint64(len(l.plan.Faults))
	for i := range l.plan.Faults {
		gap := float64(steps) * 0.8 / float64(n)
		l.plan.Faults[i].Step = uint64(float64(steps)*0.05 + gap*(float64(i)+l.rng.Float64()*0.7))
	}
}
