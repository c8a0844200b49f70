package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lockstep-ml/lockstep/coordinator/simulate"
)

// An hour of a small cluster that fails, told twice alike.
func TestSimulate(t *testing.T) {
	t.Parallel()
	args := []string{"simulate", "--workers", "16", "--spares", "2", "--mtbf", "2h", "--compute-time", "400ms", "--json"}
	var a, b simulate.Result
	lockstep(t, 0, args...).lastLine(&a)
	lockstep(t, 0, args...).lastLine(&b)
	if a != b {
		t.Errorf("two runs of one seed differ:\n%+v\n%+v", a, b)
	}
	if a.Workers != 16 || a.Replicas != 16 || a.Failures == 0 || a.Broken == 0 || a.Efficiency < 0.5 || a.Efficiency > 1 || a.Elapsed != 3600 {
		t.Errorf("%+v", a)
	}
	text := lockstep(t, 0, "simulate", "--workers", "4", "--compute-time", "400ms", "--for", "1m", "--mtbf", "1h").stdout.String()
	for _, want := range []string{"assumed: resnet50, 4 workers", "one replica for each worker", "efficiency", "until failures were noticed"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in what people read:\n%s", want, text)
		}
	}
}

func TestSimulateTakesMeasuredFigures(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	one := file("one.json", `{"workers":1,"images_per_second":512,"tail_seconds":0.001}`)
	two := file("two.json", `{"workers":2,"images_per_second":512,"tail_seconds":0.001}`)
	bench := file("bench.json", `{"ring_hop_seconds":0.00005,"ring_bytes_per_s":1e9,"cpu_seconds_per_gb":2}`)
	args := func(more ...string) []string {
		return append([]string{"simulate", "--json", "--arch", "cifar-resnet20", "--batch", "256", "--workers", "2", "--for", "10s"}, more...)
	}
	var own, shared simulate.Result
	lockstep(t, 0, args("--from-run", one, "--from-bench", bench)...).lastLine(&own)
	if computing := own.IdealStep - own.IdealTail; computing < 0.2494 || computing > 0.2496 {
		t.Errorf("two workers compute for %v s, want half of what one took, 0.2495: %+v", computing, own)
	}
	lockstep(t, 0, args("--from-run", one, "--from-bench", bench, "--cores-shared", "1")...).lastLine(&shared)
	if shared.IdealStep < 0.499 || shared.IdealStep > 0.51 {
		t.Errorf("a step on one core takes %v s, want what one worker took", shared.IdealStep)
	}
	lockstep(t, 1, args("--from-run", two)...).says("--from-run", "want a run of one worker")
	lockstep(t, 1, args("--from-run", one, "--from-bench", one)...).says("--from-bench", "no ring_hop_seconds")
	lockstep(t, 1, args()...).says("--compute-time")
	lockstep(t, 1, args("--compute-time", "1s", "--bandwidth", "fast")...).says("--bandwidth")
	lockstep(t, 1, "simulate", "--workers", "9", "--batch", "256", "--compute-time", "1s").says("8 replicas for 9 workers")
}
