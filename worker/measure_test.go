package worker

import (
	"errors"
	"strings"
	"testing"

	pb "github.com/lockstep-ml/lockstep/internal/proto/lockstep/v1"
)

// A plan that asks for it has the ring measured before its first step, once; another generation then has a ring of its own.
func TestLinksAreMeasuredWhenAsked(t *testing.T) {
	err := follow(t, t.Context(), testData{poisonReplica: -1}, nil, func(_ *script, stream pb.Control_AttachServer) error {
		first := planOf(1, 0, 1, false)
		first.GetPlan().Measure = true
		if err := stream.Send(first); err != nil {
			return err
		}
		m, err := report(stream)
		if got := m.GetMeasured(); err != nil || got.GetHopNanos() != 1e6 || got.GetBytesPerSecond() != 1e9 || got.GetStepBytes() == 0 || got.GetBuckets() != 1 {
			return errors.Join(err, errors.New("want what was measured, got "+m.String()))
		}
		if m, err = report(stream); err != nil || m.GetStep().GetStep() != 1 {
			return errors.Join(err, errors.New("want the step, got "+m.String()))
		}
		second := planOf(2, 1, 2, false)
		second.GetPlan().Generation, second.GetPlan().Group = 2, 1
		if err := stream.Send(second); err != nil {
			return err
		}
		if m, err = report(stream); err != nil || m.GetStep().GetStep() != 2 {
			return errors.Join(err, errors.New("want the next step, got "+m.String()))
		}
		return stream.Send(stopMessage(false, "done"))
	})
	if err != nil {
		t.Errorf("Run: %v", err)
	}
}

func TestPlanWithOddGroupsIsRefused(t *testing.T) {
	p := planOf(1, 0, 1, false).GetPlan()
	p.Ring = append(p.Ring, &pb.Member{Worker: "x"}, &pb.Member{Worker: "y"})
	p.Group = 2
	if _, err := findPlace(p, "w", testReplicas); err == nil || !strings.Contains(err.Error(), "groups of 2") {
		t.Errorf("got %v", err)
	}
}
