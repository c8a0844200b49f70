package coordinator

import (
	"testing"
	"time"
)

// resnet50 is a step of ResNet-50 with 32-bit blocks.
func resnet50(hop time.Duration, rate float64) Traffic {
	return Traffic{Hop: hop, BytesPerSecond: rate, StepBytes: 4 * 25557032, Buckets: 25}
}

// resnet20 is a step of cifar-resnet20.
func resnet20(hop time.Duration, rate float64) Traffic {
	return Traffic{Hop: hop, BytesPerSecond: rate, StepBytes: 4 * 272474, Buckets: 5}
}

func TestChooseGroup(t *testing.T) {
	const us, ms = time.Microsecond, time.Millisecond
	for _, c := range []struct {
		name    string
		workers int
		traffic Traffic
		want    int
	}{
		{"nothing known", 16, Traffic{}, 1},
		{"small rings are flat whatever it costs", 4, resnet20(20*ms, 1e8), 1},
		{"a prime has no groups", 7, resnet20(20*ms, 1e8), 1},
		{"no links like that", 16, resnet20(time.Hour, 1e8), 1},
		{"slow links, few bytes, square", 9, resnet20(ms, 1e9), 3},
		{"slow links, few bytes", 8, resnet20(ms, 1e9), 4},
		{"slow links, few bytes, many workers", 64, resnet20(ms, 1e9), 8},
		{"one host: bytes and messages decide", 8, resnet50(30*us, 1e9), 1},
		{"the link is what takes long", 8, resnet50(ms, 1e8), 1},
		{"many workers, far apart, many bytes", 64, resnet50(ms, 1.25e9), 8},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := ChooseGroup(c.workers, c.traffic); got != c.want {
				t.Errorf("groups of %d, want %d", got, c.want)
				for g := 1; g < c.workers; g++ {
					if c.workers%g == 0 {
						t.Logf("groups of %d: %v", g, c.traffic.Estimate(c.workers, g))
					}
				}
			}
		})
	}
}

// More workers or longer hops never make the estimate shorter, and what is chosen is never estimated to be slower than flat.
func TestEstimateGrows(t *testing.T) {
	for _, bytes := range []uint64{4096, 1 << 20, 1 << 28} {
		for workers := 2; workers <= 64; workers++ {
			before := time.Duration(0)
			for hop := time.Microsecond; hop < time.Second; hop *= 4 {
				traffic := Traffic{Hop: hop, BytesPerSecond: 1e9, StepBytes: bytes, Buckets: 16}
				flat := traffic.Estimate(workers, 1)
				if flat <= before {
					t.Fatalf("%d workers, %d bytes: %v at %v a hop, %v with a shorter one", workers, bytes, flat, hop, before)
				}
				before = flat
				g := ChooseGroup(workers, traffic)
				if workers%g != 0 || g == workers || g > 1 && workers <= flatUpTo {
					t.Fatalf("%d workers in groups of %d", workers, g)
				}
				if got := traffic.Estimate(workers, g); got > flat {
					t.Fatalf("%d workers in groups of %d: %v, flat %v", workers, g, got, flat)
				}
			}
		}
	}
}

func TestGroupsMustDivideTheWorkers(t *testing.T) {
	for _, c := range []struct {
		workers, group int
		ok             bool
	}{{6, 0, true}, {6, 1, true}, {6, 3, true}, {6, 4, false}, {6, 7, false}, {6, -1, false}} {
		cfg := DefaultConfig()
		cfg.Run, cfg.TotalSteps, cfg.StepsPerEpoch, cfg.GlobalBatch, cfg.Replicas = "r", 1, 1, 8, 8
		cfg.MinWorkers, cfg.Group = c.workers, c.group
		var err error
		if cfg.Schedule, err = ParseSchedule("constant", "", 0.1, Scale{1, 1}); err != nil {
			t.Fatal(err)
		}
		if err := cfg.Validate(); (err == nil) != c.ok {
			t.Errorf("%d workers in groups of %d: %v", c.workers, c.group, err)
		}
	}
}
