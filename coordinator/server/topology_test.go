package server

import (
	"testing"

	"github.com/lockstep-ml/lockstep/coordinator"
	pb "github.com/lockstep-ml/lockstep/internal/proto/lockstep/v1"
)

// What workers measure of their links reaches the machine, and what it decides reaches them.
func TestTopologyFollowsWhatWasMeasured(t *testing.T) {
	cfg, _ := testConfig(t, 6)
	r := start(t, cfg)
	var fakes []*fake
	for _, name := range []string{"1", "2", "3", "4", "5", "6"} {
		f := dial(t, r.addr, name)
		f.measured = &pb.Measured{HopNanos: 5e6, BytesPerSecond: 1e8, StepBytes: 1 << 20, Buckets: 4}
		fakes = append(fakes, f)
	}
	wg := crew(fakes...)
	_, err := r.wait()
	wg.Wait()
	if err != nil {
		t.Fatal(err)
	}
	want := coordinator.ChooseGroup(6, coordinator.Traffic{Hop: 5e6, BytesPerSecond: 1e8, StepBytes: 1 << 20, Buckets: 4})
	for _, f := range fakes {
		if len(f.plans) < 2 || !f.plans[0].Measure || f.plans[0].Group != 1 || f.plans[0].UntilStep != 1 {
			t.Fatalf("worker %s got plans %v", f.name, f.plans)
		}
		if p := f.plans[1]; want == 1 || p.Measure || p.Group != uint32(want) || p.Generation != 2 || p.FirstStep != 1 {
			t.Errorf("worker %s got %v, want groups of %d", f.name, p, want)
		}
	}
}
