package simulate

import (
	"errors"
	"fmt"
	"time"

	"github.com/lockstep-ml/lockstep/coordinator"
)

// Config describes a cluster, a run, and what goes wrong. DefaultConfig gives what does not depend on them.
type Config struct {
	Model    Model
	Workers  int           // the run begins when so many are ready
	Spares   int           // more workers from the start; they are in the ring too if there are replicas for them
	Replicas int           // of the run; at least Workers, or some have nothing to do
	Batch    int           // images of a step
	Group    int           // workers in a group of the ring: 1 flat, 0 as the coordinator chooses
	Steps    uint64        // the run's; 0: as many as there is time for
	For      time.Duration // virtual time at which to stop looking, counted from the first step
	Seed     uint64

	// Spread is the standard deviation of the workers' speeds, relative to their mean.
	Spread float64
	// MTBF is the mean time between failures of one worker, by a Poisson process; 0: none fail.
	MTBF time.Duration
	// Detect is the time from a worker's death until the others know. Below a second the system closes its connections, as it does for
	// a killed process; from a second on it is silence, and Detect is the coordinator's DeadAfter.
	Detect time.Duration
	// Replace is the time from a worker's death, or its leaving, until it or another machine in its place attaches.
	Replace time.Duration
	// Load is what a worker takes from its welcome until it is ready, but for the state: open the data, compile the engine.
	Load time.Duration
	// LeaveEvery is the mean time until one worker asks to leave, by a Poisson process; 0: none leaves.
	LeaveEvery time.Duration
	// CoordinatorMTBF is the same of the coordinator, and CoordinatorBack how long it is away. 0: it never fails.
	CoordinatorMTBF, CoordinatorBack time.Duration
	// Link is what the making of a new ring's connections takes beside the round trips: sockets, handshakes, memory.
	Link time.Duration
	// Sync is what an entry of the journal takes to be safe on disk.
	Sync time.Duration
	// ReportEvery has members tell of a step in quiet stretches only after so long: what they all have to say is the same. At most
	// DeadAfter less a second.
	ReportEvery time.Duration

	// Log takes what the coordinator tells people, nil to drop it.
	Log func(at time.Duration, text string)
}

// DefaultConfig is for a cluster of machines of their own, without failures.
func DefaultConfig() Config {
	return Config{
		Workers: 8, Replicas: 8, Batch: 256, For: time.Hour, Seed: 1,
		Detect: 50 * time.Millisecond, Replace: 3 * time.Minute, Load: 10 * time.Second, CoordinatorBack: 10 * time.Second,
		Link: 20 * time.Millisecond, Sync: 5 * time.Millisecond, ReportEvery: time.Second,
	}
}

// silence is the shortest Detect that means heartbeats; they come once a second.
const silence = time.Second

// Validate reports every fault at once.
func (c *Config) Validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf("simulate: "+format, args...))
		}
	}
	check(c.Workers > 0 && c.Spares >= 0 && c.Workers+c.Spares <= 4096, "%d workers and %d spares, want 1 to 4096", c.Workers, c.Spares)
	check(c.Replicas >= c.Workers && c.Replicas <= 1<<20, "%d replicas for %d workers: want one for each at least", c.Replicas, c.Workers)
	check(c.Batch > 0 && c.Batch%max(1, c.Replicas) == 0, "a batch of %d images does not divide into %d replicas", c.Batch, c.Replicas)
	check(c.For > 0 && c.For <= 10*365*24*time.Hour, "%v is no time to simulate", c.For)
	check(c.Spread >= 0 && c.Spread < 0.3, "a spread of %v, want 0 to 0.3", c.Spread)
	for _, d := range []struct {
		name  string
		value time.Duration
	}{
		{"MTBF", c.MTBF}, {"Replace", c.Replace}, {"Load", c.Load}, {"LeaveEvery", c.LeaveEvery}, {"CoordinatorMTBF", c.CoordinatorMTBF},
		{"CoordinatorBack", c.CoordinatorBack}, {"Link", c.Link}, {"Sync", c.Sync}, {"ReportEvery", c.ReportEvery},
	} {
		check(d.value >= 0, "%s is %v, cannot be negative", d.name, d.value)
	}
	check(c.Detect > 0 && c.Detect <= time.Minute, "a failure is noticed after %v, want up to a minute", c.Detect)
	check(c.ReportEvery <= c.deadAfter()-time.Second, "reports every %v, and %v of silence is death", c.ReportEvery, c.deadAfter())
	return errors.Join(append(errs, c.Model.Validate())...)
}

// deadAfter is the silence that the coordinator takes for death.
func (c *Config) deadAfter() time.Duration {
	if c.Detect >= silence {
		return max(c.Detect, 2*time.Second)
	}
	return coordinator.DefaultConfig().DeadAfter
}

// machine is the coordinator's configuration.
func (c *Config) machine(epoch uint64) (coordinator.Config, error) {
	cfg := coordinator.DefaultConfig()
	cfg.Run, cfg.Version, cfg.Epoch = "simulated", "simulated", epoch
	cfg.TotalSteps = c.Steps
	if c.Steps == 0 {
		cfg.TotalSteps = 1 << 40
	}
	cfg.StepsPerEpoch, cfg.GlobalBatch, cfg.Replicas, cfg.MinWorkers, cfg.Group = 1e4, c.Batch, c.Replicas, c.Workers, c.Group
	cfg.NoStore, cfg.DeadAfter, cfg.SuspectAfter = true, c.deadAfter(), c.deadAfter()
	cfg.JoinTimeout = 24 * time.Hour // to hand the first state to everybody takes what it takes
	var err error
	cfg.Schedule, err = coordinator.ParseSchedule("constant", "", 0.1, coordinator.Scale{StepsPerEpoch: cfg.StepsPerEpoch, TotalSteps: cfg.TotalSteps})
	return cfg, err
}
