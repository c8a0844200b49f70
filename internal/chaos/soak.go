package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/lockstep-ml/lockstep/internal/netlab"
)

// Config says what is broken, and for how long.
type Config struct {
	Program string // the lockstep binary
	Seed    uint64
	Round   int // the only round to play, to repeat one; -1: as many as it takes
	// Rounds go on until so many faults were injected, and each kind so often.
	Faults, Each int
	PerRound     int // faults drawn for a round; the run may be over before the last ones
	Workers      int // places for workers, at least 2
	Kinds        []Kind
	Loopback     bool // no namespaces, even where they could be
	Steps        uint64
	// Run are further settings of the runs, flag names without dashes and values.
	Run [][2]string
	// Dir keeps the logs of all processes. Empty: a folder that goes when all was well.
	Dir string
	// Patience is how long a run may take for a step, whatever happens to it; Limit how long for everything.
	Patience, Limit time.Duration
	Log             io.Writer // a line for each thing that happens; nil: none

	want      ending
	hasLedger bool
	haste     int // tests divide the times of faults by it; 0 stands for 1
}

// DefaultConfig fits a machine of two cores: a round takes about three minutes.
func DefaultConfig() Config {
	return Config{
		Seed: 1, Round: -1, Faults: 20, PerRound: 20, Workers: 4, Steps: 3600, Kinds: Kinds(),
		Run: [][2]string{{"arch", "cifar-resnet8"}, {"batch", "64"}, {"replica-batch", "8"}, {"checkpoint-every", "50"}, {"eval-every", "1000"}},
		// A coordinator may be away for half a minute, and whoever waits for it then needs a while to find it.
		Patience: 2 * time.Minute,
		Limit:    15 * time.Minute,
	}
}

// maxRounds keeps a soak that gets nowhere from going on for ever.
const maxRounds = 100

// Validate reports every fault at once.
func (c *Config) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.Workers < 2 || c.Workers > netlab.MaxNodes-2 {
		bad("%d places for workers, must be 2..%d", c.Workers, netlab.MaxNodes-2)
	}
	if c.Faults < 1 || c.Each < 0 || c.PerRound < 1 || c.PerRound > 1000 {
		bad("%d faults, %d of each kind, %d in a round: must be at least 1, 0 and 1..1000", c.Faults, c.Each, c.PerRound)
	}
	if c.Steps < 100 {
		bad("%d steps are too few for anything to happen in, must be 100 or more", c.Steps)
	}
	if len(c.Kinds) == 0 {
		bad("no kinds of faults")
	}
	if c.Patience <= 0 || c.Limit <= 0 {
		bad("a patience of %v and a limit of %v, must be positive", c.Patience, c.Limit)
	}
	return errors.Join(errs...)
}

// settings are the run's, as flags.
func (c *Config) settings() []string {
	out := []string{"--steps", strconv.FormatUint(c.Steps, 10)}
	for _, s := range c.Run {
		out = append(out, "--"+s[0], s[1])
	}
	return out
}

// Soak plays rounds and gives what happened. The error is of what kept it from that; what was wrong with the runs is in the report.
func Soak(ctx context.Context, cfg Config) (*Report, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	dir, err := logDir(cfg.Dir)
	if err != nil {
		return nil, err
	}
	s := &soak{cfg: cfg, dir: dir, report: newReport(&cfg)}
	if err := s.prepare(ctx); err != nil {
		return nil, errors.Join(err, s.clear(false))
	}
	first, last := 0, maxRounds
	if cfg.Round >= 0 {
		first, last = cfg.Round, cfg.Round+1
	}
	for i := first; i < last && ctx.Err() == nil && !(cfg.Round < 0 && s.report.enough(&cfg)); i++ {
		if err = s.round(ctx, i); err != nil {
			break
		}
	}
	s.report.sum(&cfg)
	return s.report, errors.Join(err, context.Cause(ctx), s.clear(err == nil && s.report.Good()))
}

func logDir(dir string) (string, error) {
	if dir == "" {
		return os.MkdirTemp("", "lockstep-soak-")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	return filepath.Abs(dir)
}

// soak is what its rounds share.
type soak struct {
	cfg      Config
	dir      string
	links    bool
	hasDisk  bool
	report   *Report
	reported error
}

// clear removes the logs where nobody wants them.
func (s *soak) clear(good bool) error {
	if s.cfg.Dir == "" && good {
		return os.RemoveAll(s.dir)
	}
	s.report.Logs = s.dir
	return nil
}

// prepare finds out what can be done here, and makes the undisturbed run.
func (s *soak) prepare(ctx context.Context) error {
	missing := netlab.Missing()
	if s.cfg.Loopback {
		missing = errors.New("on loopback by choice")
	}
	s.links = missing == nil
	diskMissing := missingDisk()
	s.hasDisk = diskMissing == nil
	s.cfg.Kinds = slices.DeleteFunc(slices.Clone(s.cfg.Kinds), func(k Kind) bool {
		switch {
		case k.is(needLinks) && !s.links:
			s.report.skip(k, missing)
		case k.is(needDisk) && !s.hasDisk:
			s.report.skip(k, diskMissing)
		default:
			return false
		}
		return true
	})
	if len(s.cfg.Kinds) == 0 {
		return errors.New("none of the kinds of faults can be injected here")
	}
	if s.cfg.hasLedger = offersLedger(ctx, s.cfg.Program); !s.cfg.hasLedger {
		s.report.Skipped = append(s.report.Skipped, "ledger of samples: lockstep data ledger is not there")
	}
	return s.undisturbed(ctx)
}

// undisturbed computes what every run has to come to: by one worker, which nobody touches.
func (s *soak) undisturbed(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, s.cfg.Limit, fmt.Errorf("the undisturbed run is not over after %v", s.cfg.Limit))
	defer cancel()
	l := newLauncher()
	defer l.close()
	args := append([]string{"train", "--json", "--workers", "1", "--out", filepath.Join(s.dir, "undisturbed.run")}, s.cfg.settings()...)
	p, err := l.start((&loopback{}).command(ctx, 0, s.cfg.Program, args...), s.dir, "undisturbed", nil)
	if err != nil {
		return err
	}
	s.say("undisturbed run: %d steps", s.cfg.Steps)
	code, err := p.wait(ctx, s.cfg.Limit)
	if err != nil {
		return errors.Join(err, p.kill(true))
	}
	if code != 0 {
		return fmt.Errorf("the undisturbed run ended with code %d: %s", code, tail(p.log, 3))
	}
	if s.cfg.want, err = lastReport(p.out); err != nil {
		return err
	}
	s.report.Want = s.cfg.want.Hash
	return os.RemoveAll(filepath.Join(s.dir, "undisturbed.run"))
}

func (s *soak) say(format string, args ...any) {
	if s.cfg.Log != nil && s.reported == nil {
		_, s.reported = fmt.Fprintf(s.cfg.Log, format+"\n", args...) // one that cannot be written to is left alone
	}
}

// diskBytes has room for a few checkpoints of a small network and what else a run writes.
const diskBytes = 64 << 20

// round plays one round and adds it to the report.
func (s *soak) round(ctx context.Context, number int) (err error) {
	r := &round{cfg: &s.cfg, number: number, dir: filepath.Join(s.dir, "round"+strconv.Itoa(number)), over: make(chan struct{}), launcher: newLauncher()}
	defer r.launcher.close()
	r.out, r.clock, r.places = filepath.Join(r.dir, "disk", "run"), filepath.Join(r.dir, "clock"), make([]*process, s.cfg.Workers)
	r.plan = Draw(s.cfg.Seed, number, s.cfg.PerRound, s.cfg.Workers, s.cfg.Steps, s.cfg.Kinds)
	if err := os.MkdirAll(filepath.Dir(r.out), 0o755); err != nil {
		return err
	}
	if s.hasDisk {
		if r.disk, err = newDisk(filepath.Dir(r.out), diskBytes); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, r.disk.close()) }()
	}
	if s.links {
		r.site, err = newLab(ctx, s.cfg.Workers, filepath.Join(r.dir, "certs"))
	} else {
		r.site, err = newLoopback()
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.site.close()) }()
	log, err := os.Create(filepath.Join(r.dir, "round.log"))
	if err != nil {
		return err
	}
	defer log.Close() // what it lacks then, nobody can be told
	r.log = slog.New(slog.NewTextHandler(io.MultiWriter(log, s.lines()), nil))
	r.watch = newWatcher(r.site, r.site.seat(0))
	s.say("round %d, seed %d: %d faults planned, a crew of %d; %s", number, s.cfg.Seed, len(r.plan.Faults), r.plan.Crew, r.site.describe())
	begun := time.Now()
	problems := r.play(ctx)
	s.report.add(r, time.Since(begun))
	if len(problems) > 0 {
		return r.keep()
	}
	return nil
}

// lines is where the log's lines go too.
func (s *soak) lines() io.Writer {
	if s.cfg.Log == nil {
		return io.Discard
	}
	return s.cfg.Log
}
