package chaos

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-ml/lockstep/internal/netlab"
)

// testConfig is a soak of stand-ins that have some flaws.
func testConfig(t *testing.T, flaws string, kinds ...Kind) Config {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv(role, flaws)
	c := DefaultConfig()
	c.Program, c.Dir, c.Loopback, c.Round, c.Log = self, t.TempDir(), true, 0, &testLog{t}
	c.PerRound, c.Steps, c.Kinds, c.haste, c.Patience = 3, 1000, kinds, 20, 20*time.Second
	return c
}

// testLog writes to a test's log.
type testLog struct{ t *testing.T }

func (l *testLog) Write(b []byte) (int, error) {
	l.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

func soaked(t *testing.T, c Config) *Report {
	t.Helper()
	r, err := Soak(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Write(io.Discard); err != nil || len(r.Rounds) != 1 {
		t.Fatalf("%d rounds, %v", len(r.Rounds), err)
	}
	return r
}

// A program without a flaw passes, whatever is done to it.
func TestSoakPasses(t *testing.T) {
	for name, x := range map[string]struct {
		kinds []Kind
		links bool
	}{
		"workers":     {[]Kind{Kill, KillGroup, Leave, Join, Pause, Freeze}, false},
		"coordinator": {[]Kind{CoordinatorKill, CoordinatorMove, CoordinatorBoth, SecondStart, ClockJump, NoWorkers, AllDead}, false},
		"links":       {[]Kind{Partition, HalfOpen, OneWay, Delay, Loss, Slow}, true},
	} {
		t.Run(name, func(t *testing.T) {
			if err := netlab.Missing(); x.links && err != nil {
				t.Skip("no links here:", err)
			}
			c := testConfig(t, "", x.kinds...)
			c.PerRound, c.Steps, c.Loopback = len(x.kinds), 3000, !x.links
			r := soaked(t, c)
			if !r.Good() || r.Injected < len(x.kinds) {
				t.Errorf("%d faults, problems %v", r.Injected, r.Rounds[0].Problems)
			}
			for _, k := range r.Kinds {
				if k.Injected == 0 {
					t.Errorf("%s was never injected", k.Kind)
				}
			}
		})
	}
}

// A run may end while nobody looks. What was still to be injected is left out, and the round ends.
func TestSoakOutlivesItsRun(t *testing.T) {
	c := testConfig(t, noFlawSwift, CoordinatorKill)
	c.Limit = time.Minute
	r := soaked(t, c)
	if x := r.Rounds[0]; !r.Good() || x.Injected != 1 || x.Planned != 3 {
		t.Errorf("%d faults of %d, problems %v", x.Injected, x.Planned, x.Problems)
	}
}

// Every flaw is found, and the report says what it is.
func TestSoakFinds(t *testing.T) {
	for _, x := range []struct {
		flaw, says string
		kind       Kind
	}{
		{flawHash, "THE BITS DIFFER", Kill},
		{flawShort, "THE BITS DIFFER", Kill},
		{flawHang, "it hangs: no step", Kill},
		{flawRude, "exit code 3", ClockJump},
		{flawQuitter, "ended by itself, exit code 5: tired", ClockJump},
		{flawStays, "has not ended within", ClockJump},
		{flawWelcoming, "second coordinator for the same folder was let in", SecondStart},
		{flawLedger, "THE SAMPLES DIFFER: exit status 1: step 7: image 12 twice", Kill},
		{flawStubborn, "told to leave and ended with code 4", Leave},
	} {
		t.Run(x.flaw, func(t *testing.T) {
			if testing.Short() && (x.flaw == flawStays || x.flaw == flawHang) {
				t.Skip("waits for somebody who never ends")
			}
			c := testConfig(t, x.flaw, x.kind)
			if x.flaw == flawHang {
				c.Patience = 3 * time.Second
			}
			r := soaked(t, c)
			if r.Good() || !strings.Contains(strings.Join(r.Rounds[0].Problems, "\n"), x.says) {
				t.Errorf("problems %q lack %q", r.Rounds[0].Problems, x.says)
			}
			var text strings.Builder
			if err := r.Write(&text); err != nil || !strings.Contains(text.String(), "--round 0") || !strings.Contains(text.String(), c.Dir) {
				t.Errorf("the report does not say how to play it again and where the logs are: %v\n%s", err, text.String())
			}
			logs, err := filepath.Glob(filepath.Join(c.Dir, "round0", "w*.log"))
			if err != nil || len(logs) == 0 {
				t.Errorf("no logs of workers are left: %v", err)
			}
		})
	}
}

// What cannot be done here is left out and said.
func TestSoakSkips(t *testing.T) {
	c := testConfig(t, "", Kill, Partition)
	c.PerRound = 1
	r := soaked(t, c)
	if !strings.Contains(strings.Join(r.Skipped, "\n"), "partition: on loopback by choice") {
		t.Errorf("skipped: %q", r.Skipped)
	}
	c.Kinds = []Kind{Partition}
	if _, err := Soak(t.Context(), c); err == nil {
		t.Error("a soak of nothing passed")
	}
}

func TestSoakStopsWhenTold(t *testing.T) {
	c := testConfig(t, "", Kill)
	ctx, cancel := context.WithCancelCause(t.Context())
	told := errors.New("told")
	c.Log = &onLine{"started", func() { cancel(told) }}
	if _, err := Soak(ctx, c); !errors.Is(err, told) {
		t.Error(err)
	}
}

// onLine does something when a line has a word.
type onLine struct {
	word string
	do   func()
}

func (l *onLine) Write(b []byte) (int, error) {
	if strings.Contains(string(b), l.word) {
		l.do()
	}
	return len(b), nil
}

func TestConfigValidate(t *testing.T) {
	c := DefaultConfig()
	if err := c.Validate(); err != nil {
		t.Error(err)
	}
	c.Workers, c.Faults, c.Steps, c.Kinds, c.Limit = 1, 0, 1, nil, 0
	err := c.Validate()
	for _, want := range []string{"1 places", "0 faults", "1 steps", "no kinds", "limit of 0s"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v lacks %q", err, want)
		}
	}
}
