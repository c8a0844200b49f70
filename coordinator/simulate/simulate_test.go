package simulate

import (
	"math"
	"reflect"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// resnet50 is a model of its size on machines of their own.
func resnet50() Model {
	m := Model{
		Hop: 50 * time.Microsecond, BytesPerSecond: 1.25e9, Message: 20 * time.Microsecond, Compute: 400 * time.Millisecond, Update: 10 * time.Millisecond,
		Statistics: 53120, Wire: 32,
	}
	for i := range 25 {
		m.Buckets = append(m.Buckets, Bucket{Values: 1 << 20, Ready: (1 + 2*float64(i+1)/25) / 3})
	}
	return m
}

func config(change func(*Config)) Config {
	cfg := DefaultConfig()
	cfg.Model, cfg.For = resnet50(), 10*time.Minute
	change(&cfg)
	return cfg
}

type fataler interface{ Fatalf(string, ...any) }

func run(t *testing.T, change func(*Config)) *Result {
	t.Helper()
	r, err := Run(t.Context(), config(change))
	if err != nil {
		t.Fatal(err)
	}
	accounted(t, r)
	return r
}

// accounted checks that all of the time is told of: what is not a step as long as the ideal one is lost to something.
func accounted(t fataler, r *Result) {
	l := r.Lost
	told := float64(r.Steps)*r.IdealStep + l.Redone + l.Slower + l.Detecting + l.Regroup + l.Linking + l.Healing + l.Changing + l.Measuring + l.Away
	if math.Abs(told-r.Elapsed) > 1e-3 {
		t.Fatalf("%v of %v seconds are accounted for: %+v", told, r.Elapsed, *r)
	}
	for i := range reflect.ValueOf(l).NumField() {
		// Steps may well be shorter than the ideal: workers that are faster than the mean, spares that train.
		name := reflect.TypeOf(l).Field(i).Name
		if f := reflect.ValueOf(l).Field(i).Float(); f < 0 && name != "Slower" {
			t.Fatalf("%s is %v seconds: %+v", name, f, *r)
		}
	}
}

func TestUndisturbedRunIsIdeal(t *testing.T) {
	r := run(t, func(*Config) {})
	if r.Efficiency < 0.999 || r.Efficiency > 1 || r.Broken != 0 || r.Generations != 1 {
		t.Errorf("efficiency %v: %+v", r.Efficiency, *r)
	}
}

// With as many replicas as workers and nobody to take over, a lost worker doubles the computing of another until it is replaced.
func TestLostWorkerCostsUntilReplaced(t *testing.T) {
	few := func(c *Config) { c.MTBF, c.Replace, c.For = 2*time.Hour, 2*time.Minute, time.Hour }
	alone := run(t, few)
	spared := run(t, func(c *Config) { few(c); c.Spares = 2 })
	if alone.Failures == 0 || alone.Broken == 0 || spared.Broken == 0 {
		t.Fatalf("nothing failed: %+v, %+v", *alone, *spared)
	}
	perFailure := func(r *Result) float64 { return r.Lost.Slower / float64(r.Broken) }
	if perFailure(alone) < 20*perFailure(spared) {
		t.Errorf("a failure costs %.1f s in longer steps without spares, %.1f s with them", perFailure(alone), perFailure(spared))
	}
}

func TestSilentDeathIsNoticedByHeartbeats(t *testing.T) {
	r := run(t, func(c *Config) { c.MTBF, c.Detect, c.Spares, c.For = 30*time.Minute, 4*time.Second, 2, time.Hour })
	if r.Stalls == 0 || r.MeanStall < 2.9 || r.LongestStall > 12 {
		t.Errorf("%d stalls of %v s, at most %v s: a worker's last heartbeat was up to a second before", r.Stalls, r.MeanStall, r.LongestStall)
	}
	quick := run(t, func(c *Config) { c.MTBF, c.Spares, c.For = 30*time.Minute, 2, time.Hour })
	if quick.Stalls == 0 || quick.MeanStall > 1 {
		t.Errorf("%d stalls of %v s where connections end", quick.Stalls, quick.MeanStall)
	}
}

// Workers train on without a coordinator, and another one finds them.
func TestCoordinatorComesBack(t *testing.T) {
	r := run(t, func(c *Config) { c.CoordinatorMTBF, c.CoordinatorBack = time.Minute, 20*time.Second })
	if r.Coordinators == 0 || r.Efficiency < 0.99 {
		t.Errorf("%d coordinators lost, efficiency %v", r.Coordinators, r.Efficiency)
	}
}

func TestLeavingCostsNoStep(t *testing.T) {
	r := run(t, func(c *Config) { c.LeaveEvery, c.Replace, c.Replicas, c.Batch = 10*time.Minute, time.Second, 32, 1024 })
	if r.Leaves == 0 || r.Broken != 0 || r.Lost.Redone != 0 {
		t.Errorf("%d workers left, %d steps done again", r.Leaves, r.Broken)
	}
}

func TestSameSeedSameResult(t *testing.T) {
	rough := func(seed uint64) func(c *Config) {
		return func(c *Config) {
			c.MTBF, c.Spares, c.LeaveEvery, c.CoordinatorMTBF, c.Spread, c.Seed = 20*time.Minute, 1, time.Hour, 3*time.Minute, 0.05, seed
		}
	}
	a, b, other := run(t, rough(1)), run(t, rough(1)), run(t, rough(2))
	if *a != *b {
		t.Errorf("two runs of one seed differ:\n%+v\n%+v", *a, *b)
	}
	if *a == *other {
		t.Error("the seed changes nothing")
	}
}

func TestRunOfGivenSteps(t *testing.T) {
	if r := run(t, func(c *Config) { c.Steps = 100 }); r.Steps != 100 {
		t.Errorf("%d steps, want 100", r.Steps)
	}
}

// Whatever befalls it, a run goes on, and all of its time is accounted for.
func TestAnythingMayBefallIt(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		among := func(name string, d ...time.Duration) time.Duration { return rapid.SampledFrom(d).Draw(t, name) }
		cfg := config(func(c *Config) {
			c.Workers = rapid.IntRange(1, 12).Draw(t, "workers")
			c.Spares = rapid.IntRange(0, 3).Draw(t, "spares")
			c.Replicas = c.Workers * rapid.IntRange(1, 4).Draw(t, "replicas each")
			c.Batch = c.Replicas
			c.Seed = rapid.Uint64().Draw(t, "seed")
			c.Detect = among("detect", 10*time.Millisecond, 500*time.Millisecond, 2*time.Second, 4*time.Second)
			c.MTBF = among("mtbf", 0, 5*time.Minute, time.Hour)
			c.Replace = among("replace", time.Second, 30*time.Second)
			c.LeaveEvery = among("leave", 0, 10*time.Minute)
			c.CoordinatorMTBF = among("coordinator", 0, time.Minute)
			c.CoordinatorBack = among("back", time.Second, 15*time.Second)
			c.Load = among("load", 0, 5*time.Second)
			c.Spread = rapid.SampledFrom([]float64{0, 0.1}).Draw(t, "spread")
		})
		r, err := Run(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		accounted(t, r)
		if r.Steps == 0 || cfg.Spread == 0 && r.Efficiency > 1+1e-6 {
			t.Fatalf("%+v", *r)
		}
	})
}

func TestFaultyConfigs(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"no workers":                   func(c *Config) { c.Workers = 0 },
		"more workers than replicas":   func(c *Config) { c.Workers = 9 },
		"batch that does not divide":   func(c *Config) { c.Batch = 7 },
		"no rate":                      func(c *Config) { c.Model.BytesPerSecond = 0 },
		"no buckets":                   func(c *Config) { c.Model.Buckets = nil },
		"wire":                         func(c *Config) { c.Model.Wire = 8 },
		"no computing":                 func(c *Config) { c.Model.Compute = 0 },
		"reports rarer than death":     func(c *Config) { c.ReportEvery = 4 * time.Second },
		"buckets that are not in turn": func(c *Config) { c.Model.Buckets[3].Ready = 0 },
		"negative":                     func(c *Config) { c.MTBF = -1 },
	} {
		cfg := config(change)
		if _, err := Run(t.Context(), cfg); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// BenchmarkMinuteOf1024 is a minute of a large cluster; its time is nearly all the coordinator's.
func BenchmarkMinuteOf1024(b *testing.B) {
	cfg := config(func(c *Config) {
		c.Workers, c.Replicas, c.Batch, c.Spares, c.MTBF, c.For = 1024, 1024, 32768, 8, 17*time.Hour, time.Minute
	})
	for b.Loop() {
		r, err := Run(b.Context(), cfg)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(r.Events), "events/op")
	}
}
