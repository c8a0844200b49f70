package simulate

import (
	"testing"
	"time"
)

// model is ResNet-50's size on machines of their own.
func model() Model {
	m := Model{
		Hop: 50 * time.Microsecond, BytesPerSecond: 1.25e9, Message: 20 * time.Microsecond, Compute: 400 * time.Millisecond, Update: 10 * time.Millisecond,
		Statistics: 53120, Wire: 32,
	}
	for i := range 25 {
		m.Buckets = append(m.Buckets, Bucket{Values: 1 << 20, Ready: (1 + 2*float64(i+1)/25) / 3})
	}
	return m
}

func run(t *testing.T, change func(*Config)) *Result {
	t.Helper()
	cfg := DefaultConfig()
	cfg.Model, cfg.For = model(), 10*time.Minute
	if testing.Verbose() {
		cfg.Log = func(at time.Duration, text string) { t.Log(at, text) }
	}
	change(&cfg)
	r, err := Run(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", *r)
	return r
}

func TestUndisturbedRunIsIdeal(t *testing.T) {
	r := run(t, func(*Config) {})
	if r.Efficiency < 0.99 || r.Broken != 0 {
		t.Error("not ideal")
	}
}

func TestFailures(t *testing.T) {
	r := run(t, func(c *Config) { c.MTBF = 10 * time.Minute; c.Spares = 1 })
	if r.Failures == 0 || r.Broken == 0 || r.Steps == 0 {
		t.Error("nothing failed")
	}
}

func TestThousand(t *testing.T) {
	r := run(t, func(c *Config) {
		c.Workers, c.Replicas, c.Batch, c.Spares, c.MTBF, c.For, c.Log = 1024, 1024, 32768, 8, 17*time.Hour, time.Hour, nil
	})
	if r.Steps == 0 {
		t.Error("no steps")
	}
}
